//! Reading what a container asks to have mounted: `-v`, `--mount`, `--tmpfs`. Pure.

use std::path::Path;

use hull_image::archive::clean;

use super::{MountKind, MountPlan, Owner, Wanted, WantedVolume};
use crate::model::{BindOptions, Mount};
use crate::{Error, Result};

/// One `-v`: `[source:]destination[:options]`.
pub(super) fn parse_bind(text: &str, driver: &str, caller: Owner) -> Result<Wanted> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, place, mode) = match parts[..] {
        [place] => ("", place, ""),
        [source, place] => (source, place, ""),
        [source, place, mode] => (source, place, mode),
        _ => return Err(invalid()),
    };
    if place.is_empty() || (parts.len() > 1 && source.is_empty()) || (parts.len() == 2 && is_mode(place)) {
        return Err(invalid());
    }
    let kind = if source.starts_with('/') { "bind" } else { "volume" };
    let config = |error: Error| {
        let why = format!("invalid mount config for type \"{kind}\": {}", error.message);
        Error::invalid(format!("{}: {why}", invalid().message))
    };
    let mut wanted = Wanted {
        plan: MountPlan {
            destination: destination(place).map_err(config)?,
            mode: mode.to_owned(),
            writable: true,
            recursive: true,
            ..MountPlan::default()
        },
        volume: None,
        create_source: true,
        pinned: None,
    };
    let plan = &mut wanted.plan;
    if source.starts_with('/') {
        plan.kind = MountKind::Bind;
        plan.source = clean(source);
        plan.propagation = "rprivate".to_owned();
    } else {
        plan.kind = MountKind::Volume;
        plan.name = source.to_owned();
        plan.anonymous = source.is_empty();
        wanted.volume = Some(WantedVolume { driver: driver.to_owned(), ..WantedVolume::default() });
    }
    let contradicts = |one_of: &[&str]| mode.split(',').filter(|option| one_of.contains(option)).count() > 1;
    if EXCLUSIVE.iter().any(|one_of| contradicts(one_of)) {
        return Err(Error::invalid(format!("invalid mode: {mode}")));
    }
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => plan.writable = false,
            "rw" => plan.writable = true,
            // Labels of SELinux: without SELinux Docker does nothing about them either.
            "z" | "Z" => {}
            "nocopy" if plan.kind == MountKind::Volume => plan.no_copy = true,
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave"
                if plan.kind == MountKind::Bind =>
            {
                plan.propagation = option.to_owned();
            }
            "idmap" if plan.kind == MountKind::Bind => plan.owner = Some(caller),
            "idmap" => {
                return Err(Error::invalid(format!(
                    "invalid mode: {mode}: idmap is for a folder or file of the host, and {source:?} is a volume, which is root's"
                )));
            }
            "rbind" if plan.kind == MountKind::Bind => {}
            "bind" if plan.kind == MountKind::Bind => plan.recursive = false,
            // What only Docker Desktop does something about.
            "consistent" | "cached" | "delegated" => {}
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    plan.read_only_recursive = !plan.writable && plan.kind == MountKind::Bind && plan.recursive;
    Ok(wanted)
}

/// Of each of these a mode has one.
const EXCLUSIVE: [&[&str]; 5] = [
    &["ro", "rw"],
    &["z", "Z"],
    &["private", "rprivate", "shared", "rshared", "slave", "rslave"],
    &["nocopy"],
    &["consistent", "cached", "delegated"],
];

/// Whether a word is one that stands behind a second colon.
fn is_mode(word: &str) -> bool {
    !word.is_empty() && word.split(',').all(|option| matches!(option, "ro" | "rw" | "z" | "Z" | "nocopy"))
}

