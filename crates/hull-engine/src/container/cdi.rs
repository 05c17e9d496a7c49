//! Devices by name, of the Container Device Interface: what the specifications in the daemon's folders say that a
//! container needs for a device, and `--gpus` where such a specification is of graphics processors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType, Mount};
use serde::Deserialize;

use super::devices::{device_access, host_device};
use crate::model::DeviceRequest;
use crate::{Error, Kind, Result};

/// The kinds under which vendors describe graphics processors.
const GPUS: [(&str, &str); 2] = [("nvidia", "nvidia.com/gpu"), ("amd", "amd.com/gpu")];

/// What devices bring into a container.
#[derive(Clone, Debug, Default)]
pub(super) struct Edits {
    /// `NAME=value`, above the container's own.
    pub(super) environment: Vec<String>,
    pub(super) devices: Vec<LinuxDevice>,
    pub(super) rules: Vec<LinuxDeviceCgroup>,
    pub(super) mounts: Vec<Mount>,
    /// Further groups of the first process.
    pub(super) groups: Vec<u32>,
}

/// A specification, as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Specification {
    kind: String,
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: ContainerEdits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerEdits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bind>,
    hooks: Vec<serde_json::Value>,
    intel_rdt: Option<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: i64,
    minor: i64,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Bind {
    host_path: PathBuf,
    container_path: PathBuf,
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
}

/// All devices that the specifications of some folders describe.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    specifications: Vec<Specification>,
    /// By their full name: which specification and which of its devices; none where two files of one folder have it.
    devices: BTreeMap<String, Option<(usize, usize)>>,
    /// Files that could not be read, and why.
    unread: Vec<String>,
}

impl Registry {
    /// Reads the folders; what a later one says of a device wins.
    pub(crate) fn read(folders: &[PathBuf]) -> Registry {
        let mut registry = Registry::default();
        for folder in folders {
            let mut of_folder = BTreeSet::new();
            let Ok(entries) = fs::read_dir(folder) else { continue };
            let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("json") => registry.add(&file, &mut of_folder),
                    Some("yaml" | "yml") => {
                        registry.unread.push(format!("{}: it is YAML; JSON is read", file.display()));
                    }
                    _ => {}
                }
            }
        }
        registry
    }

    fn add(&mut self, file: &Path, of_folder: &mut BTreeSet<String>) {
        let read = fs::read(file).map_err(|error| error.to_string());
        let parsed = read.and_then(|text| {
            serde_json::from_slice::<Specification>(&text).map_err(|error| error.to_string())
        });
        let specification = match parsed {
            Ok(specification) if is_kind(&specification.kind) => specification,
            Ok(other) => {
                return self.unread.push(format!("{}: invalid kind {:?}", file.display(), other.kind));
            }
            Err(error) => return self.unread.push(format!("{}: {error}", file.display())),
        };
        let index = self.specifications.len();
        for (at, device) in specification.devices.iter().enumerate() {
            let name = format!("{}={}", specification.kind, device.name);
            let is_new = of_folder.insert(name.clone());
            self.devices.insert(name, is_new.then_some((index, at)));
        }
        self.specifications.push(specification);
    }

    /// The full names of all devices.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.iter().filter(|(_, place)| place.is_some()).map(|(name, _)| name.as_str())
    }

    fn has_kind(&self, kind: &str) -> bool {
        self.of_kind(kind) > 0
    }

    /// How many devices of a kind there are.
    fn of_kind(&self, kind: &str) -> usize {
        self.names().filter(|name| name.split_once('=').is_some_and(|(of, _)| of == kind)).count()
    }

    /// What the devices of these full names bring.
    fn edits(&self, names: &[String]) -> Result<Edits> {
        let failed = |why: String| Error::new(Kind::System, format!("CDI device injection failed: {why}"));
        let find = |name: &String| self.devices.get(name).copied().flatten();
        let missing: Vec<&str> =
            names.iter().filter(|name| find(name).is_none()).map(String::as_str).collect();
        if !missing.is_empty() {
            let unread: String = self.unread.iter().map(|file| format!("; not read: {file}")).collect();
            return Err(failed(format!("unresolvable CDI devices {}{unread}", missing.join(", "))));
        }
        let (mut edits, mut seen) = (Edits::default(), BTreeSet::new());
        for name in names {
            let Some((index, at)) = find(name) else { continue };
            let specification = &self.specifications[index];
            let general = seen.insert(index).then_some(&specification.container_edits);
            for part in general.into_iter().chain([&specification.devices[at].container_edits]) {
                part.apply(&mut edits).map_err(|why| failed(format!("{name}: {why}")))?;
            }
        }
        Ok(edits)
    }

    /// What a container's device requests bring.
    ///
    /// # Errors
    /// There is no such device, or nobody who could serve the request: Docker's words for it.
    pub(super) fn serve(&self, requests: &[DeviceRequest]) -> Result<Edits> {
        let mut names = Vec::new();
        for request in requests {
            if request.driver == "cdi" {
                names.extend(request.device_ids.iter().flatten().cloned());
            } else {
                names.extend(self.graphics(request)?);
            }
        }
        self.edits(&names)
    }

    /// The graphics processors of a request, by their full names.
    fn graphics(&self, request: &DeviceRequest) -> Result<Vec<String>> {
        let wanted = request.capabilities.iter().flatten().any(|all| all.iter().any(|one| one == "gpu"));
        let by = |driver: &str| request.driver.is_empty() || request.driver == driver;
        let kind = GPUS.into_iter().find(|(driver, kind)| wanted && by(driver) && self.has_kind(kind));
        let Some((_, kind)) = kind else {
            let sets = request.capabilities.iter().flatten().map(|all| format!("[{}]", all.join(" ")));
            return Err(Error::new(
                Kind::System,
                format!(
                    "could not select device driver \"{}\" with capabilities: [{}]",
                    request.driver,
                    sets.collect::<Vec<_>>().join(" ")
                ),
            ));
        };
        let ids = request.device_ids.as_deref().unwrap_or_default();
        Ok(match request.count {
            _ if !ids.is_empty() => ids.iter().map(|id| format!("{kind}={id}")).collect(),
            -1 => vec![format!("{kind}=all")],
            count => {
                let there = self.of_kind(kind);
                if count < -1 || usize::try_from(count).is_ok_and(|count| count > there) {
                    return Err(Error::new(
                        Kind::System,
                        format!(
                            "the request of {count} devices {kind}: there are {there}, and -1 asks for all of them"
                        ),
                    ));
                }
                (0..count).map(|number| format!("{kind}={number}")).collect()
            }
        })
    }
}

