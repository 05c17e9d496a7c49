//! From the limits of a configuration to writes into the files of a cgroup. What the configuration does not
//! name is not touched. What the machine does not have is refused, or left out with a warning ([`Lacking`]).

use std::io;
use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxNetwork, LinuxRdma, LinuxResources, LinuxThrottleDevice,
};

use super::figures::Folders as _;
use super::lacking::{Lacking, Notes, Place};
use super::{Cgroup, devices, files, handed, hierarchy, memory};
use crate::{Error, Result};

/// When limits are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// With the cgroup.
    Create,
    /// Later, while processes run in it.
    Update,
}

/// One value for one file, as v1 and v2 call it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    /// The controller on v1, and its file there; tried in turn until one is there.
    v1: (&'static str, Vec<String>),
    /// The value for v1; none: there is nothing to write there.
    v1_value: Option<String>,
    /// The controller on v2, and its file there; an empty name: v2 has no such limit.
    v2: (&'static str, String),
    /// The value for v2; none: there is nothing to write into that file.
    v2_value: Option<String>,
    /// What Docker says where the machine has no such limit.
    lacking: &'static str,
}

/// Sets the limits and returns the warnings.
pub(super) fn set(
    cgroup: &Cgroup,
    resources: &LinuxResources,
    when: When,
    lacking: Lacking,
) -> Result<Vec<String>> {
    // Who may make no cgroup was told that there is none.
    let mut notes = Notes::new(if cgroup.is_somewhere() { lacking } else { Lacking::Warned });
    if when == When::Create
        && let Some(rules) = resources.devices()
    {
        devices::set(cgroup, rules)?;
    }
    if let Some(limits) = resources.memory() {
        have_handed(cgroup, "memory");
        memory::set(cgroup, limits, &mut notes)?;
    }
    let mut writes = Vec::new();
    if let Some(limits) = resources.cpu() {
        cpu(limits, &mut writes);
    }
    if let Some(pids) = resources.pids() {
        writes.push(number_of_processes(pids.limit()));
    }
    if let Some(limits) = resources.block_io() {
        block_io(limits, &mut writes);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        writes.push(Write {
            v1: ("hugetlb", vec![format!("hugetlb.{size}.limit_in_bytes")]),
            v1_value: Some(limit.limit().to_string()),
            v2: ("hugetlb", format!("hugetlb.{size}.max")),
            v2_value: Some(limit.limit().to_string()),
            lacking: "Your kernel does not support hugetlb limits or the cgroup is not mounted. Limit discarded.",
        });
    }
    if let Some(limits) = resources.network() {
        network(limits, &mut writes);
    }
    for (device, limits) in resources.rdma().iter().flatten() {
        writes.extend(rdma(device, limits));
    }
    let mut controllers: Vec<&str> = writes.iter().map(|write| write.v2.0).collect();
    controllers.dedup();
    for controller in controllers {
        have_handed(cgroup, controller);
    }
    for write in &writes {
        apply(cgroup, write, &mut notes)?;
    }
    unified(cgroup, resources)?;
    Ok(notes.warnings)
}

/// Sees to it that a cgroup has a controller that is in the v2 hierarchy, if it can.
fn have_handed(cgroup: &Cgroup, controller: &str) {
    if let (Some(folder), Some(root)) = (cgroup.v2(controller), &hierarchy().unified) {
        handed::to(&folder, root, controller);
    }
}

/// The class of a container's packets, for `tc`, and their priorities by interface: v1 has controllers for them, v2 none.
fn network(limits: &LinuxNetwork, writes: &mut Vec<Write>) {
    let v1_only = |controller: &'static str, file: &str, value: String, lacking: &'static str| Write {
        v1: (controller, vec![file.to_owned()]),
        v1_value: Some(value.clone()),
        v2: (controller, file.to_owned()),
        v2_value: Some(value),
        lacking,
    };
    if let Some(class) = limits.class_id() {
        let lacking = "Your kernel does not support network classes (net_cls) or the cgroup is not mounted. Class discarded.";
        writes.push(v1_only("net_cls", "net_cls.classid", class.to_string(), lacking));
    }
    for priority in limits.priorities().iter().flatten() {
        let lacking = "Your kernel does not support network priorities (net_prio) or the cgroup is not mounted. Priority discarded.";
        let value = format!("{} {}", priority.name(), priority.priority());
        writes.push(v1_only("net_prio", "net_prio.ifpriomap", value, lacking));
    }
}

fn rdma(device: &str, limits: &LinuxRdma) -> Option<Write> {
    let handles = limits.hca_handles().map(|handles| format!(" hca_handle={handles}"));
    let objects = limits.hca_objects().map(|objects| format!(" hca_object={objects}"));
    if handles.is_none() && objects.is_none() {
        return None;
    }
    let value = format!("{device}{}{}", handles.unwrap_or_default(), objects.unwrap_or_default());
    let lacking = "Your kernel does not support RDMA limits or the cgroup is not mounted. Limit discarded.";
    Some(same(("rdma", "rdma.max"), ("rdma", "rdma.max"), value, lacking))
}

fn apply(cgroup: &Cgroup, write: &Write, notes: &mut Notes) -> Result<()> {
    let (controller, targets, value): (_, Vec<PathBuf>, _) =
        match (cgroup.v1(write.v1.0), cgroup.v2(write.v2.0)) {
            (Some(folder), _) => {
                let targets = write.v1.1.iter().map(|file| folder.join(file)).collect();
                (write.v1.0, targets, &write.v1_value)
            }
            (None, Some(_)) if write.v2.1.is_empty() => (write.v2.0, Vec::new(), &write.v1_value),
            (None, Some(folder)) => (write.v2.0, vec![folder.join(&write.v2.1)], &write.v2_value),
            (None, None) => (write.v1.0, Vec::new(), &write.v1_value),
        };
    let Some(value) = value else { return Ok(()) };
    for target in &targets {
        match files::write(target, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(target, value, error)),
            Ok(()) => return Ok(()),
        }
    }
    let place = match targets.first() {
        Some(file) => Place::File(file),
        None if cgroup.v2(write.v2.0).is_some() => Place::OtherVersion(controller),
        None => Place::Controller(controller),
    };
    notes.not_held(place, value, write.lacking)
}

