//! System call filters: the built-in profile, and the compiler from OCI profiles to BPF.
//!
//! A [`Filter`] is compiled in the launcher or the shim and installed by the new process just before exec.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{Arch, Capability, LinuxSeccomp, LinuxSeccompFilterFlag};

use crate::error::Context;
use crate::{Error, Result, sys};

mod compiler;
mod docker;
mod numbers;
mod profile;
mod rules;
mod specification;
#[cfg(test)]
mod tests;

use compiler::Section;
pub use docker::of_docker;
use rules::Action;
pub use specification::default_profile;

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, since Linux 5.19.
const WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// A compiled filter: classic BPF as `seccomp(2)` takes it. A clone shares the program.
#[derive(Clone, Debug)]
pub struct Filter {
    program: Arc<[libc::sock_filter]>,
    flags: u64,
    listener: Option<Arc<Listener>>,
}

/// Who answers the questions of a filter that asks some (`SCMP_ACT_NOTIFY`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its socket.
    pub path: PathBuf,
    /// What the profile has for it.
    pub metadata: String,
}

impl Filter {
    /// Who is to be handed the notifications, if there are such.
    pub(crate) fn listener(&self) -> Option<&Listener> {
        self.listener.as_deref()
    }

    /// Installs it for the calling thread. Returns the descriptor of the notifications, if there are such.
    pub(crate) fn install(&self) -> Result<Option<OwnedFd>> {
        sys::install_filter(&self.program, self.flags).context(|| "install the filter of system calls".into())
    }
}

/// An architecture that a filter can speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Architecture {
    X86_64,
    X86,
    Aarch64,
    Arm,
}

