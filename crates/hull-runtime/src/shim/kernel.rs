//! The kernel calls of launcher and shim that rustix lacks.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// One descriptor that is waited for, and what has become of it.
pub(crate) type Interest = libc::pollfd;

/// `ppoll`: waits until one of `interests` is ready; for ever without a timeout.
pub(crate) fn poll(interests: &mut [Interest], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: slice and timeout live through the call.
    let ready = unsafe {
        libc::ppoll(interests.as_mut_ptr(), interests.len() as libc::nfds_t, timeout, std::ptr::null())
    };
    match ready {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a launcher does with signals, and shims after it: a terminal's ctrl-c is not for them, a closed
/// connection is found by its error, and ended shims need no reaping.
pub(crate) fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP, libc::SIGPIPE, libc::SIGCHLD] {
        // SAFETY: ignoring a signal runs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // The C library's own two signals come ignored to whom its posix_spawn has started, and its sigaction
    // refuses to change that. A container must not inherit it.
    for signal in [32, 33] {
        let default = [0_u64; 4];
        // SAFETY: the kernel's sigaction is four words, all zero for the default action, with a mask of 8 bytes.
        unsafe {
            let old = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, 8_usize);
        }
    }
}

/// Children are reaped by this process again, and their ends are told by the descriptor, which does not block.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset; the default action of SIGCHLD runs no code.
    let fd = unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    owned(fd)
}

/// A new pidfd-directed signal of any number (rustix knows the named ones only).
pub(crate) fn signal_by_pidfd(pidfd: RawFd, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has a command begin as one that nobody has spoken for: with every signal as by default, and no less likely than others
/// to be killed for memory, which some runtimes hand on to the container.
pub(crate) fn as_others(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    let rise = || {
        use rustix::fs::{Mode, OFlags, open};
        // It fails where it would be a fall, which needs a privilege: then there is nothing to give up.
        let _ = open("/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|score| rustix::io::write(&score, b"0"));
        Ok(())
    };
    // SAFETY: what runs between fork and exec makes system calls alone.
    unsafe { crate::sys::with_default_signals(command).pre_exec(rise) }
}

/// Reaps a child by its pidfd, if it has ended: its wait status.
pub(crate) fn reap_by_pidfd(pidfd: RawFd) -> Option<i32> {
    // SAFETY: the information lives through the call, and is read only where the call says that it has written it.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let result =
            libc::waitid(libc::P_PIDFD, pidfd as libc::id_t, &raw mut info, libc::WEXITED | libc::WNOHANG);
        if result < 0 || info.si_pid() == 0 {
            return None;
        }
        let status = info.si_status();
        Some(match info.si_code {
            libc::CLD_EXITED => status << 8,
            libc::CLD_DUMPED => status | 0x80,
            _ => status,
        })
    }
}

/// How many processors the machine has.
pub(crate) fn processors() -> u64 {
    // SAFETY: no memory is involved.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).unwrap_or(1).max(1)
}

/// Has all threads share one heap, where each would have one of its own: what a pull's many threads leave in theirs, in
/// pieces too small to be given back, was 4 MiB of a daemon at rest with 2, and took no less time. Before there are threads.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: changes the allocator's own parameter.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives freed memory back to the kernel.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches only the allocator's own free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps this program's code: what only its start has run leaves this process's memory. What runs on comes back as it is
/// run, out of the page cache. Where /proc does not tell where the code is, it stays.
pub fn trim_text() {
    let Some((start, end)) = text() else { return };
    // SAFETY: code is mapped from the file, and nobody has written to it (the mapping does not let them): what is unmapped
    // is read from the file again, also by the caller, as soon as it returns.
    unsafe {
        libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
    }
}

/// From where to where this program's code is mapped, readable and executable.
fn text() -> Option<(usize, usize)> {
    let own = text as *const () as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        ((start..end).contains(&own) && rest.starts_with("r-xp")).then_some((start, end))
    })
}

/// Gives the stack back to the kernel that deeper calls have used: the start goes deep, what follows does not.
#[inline(never)]
pub(crate) fn trim_stack() {
    /// Left alone below this frame: the call into the kernel, and the red zone.
    const MARGIN: usize = 8 * 1024;
    /// A main thread's stack is not known here, but no start goes deeper.
    const DEPTH: usize = 512 * 1024;
    const PAGE: usize = 4096;
    let here = 0_u8;
    let end = (std::hint::black_box(&raw const here) as usize - MARGIN) & !(PAGE - 1);
    // SAFETY: below the stack pointer nothing lives, so that its pages may be empty when they are next used.
    // Where the range reaches beyond the stack nothing is mapped: the kernel keeps a gap of a mebibyte there.
    unsafe {
        libc::madvise((end - DEPTH) as *mut libc::c_void, DEPTH, libc::MADV_DONTNEED);
    }
}

/// Where the kernel shows this process's arguments from: an address and a length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Title {
    start: usize,
    length: usize,
}

impl Title {
    /// Finds it; none where /proc does not say.
    pub(crate) fn find() -> Option<Title> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // Behind the name, which may hold anything: state is field 3; arg_start and arg_end are 48 and 49.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(45);
        let start: usize = fields.next()?.parse().ok()?;
        let end: usize = fields.next()?.parse().ok()?;
        (start != 0 && end > start).then_some(Title { start, length: end - start })
    }

    /// Writes `title` there, cut to what fits, for `ps`.
    pub(crate) fn set(self, title: &str) {
        let bytes = &title.as_bytes()[..title.len().min(self.length - 1)];
        // SAFETY: the kernel laid the arguments out in this range of our own writable stack and said so in
        // /proc/self/stat; nothing in this process reads them after its start.
        unsafe {
            let area = self.start as *mut u8;
            area.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            area.add(bytes.len()).write_bytes(0, self.length - bytes.len());
        }
    }
}

/// Runs `program` as a launcher: `socket` is its standard input. So nothing has to be done between fork and exec, and
/// a process with threads can do it as well (`posix_spawn`).
pub(crate) fn spawn_launcher(program: &str, socket: OwnedFd) -> io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(program);
    // The blanks are room for the title of a shim.
    command.arg0("hull").arg("launcher").arg(" ".repeat(16)).current_dir("/").stdin(socket);
    command.spawn()
}

/// The socket that [`spawn_launcher`] made standard input, which is nothing from now on.
pub(crate) fn launcher_socket() -> io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(socket)
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::{text, trim_text};

    /// How much of the program's code is mapped now, in KiB.
    fn resident() -> u64 {
        let (start, _) = text().expect("the code is mapped");
        let regions = std::fs::read_to_string("/proc/self/smaps").expect("the kernel tells");
        let mut lines = regions.lines().skip_while(|line| !line.starts_with(&format!("{start:08x}-")));
        let line = lines.find(|line| line.starts_with("Rss:")).expect("a size");
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
    }

    #[test]
    fn code_that_has_run_is_unmapped_and_runs_again() {
        // What a start goes through: much of the program, once.
        let size = {
            let (start, end) = text().expect("the code is mapped");
            // SAFETY: reads code, which is mapped and readable.
            let pages = (start..end).step_by(4096).map(|at| unsafe { *(at as *const u8) });
            std::hint::black_box(pages.fold(0_u8, u8::wrapping_add));
            u64::try_from((end - start) / 1024).expect("not so large")
        };
        assert!(resident() >= size / 2, "{} of {size} KiB", resident());
        trim_text();
        assert!(resident() < size / 2, "{} of {size} KiB", resident());
    }
}
