//! The acceptance scripts beside the repository, where there are some: run against a daemon of the freshly built binary
//! at the default socket, that of the workshop with Docker's client as well where that is installed.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use crate::Result;
use crate::shell::{find, heading, root, run_command, target};

const SOCKET: &str = "/run/hull/hull.sock";

/// The default data root and exec root.
const ROOTS: [&str; 2] = ["/var/lib/hull", "/run/hull"];

/// Where the scripts are, if they are.
fn scripts() -> PathBuf {
    root().join("../shared/acceptance")
}

/// A script, and what of it is not there yet.
struct Script {
    name: &'static str,
    /// Whether Docker's client passes it as well.
    for_docker: bool,
    /// Parts by the beginning of their titles, each with the command that it is about.
    parts: &'static [(&'static str, &'static [&'static str])],
}

const SCRIPTS: [Script; 4] = [
    Script { name: "workshop.sh", for_docker: true, parts: &[("Dockerfile", &["build"])] },
    Script { name: "registry.sh", for_docker: true, parts: &[] },
    // Docker's client would ask for BuildKit, or without it not know the script's flags.
    Script { name: "build.sh", for_docker: false, parts: &[] },
    Script {
        name: "kernel.sh",
        for_docker: false,
        parts: &[
            ("namespaces", &["ns"]),
            ("cgroups", &["cgroup"]),
            ("what a container is made of", &["explain"]),
            ("the OCI runtime", &["oci"]),
        ],
    },
];

/// Runs the scripts with hull's client, and with Docker's those that it passes; what was left out is added to the list.
pub(crate) fn run(left_out: &mut Vec<String>) -> Result<()> {
    if UnixStream::connect(SOCKET).is_ok() {
        left_out.push(format!(
            "the acceptance scripts: a daemon answers at {SOCKET} (end it with hull system stop)"
        ));
        return Ok(());
    }
    let docker = find("docker").is_some();
    if !docker {
        left_out.push("the acceptance script with Docker's client: it is not installed".to_owned());
    }
    let folder = target().join("acceptance");
    fs::create_dir_all(&folder)?;
    // What the daemon's own are mounted on, where there are none yet.
    let made: Vec<&str> = ROOTS.into_iter().filter(|place| !Path::new(place).exists()).collect();
    ROOTS.iter().try_for_each(fs::create_dir_all)?;
    let mut failed = Vec::new();
    for script in &SCRIPTS {
        let source = scripts().join(script.name);
        if !source.exists() {
            left_out.push(format!("an acceptance script: there is no {}", source.display()));
            continue;
        }
        fs::copy(scripts().join("lib.sh"), folder.join("lib.sh"))?;
        fs::write(folder.join(script.name), script.what_is_there(&fs::read_to_string(&source)?, left_out)?)?;
        for client in
            ["hull", "docker"].into_iter().filter(|client| *client == "hull" || (docker && script.for_docker))
        {
            let run = format!("{} with CLI={client}", script.name);
            heading(&format!("acceptance: {run}"));
            // A mount namespace of its own, where the default roots are empty folders of the target folder.
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe()?);
            command.arg("acceptance").arg(folder.join(script.name)).arg(client);
            if let Err(error) = run_command(&mut command) {
                println!("{error}");
                failed.push(run);
            }
        }
    }
    made.iter().try_for_each(fs::remove_dir)?;
    if failed.is_empty() { Ok(()) } else { Err(failed.join(" and ").into()) }
}

impl Script {
    /// The script without the parts whose command is not there yet.
    fn what_is_there(&self, text: &str, left_out: &mut Vec<String>) -> Result<String> {
        let mut text = text.to_owned();
        for (part, command) in self.parts {
            if !has_command(command)? {
                text = without_part(&text, part)?;
                left_out.push(format!(
                    "the part '# {part}' of {}: there is no hull {} yet",
                    self.name,
                    command.join(" ")
                ));
            }
        }
        Ok(text)
    }
}

/// Whether the binary has the command. Without arguments it does nothing, but one that is not there is refused.
fn has_command(words: &[&str]) -> Result<bool> {
    let output = Command::new(target().join("release/hull")).args(words).output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok(!["is not supported yet", "unknown command"].iter().any(|refusal| told.contains(refusal)))
}

