//! Builds: by the command line of each, as a person builds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hull_tests::Engine;

use super::contestants::{Api, Contestant, text};
use super::rows::milliseconds;
use crate::Result;

/// Docker's client with BuildKit in it; later ones want a plug-in for that.
const WITH_BUILDKIT: &str = "/usr/bin/docker";

/// The files in the folder of many.
const MANY: usize = 100_000;

/// A folder to build, made once.
fn folder(api: &Api, name: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = api.folder.join(name);
    if !folder.exists() {
        fs::create_dir_all(&folder)?;
        write(&folder)?;
    }
    Ok(folder)
}

/// Waits until nothing was changed in the last two seconds: that would count as changed.
#[expect(clippy::disallowed_methods, reason = "what is waited for is the time itself")]
fn settle() {
    std::thread::sleep(Duration::from_secs(3));
}

fn ten_steps(folder: &Path) -> Result<()> {
    let mut lines = vec!["FROM busybox".to_owned(), "COPY file /file".to_owned()];
    lines.extend((0..10).map(|n| format!("RUN echo {n} >/{n}")));
    fs::write(folder.join("Dockerfile"), lines.join("\n"))?;
    fs::write(folder.join("file"), "a file")?;
    Ok(())
}

fn many_files(folder: &Path) -> Result<()> {
    fs::write(folder.join("Dockerfile"), "FROM busybox\nCOPY . /files\n")?;
    for n in 0..MANY {
        let inner = folder.join(format!("{}", n / 1000));
        if n % 1000 == 0 {
            fs::create_dir(&inner)?;
        }
        fs::write(inner.join(format!("file-{n}")), format!("{n}\n"))?;
    }
    Ok(())
}

fn two_stages(folder: &Path) -> Result<()> {
    let text = "FROM busybox AS a\nRUN sleep 10; echo a >/a\nFROM busybox AS b\nRUN sleep 10; echo b >/b\n\
                FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n";
    Ok(fs::write(folder.join("Dockerfile"), text)?)
}

fn one_gigabyte(folder: &Path) -> Result<()> {
    fs::write(folder.join("Dockerfile"), "FROM busybox\nCOPY file /file\n")?;
    let mut random = fs::File::open("/dev/urandom")?;
    let mut file = fs::File::create(folder.join("file"))?;
    std::io::copy(&mut std::io::Read::take(&mut random, 1 << 30), &mut file)?;
    Ok(())
}

/// The client's command.
fn client(api: &Api) -> Command {
    let client = match api.engine {
        Engine::Hull => api.engine.client(),
        Engine::Docker => PathBuf::from(WITH_BUILDKIT),
    };
    let mut command = api.daemon.command(client);
    command.env("DOCKER_BUILDKIT", "1").stdin(Stdio::null());
    command
}

/// One build, from the execution of the client to its exit.
fn build(api: &Api, folder: &Path, options: &[&str]) -> Result<f64> {
    let mut command = client(api);
    command.args(["build", "-q", "-t", "bench/build"]).args(options).arg(folder);
    let begin = Instant::now();
    let done = command.output()?;
    let took = milliseconds(begin);
    if done.status.success() {
        return Ok(took);
    }
    Err(format!("build of {}: {}", text(folder)?, String::from_utf8_lossy(&done.stderr).trim()).into())
}

/// What was built is not wanted any more.
fn clear(api: &Api) -> Result<()> {
    for what in [["image", "prune", "-f"], ["builder", "prune", "-af"]] {
        let done = client(api).args(what).output()?;
        if !done.status.success() {
            return Err(
                format!("{}: {}", what.join(" "), String::from_utf8_lossy(&done.stderr).trim()).into()
            );
        }
    }
    Ok(())
}

fn of(who: &mut Contestant) -> Option<&mut Api> {
    match who {
        Contestant::Api(api) if api.engine == Engine::Hull || Path::new(WITH_BUILDKIT).exists() => Some(api),
        _ => None,
    }
}

/// Ten RUN steps behind a COPY, none of them done before.
pub(super) fn steps(who: &mut Contestant) -> Result<Option<f64>> {
    let Some(api) = of(who) else { return Ok(None) };
    let folder = folder(api, "build-steps", ten_steps)?;
    build(api, &folder, &["--no-cache"]).map(Some)
}

/// The same, all of it done before.
pub(super) fn cached(who: &mut Contestant) -> Result<Option<f64>> {
    let Some(api) = of(who) else { return Ok(None) };
    let folder = folder(api, "build-steps", ten_steps)?;
    build(api, &folder, &[])?;
    build(api, &folder, &[]).map(Some)
}

/// A folder of many files that was built before, and nothing of it changed.
pub(super) fn context(who: &mut Contestant) -> Result<Option<f64>> {
    let Some(api) = of(who) else { return Ok(None) };
    let folder = folder(api, "build-context", many_files)?;
    settle();
    build(api, &folder, &[])?;
    build(api, &folder, &[]).map(Some)
}

/// Two stages that know nothing of each other, ten seconds each.
pub(super) fn stages(who: &mut Contestant) -> Result<Option<f64>> {
    let Some(api) = of(who) else { return Ok(None) };
    let folder = folder(api, "build-stages", two_stages)?;
    let took = build(api, &folder, &["--no-cache"])?;
    Ok(Some(took / 1000.0))
}

/// COPY of 1 GB, which the daemon has had before.
pub(super) fn copy(who: &mut Contestant) -> Result<Option<f64>> {
    let Some(api) = of(who) else { return Ok(None) };
    let folder = folder(api, "build-copy", one_gigabyte)?;
    settle();
    build(api, &folder, &[])?;
    let took = build(api, &folder, &["--no-cache"])?;
    clear(api)?;
    Ok(Some(took))
}