impl ContainerEdits {
    fn apply(&self, edits: &mut Edits) -> std::result::Result<(), String> {
        for (what, asked) in [
            ("hooks", !self.hooks.is_empty()),
            ("intelRdt", self.intel_rdt.is_some()),
            ("netDevices", !self.net_devices.is_empty()),
        ] {
            if asked {
                return Err(format!("its containerEdits have {what}, which hull does not do"));
            }
        }
        edits.environment.extend(self.env.iter().cloned());
        for node in &self.device_nodes {
            node.apply(edits)?;
        }
        for bind in &self.mounts {
            edits.mounts.push(bind.mount());
        }
        edits.groups.extend(&self.additional_gids);
        Ok(())
    }
}

impl Node {
    fn apply(&self, edits: &mut Edits) -> std::result::Result<(), String> {
        if !self.path.starts_with('/') {
            return Err(format!("the device's path {:?} is not absolute", self.path));
        }
        let outside = if self.host_path.is_empty() { &self.path } else { &self.host_path };
        let inside = PathBuf::from(&self.path);
        let mut device = match self.kind.as_str() {
            // What the specification does not say is the host's.
            "" => host_device(Path::new(outside), inside)
                .map_err(|why| format!("the device {outside}: {why}"))?,
            kind => LinuxDeviceBuilder::default()
                .path(inside)
                .typ(match kind {
                    "b" => LinuxDeviceType::B,
                    "c" | "u" => LinuxDeviceType::C,
                    "p" => LinuxDeviceType::P,
                    other => return Err(format!("the device {outside} has the type {other:?}: b, c or p")),
                })
                .major(self.major)
                .minor(self.minor)
                .file_mode(0o666_u32)
                .build()
                .map_err(|error| error.to_string())?,
        };
        if let Some(mode) = self.file_mode {
            device.set_file_mode(Some(mode & 0o7777));
        }
        if let Some(uid) = self.uid {
            device.set_uid(Some(uid));
        }
        if let Some(gid) = self.gid {
            device.set_gid(Some(gid));
        }
        let access = if self.permissions.is_empty() { "rwm" } else { &self.permissions };
        if !access.bytes().all(|byte| b"rwm".contains(&byte)) {
            return Err(format!("the device {outside} has the permissions {access:?}: any of r, w, m"));
        }
        if device.typ() != LinuxDeviceType::P {
            let (major, minor) = (Some(device.major()), Some(device.minor()));
            edits.rules.push(device_access(true, device.typ(), major, minor, access));
        }
        edits.devices.push(device);
        Ok(())
    }
}

impl Bind {
    fn mount(&self) -> Mount {
        let mut mount = Mount::default();
        mount.set_destination(self.container_path.clone());
        mount.set_source(Some(self.host_path.clone()));
        mount.set_typ(Some(if self.kind.is_empty() { "bind".to_owned() } else { self.kind.clone() }));
        let mut options = self.options.clone();
        if options.is_empty() {
            options.extend(["ro", "nosuid", "nodev", "rbind", "rprivate"].map(str::to_owned));
        }
        mount.set_options(Some(options));
        mount
    }
}