/// In the mount namespace: puts empty folders at the default roots, starts the daemon, runs the script, ends it.
pub(crate) fn run_here(script: &str, client: &str) -> Result<()> {
    let binary = target().join("release/hull");
    let scratch = target().join("acceptance/roots");
    let _removed = Scratch::new(&scratch)?;
    let data = scratch.join("data");
    fs::create_dir_all(&data)?;
    let no_flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount_bind(&data, ROOTS[0])
        .and_then(|()| rustix::mount::mount("tmpfs", ROOTS[1], "tmpfs", no_flags, None))
        .map_err(|error| format!("empty folders at {}: {error}", ROOTS.join(" and ")))?;
    let daemon = DefaultDaemon::start(&binary, &scratch)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let ran = run_command(
        Command::new("bash")
            .arg(script)
            .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", target().join("release").display()))
            .env("CLI", client)
            .env("SOCKET", SOCKET)
            .env_remove("HULL_HOST")
            .env("DOCKER_HOST", format!("unix://{SOCKET}")),
    );
    daemon.stop()?;
    ran
}

/// A folder that is removed with all in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: &Path) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for place in ROOTS {
            rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH).ok();
        }
        if let Err(error) = fs::remove_dir_all(&self.0) {
            println!("{} stays behind: {error}", self.0.display());
        }
    }
}

/// A daemon at the default socket with the default roots.
struct DefaultDaemon {
    process: Child,
    log: PathBuf,
}

impl DefaultDaemon {
    fn start(binary: &Path, folder: &Path) -> Result<Self> {
        let log = folder.join("daemon.log");
        let out = File::create(&log)?;
        let mut process = Command::new(binary)
            .arg("daemon")
            .stdin(std::process::Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()?;
        let mut ended = None;
        hull_tests::wait_until("the daemon answers or ends", Duration::from_secs(30), || {
            ended = process.try_wait().ok().flatten();
            ended.is_some() || UnixStream::connect(SOCKET).is_ok()
        });
        match ended {
            Some(status) => {
                let said = fs::read_to_string(&log).unwrap_or_default();
                Err(format!("hull daemon did not come up: {status}\n{said}").into())
            }
            None => Ok(Self { process, log }),
        }
    }

    /// Ends it and takes away what it made for its instance, as the machine had none before.
    fn stop(mut self) -> Result<()> {
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.process),
            rustix::process::Signal::TERM,
        )?;
        let status = self.process.wait()?;
        if !status.success() {
            return Err(format!("hull daemon ended with {status}; its log is {}", self.log.display()).into());
        }
        for command in
            [["ip", "link", "delete", "hull0"].as_slice(), &["nft", "delete", "table", "inet", "hull"]]
        {
            // Either may be gone already, with the last container.
            Command::new(command[0]).args(&command[1..]).stderr(std::process::Stdio::null()).status()?;
        }
        for cgroup in hull_tests::cgroups_of("hull") {
            fs::remove_dir(&cgroup).ok();
        }
        Ok(())
    }
}

impl Drop for DefaultDaemon {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            self.process.kill().and_then(|()| self.process.wait()).ok();
        }
    }
}

/// The script without the part whose title begins so.
fn without_part(script: &str, part: &str) -> Result<String> {
    let mut out = String::new();
    let (mut inside, mut found) = (false, false);
    for line in script.lines() {
        if let Some(title) = line.strip_prefix("echo \"# ") {
            inside = title.starts_with(part);
            if inside {
                found = true;
                out.push_str(&format!("echo \"# {part}: left out\"\n"));
            }
        }
        // What counts the results stands behind the last part.
        if !inside || line == "closing" {
            out.push_str(line);
            out.push('\n');
        }
    }
    if found {
        Ok(out)
    } else {
        Err(format!("the script has no part '# {part}' any more: run it as it is").into())
    }
}

#[cfg(test)]
mod tests {
    use super::without_part;

    #[test]
    fn a_part_is_left_out_and_the_end_is_not() {
        let script = "echo \"# layers\"\na\necho \"# Dockerfile: x\"\nb\nc\necho \"# last\"\nd\nclosing\n";
        let want = "echo \"# layers\"\na\necho \"# Dockerfile: left out\"\necho \"# last\"\nd\nclosing\n";
        assert_eq!(without_part(script, "Dockerfile").expect("it has the part"), want);
        assert!(
            without_part(script, "last").expect("it has the part").ends_with("last: left out\"\nclosing\n")
        );
        assert!(without_part("echo hello\n", "Dockerfile").is_err());
    }
}
