//! Who is measured, and what they all need: a root file system, a bundle, files to log and load.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hull_tests::{Client, Daemon, Engine, Tar, busybox_rootfs, cgroups_of};
use serde_json::{Value, json};

use super::registry::Spent;
use super::runtime::Runtime;
use crate::Result;
use crate::shell::{find, output, target};

/// The files of a run; removed at its end.
pub(crate) struct Scene {
    dir: PathBuf,
}

impl Scene {
    /// Its folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Unpacks the root file system that the floor and the bare runtimes use, and writes the files to log and load.
    pub(crate) fn set() -> Result<Self> {
        let scene = Self { dir: target().join("bench") };
        scene.clear();
        fs::create_dir_all(scene.rootfs())?;
        fs::create_dir_all(scene.dir.join("floor"))?;
        let archive = scene.dir.join("rootfs.tar");
        fs::write(&archive, busybox_rootfs().finish())?;
        output("tar", &["-C", text(&scene.rootfs())?, "-xf", text(&archive)?])?;
        let line = format!("{}\n", "0123456789".repeat(10).split_at(99).0);
        fs::write(scene.dir.join("log.txt"), line.repeat(1_000_000))?;
        fs::write(scene.image(), docker_archive(&scene.dir)?)?;
        Ok(scene)
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// The archive of the image `bench/load`, as `docker save` writes it.
    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join("image.tar")
    }

