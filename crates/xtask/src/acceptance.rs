//! The acceptance script of the workshop beside the repository, where there is one: run against a daemon of the
//! freshly built binary at the default socket, with Docker's client as well where that is installed.

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

/// Runs the script with hull's client and Docker's; what was left out is added to the list.
pub(crate) fn run(left_out: &mut Vec<String>) -> Result<()> {
    let script = scripts().join("workshop.sh");
    if !script.exists() {
        left_out.push(format!("the acceptance script: there is no {}", script.display()));
        return Ok(());
    }
    if UnixStream::connect(SOCKET).is_ok() {
        left_out.push(format!(
            "the acceptance script: a daemon answers at {SOCKET} (end it with hull system stop)"
        ));
        return Ok(());
    }
    let folder = target().join("acceptance");
    fs::create_dir_all(&folder)?;
    fs::copy(scripts().join("lib.sh"), folder.join("lib.sh"))?;
    fs::write(folder.join("workshop.sh"), without_builder(&fs::read_to_string(&script)?)?)?;
    left_out.push("the acceptance script's part '# Dockerfile': there is no builder yet".to_owned());
    let mut clients = vec!["hull"];
    match find("docker") {
        Some(_) => clients.push("docker"),
        None => left_out.push("the acceptance script with Docker's client: it is not installed".to_owned()),
    }
    // What the daemon's own are mounted on, where there are none yet.
    let made: Vec<&str> = ROOTS.into_iter().filter(|place| !Path::new(place).exists()).collect();
    ROOTS.iter().try_for_each(fs::create_dir_all)?;
    let mut failed = Vec::new();
    for client in clients {
        heading(&format!("acceptance: workshop.sh with CLI={client}"));
        // A mount namespace of its own, where the default roots are empty folders of the target folder.
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe()?);
        command.arg("acceptance").arg(folder.join("workshop.sh")).arg(client);
        if let Err(error) = run_command(&mut command) {
            println!("{error}");
            failed.push(client);
        }
    }
    made.iter().try_for_each(fs::remove_dir)?;
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("workshop.sh with CLI={}", failed.join(" and ")).into())
    }
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

/// The script without its part `# Dockerfile`, and without the image that this part builds.
fn without_builder(script: &str) -> Result<String> {
    let mut out = String::new();
    let (mut inside, mut found) = (false, false);
    for line in script.lines() {
        if let Some(title) = line.strip_prefix("echo \"# ") {
            inside = title.starts_with("Dockerfile");
            if inside {
                found = true;
                out.push_str("echo \"# Dockerfile: left out\"\n");
            }
        }
        if !inside {
            out.push_str(&line.replace("c rmi ws-child ws-built", "c rmi ws-child"));
            out.push('\n');
        }
    }
    if found {
        Ok(out)
    } else {
        Err("workshop.sh has no part '# Dockerfile' any more: run it as it is".into())
    }
}

#[cfg(test)]
mod tests {
    use super::without_builder;

    #[test]
    fn the_builder_part_and_its_image_are_left_out() {
        let script = "echo \"# layers\"\na\necho \"# Dockerfile\"\nb\nc\necho \"# cleaning up\"\n\
                      check \"rmi\" c rmi ws-child ws-built\n";
        let want = "echo \"# layers\"\na\necho \"# Dockerfile: left out\"\necho \"# cleaning up\"\n\
                    check \"rmi\" c rmi ws-child\n";
        assert_eq!(without_builder(script).expect("it has the part"), want);
        assert!(without_builder("echo hello\n").is_err());
    }
}
