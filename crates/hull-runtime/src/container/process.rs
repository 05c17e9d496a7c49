//! The process itself, the last stretch that a container's first process and an exec have in common: limits,
//! user, capabilities, filter, working directory, exec.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci_spec::runtime::{IOPriorityClass, PosixRlimitType, Process};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::capabilities::{self, Wanted};
use super::notify::Answerer;
use super::report::Teller;
use super::{diagnose, inroot, labels, scheduling, sysctl};
use crate::error::Context;
use crate::seccomp::Filter;
use crate::sys::{self, Strings};
use crate::{Error, Result};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// First thing in a new process: nothing of it can be looked into from inside (it holds the host's
/// descriptors until exec), and the modes of files are as asked.
pub(super) fn shield() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .context(|| "make the process undumpable".into())?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// A session of its own, and with a process that is to have one, a session keyring that is not the host's.
pub(super) fn new_session(keyring_of: Option<&Process>, procfs: BorrowedFd<'_>) -> Result<()> {
    rustix::process::setsid().context(|| "start a session".into())?;
    let Some(process) = keyring_of else { return Ok(()) };
    match labels::with_labelled_keys(process, procfs, sys::new_session_keyring)? {
        Ok(()) => Ok(()),
        // Kernels without keyrings; the host's filter of system calls, where hull itself is in a container.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        Err(error) => Err(Error::kernel("make a session keyring", error)
            .advise("the limits are in /proc/sys/kernel/keys/root_maxkeys and root_maxbytes")),
    }
}

/// What is set with full privileges, before the user is changed.
pub(super) fn prepare(process: &Process, procfs: BorrowedFd<'_>, teller: &Teller) -> Result<()> {
    out_of_memory_score(process, procfs, teller)?;
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        sys::ioprio_set(class, priority.priority() as u32).context(|| "set the io priority".into())?;
    }
    process.scheduler().as_ref().map_or(Ok(()), scheduling::schedule)?;
    labels::set(process, procfs)
}

/// Sets the limits of resources; last, for they hold for whatever comes behind: with few files nothing more can be opened
/// while those of the host's are still there.
pub(super) fn limits(process: &Process, teller: &Teller) -> Result<()> {
    limits_but_files(process, teller)?;
    limit_of_files(process, teller)
}

/// Sets all limits but that of open files.
pub(super) fn limits_but_files(process: &Process, teller: &Teller) -> Result<()> {
    set_limits(process, teller, |resource| resource != libc::RLIMIT_NOFILE)
}

/// Sets the limit of open files: with few nothing more can be opened.
pub(super) fn limit_of_files(process: &Process, teller: &Teller) -> Result<()> {
    set_limits(process, teller, |resource| resource == libc::RLIMIT_NOFILE)
}

/// Raises the hard limit of open files to what it is to be, so that [`limit_of_files`] needs no privilege.
pub(super) fn make_way_for_files(process: &Process) {
    for limit in process.rlimits().iter().flatten() {
        let (resource, _) = resource(limit.typ());
        let Ok((soft, hard)) = sys::get_limit(resource) else { continue };
        if resource == libc::RLIMIT_NOFILE && limit.hard() > hard {
            // Where that is not granted, the limit is cut when it is set, which is told then.
            let _ = sys::set_limit(None, resource, soft, limit.hard());
        }
    }
}

fn set_limits(process: &Process, teller: &Teller, which: impl Fn(u32) -> bool) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let (resource, name) = resource(limit.typ());
        if !which(resource) {
            continue;
        }
        let (soft, hard) = (limit.soft(), limit.hard());
        let doing = || format!("set the limit {name}={soft}:{hard}");
        match sys::set_limit(None, resource, soft, hard) {
            Ok(()) => {}
            // Without CAP_SYS_RESOURCE a hard limit can only be lowered.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let (_, most) = sys::get_limit(resource).context(doing)?;
                let (soft, cut) = (soft.min(most), hard.min(most));
                sys::set_limit(None, resource, soft, cut).context(doing)?;
                teller.warn(&format!(
                    "the limit {name} is {soft}:{cut} instead of {}:{hard}: this machine does not grant \
                     CAP_SYS_RESOURCE",
                    limit.soft()
                ))?;
            }
            Err(error) => return Err(Error::kernel(doing(), error)),
        }
    }
    Ok(())
}