    /// The bundle that every OCI runtime runs: the one that hull writes to begin with, in a version of the specification
    /// that older ones take, with `true` as its command.
    fn write_bundle(&self, hull: &str) -> Result<()> {
        let bundle = self.dir.join("bundle");
        fs::create_dir_all(&bundle)?;
        output(hull, &["oci", "spec", "--bundle", text(&bundle)?])?;
        let file = bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&file)?)?;
        spec["ociVersion"] = json!("1.0.2");
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["/bin/true"]);
        spec["root"] = json!({"path": text(&self.rootfs())?, "readonly": true});
        fs::write(&file, spec.to_string())?;
        Ok(())
    }

    fn clear(&self) {
        fs::remove_dir_all(&self.dir).ok();
        cgroups_of("hull-floor").iter().for_each(|cgroup| {
            fs::remove_dir(cgroup).ok();
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.clear();
    }
}

/// An image of 150 MB at most out of this machine's programs, one layer, not compressed.
fn docker_archive(dir: &Path) -> Result<Vec<u8>> {
    const ENOUGH: usize = 150_000_000;
    let mut layer = Tar::new();
    let mut size = 0;
    let mut names: Vec<PathBuf> = ["/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/share/doc"]
        .iter()
        .flat_map(|dir| beneath(Path::new(dir)))
        .collect();
    names.sort();
    for path in names {
        let name = text(&path)?.trim_start_matches('/');
        let length = fs::metadata(&path)?.len() as usize;
        if size + length > ENOUGH || name.len() > 100 {
            continue;
        }
        size += length;
        layer = layer.file(name, &fs::read(&path)?);
    }
    let layer = layer.finish();
    fs::write(dir.join("layer.tar"), &layer)?;
    let digest = output("sha256sum", &[text(&dir.join("layer.tar"))?])?;
    let digest = digest.split(' ').next().ok_or("sha256sum printed nothing")?;
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "created": "2024-01-01T00:00:00Z", "history": [],
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest =
        json!([{"Config": "config.json", "RepoTags": ["bench/load:latest"], "Layers": ["layer.tar"]}]);
    Ok(Tar::new()
        .file("config.json", config.to_string().as_bytes())
        .file("layer.tar", &layer)
        .file("manifest.json", manifest.to_string().as_bytes())
        .finish())
}

/// The regular files beneath a folder.
pub(crate) fn beneath(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(beneath(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    Ok(path.to_str().ok_or("a path that is not UTF-8")?)
}

/// One of those that are measured.
pub(crate) enum Contestant {
    /// The kernel alone.
    Floor(Floor),
    /// A daemon with Docker's API and its command line.
    Api(Box<Api>),
    /// An OCI runtime's command line, on a bundle.
    Runtime(Runtime),
    /// Podman, which has no daemon.
    Podman(Podman),
}

impl Contestant {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Floor(_) => "floor",
            Self::Api(api) => api.name,
            Self::Runtime(runtime) => runtime.name,
            Self::Podman(_) => "podman",
        }
    }
}

/// Everyone who is on this machine.
pub(crate) fn all(scene: &Scene) -> Result<Vec<Contestant>> {
    let mut hull = Api::start("hull", Engine::Hull, scene)?;
    let binary = text(&hull_tests::hull_binary())?.to_owned();
    scene.write_bundle(&binary)?;
    hull.oci = Some(Runtime::new("hull", &[&binary, "oci"], scene));
    let mut all =
        vec![Contestant::Floor(Floor::new(scene, hull.cgroups()?)?), Contestant::Api(Box::new(hull))];
    if find("dockerd").is_some() && find("docker").is_some() {
        all.push(Contestant::Api(Box::new(Api::start("dockerd", Engine::Docker, scene)?)));
    }
    for name in ["runc", "crun"] {
        if find(name).is_some() {
            all.push(Contestant::Runtime(Runtime::new(name, &[name], scene)));
        }
    }
    if find("podman").is_some() {
        all.push(Contestant::Podman(Podman::new(scene)?));
    }
    let names: Vec<&str> = all.iter().map(Contestant::name).collect();
    println!("measured: {}", names.join(", "));
    Ok(all)
}

/// The kernel's floor, in processes of its own.
pub(crate) struct Floor {
    rootfs: PathBuf,
    scratch: PathBuf,
    cgroups: Vec<PathBuf>,
}

impl Floor {
    /// With a cgroup in each hierarchy where hull makes one.
    fn new(scene: &Scene, cgroups: Vec<PathBuf>) -> Result<Self> {
        println!("the floor's cgroups: {}", cgroups.len());
        for cgroup in &cgroups {
            fs::create_dir_all(cgroup).map_err(|error| format!("{}: {error}", cgroup.display()))?;
        }
        Ok(Self { rootfs: scene.rootfs(), scratch: scene.dir.join("floor"), cgroups })
    }

    /// The median of some containers, in milliseconds.
    pub(crate) fn container(&self, own_network: bool) -> Result<f64> {
        let exe = std::env::current_exe()?;
        let network = if own_network { "own" } else { "host" };
        let mut args = vec!["floor", text(&self.rootfs)?, text(&self.scratch)?, network, "11"];
        for cgroup in &self.cgroups {
            args.push(text(cgroup)?);
        }
        let printed = output(text(&exe)?, &args)?;
        let mut figures: Vec<f64> = printed.lines().map(str::parse).collect::<std::result::Result<_, _>>()?;
        Ok(super::report::median(&mut figures) / 1000.0)
    }
}

/// A daemon with Docker's API.
pub(crate) struct Api {
    pub(crate) name: &'static str,
    pub(crate) daemon: Daemon,
    pub(crate) engine: Engine,
    client: Client,
    /// A container that runs all the time, for exec.
    pub(crate) sleeper: String,
    pub(crate) log_file: PathBuf,
    pub(crate) image: PathBuf,
    /// The folder of the run.
    pub(crate) folder: PathBuf,
    /// How many images it has pushed.
    pub(crate) pushes: u16,
    /// What pushes and pulls took besides their time.
    pub(crate) spent: HashMap<&'static str, Vec<Spent>>,
    /// Its OCI runtime, if that is to be measured.
    pub(crate) oci: Option<Runtime>,
    /// Proportional set size of all its processes when nothing ran yet, in MiB.
    pub(crate) at_rest: f64,
}

impl Api {
    fn start(name: &'static str, engine: Engine, scene: &Scene) -> Result<Self> {
        let daemon = Daemon::empty(engine, &[]);
        let at_rest = daemon.pss() as f64 / 1024.0;
        daemon.import_busybox();
        let client = daemon.api();
        let log_file = scene.dir.join("log.txt");
        let mut api = Self {
            name,
            daemon,
            engine,
            client,
            sleeper: String::new(),
            log_file,
            image: scene.image(),
            folder: scene.dir.clone(),
            pushes: if engine == Engine::Hull { 0 } else { 1000 },
            spent: HashMap::new(),
            oci: None,
            at_rest,
        };
        api.sleeper = api.create(&json!({"Image": "busybox", "Cmd": ["sleep", "1000000"]}))?;
        api.expect("POST", &format!("/containers/{}/start", api.sleeper), &Value::Null, 204)?;
        Ok(api)
    }

    /// A request that must be answered with this status; the body.
    pub(crate) fn expect(&mut self, method: &str, path: &str, body: &Value, status: u16) -> Result<Value> {
        let path = format!("/v1.41{path}");
        let response = match body {
            Value::Null => self.client.send(method, &path, "", &[])?,
            body => self.client.send(method, &path, "application/json", body.to_string().as_bytes())?,
        };
        if response.status != status {
            return Err(format!("{method} {path}: {} {}", response.status, response.text().trim()).into());
        }
        Ok(response.json())
    }

    /// Any body, whose answer must be a success.
    pub(crate) fn upload(&mut self, path: &str, kind: &str, body: &[u8]) -> Result<String> {
        let response = self.client.send("POST", &format!("/v1.41{path}"), kind, body)?;
        let said = response.text();
        if response.status != 200 || said.contains("\"error\"") {
            return Err(format!("POST {path}: {} {said}", response.status).into());
        }
        Ok(said)
    }

    /// The bytes of an answer, which must be a success.
    pub(crate) fn download(&mut self, path: &str) -> Result<Vec<u8>> {
        let response = self.client.get(&format!("/v1.41{path}"))?;
        if response.status == 200 {
            Ok(response.body)
        } else {
            Err(format!("GET {path}: {}", response.status).into())
        }
    }

    pub(crate) fn create(&mut self, body: &Value) -> Result<String> {
        let created = self.expect("POST", "/containers/create", body, 201)?;
        Ok(created["Id"].as_str().ok_or("create answered no id")?.to_owned())
    }

    /// A connection that is taken over; everything that comes until its end.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Result<Vec<u8>> {
        let (head, mut stream) = self.client.upgrade(&format!("/v1.41{path}"), body)?;
        if !matches!(head.status, 101 | 200) {
            return Err(format!("POST {path}: {}", head.status).into());
        }
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut all)?;
        Ok(all)
    }

    /// Where the sleeping container has a cgroup of its own: the same hierarchies, with a parent for the floor's.
    fn cgroups(&self) -> Result<Vec<PathBuf>> {
        let inspected = self.daemon.api().get(&format!("/v1.41/containers/{}/json", self.sleeper))?.json();
        let pid = inspected["State"]["Pid"].as_i64().ok_or("inspect shows no process id")?;
        let theirs = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mut parents = Vec::new();
        for line in theirs.lines().filter(|line| !own.lines().any(|other| other == *line)) {
            let controllers = line.split(':').nth(1).ok_or("no cgroup line")?;
            let mount = mounts.lines().find_map(|mount| {
                let (left, right) = mount.split_once(" - ")?;
                let (kind, options) = (right.split(' ').next()?, right.split(' ').nth(2)?);
                let same = if controllers.is_empty() {
                    kind == "cgroup2"
                } else {
                    let first = controllers.split(',').next()?;
                    kind == "cgroup" && options.split(',').any(|option| option == first)
                };
                same.then(|| left.split(' ').nth(4)).flatten()
            });
            // A cpuset without processors takes no process; hull fills its own in, which the floor leaves out.
            if controllers != "cpuset" {
                parents.push(Path::new(mount.ok_or("a hierarchy that is not mounted")?).join("hull-floor"));
            }
        }
        Ok(parents)
    }
}