impl Architecture {
    /// This machine's.
    fn native() -> Result<Architecture> {
        if cfg!(target_arch = "x86_64") {
            Ok(Architecture::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Ok(Architecture::Aarch64)
        } else {
            let advice = "hull knows the system calls of x86_64 and aarch64; run with seccomp=unconfined";
            Err(Error::refused("compile a seccomp filter for this machine", advice))
        }
    }

    /// What else a program on this machine can be built for.
    fn below(self) -> Option<Architecture> {
        match self {
            Architecture::X86_64 => Some(Architecture::X86),
            Architecture::Aarch64 => Some(Architecture::Arm),
            Architecture::X86 | Architecture::Arm => None,
        }
    }

    /// `AUDIT_ARCH_…`: the ELF machine, with bits for 64 and for little-endian.
    fn audit(self) -> u32 {
        match self {
            Architecture::X86_64 => 0xc000_003e,
            Architecture::X86 => 0x4000_0003,
            Architecture::Aarch64 => 0xc000_00b7,
            Architecture::Arm => 0x4000_0028,
        }
    }
}

/// hull's built-in profile (Docker's default in meaning), fitted to the capabilities in `bounding`.
///
/// What was compiled is kept: a launcher that calls this once, before it forks, has compiled it for all shims.
pub fn default_filter(bounding: &[Capability]) -> Result<Filter> {
    static COMPILED: Mutex<Vec<(Vec<Capability>, Filter)>> = Mutex::new(Vec::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_same = |other: &[Capability]| {
        other.len() == bounding.len() && bounding.iter().all(|capability| other.contains(capability))
    };
    if let Some((_, filter)) = compiled.iter().find(|(other, _)| is_same(other)) {
        return Ok(filter.clone());
    }
    let filter = build_default(bounding)?;
    compiled.push((bounding.to_vec(), filter.clone()));
    Ok(filter)
}

/// What a filter does, in numbers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// How many system calls are let through whatever their arguments are.
    pub allowed: usize,
    /// Those that are let through with some arguments only.
    pub conditional: Vec<String>,
    /// What becomes of all others: `fail with EPERM`.
    pub otherwise: String,
}

/// The summary of [`default_filter`] for this machine's own system calls.
///
/// # Errors
/// hull does not know this machine's architecture.
pub fn default_summary(bounding: &[Capability]) -> Result<Summary> {
    let native = Architecture::native()?;
    let rules = profile::rules(native, bounding);
    Ok(summarise(native, &rules, Action::Errno(libc::EPERM as u16)))
}

/// The summary of a profile's filter ([`compile`]) for this machine's own system calls.
///
/// # Errors
/// hull does not know this machine's architecture, or the profile cannot be.
pub fn summary(profile: &LinuxSeccomp) -> Result<Summary> {
    let mut rules = Vec::new();
    for entry in profile.syscalls().iter().flatten() {
        rules.extend(rules::of(entry)?);
    }
    let otherwise = Action::of(profile.default_action(), profile.default_errno_ret())?;
    Ok(summarise(Architecture::native()?, &rules, otherwise))
}

fn summarise(native: Architecture, rules: &[rules::Rule], otherwise: Action) -> Summary {
    let there = |rule: &&rules::Rule| {
        matches!(rule.action, Action::Allow | Action::Log) && numbers::number(native, &rule.name).is_some()
    };
    let (always, sometimes): (Vec<_>, Vec<_>) =
        rules.iter().filter(there).partition(|rule| rule.conditions.is_empty());
    let names = |rules: Vec<&rules::Rule>| -> BTreeSet<String> {
        rules.into_iter().map(|rule| rule.name.to_string()).collect()
    };
    let always = names(always);
    let conditional = names(sometimes).into_iter().filter(|name| !always.contains(name)).collect();
    let otherwise = match otherwise {
        Action::Allow => "are let through".to_owned(),
        Action::Log => "are let through and logged".to_owned(),
        Action::Errno(errno) if i32::from(errno) == libc::EPERM => "fail with EPERM".to_owned(),
        Action::Errno(errno) if i32::from(errno) == libc::ENOSYS => "fail with ENOSYS".to_owned(),
        Action::Errno(errno) => format!("fail with error {errno}"),
        Action::KillThread => "kill the thread".to_owned(),
        Action::KillProcess => "kill the process".to_owned(),
        Action::Trap => "raise SIGSYS".to_owned(),
        Action::Trace(_) => "are for a tracer to decide".to_owned(),
        Action::Notify => "are for a listener to decide".to_owned(),
    };
    Summary { allowed: always.len(), conditional, otherwise }
}

fn build_default(bounding: &[Capability]) -> Result<Filter> {
    let native = Architecture::native()?;
    let section = |architecture| Section {
        architecture,
        with_x32: true,
        rules: profile::rules(architecture, bounding),
    };
    let sections: Vec<Section> = [Some(native), native.below()].into_iter().flatten().map(section).collect();
    let program = compiler::compile(&sections, Action::Errno(libc::EPERM as u16))?;
    Ok(Filter { program: program.into(), flags: libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW, listener: None })
}

/// Compiles a profile of the OCI runtime specification. This machine's own architecture is always in it.
/// Names of calls that no architecture has are left out, as with runc: profiles list what newer and older
/// kernels have.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let native = Architecture::native()?;
    let listed = profile.architectures().as_deref().unwrap_or_default();
    let mut rules = Vec::new();
    for entry in profile.syscalls().iter().flatten() {
        rules.extend(rules::of(entry)?.into_iter().filter(|rule| numbers::is_known(&rule.name)));
    }
    let is_listed = |architecture: Architecture| match architecture {
        Architecture::X86 => listed.contains(&Arch::ScmpArchX86),
        Architecture::Arm => listed.contains(&Arch::ScmpArchArm),
        Architecture::X86_64 | Architecture::Aarch64 => true,
    };
    let with_x32 = listed.contains(&Arch::ScmpArchX32);
    let sections: Vec<Section> = [Some(native), native.below()]
        .into_iter()
        .flatten()
        .filter(|architecture| is_listed(*architecture))
        .map(|architecture| Section { architecture, with_x32, rules: rules.clone() })
        .collect();
    let otherwise = Action::of(profile.default_action(), profile.default_errno_ret())?;
    let listener = listener(profile, &rules, otherwise)?;
    let program = compiler::compile(&sections, otherwise)?;
    let mut flags = flags(profile)?;
    if listener.is_some() {
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        if flags & libc::SECCOMP_FILTER_FLAG_TSYNC != 0 {
            // The kernel takes the two together only so; there is one thread, so nothing can fail.
            flags |= libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
        }
    }
    Ok(Filter { program: program.into(), flags, listener: listener.map(Arc::new) })
}

/// Who answers, where the profile asks about calls.
fn listener(profile: &LinuxSeccomp, rules: &[rules::Rule], otherwise: Action) -> Result<Option<Listener>> {
    const DOING: &str = "compile the seccomp profile";
    let asks = rules.iter().any(|rule| rule.action == Action::Notify);
    if otherwise == Action::Notify {
        return Err(Error::refused(DOING, "SCMP_ACT_NOTIFY cannot be used as the default action"));
    }
    // The call that hands over the descriptor of the questions cannot itself be asked about.
    if rules.iter().any(|rule| rule.action == Action::Notify && rule.name == "sendmsg") {
        return Err(Error::refused(DOING, "SCMP_ACT_NOTIFY cannot be used for sendmsg"));
    }
    match (asks, profile.listener_path()) {
        (true, Some(path)) => {
            let metadata = profile.listener_metadata().clone().unwrap_or_default();
            Ok(Some(Listener { path: path.clone(), metadata }))
        }
        (true, None) => Err(Error::refused(DOING, "it has SCMP_ACT_NOTIFY, and no listenerPath")),
        (false, _) if profile.listener_metadata().is_some() && profile.listener_path().is_none() => {
            Err(Error::refused(DOING, "it has listenerMetadata, and no listenerPath"))
        }
        (false, _) => Ok(None),
    }
}

fn flags(profile: &LinuxSeccomp) -> Result<u64> {
    let Some(listed) = profile.flags() else { return Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) };
    listed.iter().try_fold(0, |flags, flag| {
        Ok(flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                // Of notifications: the kernel refuses it where there are none.
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
            })
    })
}