/// One `--mount`.
pub(super) fn parse_mount(mount: &Mount) -> Result<Wanted> {
    let invalid =
        |why: String| Error::invalid(format!("invalid mount config for type \"{}\": {why}", mount.kind));
    if mount.target.is_empty() {
        return Err(invalid("field Target must not be empty".to_owned()));
    }
    let other_options = |kind: &str| -> Result<()> {
        let present = [
            ("bind", "BindOptions", mount.bind_options.is_some()),
            ("volume", "VolumeOptions", mount.volume_options.is_some()),
            ("tmpfs", "TmpfsOptions", mount.tmpfs_options.is_some()),
            ("image", "ImageOptions", mount.image_options.is_some()),
            ("cluster", "ClusterOptions", mount.cluster_options.is_some()),
        ];
        match present.iter().find(|(of, _, there)| *there && *of != kind) {
            Some((_, field, _)) => Err(invalid(format!("field {field} must not be specified"))),
            None => Ok(()),
        }
    };
    let mut plan = MountPlan {
        destination: destination(&mount.target).map_err(|error| invalid(error.message))?,
        writable: !mount.read_only,
        recursive: true,
        ..MountPlan::default()
    };
    match mount.kind.as_str() {
        "bind" => {
            other_options("bind")?;
            if mount.source.is_empty() {
                return Err(invalid("field Source must not be empty".to_owned()));
            }
            if !mount.source.starts_with('/') {
                return Err(invalid(format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    mount.source
                )));
            }
            let default = BindOptions::default();
            let options = mount.bind_options.as_ref().unwrap_or(&default);
            plan.kind = MountKind::Bind;
            plan.source = clean(&mount.source);
            plan.propagation = match options.propagation.as_str() {
                "" => "rprivate".to_owned(),
                word @ ("private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave") => {
                    word.to_owned()
                }
                other => return Err(invalid(format!("invalid propagation mode: {other}"))),
            };
            check_recursive_read_only(mount, options).map_err(invalid)?;
            plan.recursive = !options.non_recursive;
            plan.read_only_recursive = mount.read_only && !options.read_only_non_recursive && plan.recursive;
            if options.create_mountpoint {
                return Ok(Wanted { plan, volume: None, create_source: true, pinned: None });
            }
            if let Err(error) = std::fs::symlink_metadata(&plan.source) {
                if error.kind() == std::io::ErrorKind::NotFound {
                    return Err(invalid(format!("bind source path does not exist: {}", plan.source)));
                }
                return Err(invalid(format!("bind source path {}: {error}", plan.source)));
            }
            Ok(Wanted { plan, volume: None, create_source: false, pinned: None })
        }
        "volume" => {
            other_options("volume")?;
            plan.kind = MountKind::Volume;
            plan.name.clone_from(&mount.source);
            plan.anonymous = mount.source.is_empty();
            if plan.anonymous && mount.read_only {
                return Err(invalid("must not set ReadOnly mode when using anonymous volumes".to_owned()));
            }
            let options = mount.volume_options.clone().unwrap_or_default();
            plan.no_copy = options.no_copy;
            plan.subpath = subpath(options.subpath, "volume").map_err(invalid)?;
            let driver = options.driver_config.unwrap_or_default();
            let volume = WantedVolume {
                driver: driver.name,
                options: driver.options.unwrap_or_default(),
                labels: options.labels.unwrap_or_default(),
            };
            Ok(Wanted { plan, volume: Some(volume), create_source: false, pinned: None })
        }
        "tmpfs" => {
            other_options("tmpfs")?;
            if !mount.source.is_empty() {
                return Err(invalid("field Source must not be specified".to_owned()));
            }
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            plan.kind = MountKind::Tmpfs;
            plan.options = TMPFS_DEFAULTS.iter().map(|option| (*option).to_owned()).collect();
            if options.size_bytes > 0 {
                plan.options.push(format!("size={}", options.size_bytes));
            }
            if options.mode != 0 {
                plan.options.push(format!("mode={:o}", options.mode));
            }
            for words in options.options.unwrap_or_default() {
                plan.options.push(words.join("="));
            }
            Ok(Wanted { plan, volume: None, create_source: false, pinned: None })
        }
        "image" => {
            other_options("image")?;
            if mount.source.is_empty() {
                return Err(invalid("field Source must not be empty".to_owned()));
            }
            plan.kind = MountKind::Image;
            plan.source.clone_from(&mount.source);
            // As in Docker, whatever ReadOnly says.
            plan.writable = false;
            let options = mount.image_options.clone().unwrap_or_default();
            plan.subpath = subpath(options.subpath, "image").map_err(invalid)?;
            Ok(Wanted { plan, volume: None, create_source: false, pinned: None })
        }
        "" => Err(invalid("mount type unknown: it is bind, volume, tmpfs or image".to_owned())),
        other @ "cluster" => Err(Error::unsupported(format_args!("a mount of type {other}"))),
        _ => Err(invalid("mount type unknown".to_owned())),
    }
}

