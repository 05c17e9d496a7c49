//! Capabilities: the configuration's names as the kernel's bits, cut to what this process has itself.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set};
use rustix::thread::{capability_is_in_bounding_set, remove_capability_from_bounding_set};

use crate::Result;
use crate::error::Context;

/// The five sets of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) bounding: CapabilitySet,
    pub(super) effective: CapabilitySet,
    pub(super) permitted: CapabilitySet,
    pub(super) inheritable: CapabilitySet,
    pub(super) ambient: CapabilitySet,
}

/// What of the asked-for sets this process can give, and the names of what it cannot. No sets: none.
pub(super) fn granted(asked: Option<&LinuxCapabilities>) -> Result<(Wanted, Vec<String>)> {
    let own = capabilities(None).context(|| "read this process's capabilities".into())?;
    let set = |names: Option<&Option<Capabilities>>| bits(names.and_then(Option::as_ref));
    let mut wanted = Wanted {
        bounding: set(asked.map(LinuxCapabilities::bounding)),
        effective: set(asked.map(LinuxCapabilities::effective)),
        permitted: set(asked.map(LinuxCapabilities::permitted)),
        inheritable: set(asked.map(LinuxCapabilities::inheritable)),
        ambient: set(asked.map(LinuxCapabilities::ambient)),
    };
    let all = wanted.bounding | wanted.effective | wanted.permitted | wanted.inheritable | wanted.ambient;
    let mut cut = Vec::new();
    for capability in all.difference(own.permitted).iter() {
        cut.push(name(capability));
    }
    let Wanted { bounding, effective, permitted, inheritable, ambient } = &mut wanted;
    for set in [bounding, effective, permitted, inheritable, ambient] {
        *set &= own.permitted;
    }
    Ok((wanted, cut))
}

impl Wanted {
    /// Cuts the sets to the kernel's rules, which would otherwise fail the call: effective within permitted, ambient
    /// within both permitted and inheritable. Returns a warning for each set of which something is cut.
    pub(super) fn keep_rules(&mut self) -> Vec<String> {
        let raisable = self.permitted & self.inheritable;
        let rules = [
            ("effective", &mut self.effective, self.permitted, "not among the permitted"),
            ("ambient", &mut self.ambient, raisable, "not among both the permitted and the inheritable"),
        ];
        let mut warnings = Vec::new();
        for (set, wanted, most, reason) in rules {
            let mut cut: Vec<String> = wanted.difference(most).iter().map(name).collect();
            cut.sort_unstable();
            if !cut.is_empty() {
                warnings.push(format!("ignoring {set} capabilities that are {reason}: [{}]", cut.join(" ")));
            }
            *wanted &= most;
        }
        warnings
    }
}

/// Takes out of a process's sets what this process lacks, and returns the names of that.
pub(super) fn cut(sets: &mut LinuxCapabilities) -> Result<Vec<String>> {
    let (_, lacking) = granted(Some(sets))?;
    if lacking.is_empty() {
        return Ok(lacking);
    }
    let own = capabilities(None).context(|| "read this process's capabilities".into())?.permitted;
    let kept = |set: &Option<Capabilities>| {
        set.as_ref().map(|set| set.iter().copied().filter(|one| own.contains(bit(*one))).collect())
    };
    sets.set_bounding(kept(sets.bounding()));
    sets.set_effective(kept(sets.effective()));
    sets.set_permitted(kept(sets.permitted()));
    sets.set_inheritable(kept(sets.inheritable()));
    sets.set_ambient(kept(sets.ambient()));
    Ok(lacking)
}

/// The names of those that the kernel has and this process lacks.
pub(crate) fn lacking() -> Vec<String> {
    let Ok(own) = capabilities(None) else { return Vec::new() };
    let known = TABLE.into_iter().map(|(capability, _)| capability);
    let there = known.filter(|capability| capability_is_in_bounding_set(*capability).is_ok());
    there.filter(|capability| !own.permitted.contains(*capability)).map(name).collect()
}

fn bits(names: Option<&Capabilities>) -> CapabilitySet {
    names.into_iter().flatten().fold(CapabilitySet::empty(), |set, capability| set | bit(*capability))
}

fn name(capability: CapabilitySet) -> String {
    match TABLE.iter().find(|(bit, _)| *bit == capability) {
        Some((_, known)) => format!("CAP_{known}"),
        None => format!("capability {}", capability.bits().trailing_zeros()),
    }
}