pub(super) fn resource(kind: PosixRlimitType) -> (u32, &'static str) {
    match kind {
        PosixRlimitType::RlimitCpu => (libc::RLIMIT_CPU, "cpu"),
        PosixRlimitType::RlimitFsize => (libc::RLIMIT_FSIZE, "fsize"),
        PosixRlimitType::RlimitData => (libc::RLIMIT_DATA, "data"),
        PosixRlimitType::RlimitStack => (libc::RLIMIT_STACK, "stack"),
        PosixRlimitType::RlimitCore => (libc::RLIMIT_CORE, "core"),
        PosixRlimitType::RlimitRss => (libc::RLIMIT_RSS, "rss"),
        PosixRlimitType::RlimitNproc => (libc::RLIMIT_NPROC, "nproc"),
        PosixRlimitType::RlimitNofile => (libc::RLIMIT_NOFILE, "nofile"),
        PosixRlimitType::RlimitMemlock => (libc::RLIMIT_MEMLOCK, "memlock"),
        PosixRlimitType::RlimitAs => (libc::RLIMIT_AS, "as"),
        PosixRlimitType::RlimitLocks => (libc::RLIMIT_LOCKS, "locks"),
        PosixRlimitType::RlimitSigpending => (libc::RLIMIT_SIGPENDING, "sigpending"),
        PosixRlimitType::RlimitMsgqueue => (libc::RLIMIT_MSGQUEUE, "msgqueue"),
        PosixRlimitType::RlimitNice => (libc::RLIMIT_NICE, "nice"),
        PosixRlimitType::RlimitRtprio => (libc::RLIMIT_RTPRIO, "rtprio"),
        PosixRlimitType::RlimitRttime => (libc::RLIMIT_RTTIME, "rttime"),
    }
}

fn out_of_memory_score(process: &Process, procfs: BorrowedFd<'_>, teller: &Teller) -> Result<()> {
    let Some(score) = process.oom_score_adj() else { return Ok(()) };
    match sysctl::write(procfs, "self/oom_score_adj", &score.to_string()) {
        Ok(()) => Ok(()),
        // In a user namespace its parent has set it.
        Err(Errno::ACCESS | Errno::PERM)
            if sysctl::number(procfs, "self/oom_score_adj") == Some(score.into()) =>
        {
            Ok(())
        }
        Err(Errno::ACCESS | Errno::PERM) => teller.warn(&format!(
            "oom_score_adj is not set to {score}: lowering it needs CAP_SYS_RESOURCE, which this machine does \
             not grant"
        )),
        Err(error) => Err(Error::kernel(format!("set oom_score_adj to {score}"), error)),
    }
}

/// The user's own standard streams: a user other than root may open `/dev/stdout` again.
fn own_streams(uid: Uid) -> Result<()> {
    if uid.is_root() {
        return Ok(());
    }
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let stat = rustix::fs::fstat(stream).context(|| "look at the standard streams".into())?;
        let is_null = super::inroot::is_device(stream, 1, 3).unwrap_or(false);
        if stat.st_uid == uid.as_raw() || is_null {
            continue;
        }
        match rustix::fs::fchown(stream, Some(uid), None) {
            // Sockets and read-only file systems have no owner to change.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(error) => return Err(Error::kernel("give the user the standard streams", error)),
        }
    }
    Ok(())
}

/// What a process gives up, and for what: user, capabilities and filter, worked out before.
pub(super) struct Privileges<'a> {
    process: &'a Process,
    filter: Option<&'a Filter>,
    wanted: Wanted,
    teller: &'a Teller,
    /// Who answers the filter's questions.
    answerer: Option<&'a Answerer>,
    /// Whether the process dies with its parent.
    bound: bool,
}

impl<'a> Privileges<'a> {
    /// Works out what the process gets of what is asked for, and warns of what this machine does not grant.
    /// With `bound` it dies with its parent.
    pub(super) fn of(
        process: &'a Process,
        filter: Option<&'a Filter>,
        teller: &'a Teller,
        answerer: Option<&'a Answerer>,
        bound: bool,
    ) -> Result<Self> {
        let (mut wanted, cut) = capabilities::granted(process.capabilities().as_ref())?;
        if !cut.is_empty() {
            teller.warn(&format!("this machine does not grant {}", cut.join(", ")))?;
        }
        for warning in wanted.keep_rules() {
            teller.warn(&warning)?;
        }
        Ok(Privileges { process, filter, wanted, teller, answerer, bound })
    }

