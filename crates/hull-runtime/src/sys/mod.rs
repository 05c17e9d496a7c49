//! The thin typed kernel calls that rustix lacks: one function, one system call. Nothing here decides.
//!
//! Unsafe code of this crate is here and in the places of `container` that fork and exec.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub(crate) mod datagrams;
pub mod sockets;

/// `CLONE_INTO_CGROUP`, since Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Which process returned from [`clone3`].
pub(crate) enum Cloned {
    /// The caller, with the new process.
    Parent {
        /// The new process's id in the caller's namespace.
        pid: i32,
        /// Its pidfd, close-on-exec.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// A fork with namespaces: `clone3(flags | CLONE_PIDFD)`, into the cgroup (v2) of `cgroup` if there is one.
///
/// The child is a copy of the calling thread alone. In a process with several threads, what their locks
/// guarded stays locked in the child for ever: call this from single-threaded processes only.
pub(crate) fn clone3(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers; all zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags as u32 as u64 | libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    // A sister of the caller sends what that does.
    arguments.exit_signal = if flags & libc::CLONE_PARENT == 0 { libc::SIGCHLD as u64 } else { 0 };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the structure lives through the call, and without CLONE_VM the child has memory of its own.
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, std::mem::size_of::<libc::clone_args>())
    })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Cloned::Parent { pid: pid as i32, pidfd })
}

/// A plain fork. See [`clone3`] about threads.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the child has memory of its own; the callers are single-threaded.
    let pid = check(unsafe { libc::fork() } as libc::c_long)?;
    Ok((pid != 0).then_some(pid as i32))
}

/// Ends the process at once, without destructors or buffers.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(status) }
}

/// `unshare` of namespaces (never of the file table, which is what makes rustix's call unsafe).
pub(crate) fn unshare_namespaces(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the flags are namespaces'; no memory is involved.
    check(unsafe { libc::unshare(flags & !(libc::CLONE_FILES)) } as libc::c_long).map(drop)
}

/// `setns`: into one namespace by its file, or into several at once by a pidfd.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::setns(fd.as_raw_fd(), flags) } as libc::c_long).map(drop)
}

/// What [`mount_setattr`] changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0 for no change.
    pub(crate) propagation: u64,
    userns: u64,
}

impl MountAttr {
    /// Attributes to set and to clear.
    pub(crate) fn flags(set: u64, clear: u64) -> MountAttr {
        MountAttr { set, clear, ..MountAttr::default() }
    }
    /// Ids mapped as in a user namespace.
    pub(crate) fn id_map(namespace: BorrowedFd<'_>) -> MountAttr {
        let userns = namespace.as_raw_fd().unsigned_abs().into();
        MountAttr { set: libc::MOUNT_ATTR_IDMAP, userns, ..MountAttr::default() }
    }
    /// A new propagation.
    pub(crate) fn propagation(propagation: u64) -> MountAttr {
        MountAttr { propagation, ..MountAttr::default() }
    }
}

/// `mount_setattr` on the mount at `fd`, and with `recursive` on all below.
pub(crate) fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant and `attr` a structure of the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            std::mem::size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Closes every descriptor from `first` on but those in `kept`, which it sorts.
///
/// # Safety
/// Whoever owns one of them must not use it any more. Dropping such an owner is harmless as long as the process opens
/// nothing in between that lives longer: its close fails or is of something that is closed anyway.
pub(crate) unsafe fn close_all_but(first: u32, kept: &mut [RawFd]) -> io::Result<()> {
    let close = |first: u32, last: u32| {
        if first > last {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
    };
    kept.sort_unstable();
    let mut next = first;
    for kept in kept.iter().map(|fd| fd.unsigned_abs()).filter(|fd| *fd >= first) {
        // Nothing lies between two neighbours, nor below 3 where that one is kept.
        if kept > next {
            close(next, kept - 1)?;
        }
        next = kept + 1;
    }
    close(next, u32::MAX)
}

/// Gives every signal its default action and unblocks all: a Rust program ignores SIGPIPE, and what is
/// ignored stays so over exec.
pub(crate) fn reset_signals() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is SIG_DFL with an empty mask; sets are initialised by sigemptyset.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            // Fails for SIGKILL, SIGSTOP and the two that the C library keeps: none of them can be ignored.
            libc::sigaction(signal, &raw const default, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) as libc::c_long)
            .map(drop)
    }
}

/// Has a command begin with every signal as by default, whatever its parent has blocked.
pub(crate) fn with_default_signals(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    // SAFETY: what runs between fork and exec makes system calls alone.
    unsafe { command.pre_exec(reset_signals) }
}

/// Blocks every signal, so that [`wait_signal`] takes them one by one.
pub(crate) fn block_signals() -> io::Result<()> {
    // SAFETY: the set is initialised by sigfillset.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) as libc::c_long)
            .map(drop)
    }
}