pub(super) fn failed(target: &std::path::Path, value: &str, error: io::Error) -> Error {
    let doing = format!("set the limit {} to {value}", target.display());
    let advice = match error.raw_os_error() {
        Some(libc::EBUSY) => "more than that is in use now",
        Some(libc::EINVAL) => "the kernel does not take this value here",
        Some(libc::ERANGE) => "the value is out of range",
        _ => "",
    };
    Error::kernel(doing, error).advise(advice)
}

fn same(v1: (&'static str, &str), v2: (&'static str, &str), value: String, lacking: &'static str) -> Write {
    Write {
        v1: (v1.0, vec![v1.1.to_owned()]),
        v1_value: Some(value.clone()),
        v2: (v2.0, v2.1.to_owned()),
        v2_value: Some(value),
        lacking,
    }
}

/// `-1` is no limit.
pub(super) fn or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

fn number_of_processes(limit: i64) -> Write {
    // Docker: 0 and -1 are no limit.
    let value = if limit <= 0 { "max".to_owned() } else { limit.to_string() };
    let lacking = "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit \
                   discarded.";
    same(("pids", "pids.max"), ("pids", "pids.max"), value, lacking)
}

fn cpu(limits: &LinuxCpu, writes: &mut Vec<Write>) {
    const NO_SHARES: &str =
        "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.";
    const NO_CFS: &str = "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.";
    const NO_REALTIME: &str =
        "Your kernel does not support CPU realtime scheduler. CPU realtime limits discarded.";
    const NO_CPUSET: &str =
        "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.";
    // `other` is the file in which v2 has it with something else; none: it has no such limit.
    let v1_only = |file: &str, value: String, other: Option<&str>, lacking: &'static str| Write {
        v1: ("cpu", vec![file.to_owned()]),
        v1_value: Some(value),
        v2: ("cpu", other.unwrap_or_default().to_owned()),
        v2_value: None,
        lacking,
    };
    if let Some(shares) = limits.shares().filter(|shares| *shares != 0) {
        writes.push(Write {
            v1: ("cpu", vec!["cpu.shares".into()]),
            v1_value: Some(shares.to_string()),
            v2: ("cpu", "cpu.weight".into()),
            v2_value: Some(weight_of_shares(shares).to_string()),
            lacking: NO_SHARES,
        });
    }
    // The quota is checked against the period, so a period goes first.
    let period = limits.period().filter(|period| *period != 0);
    let quota = limits.quota().filter(|quota| *quota != 0);
    if let Some(period) = period {
        writes.push(v1_only("cpu.cfs_period_us", period.to_string(), Some("cpu.max"), NO_CFS));
    }
    if let Some(quota) = quota {
        writes.push(v1_only("cpu.cfs_quota_us", quota.to_string(), Some("cpu.max"), NO_CFS));
    }
    if period.is_some() || quota.is_some() {
        let mut value = quota.map_or("max".to_owned(), or_max);
        if let Some(period) = period {
            value.push_str(&format!(" {period}"));
        }
        writes.push(Write {
            v1: ("cpu", Vec::new()),
            v1_value: None,
            v2: ("cpu", "cpu.max".into()),
            v2_value: Some(value),
            lacking: NO_CFS,
        });
    }
    if let Some(burst) = limits.burst() {
        writes.push(same(("cpu", "cpu.cfs_burst_us"), ("cpu", "cpu.max.burst"), burst.to_string(), NO_CFS));
    }
    if let Some(idle) = limits.idle() {
        writes.push(same(("cpu", "cpu.idle"), ("cpu", "cpu.idle"), idle.to_string(), NO_SHARES));
    }
    if let Some(period) = limits.realtime_period().filter(|period| *period != 0) {
        writes.push(v1_only("cpu.rt_period_us", period.to_string(), None, NO_REALTIME));
    }
    if let Some(runtime) = limits.realtime_runtime().filter(|runtime| *runtime != 0) {
        writes.push(v1_only("cpu.rt_runtime_us", runtime.to_string(), None, NO_REALTIME));
    }
    for (file, value) in [("cpuset.cpus", limits.cpus()), ("cpuset.mems", limits.mems())] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            writes.push(same(("cpuset", file), ("cpuset", file), value.clone(), NO_CPUSET));
        }
    }
}