    /// Drops everything. The order: what needs a capability comes before that is dropped. A filter needs
    /// CAP_SYS_ADMIN or no_new_privs, so the former is kept until the filter is in place, with one call after
    /// it; a filter must permit `capset` and `execve`, one that asks about calls `sendmsg` as well, and what programs are
    /// started with where the container has `startContainer` hooks.
    pub(super) fn drop_all(&self) -> Result<()> {
        let user = self.process.user();
        let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
        own_streams(uid)?;
        capabilities::bound(self.wanted.bounding)?;
        rustix::thread::set_keep_capabilities(true).context(|| "keep capabilities over setuid".into())?;
        let groups: Vec<Gid> =
            user.additional_gids().iter().flatten().map(|group| Gid::from_raw(*group)).collect();
        match rustix::thread::set_thread_groups(&groups) {
            // In a user namespace that a user without privileges has made, nobody may drop groups.
            Err(Errno::PERM) if groups.is_empty() => {}
            set => set.context(|| "set the additional groups".into())?,
        }
        rustix::thread::set_thread_res_gid(gid, gid, gid)
            .context(|| format!("become group {}", user.gid()))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)
            .context(|| format!("become user {}", user.uid()))?;
        rustix::thread::set_keep_capabilities(false).context(|| "drop capabilities over setuid".into())?;
        rustix::process::umask(Mode::from_raw_mode(user.umask().unwrap_or(0o022)));
        if self.bound {
            self.die_with_shim()?;
        }
        let no_new_privileges = self.process.no_new_privileges() == Some(true);
        if no_new_privileges {
            rustix::thread::set_no_new_privs(true).context(|| "set no_new_privs".into())?;
        }
        let last = CapabilitySets {
            effective: self.wanted.effective,
            permitted: self.wanted.permitted,
            inheritable: self.wanted.inheritable,
        };
        let Some(filter) = self.filter else { return self.set_capabilities(last) };
        if no_new_privileges {
            self.set_capabilities(last)?;
            return self.install(filter);
        }
        let with_admin = CapabilitySets {
            effective: last.effective | CapabilitySet::SYS_ADMIN,
            permitted: last.permitted | CapabilitySet::SYS_ADMIN,
            inheritable: last.inheritable,
        };
        self.set_capabilities(with_admin)?;
        self.install(filter)?;
        rustix::thread::set_capabilities(None, last).context(|| "drop the capabilities".into())
    }

    fn install(&self, filter: &Filter) -> Result<()> {
        match (filter.install()?, self.answerer) {
            (None, _) => Ok(()),
            (Some(notifications), Some(answerer)) => answerer.hand_over(&notifications),
            (Some(_), None) => {
                let reason = "nobody was found who answers the filter's questions; this is a bug";
                Err(Error::refused("install the filter of system calls", reason))
            }
        }
    }

    /// Whoever kills the shim takes the process along. Set when the user is, for a change of user clears it; and
    /// looked at afterwards, for the shim may have gone before.
    fn die_with_shim(&self) -> Result<()> {
        let kill = rustix::process::Signal::KILL;
        rustix::process::set_parent_process_death_signal(Some(kill))
            .context(|| "die with the shim".into())?;
        if self.teller.is_alone() {
            return Err(Error::refused("execute the command", "the shim is gone"));
        }
        Ok(())
    }

    fn set_capabilities(&self, sets: CapabilitySets) -> Result<()> {
        rustix::thread::set_capabilities(None, sets).context(|| "set the capabilities".into())?;
        capabilities::ambient(self.wanted.ambient)
    }
}

/// Makes the working directory where the image has none, as Docker does: it is root's. It is made beneath the root, no
/// link of `/proc` followed. What cannot be made is told by who tries to enter it.
pub(super) fn make_working_directory(root: BorrowedFd<'_>, cwd: &Path) -> Result<()> {
    if matches!(inroot::open(root, cwd, OFlags::PATH), Err(Errno::NOENT)) {
        inroot::ensure(root, cwd, inroot::Kind::Folder)?;
    }
    Ok(())
}

/// Goes to the working directory, and verifies that it is inside of the container: a descriptor of the
/// host's which the configuration names by `/proc/self/fd/N` would be outside.
fn enter_working_directory(cwd: &Path) -> Result<()> {
    // runc's words, which its callers know.
    let doing = || format!("chdir to cwd ({:?}) set in config.json failed", cwd.display().to_string());
    rustix::process::chdir(cwd).context(doing)?;
    let at = rustix::process::getcwd(Vec::new()).context(doing)?;
    if at.as_bytes().first() != Some(&b'/') {
        return Err(Error::refused(doing(), "it is outside of the container's root file system"));
    }
    Ok(())
}

/// The last stretch: everything is dropped and the command executed. `before` comes when its working directory has been
/// entered, with all privileges; `after` when nothing but the exec is left, with the command's own. Returns only when
/// something fails.
pub(super) fn execute(
    privileges: &Privileges<'_>,
    before: impl FnOnce(&Command) -> Result<()>,
    after: impl FnOnce() -> Result<()>,
) -> Result<Infallible> {
    let process = privileges.process;
    let command = Command::of(process)?;
    let cwd = process.cwd().as_path();
    // As root first, as the user if root may not (a network file system); it must be one of them.
    let as_root = enter_working_directory(cwd);
    let denied = match as_root {
        Err(error) if error.errno == Some(libc::EACCES) => true,
        entered => entered.map(|()| false)?,
    };
    before(&command)?;
    sys::reset_signals().context(|| "reset the signals".into())?;
    privileges.drop_all()?;
    if denied {
        enter_working_directory(cwd)?;
    }
    after()?;
    Err(command.execute())
}

