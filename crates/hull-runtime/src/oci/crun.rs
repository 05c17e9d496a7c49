//! crun's own words in a configuration, put into the specification's: mappings in the option `idmap`, and annotations.
//! Source: `crun(1)`, "Extensions to OCI" and "idmap mount options". Of the annotations those are read that the
//! specification has a field for, or hull a flag; it has all others passed over.
//!
//! They are read where they are asked for alone: two of them have the runtime connect to a socket of the host's and hand
//! over what answers for the container's system calls, and engines let users' annotations through to runc, which knows
//! none of them.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxTimeOffset, Mount, Spec};

use crate::{Error, Result};

const SECCOMP_RECEIVER: &str = "run.oci.seccomp.receiver";
const TIME_OFFSETS: &str = "run.oci.timens_offset";
const PIDFD_RECEIVER: &str = "run.oci.pidfd_receiver";

/// Puts the mappings where the specification has them.
pub(super) fn read_mappings(spec: &mut Spec) -> Result<()> {
    let linux = spec.linux().as_ref();
    let users = linux.and_then(|linux| linux.uid_mappings().clone()).unwrap_or_default();
    let groups = linux.and_then(|linux| linux.gid_mappings().clone()).unwrap_or_default();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        mappings_of_option(mount, &users, &groups)?;
    }
    Ok(())
}

/// Puts the annotations where the specification has them. Returns the socket that gets a pidfd of the first process.
pub(super) fn read_annotations(spec: &mut Spec) -> Result<Option<PathBuf>> {
    let Some(annotations) = spec.annotations().clone() else { return Ok(None) };
    let pidfd_receiver = annotations.get(PIDFD_RECEIVER).map(PathBuf::from);
    let Some(linux) = spec.linux_mut() else { return Ok(pidfd_receiver) };
    if let Some(path) = annotations.get(SECCOMP_RECEIVER) {
        if !path.starts_with('/') {
            return Err(Error::refused(
                format!("annotation {SECCOMP_RECEIVER}={path}"),
                "the path is not absolute",
            ));
        }
        if let Some(seccomp) = linux.seccomp_mut() {
            seccomp.set_listener_path(Some(path.into()));
        }
    }
    if let (Some(text), None) = (annotations.get(TIME_OFFSETS), linux.time_offsets()) {
        linux.set_time_offsets(Some(time_offsets(text)?));
    }
    Ok(pidfd_receiver)
}

/// `CLOCK SECONDS NANOSECONDS`, one clock a line, as the kernel's `timens_offsets` takes it.
fn time_offsets(text: &str) -> Result<HashMap<String, LinuxTimeOffset>> {
    let wrong =
        || Error::refused(format!("annotation {TIME_OFFSETS}={text}"), "it is CLOCK SECONDS NANOSECONDS");
    let one = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [clock, seconds, nanoseconds] = words.as_slice() else { return Err(wrong()) };
        let mut offset = LinuxTimeOffset::default();
        offset.set_secs(Some(seconds.parse().map_err(|_| wrong())?));
        offset.set_nanosecs(Some(nanoseconds.parse().map_err(|_| wrong())?));
        Ok(((*clock).to_owned(), offset))
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(one).collect()
}

/// `idmap=uids=0-1000-10#10-2000-1;gids=0-1000-10`, and with `ridmap` for what is mounted below as well.
fn mappings_of_option(mount: &mut Mount, users: &[LinuxIdMapping], groups: &[LinuxIdMapping]) -> Result<()> {
    let mut words = mount.options().clone().unwrap_or_default();
    let mut found = false;
    for word in &mut words {
        let Some((kind @ ("idmap" | "ridmap"), text)) = word.split_once('=') else { continue };
        let kind = kind.to_owned();
        let doing = format!("mount on {}, option {word:?}", mount.destination().display());
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let wrong = || Error::refused(&doing, "it is uids=ID-ID-NUMBER[#…];gids=ID-ID-NUMBER[#…]");
            match part.split_once('=').ok_or_else(wrong)? {
                ("uids", ranges) => {
                    mount.set_uid_mappings(Some(mappings(ranges, users).ok_or_else(wrong)?));
                }
                ("gids", ranges) => {
                    mount.set_gid_mappings(Some(mappings(ranges, groups).ok_or_else(wrong)?));
                }
                _ => return Err(wrong()),
            }
        }
        *word = kind;
        found = true;
    }
    if found {
        mount.set_options(Some(words));
    }
    Ok(())
}

