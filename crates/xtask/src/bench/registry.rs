//! An image of ten layers and half a gigabyte: saved, imported, removed, and over loopback pushed to Debian's docker-registry
//! and pulled from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use hull_tests::{DockerRegistry, Tar};
use serde_json::{Value, json};

use super::contestants::{Api, Contestant, beneath, text};
use super::rows::milliseconds;
use crate::Result;
use crate::shell::{find, output};

/// The name of the image.
const IMAGE: &str = "bench/large";
const LAYERS: usize = 10;
/// The bytes of a layer's files.
const LAYER: usize = 52_000_000;

/// What a piece of work took besides the time until it was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// Until nothing was left to be done behind the answer, in milliseconds.
    pub(crate) whole: f64,
    /// Processor time, in seconds.
    pub(crate) processor: f64,
    /// The most memory that the daemon's processes had, in MiB.
    pub(crate) memory: f64,
}

/// Whether there is a registry, and what fills it.
fn possible() -> bool {
    find("docker-registry").is_some() && find("skopeo").is_some()
}

/// From the request until the answer's end, to a registry that has nothing.
pub(crate) fn push(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    if !possible() {
        return Ok(None);
    }
    loaded(api)?;
    let folder = Folder::new(api.folder.join("pushed"))?;
    // Another address each time, so that nothing is known of it.
    let address = format!("127.0.0.1:{}", 16000 + api.pushes);
    api.pushes += 1;
    let registry = DockerRegistry::start(&folder.0, &address, "");
    let name = format!("{}/{IMAGE}", registry.address);
    api.expect("POST", &format!("/images/{IMAGE}/tag?repo={name}&tag=1"), &Value::Null, 201)?;
    let took = measured(api, "push", |api| {
        // The form of the credentials that needs no header.
        api.upload(&format!("/images/{name}/push?tag=1"), "application/json", b"{}").map(drop)
    })?;
    api.expect("DELETE", &format!("/images/{name}:1"), &Value::Null, 200)?;
    Ok(Some(took))
}

/// From the request until all layers are unpacked, of an image of which nothing is there.
pub(crate) fn pull(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    if !possible() {
        return Ok(None);
    }
    let address = filled(&api.folder)?;
    if api.download(&format!("/images/{IMAGE}/json")).is_ok() {
        api.expect("DELETE", &format!("/images/{IMAGE}:latest"), &Value::Null, 200)?;
    }
    let took = measured(api, "pull", |api| {
        api.upload(&format!("/images/create?fromImage={address}/{IMAGE}&tag=1"), "", &[]).map(drop)
    })?;
    api.expect("DELETE", &format!("/images/{address}/{IMAGE}:1"), &Value::Null, 200)?;
    Ok(Some(took))
}

/// Has the image be there.
fn loaded(api: &mut Api) -> Result<()> {
    let archive = archive(&api.folder)?;
    if api.download(&format!("/images/{IMAGE}/json")).is_err() {
        api.upload("/images/load?quiet=1", "application/x-tar", &fs::read(archive)?)?;
    }
    Ok(())
}

/// From the execution of curl until it has read the whole archive.
pub(crate) fn save(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    loaded(api)?;
    let socket = api.daemon.socket();
    let url = format!("http://d/v1.41/images/{IMAGE}/get");
    let took = measured(api, "save", |_| {
        output("curl", &["-sSf", "--unix-socket", text(&socket)?, "-o", "/dev/null", &url]).map(drop)
    })?;
    Ok(Some(took))
}

/// From the request until the image is there.
pub(crate) fn import(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    archive(&api.folder)?;
    let tar = fs::read(api.folder.join("import.tar"))?;
    let took = measured(api, "import", |api| {
        api.upload("/images/create?fromSrc=-&repo=bench/imported", "application/x-tar", &tar).map(drop)
    })?;
    api.expect("DELETE", "/images/bench/imported:latest", &Value::Null, 200)?;
    Ok(Some(took))
}

/// From the request until its answer.
pub(crate) fn remove(who: &mut Contestant) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    loaded(api)?;
    let took = measured(api, "remove", |api| {
        api.expect("DELETE", &format!("/images/{IMAGE}:latest"), &Value::Null, 200).map(drop)
    })?;
    Ok(Some(took))
}

