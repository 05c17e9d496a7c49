//! `--mount`, `--volume` and `--tmpfs`.

use std::path::{Component, PathBuf};

use serde_json::{Map, Value, json};

use super::{csv, units};

/// What `-v` comes to: binds, and the targets of anonymous volumes.
#[derive(Debug, Default)]
pub struct Volumes {
    /// `HostConfig.Binds`
    pub binds: Vec<String>,
    /// `Config.Volumes`
    pub anonymous: Map<String, Value>,
}

/// Reads all of `--volume`. Relative sources are taken from the working directory.
pub fn volumes(specs: &[String]) -> Result<Volumes, String> {
    let mut volumes = Volumes::default();
    for spec in specs {
        if spec.is_empty() {
            return Err("invalid empty volume spec".to_owned());
        }
        let Some((source, rest)) = spec.split_once(':') else {
            volumes.anonymous.insert(spec.clone(), json!({}));
            continue;
        };
        if source.is_empty() || rest.split(':').any(str::is_empty) {
            return Err(format!("invalid spec: {spec}: empty section between colons"));
        }
        if source.starts_with('.') {
            volumes.binds.push(format!("{}:{rest}", absolute(source)?));
        } else {
            volumes.binds.push(spec.clone());
        }
    }
    Ok(volumes)
}

/// `--tmpfs PATH[:OPTIONS]`, as the API's map.
pub fn tmpfs(specs: &[String]) -> Map<String, Value> {
    let pairs = specs.iter().map(|spec| spec.split_once(':').unwrap_or((spec, "")));
    pairs.map(|(path, options)| (path.to_owned(), Value::from(options))).collect()
}

/// A relative path from the working directory, cleaned by its words alone as Go's filepath.Abs does.
fn absolute(path: &str) -> Result<String, String> {
    let here = std::env::current_dir()
        .map_err(|e| format!("the working directory is not known: {}", crate::error::words(&e)))?;
    let mut clean = PathBuf::new();
    for part in here.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean.into_os_string().into_string().map_err(|path| format!("{path:?} is not valid UTF-8"))
}

/// One `--mount`, as the API's Mount.
pub fn mount(spec: &str) -> Result<Value, String> {
    let mut mount = Map::new();
    let mut parts = Parts::default();
    let mut kind = "volume".to_owned();
    for field in csv::fields(spec)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.trim().to_lowercase(), Some(value)),
            None => (field.trim().to_lowercase(), None),
        };
        let Some(value) = value else {
            match key.as_str() {
                "readonly" | "ro" => {
                    mount.insert("ReadOnly".into(), true.into());
                }
                "volume-nocopy" => {
                    parts.volume.insert("NoCopy".into(), true.into());
                }
                "bind-create-src" => {
                    parts.bind.insert("CreateMountpoint".into(), true.into());
                }
                "bind-nonrecursive" => return Err(NONRECURSIVE.to_owned()),
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            }
            continue;
        };
        match key.as_str() {
            "type" => kind = value.to_lowercase(),
            "source" | "src" => {
                let relative =
                    value == "." || value == ".." || value.starts_with("./") || value.starts_with("../");
                let source = if relative { absolute(value)? } else { value.to_owned() };
                mount.insert("Source".into(), source.into());
            }
            "target" | "dst" | "destination" => {
                mount.insert("Target".into(), value.into());
            }
            "readonly" | "ro" => {
                mount.insert("ReadOnly".into(), yes_or_no(&key, value)?.into());
            }
            "consistency" => {
                mount.insert("Consistency".into(), value.to_lowercase().into());
            }
            _ => parts.set(&key, value, spec)?,
        }
    }
    finish(mount, parts, &kind)
}

const NONRECURSIVE: &str = "bind-nonrecursive is gone; use bind-recursive=disabled in its place";

/// The options that belong to one type of mount each.
#[derive(Debug, Default)]
struct Parts {
    bind: Map<String, Value>,
    volume: Map<String, Value>,
    tmpfs: Map<String, Value>,
    image: Map<String, Value>,
    /// `bind-recursive=readonly`: needs the rest to be so as well.
    needs_read_only: bool,
}

impl Parts {
    fn set(&mut self, key: &str, value: &str, spec: &str) -> Result<(), String> {
        let mut driver = |name: &str, value: Value| {
            let driver = self.volume.entry("DriverConfig").or_insert_with(|| json!({}));
            driver[name] = value;
        };
        match key {
            "bind-propagation" => {
                self.bind.insert("Propagation".into(), value.to_lowercase().into());
            }
            "bind-create-src" => {
                self.bind.insert("CreateMountpoint".into(), yes_or_no(key, value)?.into());
            }
            "bind-nonrecursive" => return Err(NONRECURSIVE.to_owned()),
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => {
                    self.bind.insert("NonRecursive".into(), true.into());
                }
                "writable" => {
                    self.bind.insert("ReadOnlyNonRecursive".into(), true.into());
                }
                "readonly" => {
                    self.bind.insert("ReadOnlyForceRecursive".into(), true.into());
                    self.needs_read_only = true;
                }
                _ => {
                    return Err(format!(
                        "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \
                         \"readonly\")"
                    ));
                }
            },
            "volume-subpath" => {
                self.volume.insert("Subpath".into(), value.into());
            }
            "volume-nocopy" => {
                self.volume.insert("NoCopy".into(), yes_or_no(key, value)?.into());
            }
            "volume-label" => insert_pair(&mut self.volume, "Labels", value),
            "volume-driver" => driver("Name", value.into()),
            "volume-opt" => {
                let (name, setting) = value.split_once('=').unwrap_or((value, ""));
                let driver = self.volume.entry("DriverConfig").or_insert_with(|| json!({}));
                driver["Options"][name] = setting.into();
            }
            "image-subpath" => {
                self.image.insert("Subpath".into(), value.into());
            }
            "tmpfs-size" => {
                let size = units::bytes(value).map_err(|_| format!("invalid value for {key}: {value}"))?;
                self.tmpfs.insert("SizeBytes".into(), size.into());
            }
            "tmpfs-mode" => {
                let mode =
                    u32::from_str_radix(value, 8).map_err(|_| format!("invalid value for {key}: {value}"))?;
                self.tmpfs.insert("Mode".into(), mode.into());
            }
            _ => return Err(format!("unexpected key '{key}' in '{key}={value}' of '{spec}'")),
        }
        Ok(())
    }
}