/// What is executed, ready for the call.
pub(super) struct Command {
    name: String,
    candidates: Vec<CString>,
    arguments: Strings,
    environment: Strings,
}

impl Command {
    pub(super) fn of(process: &Process) -> Result<Command> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let Some(name) = arguments.first() else {
            return Err(Error::refused("execute the command", "no command specified"));
        };
        let mut environment = last_of_each(process.env().as_deref().unwrap_or_default());
        if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
            environment.push(format!("HOME={}", home_of(process.user().uid())));
        }
        let candidates = if name.contains('/') {
            vec![c_string(name)?]
        } else {
            let path = environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
            let folders = path.unwrap_or(DEFAULT_PATH).split(':').filter(|_| !name.is_empty());
            let folder = |folder: &str| if folder.is_empty() { ".".to_owned() } else { folder.to_owned() };
            folders.map(|at| c_string(&format!("{}/{name}", folder(at)))).collect::<Result<_>>()?
        };
        let strings =
            |list: &[String]| list.iter().map(|string| c_string(string)).collect::<Result<Vec<_>>>();
        Ok(Command {
            name: name.clone(),
            candidates,
            arguments: Strings::new(strings(arguments)?),
            environment: Strings::new(strings(&environment)?),
        })
    }

    /// Refuses a command that is not there or that nobody may execute, as far as can be told beforehand: for those who
    /// create a container first and start it later.
    pub(super) fn look_up(&self) -> Result<()> {
        let mut denied = None;
        for candidate in &self.candidates {
            let may = rustix::fs::access(candidate.as_c_str(), rustix::fs::Access::EXEC_OK);
            let is_folder =
                || std::fs::metadata(OsStr::from_bytes(candidate.to_bytes())).is_ok_and(|at| at.is_dir());
            match may {
                Ok(()) if is_folder() => denied = denied.or(Some((candidate, libc::EACCES))),
                Ok(()) => return Ok(()),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => denied = denied.or(Some((candidate, error.raw_os_error()))),
            }
        }
        Err(match denied {
            Some((candidate, error)) => {
                diagnose::explain(&self.name, candidate, &std::io::Error::from_raw_os_error(error))
            }
            None => diagnose::not_found(&self.name, &self.candidates),
        })
    }

    /// Tries each candidate as the shell would: what is not there or not executable gives way to the next.
    fn execute(&self) -> Error {
        let mut denied = None;
        for candidate in &self.candidates {
            let error = sys::execve(candidate, &self.arguments, &self.environment);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => denied = denied.or(Some((candidate, error))),
                _ => return diagnose::explain(&self.name, candidate, &error),
            }
        }
        if let Some((candidate, error)) = denied {
            return diagnose::explain(&self.name, candidate, &error);
        }
        diagnose::not_found(&self.name, &self.candidates)
    }
}

/// The variables without those that a later one of the same name replaces: programs take the first that they find.
fn last_of_each(variables: &[String]) -> Vec<String> {
    let mut names = std::collections::HashSet::new();
    let mut kept: Vec<String> = variables
        .iter()
        .rev()
        .filter(|variable| names.insert(variable.split('=').next().unwrap_or_default()))
        .cloned()
        .collect();
    kept.reverse();
    kept
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text)
        .map_err(|_| Error::refused(format!("pass {text:?} to the command"), "it holds a NUL byte"))
}

/// A user's home folder, as the container's `/etc/passwd` says; `/` where it says nothing.
fn home_of(uid: u32) -> String {
    const PASSWD_MAX: u64 = 1 << 20;
    // Nonblocking: the file is the container's, and may be a pipe.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(file) = rustix::fs::open("/etc/passwd", flags, Mode::empty()) else { return "/".into() };
    let mut text = Vec::new();
    if std::fs::File::from(file).take(PASSWD_MAX).read_to_end(&mut text).is_err() {
        return "/".into();
    }
    home_in(&text, uid).unwrap_or_else(|| "/".into())
}

fn home_in(passwd: &[u8], uid: u32) -> Option<String> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let line = OsStr::from_bytes(line).to_str()?;
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 6 && fields[2].parse() == Ok(uid)).then(|| fields[5].to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_variable_of_a_name_is_the_one() {
        let variables = ["A=1", "B=", "A=2=3", "AB=4", "B=5"].map(str::to_owned);
        assert_eq!(last_of_each(&variables), ["A=2=3", "AB=4", "B=5"]);
    }

    #[test]
    fn home_comes_from_passwd() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:/bin/sh\n";
        assert_eq!(home_in(passwd, 33).as_deref(), Some("/var/www"));
        assert_eq!(home_in(passwd, 34), None);
    }
}
