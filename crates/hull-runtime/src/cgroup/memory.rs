//! The limits of memory. They are set by hand: on v1 those with and without swap bound each other, so their order depends on
//! which way they go.

use std::io;
use std::path::Path;

use oci_spec::runtime::LinuxMemory;

use super::figures::Folders as _;
use super::lacking::{Notes, Place};
use super::limits::{failed, or_max};
use super::{Cgroup, files};
use crate::{Error, Result};

const NO_MEMORY: &str = "Your kernel does not support memory limit capabilities or the cgroup is not mounted. \
                         Limitation discarded.";
const NO_SWAP: &str = "Your kernel does not support swap limit capabilities or the cgroup is not mounted. \
                       Memory limited without swap.";
const NO_RESERVATION: &str = "Your kernel does not support memory soft limit capabilities or the cgroup is not \
                              mounted. Limitation discarded.";
const NO_SWAPPINESS: &str = "Your kernel does not support memory swappiness capabilities or the cgroup is not \
                             mounted. Memory swappiness discarded.";
const NO_OOM_DISABLE: &str = "Your kernel does not support OomKillDisable. OomKillDisable discarded.";
/// Kernels no longer limit it apart, and runc does not set it at all.
const NO_KERNEL: &str = "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. \
                         Limitation discarded.";

/// What is asked for; nothing that stands for "not set".
struct Asked {
    limit: Option<i64>,
    swap: Option<i64>,
    reservation: Option<i64>,
    swappiness: Option<u64>,
    oom_disable: bool,
    /// The kernel's own, and that of TCP's buffers: the file on v1, and the value.
    kernel: Vec<(&'static str, i64)>,
}

impl Asked {
    fn of(limits: &LinuxMemory) -> Asked {
        let given = |value: Option<i64>| value.filter(|value| *value != 0);
        #[allow(deprecated)]
        let kernel = given(limits.kernel());
        let files = ["memory.kmem.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes"];
        let kernel = files.into_iter().zip([kernel, given(limits.kernel_tcp())]);
        Asked {
            limit: given(limits.limit()),
            swap: given(limits.swap()),
            reservation: given(limits.reservation()),
            swappiness: limits.swappiness().filter(|value| i64::try_from(*value).is_ok()),
            oom_disable: limits.disable_oom_killer() == Some(true),
            kernel: kernel.filter_map(|(file, value)| Some((file, value?))).collect(),
        }
    }
}

pub(super) fn set(cgroup: &Cgroup, limits: &LinuxMemory, notes: &mut Notes) -> Result<()> {
    let asked = Asked::of(limits);
    if let Some(folder) = cgroup.v1("memory") {
        return set_v1(&folder, &asked, notes);
    }
    match cgroup.v2("memory") {
        Some(folder) => set_v2(&folder, &asked, notes)?,
        None => {
            for value in [asked.limit, asked.swap, asked.reservation].into_iter().flatten() {
                notes.not_held(Place::Controller("memory"), &value.to_string(), NO_MEMORY)?;
            }
        }
    }
    // Neither is a limit.
    if asked.swappiness.is_some() {
        notes.warn(NO_SWAPPINESS);
    }
    if asked.oom_disable {
        notes.warn(NO_OOM_DISABLE);
    }
    if !asked.kernel.is_empty() {
        notes.warn(NO_KERNEL);
    }
    Ok(())
}

fn set_v1(folder: &Path, asked: &Asked, notes: &mut Notes) -> Result<()> {
    let limit = asked.limit.map(|limit| ("memory.limit_in_bytes", limit.to_string(), NO_MEMORY));
    let swap = asked.swap.map(|swap| ("memory.memsw.limit_in_bytes", swap.to_string(), NO_SWAP));
    let mut order = [limit, swap];
    if let (Some(_), Some(swap)) = (asked.limit, asked.swap) {
        let file = folder.join("memory.memsw.limit_in_bytes");
        let now = files::number(&file).map_err(|error| failed(&file, "", error))?.unwrap_or(u64::MAX);
        // Raised: the outer limit first; lowered: the inner one.
        if u64::try_from(swap).is_ok_and(|swap| now < swap) || swap < 0 {
            order.reverse();
        }
    }
    for (file, value, lacking) in order.into_iter().flatten() {
        put(folder, file, &value, notes, lacking)?;
    }
    if let Some(reservation) = asked.reservation {
        put(folder, "memory.soft_limit_in_bytes", &reservation.to_string(), notes, NO_RESERVATION)?;
    }
    let swappiness = asked.swappiness.map(|value| ("memory.swappiness", value.to_string(), NO_SWAPPINESS));
    let oom = asked.oom_disable.then(|| ("memory.oom_control", "1".to_owned(), NO_OOM_DISABLE));
    let kernel = asked.kernel.iter().map(|(file, value)| (*file, value.to_string(), NO_KERNEL));
    for (file, value, lacking) in swappiness.into_iter().chain(oom).chain(kernel) {
        if !write(&folder.join(file), &value)? {
            notes.warn(lacking);
        }
    }
    Ok(())
}

fn set_v2(folder: &Path, asked: &Asked, notes: &mut Notes) -> Result<()> {
    if let Some(limit) = asked.limit {
        put(folder, "memory.max", &or_max(limit), notes, NO_MEMORY)?;
    }
    if let Some(value) = swap_alone(asked.limit, asked.swap)? {
        let file = folder.join("memory.swap.max");
        // Where nothing is swapped out there is no such file, and no swap is what there is.
        if !write(&file, &value)? && value != "0" {
            notes.not_held(Place::File(&file), &value, NO_SWAP)?;
        }
    }
    if let Some(reservation) = asked.reservation {
        put(folder, "memory.low", &or_max(reservation), notes, NO_RESERVATION)?;
    }
    Ok(())
}

/// Writes a limit.
fn put(folder: &Path, file: &str, value: &str, notes: &mut Notes, docker: &str) -> Result<()> {
    let target = folder.join(file);
    if write(&target, value)? { Ok(()) } else { notes.not_held(Place::File(&target), value, docker) }
}

/// Writes a value; false: there is no such file.
fn write(target: &Path, value: &str) -> Result<bool> {
    match files::write(target, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true).map_err(|error| failed(target, value, error)),
    }
}