/// Podman with storage of its own.
pub(crate) struct Podman {
    dir: PathBuf,
}

impl Podman {
    fn new(scene: &Scene) -> Result<Self> {
        let podman = Self { dir: scene.dir.join("podman") };
        fs::create_dir_all(&podman.dir)?;
        let archive = scene.dir.join("rootfs.tar");
        podman.run(&["import", "--change", "ENV PATH=/bin", text(&archive)?, "localhost/busybox"])?;
        Ok(podman)
    }

    /// A podman command, which must succeed.
    pub(crate) fn run(&self, args: &[&str]) -> Result<()> {
        let (root, state) = (self.dir.join("root"), self.dir.join("run"));
        let mut all =
            vec!["--root", text(&root)?, "--runroot", text(&state)?, "--cgroup-manager", "cgroupfs"];
        if find("runc").is_some() {
            // crun takes no machine that mounts cgroups of both versions.
            all.extend(["--runtime", "runc"]);
        }
        all.extend_from_slice(args);
        output("podman", &all)?;
        Ok(())
    }

    /// `podman run --rm`, with limits that root may set without CAP_SYS_RESOURCE too.
    pub(crate) fn container(&self, network: &str) -> Result<()> {
        let limits = ["run", "--rm", "--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:4096"];
        self.run(&[&limits[..], &["--network", network, "localhost/busybox", "true"]].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Its overlay is mounted as long as an image of it is in use.
        if let Err(error) = self.run(&["system", "prune", "--all", "--force"]) {
            println!("podman: {error}");
        }
        Command::new("umount")
            .args(["--recursive", "--lazy"])
            .arg(self.dir.join("root"))
            .stderr(Stdio::null())
            .status()
            .ok();
        for cgroup in cgroups_of("libpod_parent") {
            Command::new("find")
                .arg(cgroup)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
                .status()
                .ok();
        }
    }
}