/// What the rounds of a row before have spent, at the median.
pub(crate) fn spent(who: &mut Contestant, what: &str, of: fn(&Spent) -> f64) -> Result<Option<f64>> {
    let Contestant::Api(api) = who else { return Ok(None) };
    let mut figures: Vec<f64> = api.spent.get(what).into_iter().flatten().map(of).collect();
    Ok((!figures.is_empty()).then(|| super::report::median(&mut figures)))
}

/// Times some work of a daemon's and notes what it spends.
pub(super) fn measured(
    api: &mut Api,
    what: &'static str,
    work: impl FnOnce(&mut Api) -> Result<()>,
) -> Result<f64> {
    all_removed(api);
    let before = api.daemon.processor_time();
    api.daemon.forget_peak();
    let begin = Instant::now();
    work(api)?;
    let took = milliseconds(begin);
    // What hull removes behind its answer is a part of the work.
    all_removed(api);
    let whole = milliseconds(begin);
    let processor = api.daemon.processor_time().saturating_sub(before).as_secs_f64();
    let memory = api.daemon.peak() as f64 / 1024.0;
    api.spent.entry(what).or_default().push(Spent { whole, processor, memory });
    Ok(took)
}

/// Waits until hull has removed what is to be removed; dockerd does that before it answers.
fn all_removed(api: &Api) {
    let trash = api.daemon.dir().join("data/image/trash");
    hull_tests::wait_until("what was removed is gone", std::time::Duration::from_secs(60), || {
        fs::read_dir(&trash).map_or(true, |mut entries| entries.next().is_none())
    });
}

/// The address of a registry that has the image.
fn filled(folder: &Path) -> Result<String> {
    static REGISTRY: OnceLock<DockerRegistry> = OnceLock::new();
    if let Some(registry) = REGISTRY.get() {
        return Ok(registry.address.clone());
    }
    let archive = archive(folder)?;
    let files = folder.join("filled");
    fs::create_dir_all(&files)?;
    let registry = DockerRegistry::start(&files, "127.0.0.1:15999", "");
    let from = format!("docker-archive:{}:{IMAGE}:latest", text(&archive)?);
    let to = format!("docker://{}/{IMAGE}:1", registry.address);
    output("skopeo", &["copy", "-q", "--dest-tls-verify=false", &from, &to])?;
    Ok(REGISTRY.get_or_init(|| registry).address.clone())
}

/// The image as `docker save` writes it, made of this machine's programs.
fn archive(folder: &Path) -> Result<PathBuf> {
    let archive = folder.join("large.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let parts = Folder::new(folder.join("large"))?;
    let mut files: Vec<PathBuf> =
        ["/usr/bin", "/usr/lib", "/usr/share"].iter().flat_map(|dir| beneath(Path::new(dir))).collect();
    files.sort();
    let mut files = files.into_iter();
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for number in 0..LAYERS {
        let (mut layer, mut size) = (Tar::new(), 0);
        while size < LAYER {
            let Some(path) = files.next() else { break };
            let name = text(&path)?.trim_start_matches('/').to_owned();
            let length = fs::metadata(&path)?.len() as usize;
            // No file is a layer of its own, and no name needs more than a header.
            if length > LAYER / 4 || name.len() > 100 {
                continue;
            }
            size += length;
            layer = layer.file(&name, &fs::read(&path)?);
        }
        let name = format!("{number}.tar");
        fs::write(parts.0.join(&name), layer.finish())?;
        if number == 0 {
            fs::copy(parts.0.join(&name), folder.join("import.tar"))?;
        }
        let digest = output("sha256sum", &[text(&parts.0.join(&name))?])?;
        let digest = digest.split(' ').next().ok_or("sha256sum printed nothing")?;
        diff_ids.push(format!("sha256:{digest}"));
        layers.push(name);
    }
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "created": "2024-01-01T00:00:00Z", "history": [],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    fs::write(parts.0.join("config.json"), config.to_string())?;
    let manifest =
        json!([{"Config": "config.json", "RepoTags": [format!("{IMAGE}:latest")], "Layers": layers}]);
    fs::write(parts.0.join("manifest.json"), manifest.to_string())?;
    output("tar", &["-C", text(&parts.0)?, "-cf", text(&archive)?, "."])?;
    Ok(archive)
}

/// A folder that is removed with all in it.
struct Folder(PathBuf);

impl Folder {
    fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
