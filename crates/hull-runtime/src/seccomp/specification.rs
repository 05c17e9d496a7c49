//! The built-in profile in the runtime specification's words, for runtimes that are not hull's.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::rules::{Action, Comparison, Condition, Rule};
use super::{Architecture, profile};
use crate::{Error, Result};

/// The profile that [`super::default_filter`] is compiled from, fitted to the capabilities in `bounding`.
///
/// # Errors
/// hull does not know this machine's architecture.
pub fn default_profile(bounding: &[Capability]) -> Result<LinuxSeccomp> {
    let native = Architecture::native()?;
    let failed =
        |error: OciSpecError| Error::refused("describe the filter of system calls", error.to_string());
    let mut rules = profile::rules(native, bounding);
    let plain = |rule: &Rule| rule.action == Action::Allow && rule.conditions.is_empty();
    let mut names: Vec<String> =
        rules.iter().filter(|rule| plain(rule)).map(|rule| rule.name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    // Where a call is let through whatever its arguments are, no other rule says anything.
    rules.retain(|rule| names.binary_search(&rule.name).is_err());
    let always = LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActAllow);
    let mut calls = vec![always.build().map_err(failed)?];
    for rule in &rules {
        calls.push(call(rule).map_err(failed)?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .architectures(architectures(native))
        .syscalls(calls)
        .build()
        .map_err(failed)
}

/// Those that this machine executes.
fn architectures(native: Architecture) -> Vec<Arch> {
    match native {
        Architecture::X86_64 | Architecture::X86 => {
            vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
        }
        Architecture::Aarch64 | Architecture::Arm => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
    }
}

fn call(rule: &Rule) -> Result<LinuxSyscall, OciSpecError> {
    let arguments = rule.conditions.iter().map(argument).collect::<Result<Vec<_>, _>>()?;
    let (action, errno) = match rule.action {
        Action::Errno(errno) => (LinuxSeccompAction::ScmpActErrno, Some(u32::from(errno))),
        // The built-in profile has no others.
        _ => (LinuxSeccompAction::ScmpActAllow, None),
    };
    let mut call =
        LinuxSyscallBuilder::default().names([rule.name.clone()]).action(action).args(arguments).build()?;
    call.set_errno_ret(errno);
    Ok(call)
}

fn argument(condition: &Condition) -> Result<LinuxSeccompArg, OciSpecError> {
    let (op, value, second) = match condition.comparison {
        Comparison::NotEqual(value) => (LinuxSeccompOperator::ScmpCmpNe, value, None),
        Comparison::Less(value) => (LinuxSeccompOperator::ScmpCmpLt, value, None),
        Comparison::LessOrEqual(value) => (LinuxSeccompOperator::ScmpCmpLe, value, None),
        Comparison::Equal(value) => (LinuxSeccompOperator::ScmpCmpEq, value, None),
        Comparison::GreaterOrEqual(value) => (LinuxSeccompOperator::ScmpCmpGe, value, None),
        Comparison::Greater(value) => (LinuxSeccompOperator::ScmpCmpGt, value, None),
        Comparison::Masked { mask, value } => (LinuxSeccompOperator::ScmpCmpMaskedEq, mask, Some(value)),
    };
    let argument =
        LinuxSeccompArgBuilder::default().index(usize::from(condition.argument)).value(value).op(op);
    match second {
        Some(second) => argument.value_two(second).build(),
        None => argument.build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{default_summary, summary};

    #[test]
    fn it_means_what_the_built_in_filter_means() {
        for bounding in
            [vec![], vec![Capability::SysAdmin], vec![Capability::NetAdmin, Capability::SysPtrace]]
        {
            let described = summary(&default_profile(&bounding).unwrap()).unwrap();
            assert_eq!(described, default_summary(&bounding).unwrap(), "{bounding:?}");
        }
    }

    #[test]
    fn conditions_come_back_as_they_went() {
        let rules = profile::rules(Architecture::native().unwrap(), &[]);
        for rule in rules.iter().filter(|rule| !rule.conditions.is_empty()) {
            assert_eq!(super::super::rules::of(&call(rule).unwrap()).unwrap(), vec![rule.clone()]);
        }
    }
}
