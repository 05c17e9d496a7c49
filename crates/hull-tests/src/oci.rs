//! An OCI runtime driven by its command line, with a bundle of busybox.
//!
//! The runtime is hull's, or the program that `HULL_TEST_OCI_RUNTIME` names (`runc`, `crun`): a test that fails there
//! expects something else than the field does. `cargo xtask oci-reference` runs them all so, and knows those that do
//! fail, each with its reason.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::cleanup::{self, MARK};
use crate::daemon::{hull_binary, instance_of};
use crate::http::PATIENCE;
use crate::kernel::{wait, wait_until};
use crate::{Output, busybox_rootfs};

/// A runtime with a root, a bundle and a cgroup of its own. Dropping it removes all of it.
#[derive(Debug)]
pub struct Oci {
    /// The program and the words that come before all others.
    program: Vec<OsString>,
    dir: PathBuf,
    calls: AtomicU32,
}

impl Oci {
    /// An empty root, and a bundle whose root file system is busybox.
    ///
    /// # Panics
    /// Where the test's folder cannot be made.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        cleanup::sweep();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = cleanup::base().join(format!("{}-oci{number}", std::process::id()));
        fs::create_dir_all(dir.join("bundle/rootfs")).expect("the test's folder can be made");
        let program = match std::env::var_os("HULL_TEST_OCI_RUNTIME") {
            Some(other) => vec![other],
            None => vec![hull_binary().into(), "oci".into()],
        };
        let oci = Self { program, dir, calls: AtomicU32::new(0) };
        oci.unpack();
        oci
    }

    fn unpack(&self) {
        let mut tar = Command::new("tar")
            .args(["-x", "-C"])
            .arg(self.rootfs())
            .stdin(Stdio::piped())
            .spawn()
            .expect("tar is installed");
        let mut input = tar.stdin.take().expect("its standard input");
        input.write_all(&busybox_rootfs().finish()).expect("the root file system fits");
        drop(input);
        assert!(tar.wait().expect("its end").success(), "the root file system is not unpacked");
    }

    /// Whether the runtime under test is hull's; where the others do what hull's users should not get.
    pub fn is_hull(&self) -> bool {
        self.program.len() == 2
    }

    /// Whether it is runc, which does some things as no other does.
    pub fn is_runc(&self) -> bool {
        Path::new(self.program()).file_name().is_some_and(|name| name == "runc")
    }

    /// The runtime's program.
    pub fn program(&self) -> &std::ffi::OsStr {
        &self.program[0]
    }

    /// The folder of this test.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The bundle's folder.
    pub fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// The bundle's root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("bundle/rootfs")
    }

    /// Where the runtime keeps its containers.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The folder in the cgroup hierarchies beneath which the test's containers have theirs.
    pub fn cgroup_parent(&self) -> String {
        instance_of(&self.dir)
    }

    /// The folders of a container's cgroup, one for each hierarchy.
    pub fn cgroups(&self, id: &str) -> Vec<PathBuf> {
        cleanup::cgroups_of(&format!("{}/{id}", self.cgroup_parent()))
    }

    /// A value of a container's cgroup, from the first of these files (v1's and v2's names) that is there.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn cgroup_value(&self, id: &str, files: &[&str]) -> String {
        let folders = self.cgroups(id);
        let mut found = folders.iter().flat_map(|folder| files.iter().map(|file| folder.join(file)));
        let file = found.find(|file| file.exists()).unwrap_or_else(|| panic!("{files:?} in {folders:?}"));
        fs::read_to_string(file).expect("a file of a cgroup is readable").trim().to_owned()
    }

    /// A configuration as engines write them: every namespace but that of users new, the usual mounts and capabilities.
    /// The command is `args`; the cgroup is that of the container `c`.
    pub fn config(&self, args: &[&str]) -> Value {
        let capabilities = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FSETID",
            "CAP_FOWNER",
            "CAP_MKNOD",
            "CAP_NET_RAW",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SETFCAP",
            "CAP_SETPCAP",
            "CAP_NET_BIND_SERVICE",
            "CAP_SYS_CHROOT",
            "CAP_KILL",
            "CAP_AUDIT_WRITE",
        ];
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": args,
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
                "noNewPrivileges": true,
            },
            "root": { "path": "rootfs" },
            "hostname": "inside",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                  "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                  "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs",
                  "options": ["nosuid", "noexec", "nodev", "ro"] },
            ],
            "linux": {
                "cgroupsPath": format!("/{}/c", self.cgroup_parent()),
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
                "namespaces": [
                    { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                    { "type": "mount" },
                ],
            },
        })
    }

    /// [`Oci::config`] of a shell with this script.
    pub fn shell(&self, script: &str) -> Value {
        self.config(&["sh", "-c", script])
    }

    /// Writes the bundle's `config.json`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, config: &Value) {
        fs::write(self.bundle().join("config.json"), config.to_string()).expect("config.json is written");
    }

    /// The runtime with these arguments, in the bundle's folder, with nothing on its standard input.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program[0]);
        command
            .args(&self.program[1..])
            .arg("--root")
            .arg(self.root())
            .args(args)
            .env(MARK, &self.dir)
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.bundle())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end. What it leaves running may go on to write; see [`Oci::said`].
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`].
    #[track_caller]
    pub fn finish(&self, mut command: Command) -> Output {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.dir.join(format!("{name}-{number}"));
        let open = |name: &str| File::create(file(name)).expect("a file for what is said");
        command.stdout(open("stdout")).stderr(open("stderr"));
        let mut child = command.spawn().expect("the runtime is executed");
        let Some(status) = wait(&mut child, PATIENCE) else {
            child.kill().and_then(|()| child.wait()).ok();
            let said = fs::read_to_string(file("stderr")).unwrap_or_default();
            panic!("{command:?} does not end; it said: {said}");
        };
        let read = |name: &str| {
            String::from_utf8_lossy(&fs::read(file(name)).expect("what was said is readable")).into_owned()
        };
        let status = status.code().unwrap_or(128 + status.signal().unwrap_or(0));
        Output { stdout: read("stdout"), stderr: read("stderr"), status }
    }

    /// What a command has written by now to standard output, and whatever it has left running; 0 is the first one.
    pub fn said(&self, call: u32) -> String {
        fs::read_to_string(self.dir.join(format!("stdout-{call}"))).unwrap_or_default()
    }

    /// The number that the next command will have for [`Oci::said`].
    pub fn next_call(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Runs the runtime with these arguments.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        self.finish(self.command(args))
    }

    /// [`Oci::call`], which must succeed; its standard output without the last line's end.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status == 0, "{}: {output:?}", args.join(" "));
        output.stdout.trim_end_matches('\n').to_owned()
    }

    /// [`Oci::call`], which must fail with words that hold `text`, whatever their case.
    ///
    /// # Panics
    /// When it succeeds, or says something else.
    #[track_caller]
    pub fn fails(&self, args: &[&str], text: &str) {
        let output = self.call(args);
        assert!(output.status != 0, "{} succeeds: {output:?}", args.join(" "));
        let said = output.stderr.to_lowercase();
        assert!(said.contains(&text.to_lowercase()), "{} does not say {text:?}: {output:?}", args.join(" "));
    }

    /// Runs a container `c` of this configuration to its end.
    #[track_caller]
    pub fn run(&self, config: &Value) -> Output {
        self.configure(config);
        self.call(&["run", "c"])
    }

    /// [`Oci::run`], which must succeed; what the command printed, without the last line's end.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn prints(&self, config: &Value) -> String {
        let output = self.run(config);
        assert!(output.status == 0, "{output:?}");
        output.stdout.trim_end_matches('\n').to_owned()
    }

    /// [`Oci::run`], which must fail before the command is executed, with words that hold `text`, and leave nothing.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn refuses(&self, config: &Value, text: &str) {
        self.configure(config);
        self.fails(&["run", "c"], text);
        self.nothing_is_left("c");
    }

    /// Creates the container `c` of this configuration.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn create(&self, config: &Value) {
        self.configure(config);
        self.ok(&["create", "c"]);
    }

    /// Runs the container `c` of this configuration in the background.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run_detached(&self, config: &Value) {
        self.configure(config);
        self.ok(&["run", "--detach", "c"]);
    }

    /// A container's state.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).expect("the state is JSON")
    }

    /// A container's status.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().expect("a status").to_owned()
    }

    /// Waits until a container has this status.
    ///
    /// # Panics
    /// When it does not come to it.
    #[track_caller]
    pub fn comes_to(&self, id: &str, status: &str) {
        wait_until(&format!("{id} is {status}"), PATIENCE, || self.status(id) == status);
    }

    /// Nothing is left of a container: no state, no cgroup.
    ///
    /// # Panics
    /// Where there is something.
    #[track_caller]
    pub fn nothing_is_left(&self, id: &str) {
        self.is_gone(id);
        assert!(!self.root().join(id).exists(), "{id} is still in the root");
        assert_eq!(self.cgroups(id), Vec::<PathBuf>::new());
    }

    /// Asks for a container's state, which must not be there.
    ///
    /// # Panics
    /// Where it is there, or hull says something else than runc.
    #[track_caller]
    pub fn is_gone(&self, id: &str) {
        let output = self.call(&["state", id]);
        // crun says that its own file is not there.
        let told = output.stderr.contains("does not exist")
            || !self.is_hull() && output.stderr.contains("No such file or directory");
        assert!(output.status != 0 && told, "state {id}: {output:?}");
    }

    /// Starts a command and leaves it running; its standard output is piped.
    ///
    /// # Panics
    /// When it cannot be executed.
    pub fn begin(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.spawn().expect("the runtime is executed")
    }
}

impl Default for Oci {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Oci {
    fn drop(&mut self) {
        cleanup::clear(&self.dir);
    }
}
