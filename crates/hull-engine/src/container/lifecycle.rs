//! Rename, resize, update.

use std::sync::Arc;

use hull_runtime::cgroup::Cgroup;
use hull_runtime::protocol::Request;

use super::{Container, Status, locked, names, resources};
use crate::blocking::{may_hang, see_through};
use crate::model::{Resources, RestartPolicy};
use crate::{Engine, Error, Result};

impl Engine {
    /// Gives a container another name.
    ///
    /// # Errors
    /// The name is taken or none, or it is the container's own.
    pub async fn rename(&self, container: &Container, name: &str) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let told = |error: Error| Error {
            message: format!("Error when allocating new name: {}", error.message),
            ..error
        };
        let slashed = format!("/{}", name.strip_prefix('/').unwrap_or(name));
        let name = names::checked(&slashed).map_err(told)?;
        let _transition = container.transition.lock().await;
        let old = container.record().name.clone();
        if old == name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        let taken = self.containers.take_name(name, &container.id).map_err(told)?;
        container.change(&self.database, |record| name.clone_into(&mut record.name))?;
        self.containers.renamed(taken, &old);
        let endpoints = locked(&container.allocation).as_mut().map(|allocation| {
            self.networks.renamed(allocation, name);
            allocation.endpoints.clone()
        });
        if let Some(endpoints) = endpoints {
            container.change(&self.database, |record| record.endpoints = endpoints)?;
        }
        self.tell_with(container, "rename", [("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// It does not run.
    pub async fn resize(&self, container: &Container, width: u16, height: u16) -> Result<()> {
        let shim = container.shim()?;
        // Without a terminal there is nothing whose size could be set, which is no mistake of the client's.
        if container.has_terminal() {
            shim.ask(&Request::Resize { exec: None, width, height }, &[]).await?;
        }
        self.tell_with(container, "resize", [("height", height.to_string()), ("width", width.to_string())]);
        Ok(())
    }

    /// Changes limits and restart policy; fields that are zero stay as they are.
    ///
    /// # Errors
    /// The limits contradict each other or the kernel refuses them: then nothing has changed.
    pub async fn update(
        self: &Arc<Self>,
        container: &Arc<Container>,
        changes: Resources,
        policy: Option<RestartPolicy>,
    ) -> Result<Vec<String>> {
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        // The transition is held to the update's end, whether or not its client is still there.
        see_through("update the container", async move {
            // A start that has begun would run with the limits of before.
            let _transition = container.transition.lock().await;
            let updated = Arc::clone(&container);
            may_hang(move || engine.update_now(&updated, &changes, policy)).await
        })
        .await
    }

    /// The update itself. Blocks. The caller holds the transition.
    fn update_now(
        &self,
        container: &Container,
        changes: &Resources,
        policy: Option<RestartPolicy>,
    ) -> Result<Vec<String>> {
        let _turn = locked(&container.cgroup_turn);
        let told = |error: Error| Error {
            message: format!("cannot update container {}: {}", container.id, error.message),
            ..error
        };
        let mut warnings = Vec::new();
        let (mut host, running) = {
            let record = container.record();
            if matches!(record.state.status, Status::Removing | Status::Dead) {
                return Err(Error::conflict("container is marked for removal and cannot be \"update\""));
            }
            (record.host_config.clone(), record.is_running())
        };
        let before = host.resources.clone();
        resources::check_least(changes)?;
        conflicts(&host.resources, changes).map_err(told)?;
        merge(&mut host.resources, changes)?;
        if let Some(policy) = policy.filter(|policy| !policy.name.is_empty()) {
            super::check::check_restart_policy(&policy)?;
            if host.auto_remove && policy.name != "no" {
                return Err(told(Error::conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                )));
            }
            host.restart_policy = policy;
        }
        resources::check(&host, &mut warnings)?;
        warnings.extend(resources::discarded(changes));
        let cgroup =
            running.then(|| Cgroup::open(&container.cgroup_path(&self.config.instance))).transpose()?;
        if let Some(cgroup) = &cgroup {
            let changed = resources::to_oci(&host.resources, Vec::new())?;
            cgroup.update(&changed).map_err(|error| told(error.into()))?;
        }
        if let Err(error) = container.change(&self.database, |record| record.host_config = host) {
            if let Some(cgroup) = &cgroup {
                cgroup.update(&resources::to_oci(&before, Vec::new())?)?;
            }
            return Err(error);
        }
        self.tell(container, "update");
        Ok(warnings)
    }
}

/// Changes that contradict what is set already, and that do not say what is to become of it.
fn conflicts(resources: &Resources, changes: &Resources) -> Result<()> {
    let conflicting =
        |what: &str| Err(Error::conflict(format!("Conflicting options: {what} has already been set")));
    if changes.nano_cpus > 0 && resources.cpu_period > 0 {
        return conflicting("Nano CPUs cannot be updated as CPU Period");
    }
    if changes.nano_cpus > 0 && resources.cpu_quota > 0 {
        return conflicting("Nano CPUs cannot be updated as CPU Quota");
    }
    if changes.cpu_period > 0 && resources.nano_cpus > 0 {
        return conflicting("CPU Period cannot be updated as NanoCPUs");
    }
    if changes.cpu_quota > 0 && resources.nano_cpus > 0 {
        return conflicting("CPU Quota cannot be updated as NanoCPUs");
    }
    // The kernel takes no memory limit above that of memory and swap.
    if changes.memory > resources.memory_swap && changes.memory != 0 && changes.memory_swap == 0 {
        return Err(Error::conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    Ok(())
}

/// Lays the changes over what is; what only creation can say is refused by name.
fn merge(resources: &mut Resources, changes: &Resources) -> Result<()> {
    let fixed = [
        ("CgroupParent", !changes.cgroup_parent.is_empty()),
        ("Devices", changes.devices.as_ref().is_some_and(|list| !list.is_empty())),
        ("DeviceCgroupRules", changes.device_cgroup_rules.as_ref().is_some_and(|list| !list.is_empty())),
        ("DeviceRequests", changes.device_requests.as_ref().is_some_and(|list| !list.is_empty())),
        ("Ulimits", changes.ulimits.as_ref().is_some_and(|list| !list.is_empty())),
        (
            "OomKillDisable",
            changes.oom_kill_disable.is_some_and(|disable| Some(disable) != resources.oom_kill_disable),
        ),
    ];
    if let Some((field, _)) = fixed.iter().find(|(_, given)| *given) {
        return Err(Error::unsupported(format_args!("changing {field} of a container that exists")));
    }
    let numbers = [
        (&mut resources.cpu_shares, changes.cpu_shares),
        (&mut resources.memory, changes.memory),
        (&mut resources.nano_cpus, changes.nano_cpus),
        (&mut resources.cpu_period, changes.cpu_period),
        (&mut resources.cpu_quota, changes.cpu_quota),
        (&mut resources.cpu_realtime_period, changes.cpu_realtime_period),
        (&mut resources.cpu_realtime_runtime, changes.cpu_realtime_runtime),
        (&mut resources.memory_reservation, changes.memory_reservation),
        (&mut resources.memory_swap, changes.memory_swap),
    ];
    for (now, change) in numbers {
        if change != 0 {
            *now = change;
        }
    }
    for (now, change) in [
        (&mut resources.cpuset_cpus, &changes.cpuset_cpus),
        (&mut resources.cpuset_mems, &changes.cpuset_mems),
    ] {
        if !change.is_empty() {
            now.clone_from(change);
        }
    }
    if changes.blkio_weight != 0 {
        resources.blkio_weight = changes.blkio_weight;
    }
    if changes.pids_limit.is_some() {
        resources.pids_limit = changes.pids_limit;
    }
    if changes.memory_swappiness.is_some() {
        resources.memory_swappiness = changes.memory_swappiness;
    }
    let lists = [
        (&mut resources.blkio_device_read_bps, &changes.blkio_device_read_bps),
        (&mut resources.blkio_device_write_bps, &changes.blkio_device_write_bps),
        (&mut resources.blkio_device_read_iops, &changes.blkio_device_read_iops),
        (&mut resources.blkio_device_write_iops, &changes.blkio_device_write_iops),
    ];
    for (now, change) in lists {
        if change.as_ref().is_some_and(|list| !list.is_empty()) {
            now.clone_from(change);
        }
    }
    if changes.blkio_weight_device.as_ref().is_some_and(|list| !list.is_empty()) {
        resources.blkio_weight_device.clone_from(&changes.blkio_weight_device);
    }
    Ok(())
}

/// A signal by its name, with or without SIG, or its number.
///
/// # Errors
/// There is none of that name.
pub(super) fn signal(name: &str) -> Result<i32> {
    const NAMES: [(&str, i32); 35] = [
        ("ABRT", libc::SIGABRT),
        ("ALRM", libc::SIGALRM),
        ("BUS", libc::SIGBUS),
        ("CHLD", libc::SIGCHLD),
        ("CLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("FPE", libc::SIGFPE),
        ("HUP", libc::SIGHUP),
        ("ILL", libc::SIGILL),
        ("INT", libc::SIGINT),
        ("IO", libc::SIGIO),
        ("IOT", libc::SIGABRT),
        ("KILL", libc::SIGKILL),
        ("PIPE", libc::SIGPIPE),
        ("POLL", libc::SIGIO),
        ("PROF", libc::SIGPROF),
        ("PWR", libc::SIGPWR),
        ("QUIT", libc::SIGQUIT),
        ("SEGV", libc::SIGSEGV),
        ("STKFLT", libc::SIGSTKFLT),
        ("STOP", libc::SIGSTOP),
        ("SYS", libc::SIGSYS),
        ("TERM", libc::SIGTERM),
        ("TRAP", libc::SIGTRAP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("VTALRM", libc::SIGVTALRM),
        ("WINCH", libc::SIGWINCH),
        ("XCPU", libc::SIGXCPU),
        ("XFSZ", libc::SIGXFSZ),
        ("UNUSED", libc::SIGSYS),
    ];
    let invalid = || Error::invalid(format!("Invalid signal: {name}"));
    if let Ok(number) = name.parse::<i32>() {
        return match number {
            1..=64 => Ok(number),
            0 => Err(invalid()),
            other => Err(Error::invalid(format!("The linux daemon does not support signal {other}"))),
        };
    }
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == plain) {
        return Ok(*number);
    }
    // RTMIN, RTMIN+3, RTMAX-2: glibc keeps 32 and 33 for itself.
    let real_time = match (plain.strip_prefix("RTMIN"), plain.strip_prefix("RTMAX")) {
        (Some(rest), _) => {
            34 + if rest.is_empty() { 0 } else { rest.parse::<i32>().map_err(|_| invalid())? }
        }
        (_, Some(rest)) => {
            64 + if rest.is_empty() { 0 } else { rest.parse::<i32>().map_err(|_| invalid())? }
        }
        _ => return Err(invalid()),
    };
    if (34..=64).contains(&real_time) { Ok(real_time) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in
            [("KILL", 9), ("SIGTERM", 15), ("sigusr1", 10), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(signal(name).unwrap(), number, "{name}");
        }
        for name in ["", "0", "65", "NONSENSE", "RTMIN+40", "RTMINx"] {
            assert!(signal(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn an_update_changes_what_it_names_only() {
        let mut resources = Resources { memory: 100, cpu_quota: 7, ..Resources::default() };
        merge(&mut resources, &Resources { cpu_shares: 5, ..Resources::default() }).unwrap();
        assert_eq!((resources.memory, resources.cpu_quota, resources.cpu_shares), (100, 7, 5));
        let changes = Resources { cgroup_parent: "x".to_owned(), ..Resources::default() };
        assert!(merge(&mut resources, &changes).unwrap_err().message.contains("CgroupParent"));
    }

    #[test]
    fn an_update_that_contradicts_what_is_set_is_a_conflict() {
        let set = Resources { cpu_quota: 7, memory: 100, memory_swap: 200, ..Resources::default() };
        let conflict = |changes: Resources| conflicts(&set, &changes).map_err(|error| error.kind);
        let nothing = Resources::default();
        assert_eq!(conflict(Resources { nano_cpus: 5, ..nothing.clone() }), Err(Kind::Conflict));
        assert_eq!(conflict(Resources { memory: 201, ..nothing.clone() }), Err(Kind::Conflict));
        assert_eq!(conflict(Resources { memory: 201, memory_swap: -1, ..nothing.clone() }), Ok(()));
        assert_eq!(conflict(Resources { memory: 150, cpu_quota: 8, ..nothing }), Ok(()));
    }
}