/// v1 shares (2 to 262144, 1024 the middle) as a v2 weight (1 to 10000), the way runc and crun convert them.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn block_io(limits: &LinuxBlockIo, writes: &mut Vec<Write>) {
    const NO_WEIGHT: &str = "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight \
                             discarded.";
    const NO_WEIGHT_DEVICE: &str = "Your kernel does not support Block I/O weight_device or the cgroup is not \
                                    mounted. Weight-device discarded.";
    let weight_files = |name: &str| vec![format!("blkio.{name}"), format!("blkio.bfq.{name}")];
    if let Some(weight) = limits.weight().filter(|weight| *weight != 0) {
        writes.push(Write {
            v1: ("blkio", weight_files("weight")),
            v1_value: Some(weight.to_string()),
            v2: ("io", "io.weight".into()),
            v2_value: Some(format!("default {}", io_weight(weight))),
            lacking: NO_WEIGHT,
        });
    }
    if let Some(weight) = limits.leaf_weight().filter(|weight| *weight != 0) {
        writes.push(Write {
            v1: ("blkio", vec!["blkio.leaf_weight".into()]),
            v1_value: Some(weight.to_string()),
            v2: ("io", String::new()),
            v2_value: None,
            lacking: "Your kernel does not support Block I/O leaf weight or the cgroup is not mounted. Weight \
                      discarded.",
        });
    }
    for device in limits.weight_device().iter().flatten() {
        let Some(weight) = device.weight() else { continue };
        let number = format!("{}:{}", device.major(), device.minor());
        writes.push(Write {
            v1: ("blkio", weight_files("weight_device")),
            v1_value: Some(format!("{number} {weight}")),
            v2: ("io", "io.weight".into()),
            v2_value: Some(format!("{number} {}", io_weight(weight))),
            lacking: NO_WEIGHT_DEVICE,
        });
    }
    let throttles: [(&Option<Vec<LinuxThrottleDevice>>, &str, &str, &'static str); 4] = [
        (
            limits.throttle_read_bps_device(),
            "read_bps_device",
            "rbps",
            "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS \
             read limit discarded.",
        ),
        (
            limits.throttle_write_bps_device(),
            "write_bps_device",
            "wbps",
            "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS \
             write limit discarded.",
        ),
        (
            limits.throttle_read_iops_device(),
            "read_iops_device",
            "riops",
            "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read \
             limit discarded.",
        ),
        (
            limits.throttle_write_iops_device(),
            "write_iops_device",
            "wiops",
            "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS \
             write limit discarded.",
        ),
    ];
    for (devices, v1, v2, lacking) in throttles {
        for device in devices.iter().flatten() {
            let number = format!("{}:{}", device.major(), device.minor());
            writes.push(Write {
                v1: ("blkio", vec![format!("blkio.throttle.{v1}")]),
                v1_value: Some(format!("{number} {}", device.rate())),
                v2: ("io", "io.max".into()),
                v2_value: Some(format!("{number} {v2}={}", device.rate())),
                lacking,
            });
        }
    }
}