/// While it lives, signals wait, in the calling thread and in what is cloned from it meanwhile.
pub(crate) struct SignalsHeld {
    before: libc::sigset_t,
}

/// Has signals wait until the returned value is dropped.
pub(crate) fn hold_signals() -> io::Result<SignalsHeld> {
    // SAFETY: both sets are initialised, by sigfillset and by the kernel.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut before) as libc::c_long)?;
        Ok(SignalsHeld { before })
    }
}

impl Drop for SignalsHeld {
    fn drop(&mut self) {
        // SAFETY: the set is as the kernel has given it; with such a one the call does not fail.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

/// A descriptor that is readable when a signal has come that [`block_signals`] holds back; 128 bytes for each.
pub(crate) fn signal_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigfillset, and the kernel makes the descriptor for us.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        let fd = check(libc::signalfd(-1, &raw const all, flags) as libc::c_long)?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Waits for any blocked signal and takes it.
pub(crate) fn wait_signal() -> io::Result<i32> {
    // SAFETY: the set is initialised; the information about the signal is not asked for.
    let signal = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigwaitinfo(&raw const all, std::ptr::null_mut())
    };
    check(signal as libc::c_long).map(|signal| signal as i32)
}

/// `kill`, with any signal number.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) } as libc::c_long).map(drop)
}

/// Reaps one child that has ended, any one: its id and wait status; nothing when all live on.
pub(crate) fn reap() -> io::Result<Option<(i32, i32)>> {
    let mut status = 0;
    // SAFETY: the status lives through the call.
    let pid = check(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } as libc::c_long)?;
    Ok((pid > 0).then_some((pid as i32, status)))
}

/// `prctl` with one integer argument.
pub(crate) fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the callers use options whose arguments are integers.
    check(unsafe { libc::prctl(option, argument, 0, 0, 0) } as libc::c_long).map(|value| value as i32)
}

/// Makes this thread act on files as another user and group, with the capabilities that it has.
pub(crate) fn act_on_files_as(uid: u32, gid: u32) -> io::Result<()> {
    // SECBIT_NO_SETUID_FIXUP: who leaves root by its file system id would lose what files need.
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    let bits = prctl(libc::PR_GET_SECUREBITS, 0)? as libc::c_ulong;
    prctl(libc::PR_SET_SECUREBITS, bits | NO_SETUID_FIXUP)?;
    // The kernel tells no failure, only what was before; no id is -1, and that changes nothing.
    // SAFETY: no memory is involved.
    let is = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(u32::MAX) as u32, libc::setfsgid(u32::MAX) as u32)
    };
    if is == (uid, gid) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// A new session keyring: the host's keys are not reachable from it. It has no name, for by one the kernel
/// would join whoever has a keyring of that name already.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let no_name = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name is allowed.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, no_name) }).map(drop)
}

/// `ioprio_set` of the calling process.
pub(crate) fn ioprio_set(class: u32, level: u32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let value = (class << IOPRIO_CLASS_SHIFT) | level;
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) }).map(drop)
}

/// `struct sched_attr` of `sched_setattr(2)`, as of Linux 5.3.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct SchedulerAttributes {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    pub(crate) utilization_min: u32,
    pub(crate) utilization_max: u32,
}

/// `sched_setattr` of the calling process.
pub(crate) fn sched_setattr(mut attributes: SchedulerAttributes) -> io::Result<()> {
    attributes.size = std::mem::size_of::<SchedulerAttributes>() as u32;
    // SAFETY: the kernel reads `size` bytes of the structure.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// `set_mempolicy` of the calling process; `nodes` is a mask.
pub(crate) fn set_mempolicy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    // The kernel looks at one bit less than it is told of.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the kernel reads `bits` - 1 bits of the mask.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

/// `personality` of the calling process.
pub(crate) fn personality(domain: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::syscall(libc::SYS_personality, domain) }).map(drop)
}

/// What has happened to a process that [`trace_execs`] traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TraceEvent {
    /// An exec has succeeded; it stands before the new program's first instruction.
    Exec,
    /// It has ended; it is not reaped.
    Ended,
    /// It stands before a signal is delivered: 0 for one that is none of its own.
    Signal(i32),
}

/// Traces the execs of a process (`PTRACE_SEIZE`), which is killed should this process die meanwhile. It must be a child.
pub(crate) fn trace_execs(pid: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_EXITKILL;
    // SAFETY: seizing takes no address; the options are an integer.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0_usize, options as usize) }).map(drop)
}

