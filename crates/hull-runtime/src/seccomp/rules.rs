//! A rule of a filter, in the words that both the built-in profile and those of the OCI specification come in.

use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use crate::{Error, Result};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    Allow,
    Errno(u16),
    KillThread,
    KillProcess,
    Trap,
    Trace(u16),
    Log,
    Notify,
}

impl Action {
    /// As the kernel takes it.
    pub(super) fn code(self) -> u32 {
        match self {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Action::Trap => libc::SECCOMP_RET_TRAP,
            Action::Trace(message) => libc::SECCOMP_RET_TRACE | u32::from(message),
            Action::Log => libc::SECCOMP_RET_LOG,
            Action::Notify => libc::SECCOMP_RET_USER_NOTIF,
        }
    }

    /// From the specification; `value` is the errno, EPERM where there is none.
    pub(super) fn of(action: LinuxSeccompAction, value: Option<u32>) -> Result<Action> {
        let value = u16::try_from(value.unwrap_or(libc::EPERM as u32))
            .map_err(|_| Error::refused("compile the seccomp profile", "an errnoRet is above 65535"))?;
        Ok(match action {
            LinuxSeccompAction::ScmpActAllow => Action::Allow,
            LinuxSeccompAction::ScmpActErrno => Action::Errno(value),
            LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
            LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
            LinuxSeccompAction::ScmpActTrap => Action::Trap,
            LinuxSeccompAction::ScmpActTrace => Action::Trace(value),
            LinuxSeccompAction::ScmpActLog => Action::Log,
            LinuxSeccompAction::ScmpActNotify => Action::Notify,
        })
    }
}

/// What an argument is compared with, as an unsigned 64-bit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Equal(u64),
    GreaterOrEqual(u64),
    Greater(u64),
    Masked { mask: u64, value: u64 },
}

/// A condition on one of the six arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) comparison: Comparison,
}

impl Condition {
    fn of(argument: &LinuxSeccompArg) -> Result<Condition> {
        let (value, second) = (argument.value(), argument.value_two().unwrap_or(0));
        let comparison = match argument.op() {
            LinuxSeccompOperator::ScmpCmpNe => Comparison::NotEqual(value),
            LinuxSeccompOperator::ScmpCmpLt => Comparison::Less(value),
            LinuxSeccompOperator::ScmpCmpLe => Comparison::LessOrEqual(value),
            LinuxSeccompOperator::ScmpCmpEq => Comparison::Equal(value),
            LinuxSeccompOperator::ScmpCmpGe => Comparison::GreaterOrEqual(value),
            LinuxSeccompOperator::ScmpCmpGt => Comparison::Greater(value),
            LinuxSeccompOperator::ScmpCmpMaskedEq => Comparison::Masked { mask: value, value: second },
        };
        match u8::try_from(argument.index()) {
            Ok(argument @ 0..=5) => Ok(Condition { argument, comparison }),
            _ => {
                let advice =
                    format!("an argument's index is {}; a call has arguments 0 to 5", argument.index());
                Err(Error::refused("compile the seccomp profile", advice))
            }
        }
    }
}

/// What happens to a call of this name when all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) conditions: Vec<Condition>,
}

/// The rules of an entry of the specification, one for each name. As with libseccomp, several conditions on
/// one and the same argument are alternatives.
pub(super) fn of(entry: &LinuxSyscall) -> Result<Vec<Rule>> {
    let action = Action::of(entry.action(), entry.errno_ret())?;
    let conditions = entry.args().iter().flatten().map(Condition::of).collect::<Result<Vec<_>>>()?;
    let doubled = conditions.iter().enumerate().any(|(index, condition)| {
        conditions[..index].iter().any(|other| other.argument == condition.argument)
    });
    let mut rules = Vec::new();
    for name in entry.names() {
        if doubled {
            let alone =
                |condition: &Condition| Rule { name: name.clone(), action, conditions: vec![*condition] };
            rules.extend(conditions.iter().map(alone));
        } else {
            rules.push(Rule { name: name.clone(), action, conditions: conditions.clone() });
        }
    }
    Ok(rules)
}