/// v2 limits swap alone, the configuration memory and swap together.
pub(crate) fn swap_alone(limit: Option<i64>, swap: Option<i64>) -> Result<Option<String>> {
    match (limit, swap) {
        (_, None) => Ok(None),
        (_, Some(-1)) => Ok(Some("max".into())),
        (Some(limit), Some(swap)) if limit > 0 && swap >= limit => Ok(Some((swap - limit).to_string())),
        (limit, Some(swap)) => {
            let doing = format!("set memory and swap together to {swap}");
            let advice = match limit {
                Some(limit) => format!("that is less than the memory's limit, {limit}"),
                None => "the memory's limit must be set as well".to_owned(),
            };
            Err(Error::refused(doing, advice))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lacking::Lacking;
    use super::*;

    #[test]
    fn swap_on_v2_is_without_memory() {
        assert_eq!(swap_alone(Some(100), Some(150)).unwrap().as_deref(), Some("50"));
        assert_eq!(swap_alone(Some(100), Some(-1)).unwrap().as_deref(), Some("max"));
        assert_eq!(swap_alone(Some(100), None).unwrap(), None);
        assert!(swap_alone(Some(100), Some(50)).is_err());
        assert!(swap_alone(None, Some(50)).is_err());
    }

    /// What is there and what is not is known by the files, which a folder can have as well as a cgroup.
    #[test]
    fn a_machine_that_counts_no_swap_holds_no_limit_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let there = ["memory.limit_in_bytes", "memory.max", "memory.low"];
        there.iter().for_each(|name| std::fs::write(folder.path().join(name), "").unwrap());
        let asked = |text: &str| Asked::of(&serde_json::from_str(text).unwrap());
        let both = asked(r#"{"limit": 4096, "swap": 8192}"#);
        for set in [set_v1, set_v2] {
            let mut docker = Notes::new(Lacking::Warned);
            set(folder.path(), &both, &mut docker).unwrap();
            assert_eq!(docker.warnings, [NO_SWAP]);
            let error = set(folder.path(), &both, &mut Notes::new(Lacking::Refused)).unwrap_err();
            assert!(error.to_string().contains("memory.") && error.to_string().contains("sw"), "{error}");
        }
        // No swap at all is what there is anyway; and what is no limit is warned of, whoever asks.
        let mut notes = Notes::new(Lacking::Refused);
        set_v2(folder.path(), &asked(r#"{"limit": 4096, "swap": 4096}"#), &mut notes).unwrap();
        assert_eq!(notes.warnings, [] as [&str; 0]);
        set_v1(folder.path(), &asked(r#"{"limit": 4096, "swappiness": 7, "kernelTCP": 9}"#), &mut notes)
            .unwrap();
        assert_eq!(notes.warnings, [NO_SWAPPINESS, NO_KERNEL]);
    }
}