/// A part of a volume or an image, which is to be inside of it.
fn subpath(subpath: String, of: &str) -> std::result::Result<String, String> {
    if Path::new(&subpath).is_absolute() || subpath.split('/').any(|part| part == "..") {
        return Err(format!("subpath {subpath:?} must be a relative path inside the {of}"));
    }
    Ok(subpath)
}

/// Whether what is asked about a bind's read-only mounts beneath goes together.
fn check_recursive_read_only(mount: &Mount, options: &BindOptions) -> std::result::Result<(), String> {
    if options.read_only_non_recursive && options.read_only_force_recursive {
        return Err(
            "field BindOptions.ReadOnlyNonRecursive and ReadOnlyForceRecursive are mutually exclusive".into(),
        );
    }
    for (asked, name) in [
        (options.read_only_non_recursive, "ReadOnlyNonRecursive"),
        (options.read_only_force_recursive, "ReadOnlyForceRecursive"),
    ] {
        if asked && !mount.read_only {
            return Err(format!("mount must be ReadOnly to use BindOptions.{name}"));
        }
    }
    if options.read_only_force_recursive && options.propagation != "rprivate" {
        return Err("BindOptions.ReadOnlyForceRecursive needs BindOptions.Propagation to be rprivate".into());
    }
    if options.read_only_force_recursive && options.non_recursive {
        return Err("BindOptions.ReadOnlyForceRecursive and NonRecursive are mutually exclusive".into());
    }
    Ok(())
}

const TMPFS_DEFAULTS: [&str; 3] = ["noexec", "nosuid", "nodev"];

/// One `--tmpfs place[:options]`.
pub(super) fn parse_tmpfs(place: &str, options: &str) -> Result<Wanted> {
    let mut all: Vec<String> = TMPFS_DEFAULTS.iter().map(|option| (*option).to_owned()).collect();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let opposite = match option {
            "exec" => Some("noexec"),
            "suid" => Some("nosuid"),
            "dev" => Some("nodev"),
            _ => None,
        };
        let name = option.split('=').next().unwrap_or_default();
        let known = [
            "ro",
            "rw",
            "exec",
            "noexec",
            "suid",
            "nosuid",
            "dev",
            "nodev",
            "sync",
            "async",
            "dirsync",
            "atime",
            "noatime",
            "diratime",
            "nodiratime",
            "relatime",
            "norelatime",
            "strictatime",
            "mand",
            "nomand",
            "size",
            "mode",
            "uid",
            "gid",
            "nr_inodes",
            "nr_blocks",
            "mpol",
            "tmpcopyup",
        ];
        if !known.contains(&name) {
            return Err(Error::invalid(format!("invalid tmpfs option {option:?} of {place}")));
        }
        match opposite {
            Some(opposite) => all.retain(|present| present != opposite),
            None if all.iter().any(|present| present == option) => {}
            None => all.push(option.to_owned()),
        }
    }
    let plan = MountPlan {
        kind: MountKind::Tmpfs,
        destination: destination(place)?,
        writable: !all.iter().any(|option| option == "ro"),
        options: all,
        ..MountPlan::default()
    };
    Ok(Wanted { plan, volume: None, create_source: false, pinned: None })
}