/// A capability's name: `CAP_CHOWN`.
pub fn name_of(capability: Capability) -> String {
    name(bit(capability))
}

/// The names in a set as `/proc/PID/status` writes it, in the alphabet's order.
pub fn names_in(set: u64) -> Vec<String> {
    let known = TABLE.iter().map(|(capability, _)| *capability);
    let mut names: Vec<String> = known.filter(|one| set & one.bits() != 0).map(name).collect();
    names.sort_unstable();
    names
}

/// The names of all capabilities that are known here.
pub(crate) fn names() -> Vec<String> {
    TABLE.iter().map(|(bit, _)| name(*bit)).collect()
}

/// Takes everything but `bounding` out of the bounding set.
pub(super) fn bound(bounding: CapabilitySet) -> Result<()> {
    for (capability, _) in TABLE {
        if bounding.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // A kernel older than a capability: there is nothing to take out.
            Err(Errno::INVAL) => {}
            // Who may not drop any need not where it is not in there.
            Err(Errno::PERM) if !capability_is_in_bounding_set(capability).unwrap_or(true) => {}
            dropped => dropped.context(|| format!("drop {} from the bounding set", name(capability)))?,
        }
    }
    Ok(())
}

/// Raises the ambient set.
pub(super) fn ambient(ambient: CapabilitySet) -> Result<()> {
    for capability in ambient.iter() {
        configure_capability_in_ambient_set(capability, true)
            .context(|| format!("raise {} in the ambient set", name(capability)))?;
    }
    Ok(())
}

macro_rules! table {
    ($($variant:ident $constant:ident),* $(,)?) => {
        const TABLE: [(CapabilitySet, &str); 41] = [$((CapabilitySet::$constant, stringify!($constant))),*];

        fn bit(capability: Capability) -> CapabilitySet {
            match capability {
                $(Capability::$variant => CapabilitySet::$constant),*
            }
        }
    };
}

table! {
    Chown CHOWN, DacOverride DAC_OVERRIDE, DacReadSearch DAC_READ_SEARCH, Fowner FOWNER, Fsetid FSETID,
    Kill KILL, Setgid SETGID, Setuid SETUID, Setpcap SETPCAP, LinuxImmutable LINUX_IMMUTABLE,
    NetBindService NET_BIND_SERVICE, NetBroadcast NET_BROADCAST, NetAdmin NET_ADMIN, NetRaw NET_RAW,
    IpcLock IPC_LOCK, IpcOwner IPC_OWNER, SysModule SYS_MODULE, SysRawio SYS_RAWIO, SysChroot SYS_CHROOT,
    SysPtrace SYS_PTRACE, SysPacct SYS_PACCT, SysAdmin SYS_ADMIN, SysBoot SYS_BOOT, SysNice SYS_NICE,
    SysResource SYS_RESOURCE, SysTime SYS_TIME, SysTtyConfig SYS_TTY_CONFIG, Mknod MKNOD, Lease LEASE,
    AuditWrite AUDIT_WRITE, AuditControl AUDIT_CONTROL, Setfcap SETFCAP, MacOverride MAC_OVERRIDE,
    MacAdmin MAC_ADMIN, Syslog SYSLOG, WakeAlarm WAKE_ALARM, BlockSuspend BLOCK_SUSPEND,
    AuditRead AUDIT_READ, Perfmon PERFMON, Bpf BPF, CheckpointRestore CHECKPOINT_RESTORE,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_s_rules_cut_is_told() {
        let (kill, chown) = (CapabilitySet::KILL, CapabilitySet::CHOWN);
        let mut wanted = Wanted {
            bounding: kill | chown,
            effective: kill | chown,
            permitted: kill,
            inheritable: chown,
            ambient: kill | chown,
        };
        let said = wanted.keep_rules();
        assert_eq!((wanted.effective, wanted.ambient), (kill, CapabilitySet::empty()));
        assert_eq!(
            said,
            [
                "ignoring effective capabilities that are not among the permitted: [CAP_CHOWN]",
                "ignoring ambient capabilities that are not among both the permitted and the inheritable: \
                 [CAP_CHOWN CAP_KILL]",
            ]
        );
        assert!(wanted.keep_rules().is_empty());
    }
}
