//! Engines of others that run their containers by hull: it is given to them under the name `hull-oci`.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::cleanup::{self, MARK};
use crate::daemon::{hull_binary, instance_of};
use crate::http::PATIENCE;
use crate::kernel::{private_network, quiet, wait, wait_until};
use crate::{Output, Pty, busybox_rootfs};

/// A folder with a link `hull-oci` to the binary, and whatever an engine keeps there. Dropping it removes all of it.
#[derive(Debug)]
pub struct HullOci {
    dir: PathBuf,
}

impl HullOci {
    /// A folder of its own.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        cleanup::sweep();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = cleanup::base().join(format!("{}-of{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("the test's folder can be made");
        std::os::unix::fs::symlink(hull_binary(), dir.join("hull-oci")).expect("a link to the binary");
        Self { dir }
    }

    /// The path of the runtime: hull's, or the program of `HULL_TEST_OCI_RUNTIME`.
    ///
    /// # Panics
    /// Where the path is not text.
    pub fn path(&self) -> String {
        let own = || self.dir.join("hull-oci").to_str().expect("a path of text").to_owned();
        match std::env::var("HULL_TEST_OCI_RUNTIME") {
            Ok(name) => which(&name).map_or(name, |path| path.to_string_lossy().into_owned()),
            Err(_) => own(),
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the cgroups of its containers are to be.
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", instance_of(&self.dir))
    }

    fn unpack(&self, to: &Path) {
        fs::create_dir_all(to).expect("a folder");
        let mut tar = Command::new("tar").args(["-x", "-C"]).arg(to).stdin(Stdio::piped()).spawn();
        let tar = tar.as_mut().expect("tar is installed");
        tar.stdin.take().expect("its input").write_all(&busybox_rootfs().finish()).expect("it reads");
        assert!(tar.wait().expect("its end").success(), "the root file system is not unpacked");
    }
}

impl Default for HullOci {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for HullOci {
    fn drop(&mut self) {
        cleanup::clear(&self.dir);
    }
}

/// Where a program is.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.exists())
}

/// An engine's command line, with the words that make it use hull and keep to itself.
#[derive(Debug)]
pub struct Other {
    words: Vec<String>,
    daemon: Option<Child>,
    runtime: HullOci,
}

impl Other {
    /// Podman, with the image `busybox`; none where it is not installed.
    ///
    /// # Panics
    /// When it does not take the image.
    pub fn podman() -> Option<Self> {
        if which("podman").is_none() || which("conmon").is_none() {
            eprintln!("not tested: podman or conmon is not installed");
            return None;
        }
        let runtime = HullOci::new();
        private_network();
        let place = |name: &str| runtime.dir.join(name).to_string_lossy().into_owned();
        let words = [
            "podman",
            "--root",
            &place("root"),
            "--runroot",
            &place("run"),
            "--tmpdir",
            &place("tmp"),
            "--network-config-dir",
            &place("net"),
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            "--runtime",
            &runtime.path(),
            // The runtime's own, so that a test that fails leaves nothing.
            "--runtime-flag",
            &format!("root={}", place("state")),
        ];
        let words = words.map(str::to_owned).to_vec();
        let podman = Self { words, daemon: None, runtime };
        let image = podman.runtime.dir.join("busybox.tar");
        fs::write(&image, busybox_rootfs().finish()).expect("the image");
        let image = image.to_string_lossy().into_owned();
        podman.ok(&["import", "--change", "ENV PATH=/bin", &image, "busybox"]);
        Some(podman)
    }

    /// containerd by its client `ctr`, with a root file system of busybox in the folder `rootfs`; none where it is not
    /// installed.
    ///
    /// # Panics
    /// When it does not start.
    pub fn containerd() -> Option<Self> {
        if which("containerd").is_none() || which("ctr").is_none() {
            eprintln!("not tested: containerd is not installed");
            return None;
        }
        let runtime = HullOci::new();
        private_network();
        runtime.unpack(&runtime.dir.join("rootfs"));
        let place = |name: &str| runtime.dir.join(name).to_string_lossy().into_owned();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            place("root"),
            place("state"),
            place("sock"),
        );
        fs::write(runtime.dir.join("config.toml"), config).expect("its configuration");
        let log = File::create(runtime.dir.join("log")).expect("a log");
        let mut command = Command::new("containerd");
        command.args(["--config", &place("config.toml")]).env(MARK, &runtime.dir);
        let child = quiet(&mut command, log).spawn().expect("containerd");
        let words = ["ctr", "--address", &place("sock")].map(str::to_owned).to_vec();
        let containerd = Self { words, daemon: Some(child), runtime };
        wait_until("containerd answers", PATIENCE, || containerd.call(&["version"]).status == 0);
        Some(containerd)
    }

    /// The runtime that it uses, and its folder.
    pub fn runtime(&self) -> &HullOci {
        &self.runtime
    }

    /// The command line with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(args).env(MARK, &self.runtime.dir).env("LC_ALL", "C.UTF-8");
        command.current_dir(&self.runtime.dir).stdin(Stdio::null());
        command
    }

    /// Runs it with these arguments to its end. What it leaves running does not hold it up.
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`].
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        let open = |name: &str| File::create(self.runtime.dir.join(name)).expect("a file for what is said");
        let mut command = self.command(args);
        let mut child =
            command.stdout(open("stdout")).stderr(open("stderr")).spawn().expect("it is executed");
        let read = |name: &str| {
            let text = fs::read(self.runtime.dir.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        let Some(status) = wait(&mut child, PATIENCE) else {
            child.kill().and_then(|()| child.wait()).ok();
            panic!("{args:?} does not end; it said: {}", read("stderr"));
        };
        let status = status.code().unwrap_or(128 + status.signal().unwrap_or(0));
        Output { stdout: read("stdout"), stderr: read("stderr"), status }
    }

    /// [`Other::call`], which must succeed; its standard output without the last line's end.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status == 0, "{args:?}: {output:?}");
        output.stdout.trim_end_matches('\n').to_owned()
    }

    /// Starts it with these arguments on a terminal.
    pub fn pty(&self, args: &[&str]) -> Pty {
        Pty::start(self.command(args))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            kill_process(Pid::from_child(&daemon), Signal::TERM).ok();
            if wait(&mut daemon, PATIENCE).is_none() {
                daemon.kill().and_then(|()| daemon.wait()).ok();
            }
        }
    }
}