/// Checks and cleans a place in the container.
pub(super) fn destination(place: &str) -> Result<String> {
    if !place.starts_with('/') {
        return Err(Error::invalid(format!("invalid mount path: '{place}' mount path must be absolute")));
    }
    if place.contains('\0') {
        return Err(Error::invalid(format!("invalid mount path: {place:?} contains a zero byte")));
    }
    let cleaned = clean(place);
    if cleaned == "/" {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    Ok(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_and_a_bind_are_told_apart_by_their_source() {
        let bind = parse_bind("/host//x/../y:/in/:ro,rslave", "", Owner::default()).unwrap();
        assert_eq!((bind.plan.kind, bind.plan.source.as_str()), (MountKind::Bind, "/host/y"));
        assert_eq!((bind.plan.destination.as_str(), bind.plan.writable), ("/in", false));
        assert_eq!(bind.plan.propagation, "rslave");
        assert!(bind.create_source && bind.plan.read_only_recursive);
        let volume = parse_bind("data:/in:nocopy", "", Owner::default()).unwrap();
        assert_eq!((volume.plan.kind, volume.plan.name.as_str()), (MountKind::Volume, "data"));
        assert!(volume.plan.no_copy && volume.plan.writable && !volume.plan.anonymous);
        assert!(parse_bind("/only", "", Owner::default()).unwrap().plan.anonymous);
    }

    #[test]
    fn what_is_written_wrongly_is_refused() {
        for text in ["", ":", "a:", ":/b", "/a:b", "/a:/", "a:/b:c:d", "/a:/b:nonsense", "data:/b:rslave"] {
            assert!(parse_bind(text, "", Owner::default()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_bind_s_ids_are_mapped_for_who_asks() {
        let caller = Owner { uid: 7, gid: 8 };
        assert_eq!(parse_bind("/a:/b:ro,idmap", "", caller).unwrap().plan.owner, Some(caller));
        assert_eq!(parse_bind("/a:/b", "", caller).unwrap().plan.owner, None);
        let error = parse_bind("a:/b:idmap", "", caller).err().unwrap();
        assert!(error.message.contains("is a volume"), "{}", error.message);
    }

    #[test]
    fn tmpfs_options_overrule_the_defaults() {
        let plan = parse_tmpfs("/t", "exec,size=1m,ro").unwrap().plan;
        assert_eq!(plan.options, ["nosuid", "nodev", "size=1m", "ro"]);
        assert!(!plan.writable);
        assert!(parse_tmpfs("/t", "context=x").is_err());
    }

    #[test]
    fn read_only_all_the_way_down_is_asked_for_whole() {
        let asked = |read_only: bool, propagation: &str, force: bool, non_recursive: bool| {
            let bind_options = BindOptions {
                propagation: propagation.to_owned(),
                read_only_force_recursive: force,
                read_only_non_recursive: non_recursive,
                ..BindOptions::default()
            };
            parse_mount(&Mount {
                kind: "bind".to_owned(),
                source: "/".to_owned(),
                target: "/t".to_owned(),
                read_only,
                bind_options: Some(bind_options),
                ..Mount::default()
            })
            .is_ok()
        };
        assert!(asked(true, "rprivate", true, false) && asked(true, "", false, true));
        assert!(!asked(false, "rprivate", true, false), "it is not read-only");
        assert!(!asked(true, "", true, false), "what propagates in later would not be");
        assert!(!asked(false, "", false, true) && !asked(true, "rprivate", true, true));
    }

    #[test]
    fn a_mount_with_options_of_another_kind_is_refused() {
        let mount = Mount {
            kind: "tmpfs".to_owned(),
            target: "/t".to_owned(),
            bind_options: Some(BindOptions::default()),
            ..Mount::default()
        };
        assert!(parse_mount(&mount).err().unwrap().message.contains("BindOptions"));
        let mount = Mount {
            kind: "bind".to_owned(),
            source: "/".to_owned(),
            target: "/t".to_owned(),
            cluster_options: Some(serde_json::json!({})),
            ..Mount::default()
        };
        assert!(
            parse_mount(&mount)
                .err()
                .unwrap()
                .message
                .ends_with("field ClusterOptions must not be specified")
        );
    }
}