/// `vendor.com/class`.
fn is_kind(text: &str) -> bool {
    let word = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    text.split_once('/').is_some_and(|(vendor, class)| word(vendor) && word(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(files: &[(&str, &str)]) -> (tempfile::TempDir, Registry) {
        let folder = tempfile::tempdir().unwrap();
        let mut folders = BTreeSet::new();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            folders.insert(path.parent().unwrap().to_owned());
        }
        let registry = Registry::read(&folders.into_iter().collect::<Vec<_>>());
        (folder, registry)
    }

    fn request(driver: &str, ids: &[&str], count: i64) -> DeviceRequest {
        DeviceRequest {
            driver: driver.to_owned(),
            count,
            device_ids: Some(ids.iter().map(|id| (*id).to_owned()).collect()),
            capabilities: Some(vec![vec!["gpu".to_owned(), "utility".to_owned()]]),
            options: None,
        }
    }

    #[test]
    fn a_specification_s_general_part_comes_once() {
        let (_folder, registry) = registry(&[(
            "a/x.json",
            r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/net", "containerEdits": {"env": ["ALL=1"]}, "devices": [
                {"name": "one", "containerEdits": {"env": ["ONE=1"], "deviceNodes": [
                    {"path": "/dev/one", "type": "c", "major": 1, "minor": 3, "permissions": "r"}]}},
                {"name": "two", "containerEdits": {"env": ["TWO=1"], "additionalGids": [7],
                    "mounts": [{"hostPath": "/a", "containerPath": "/b"}]}}]}"#,
        )]);
        let edits =
            registry.serve(&[request("cdi", &["vendor.com/net=one", "vendor.com/net=two"], 0)]).unwrap();
        assert_eq!(edits.environment, ["ALL=1", "ONE=1", "TWO=1"]);
        assert_eq!((edits.devices.len(), edits.rules.len(), edits.mounts.len()), (1, 1, 1));
        assert_eq!(edits.rules[0].access().as_deref(), Some("r"));
        assert_eq!(edits.groups, [7]);
    }

    #[test]
    fn a_later_folder_wins_and_two_files_of_one_do_not_agree() {
        let file = |value: &str| {
            format!(
                r#"{{"kind": "v.com/c", "devices": [{{"name": "d", "containerEdits": {{"env": ["{value}"]}}}}]}}"#
            )
        };
        let (_folder, later) = registry(&[("a/x.json", &file("A")), ("b/x.json", &file("B"))]);
        let wanted = [request("cdi", &["v.com/c=d"], 0)];
        assert_eq!(later.serve(&wanted).unwrap().environment, ["B"]);
        let (_folder, both) = registry(&[("a/x.json", &file("A")), ("a/y.json", &file("B"))]);
        assert!(both.serve(&wanted).is_err());
    }

    #[test]
    fn what_cannot_be_served_is_told_in_docker_s_words() {
        let (_folder, registry) = registry(&[
            ("a/bad.json", "{"),
            ("a/old.yaml", ""),
            (
                "a/h.json",
                r#"{"kind": "v.com/c", "devices": [{"name": "h", "containerEdits": {"hooks": [{}]}}]}"#,
            ),
        ]);
        let error = registry.serve(&[request("cdi", &["v.com/c=none"], 0)]).unwrap_err().message;
        assert!(error.starts_with("CDI device injection failed: unresolvable CDI devices v.com/c=none;"));
        assert!(error.contains("bad.json") && error.contains("old.yaml: it is YAML"), "{error}");
        let error = registry.serve(&[request("cdi", &["v.com/c=h"], 0)]).unwrap_err().message;
        assert!(error.contains("have hooks"), "{error}");
        let error = registry.serve(&[request("", &[], -1)]).unwrap_err().message;
        assert_eq!(error, "could not select device driver \"\" with capabilities: [[gpu utility]]");
    }

    #[test]
    fn gpus_are_found_where_a_specification_has_them() {
        let (_folder, registry) = registry(&[(
            "a/x.json",
            r#"{"kind": "nvidia.com/gpu", "devices": [
                {"name": "0", "containerEdits": {"env": ["GPU=0"]}}, {"name": "all", "containerEdits": {"env": ["GPU=all"]}}]}"#,
        )]);
        let of = |request| registry.serve(&[request]).map(|edits| edits.environment);
        assert_eq!(of(request("", &[], -1)).unwrap(), ["GPU=all"]);
        assert_eq!(of(request("nvidia", &[], 1)).unwrap(), ["GPU=0"]);
        assert_eq!(of(request("", &["0"], 0)).unwrap(), ["GPU=0"]);
        assert!(of(request("", &[], 2)).is_err());
        assert!(of(request("amd", &[], -1)).is_err());
        assert!(of(request("", &[], 0)).unwrap().is_empty());
        for count in [-2, 3, i64::MAX, i64::MIN] {
            let error = of(request("", &[], count)).unwrap_err().message;
            assert!(error.starts_with(&format!("the request of {count} devices nvidia.com/gpu")), "{error}");
        }
    }
}