fn finish(mut mount: Map<String, Value>, parts: Parts, kind: &str) -> Result<Value, String> {
    if kind.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.get("Target").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err("target is required".to_owned());
    }
    if parts.needs_read_only {
        if mount.get("ReadOnly") != Some(&Value::Bool(true)) {
            return Err(
                "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction".into(),
            );
        }
        if parts.bind.get("Propagation").and_then(Value::as_str) != Some("rprivate") {
            return Err(
                "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in \
                        conjunction"
                    .into(),
            );
        }
    }
    mount.insert("Type".into(), kind.into());
    let groups = [
        ("bind", "BindOptions", parts.bind),
        ("volume", "VolumeOptions", parts.volume),
        ("tmpfs", "TmpfsOptions", parts.tmpfs),
        ("image", "ImageOptions", parts.image),
    ];
    for (group, name, options) in groups {
        if options.is_empty() {
            continue;
        }
        if group != kind {
            return Err(format!("cannot mix '{group}-*' options with mount type '{kind}'"));
        }
        mount.insert(name.to_owned(), Value::Object(options));
    }
    Ok(Value::Object(mount))
}

fn insert_pair(map: &mut Map<String, Value>, name: &str, pair: &str) {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    map.entry(name).or_insert_with(|| json!({}))[key] = value.into();
}

fn yes_or_no(key: &str, value: &str) -> Result<bool, String> {
    crate::cli::parse_bool(value).map_err(|_| format!("invalid value for {key}: {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(spec: &str) -> Value {
        mount(spec).unwrap()
    }

    #[test]
    fn mounts() {
        assert_eq!(json("target=/a"), json!({"Target": "/a", "Type": "volume"}));
        assert_eq!(
            json("type=bind,src=/h,dst=/a,readonly,bind-propagation=rslave,bind-create-src"),
            json!({"Type": "bind", "Source": "/h", "Target": "/a", "ReadOnly": true,
                   "BindOptions": {"Propagation": "rslave", "CreateMountpoint": true}})
        );
        assert_eq!(
            json(
                r#"src=v,dst=/a,volume-nocopy,volume-label=x=y,volume-driver=local,"volume-opt=o=a,b",volume-subpath=s"#
            ),
            json!({"Type": "volume", "Source": "v", "Target": "/a", "VolumeOptions": {"NoCopy": true,
                   "Labels": {"x": "y"}, "DriverConfig": {"Name": "local", "Options": {"o": "a,b"}},
                   "Subpath": "s"}})
        );
        assert_eq!(
            json("type=tmpfs,dst=/a,tmpfs-size=1m,tmpfs-mode=1770"),
            json!({"Type": "tmpfs", "Target": "/a", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}})
        );
        assert_eq!(
            json("type=image,src=i,dst=/a,image-subpath=p"),
            json!({"Type": "image", "Source": "i", "Target": "/a", "ImageOptions": {"Subpath": "p"}})
        );
        let here = std::env::current_dir().unwrap();
        assert_eq!(json("type=bind,src=./x,dst=/a")["Source"], here.join("x").to_str().unwrap());
    }

    #[test]
    fn wrong_mounts() {
        for (spec, why) in [
            ("type=bind", "target is required"),
            ("type=,dst=/a", "type is required"),
            ("nonsense", "must be a key=value pair"),
            ("dst=/a,color=red", "unexpected key 'color'"),
            ("dst=/a,readonly=maybe", "invalid value for readonly: maybe"),
            ("type=bind,dst=/a,tmpfs-size=1", "cannot mix 'tmpfs-*' options with mount type 'bind'"),
            ("type=tmpfs,dst=/a,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
            ("type=bind,src=/a,dst=/b,bind-recursive=readonly", "requires 'readonly'"),
            ("type=bind,src=/a,dst=/b,bind-nonrecursive", "bind-recursive=disabled"),
        ] {
            let got = mount(spec).unwrap_err();
            assert!(got.contains(why), "{spec}: {got}");
        }
    }

    #[test]
    fn volume_flags() {
        let specs = ["/h:/c:ro", "name:/d", "/only", "./rel/../x:/e"].map(str::to_owned);
        let volumes = volumes(&specs).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(volumes.binds, ["/h:/c:ro", "name:/d", &format!("{}:/e", here.join("x").display())]);
        assert_eq!(volumes.anonymous.keys().collect::<Vec<_>>(), ["/only"]);
        for wrong in ["", ":/a", "a:", "a::ro"] {
            assert!(super::volumes(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
