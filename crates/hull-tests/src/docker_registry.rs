//! The registry that others run: Debian's `docker-registry`, with a folder of a test's own.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::PATIENCE;
use crate::kernel::wait_until;

/// Its process. Dropped, it ends.
#[derive(Debug)]
pub struct DockerRegistry {
    process: Child,
    log: PathBuf,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl DockerRegistry {
    /// Starts it at an address of this network namespace, with its files in a folder. `more` goes behind the address in
    /// its configuration.
    ///
    /// # Panics
    /// It is not installed, or does not come up.
    pub fn start(folder: &Path, address: &str, more: &str) -> Self {
        let (file, log) = (folder.join("registry.yml"), folder.join("registry.log"));
        let root = folder.join("registry");
        let configuration = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: \"{address}\"\n{more}",
            root.display()
        );
        fs::write(&file, configuration).expect("the registry's configuration");
        let out = File::create(&log).expect("the registry's log");
        // It ends with the test, however that does.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(out.try_clone().expect("its log twice"))
            .stdout(out)
            .spawn()
            .expect("setpriv of util-linux");
        wait_until("docker-registry listens", PATIENCE, || TcpStream::connect(address).is_ok());
        Self { process, log, address: address.to_owned() }
    }

    /// The configuration that asks for a user of this file of htpasswd's.
    pub fn htpasswd(file: &Path) -> String {
        format!("auth: {{htpasswd: {{realm: r, path: {}}}}}\n", file.display())
    }

    /// Has skopeo put the image `busybox` of a saved archive in, with these options.
    ///
    /// # Panics
    /// skopeo is not installed, or fails.
    pub fn fill(&self, archive: &Path, name: &str, options: &[&str]) {
        let output = Command::new("skopeo")
            .args(["copy", "-q", "--dest-tls-verify=false"])
            .args(options)
            .arg(format!("docker-archive:{}:busybox:latest", archive.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .expect("skopeo is installed");
        assert!(output.status.success(), "{output:?}");
    }

    /// What it answered so far: `PUT /v2/a/manifests/1 201`.
    ///
    /// # Panics
    /// Its log cannot be read.
    pub fn answered(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).expect("the registry's log");
        let line = |line: &str| {
            let (_, request) = line.split_once("] \"")?;
            let (request, rest) = request.split_once(" HTTP/1.1\" ")?;
            Some(format!("{request} {}", rest.split(' ').next()?))
        };
        log.lines().filter_map(line).collect()
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).ok();
    }
}