/// Ranges `ID-ID-NUMBER`, the file system's id first. With `@` before it the other is the container's, whose own
/// mappings are given.
fn mappings(ranges: &str, own: &[LinuxIdMapping]) -> Option<Vec<LinuxIdMapping>> {
    let one = |range: &str| {
        let (relative, range) = range.strip_prefix('@').map_or((false, range), |range| (true, range));
        let numbers: Vec<u32> = range.split('-').map(|id| id.parse().ok()).collect::<Option<_>>()?;
        let [inside, mut host, size] = numbers.as_slice().try_into().ok()?;
        if relative {
            let holds = |mapping: &&LinuxIdMapping| {
                inside.checked_sub(mapping.container_id()).is_some_and(|offset| offset < mapping.size())
            };
            let mapping = own.iter().find(holds)?;
            host = host.checked_add(mapping.host_id())?.checked_sub(mapping.container_id())?;
        }
        LinuxIdMappingBuilder::default().container_id(inside).host_id(host).size(size).build().ok()
    };
    ranges.split('#').map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(mount: &str, annotations: serde_json::Value) -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.0.0",
            "mounts": [{ "destination": "/m", "type": "bind", "source": "/s", "options": ["rbind", mount] }],
            "annotations": annotations,
            "linux": {
                "uidMappings": [
                    { "containerID": 0, "hostID": 0, "size": 1 },
                    { "containerID": 1, "hostID": 2, "size": 1000 },
                ],
                "seccomp": { "defaultAction": "SCMP_ACT_ALLOW" },
            },
        }))
        .unwrap()
    }

    #[test]
    fn mappings_stand_in_the_option() {
        let mut spec = spec("idmap=uids=0-1-10#10-11-10#@1-3-10;gids=0-100-10", json!({}));
        read_mappings(&mut spec).unwrap();
        let mount = &spec.mounts().as_ref().unwrap()[0];
        let told = |all: &Option<Vec<LinuxIdMapping>>| -> Vec<(u32, u32, u32)> {
            let all = all.iter().flatten();
            all.map(|one| (one.container_id(), one.host_id(), one.size())).collect()
        };
        assert_eq!(told(mount.uid_mappings()), [(0, 1, 10), (10, 11, 10), (1, 4, 10)]);
        assert_eq!(told(mount.gid_mappings()), [(0, 100, 10)]);
        assert_eq!(mount.options().as_ref().unwrap(), &["rbind", "idmap"]);
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        for word in
            ["idmap=x", "idmap=uids=1-2", "idmap=uids=1-2-x", "ridmap=sids=1-2-3", "idmap=uids=@5000-1-1"]
        {
            assert!(read_mappings(&mut spec(word, json!({}))).is_err(), "{word}");
        }
    }

    #[test]
    fn annotations_are_fields() {
        let annotations = json!({
            "run.oci.seccomp.receiver": "/run/agent.sock",
            "run.oci.timens_offset": "monotonic 10 5\nboottime -3 0",
            "run.oci.pidfd_receiver": "/run/pidfd.sock",
            "run.oci.unknown": "x",
        });
        let mut spec = spec("ro", annotations);
        let receiver = read_annotations(&mut spec).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        let listener = linux.seccomp().as_ref().unwrap().listener_path().clone();
        assert_eq!(listener, Some("/run/agent.sock".into()));
        let offsets = linux.time_offsets().as_ref().unwrap();
        assert_eq!((offsets["monotonic"].secs(), offsets["boottime"].secs()), (Some(10), Some(-3)));
        assert_eq!(receiver, Some("/run/pidfd.sock".into()));
        let wrong = json!({ "run.oci.timens_offset": "monotonic" });
        assert!(read_annotations(&mut self::spec("ro", wrong)).is_err());
    }
}
