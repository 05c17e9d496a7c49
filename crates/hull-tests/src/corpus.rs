//! The corpus of Dockerfiles (`corpus/`), as people write them: each is built and run, and what it prints is compared.
//!
//! A folder for each: its context with the `Dockerfile`, `expect` (what it prints), `flags` (of the build) where it has some,
//! and `base/` where it stands on an image that is built first (`NAME-base`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One of the corpus.
#[derive(Clone, Debug)]
pub struct Specimen {
    /// Its name.
    pub name: String,
    folder: PathBuf,
}

/// All of them, by their names.
///
/// # Panics
/// There is none.
pub fn corpus() -> Vec<Specimen> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut all: Vec<Specimen> = fs::read_dir(&root)
        .expect("the corpus")
        .map(|entry| {
            let folder = entry.expect("a folder of the corpus").path();
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Specimen { name, folder }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(all.len() >= 30, "only {} Dockerfiles are in {}", all.len(), root.display());
    all
}

impl Specimen {
    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// Whether it is built from package registries, and not of busybox alone.
    pub fn needs_packages(&self) -> bool {
        ["Dockerfile", "base/Dockerfile"].iter().any(|name| self.text(name).contains("FROM debian"))
    }

    /// Builds it and runs it. `client` makes a command of the engine's client.
    ///
    /// # Errors
    /// It does not build, or prints something else than it should.
    pub fn check(&self, client: &dyn Fn() -> Command) -> Result<(), String> {
        let flags = self.text("flags");
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let base = format!("{}-base", self.name);
        if self.folder.join("base").is_dir() {
            self.run(client, &["build", "-q", "-t", &base, "base"])?;
        }
        self.run(client, &[&["build", "-q", "-t", &self.name], &flags[..], &["."]].concat())?;
        let printed = self.run(client, &["run", "--rm", &self.name])?;
        let wanted = self.text("expect");
        if printed == wanted {
            Ok(())
        } else {
            Err(format!("it printed {printed:?} where {wanted:?} was due"))
        }
    }

    fn run(&self, client: &dyn Fn() -> Command, args: &[&str]) -> Result<String, String> {
        let output = client()
            .args(args)
            .current_dir(&self.folder)
            .env("DOCKER_BUILDKIT", "1")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{}: {error}", args.join(" ")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(30).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Err(format!("{}: {}\n{}", args.join(" "), output.status, last.join("\n")))
    }
}