/// Waits for the next event of a traced process.
pub(crate) fn next_trace_event(pid: i32) -> io::Result<TraceEvent> {
    // SAFETY: all zero is a valid value of this structure of integers and pointers.
    let mut event: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
    loop {
        // SAFETY: the structure lives through the call.
        let waited =
            check(unsafe { libc::waitid(libc::P_PID, pid.unsigned_abs(), &raw mut event, flags) }
                as libc::c_long);
        match waited {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            waited => {
                waited?;
                break;
            }
        }
    }
    if event.si_code != libc::CLD_TRAPPED && event.si_code != libc::CLD_STOPPED {
        return Ok(TraceEvent::Ended);
    }
    // SAFETY: `waitid` has filled in the fields of a child's event.
    let status = unsafe { event.si_status() };
    // Taken, so that the next wait is for the next event.
    // SAFETY: a null status is allowed.
    check(unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WUNTRACED) } as libc::c_long)?;
    Ok(match (status & 0xff, status >> 8) {
        (libc::SIGTRAP, libc::PTRACE_EVENT_EXEC) => TraceEvent::Exec,
        (signal, 0) => TraceEvent::Signal(signal),
        // A stop of the whole group, and whatever else is no signal's delivery.
        _ => TraceEvent::Signal(0),
    })
}

/// Lets a traced process go on, with a signal if that is not 0.
pub(crate) fn trace_continue(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0_usize, signal as usize) }).map(drop)
}

/// Ends the tracing; the process goes on.
pub(crate) fn trace_end(pid: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0_usize, 0_usize) }).map(drop)
}

/// Reads a file of the kernel's that gives all of itself to one call, as the small ones of procfs do; what is longer than
/// `buffer` is cut. Returns its length.
pub(crate) fn read_once(path: &str, buffer: &mut [u8]) -> io::Result<usize> {
    use rustix::fs::{Mode, OFlags};
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *buffer))?)
}

/// Sets one resource limit of a process, by default the calling one; `u64::MAX` is infinity.
pub(crate) fn set_limit(pid: Option<i32>, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure lives through the call.
    check(unsafe { libc::prlimit64(pid.unwrap_or(0), resource as _, &raw const limit, std::ptr::null_mut()) }
        as libc::c_long)
    .map(drop)
}

/// Soft and hard value of one resource limit of the calling process.
pub(crate) fn get_limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives through the call.
    check(unsafe { libc::prlimit64(0, resource as _, std::ptr::null(), &raw mut limit) } as libc::c_long)?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Installs a seccomp filter for the calling thread. Returns the descriptor of its notifications, if the flags ask for
/// that.
pub(crate) fn install_filter(program: &[libc::sock_filter], flags: u64) -> io::Result<Option<OwnedFd>> {
    let Ok(len) = u16::try_from(program.len()) else { return Err(io::Error::from_raw_os_error(libc::E2BIG)) };
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions and copies them.
    let answer = check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    // SAFETY: with this flag the kernel has just made this descriptor for us.
    let notifications = || unsafe { OwnedFd::from_raw_fd(answer as RawFd) };
    Ok((flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0).then(notifications))
}

/// Whether a filter may answer so.
pub(crate) fn seccomp_has_action(action: u32) -> io::Result<()> {
    // SAFETY: the kernel reads the action, which lives through the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) })
        .map(drop)
}

/// A list of strings as exec takes them, built before the last steps so that these do not allocate.
pub(crate) struct Strings {
    _owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    /// Takes the strings.
    pub(crate) fn new(strings: Vec<CString>) -> Strings {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Strings { _owned: strings, pointers }
    }
}

/// `execve`; returns only when it fails.
pub(crate) fn execve(path: &CStr, arguments: &Strings, environment: &Strings) -> io::Error {
    // SAFETY: both lists end with a null pointer and own what they point at.
    unsafe { libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// The fields of `bpf_attr` for `BPF_PROG_LOAD` that a device filter uses.
#[derive(Default)]
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
}

/// The fields of `bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct ProgramAttach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Loads a cgroup device program (eBPF instructions of 8 bytes each).
pub(crate) fn load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let load = ProgramLoad {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..ProgramLoad::default()
    };
    // SAFETY: the structure and what it points at live through the call.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, std::mem::size_of::<ProgramLoad>())
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches a device program to a cgroup (v2), beside those that are there.
pub(crate) fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attach = ProgramAttach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the structure lives through the call.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, std::mem::size_of::<ProgramAttach>())
    })
    .map(drop)
}

/// Closes every descriptor from `first` on. For a process that goes on without returning to whoever owned
/// them.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the caller never again touches an owner of these descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Closes every descriptor from 3 on but those in `kept`, for a process that likewise does not return.
pub(crate) fn close_others(kept: &mut [RawFd]) -> io::Result<()> {
    // SAFETY: the caller never again touches an owner of the others.
    unsafe { close_all_but(3, kept) }
}