/// blkio's weight (10 to 1000) as io's (1 to 10000).
pub(crate) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9_999 / 990
}

/// The configuration's own words for v2.
fn unified(cgroup: &Cgroup, resources: &LinuxResources) -> Result<()> {
    for (file, value) in resources.unified().iter().flatten() {
        let doing = || format!("set the limit {file} to {value:?}");
        if file.contains('/') || file.starts_with("cgroup.") {
            return Err(Error::refused(doing(), "this is no file of a controller"));
        }
        let controller = file.split('.').next().unwrap_or_default();
        let Some(folder) = cgroup.v2(controller) else {
            let advice = format!("this machine does not have the controller {controller} on cgroup v2");
            return Err(Error::refused(doing(), advice));
        };
        have_handed(cgroup, controller);
        let target = folder.join(file);
        for line in value.lines() {
            files::write(&target, line).map_err(|error| failed(&target, line, error))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn weights_are_converted_at_their_ends() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 39, 10_000]);
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10_000]);
    }

    #[test]
    fn processor_limits_name_their_files() {
        let resources =
            resources(r#"{"cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1"}}"#);
        let mut writes = Vec::new();
        cpu(resources.cpu().as_ref().unwrap(), &mut writes);
        let v1: Vec<_> =
            writes.iter().filter_map(|w| Some((w.v1.1.first()?.as_str(), w.v1_value.as_deref()?))).collect();
        assert_eq!(
            v1,
            [
                ("cpu.shares", "512"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpuset.cpus", "0-1"),
            ]
        );
        let v2: Vec<_> =
            writes.iter().filter_map(|w| Some((w.v2.1.as_str(), w.v2_value.as_deref()?))).collect();
        assert_eq!(v2, [("cpu.weight", "20"), ("cpu.max", "50000 100000"), ("cpuset.cpus", "0-1")]);
    }

    #[test]
    fn limits_that_v2_does_not_have_are_not_taken_for_held() {
        let resources = resources(
            r#"{"cpu": {"realtimeRuntime": 9, "realtimePeriod": 10, "quota": 5}, "blockIO": {"leafWeight": 20}}"#,
        );
        let mut writes = Vec::new();
        cpu(resources.cpu().as_ref().unwrap(), &mut writes);
        block_io(resources.block_io().as_ref().unwrap(), &mut writes);
        let without: Vec<&str> =
            writes.iter().filter(|w| w.v2.1.is_empty()).map(|w| w.v1.1[0].as_str()).collect();
        assert_eq!(without, ["cpu.rt_period_us", "cpu.rt_runtime_us", "blkio.leaf_weight"]);
    }

    #[test]
    fn what_is_not_named_is_not_written() {
        let empty = resources(r#"{"cpu": {}, "blockIO": {}}"#);
        let mut writes = Vec::new();
        cpu(empty.cpu().as_ref().unwrap(), &mut writes);
        block_io(empty.block_io().as_ref().unwrap(), &mut writes);
        assert_eq!(writes, []);
    }
}
