//! A container or an exec in the foreground: its terminal is the caller's, signals are passed on, its end is awaited.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::stdio;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::Notify;
use crate::error::Context;
use crate::shim::kernel::signal_by_pidfd;
use crate::{Result, sys};

/// What is read or written at once, in bytes.
const CHUNK: usize = 16 << 10;
/// The kernel's record of one signal.
const SIGNAL_RECORD: usize = 128;

/// Makes the calling process, which has one thread, the one that hears of signals by [`follow`] alone; and the one that
/// inherits what its descendants leave (`reaper`). To be called before the process that is to be followed is cloned.
///
/// # Errors
/// The kernel refuses, which it does not.
pub fn prepare(reaper: bool) -> Result<OwnedFd> {
    let doing = || "listen to signals".to_owned();
    if reaper {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context(doing)?;
    }
    sys::block_signals().context(doing)?;
    sys::signal_descriptor().context(doing)
}

/// Passes signals to a child of the caller's, and bytes between its terminal and the caller's, until it ends. Returns
/// its exit status; 128 and the signal if one ended it. When the child says at `notify` that it is ready, that is passed
/// on with this process as the one to watch; `warn` is told where nobody could be told.
///
/// # Errors
/// The caller's terminal or the child cannot be handled.
pub fn follow(
    pidfd: &OwnedFd,
    signals: &OwnedFd,
    terminal: Option<OwnedFd>,
    mut notify: Option<Notify>,
    warn: impl Fn(&str),
) -> Result<i32> {
    let mut screen = terminal.map(Screen::over).transpose()?;
    loop {
        let mut interests = vec![
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
        ];
        interests.extend(notify.as_ref().map(Notify::interest));
        let first_of_screen = interests.len();
        let watched = screen.as_ref().map_or(Watches::default(), |screen| screen.interests(&mut interests));
        match poll(&mut interests, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error).context(|| "wait for the container".into()),
        }
        let ready: Vec<PollFlags> = interests.iter().map(PollFd::revents).collect();
        drop(interests);
        if let Some(screen) = &mut screen {
            let mut rest = ready[first_of_screen..].iter().copied();
            let master = if watched.master { rest.next() } else { None };
            screen.turn(master, if watched.input { rest.next() } else { None })?;
        }
        if !ready[0].is_empty() {
            pass_on(signals, pidfd, screen.as_ref())?;
        }
        // Before its end, which may have come just behind.
        let told = notify.as_mut().map(|notify| notify.turn(own_pid())).transpose();
        if let Some(told) = told.map(Option::flatten).transpose() {
            told.map_or_else(|error| warn(&error.to_string()), drop);
            notify = None;
        }
        if !ready[1].is_empty() {
            if let Some(screen) = &mut screen {
                screen.drain();
            }
            return status_of(pidfd);
        }
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Reaps the child and says how it ended.
fn status_of(pidfd: &OwnedFd) -> Result<i32> {
    let ended = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    let Some(ended) = ended.context(|| "ask how the container ended".into())? else { return Ok(255) };
    Ok(match (ended.exit_status(), ended.terminating_signal()) {
        (Some(status), _) => status,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    })
}

fn pass_on(signals: &OwnedFd, pidfd: &OwnedFd, screen: Option<&Screen>) -> Result<()> {
    let mut record = [0; SIGNAL_RECORD];
    while let Ok(SIGNAL_RECORD) = rustix::io::read(signals, &mut record) {
        // `ssi_signo` is the first field.
        let signal = i32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
        match signal {
            libc::SIGCHLD => reap_others(pidfd),
            libc::SIGWINCH => {
                if let Some(screen) = screen {
                    screen.fit();
                }
            }
            // Of this process's own writing.
            libc::SIGPIPE => {}
            // One that has just ended is found so at the next look.
            signal => drop(signal_by_pidfd(pidfd.as_raw_fd(), signal)),
        }
    }
    Ok(())
}

/// Reaps orphans that came here, and leaves the followed child to its pidfd.
fn reap_others(pidfd: &OwnedFd) {
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if matches!(waitid(WaitId::PidFd(pidfd.as_fd()), options), Ok(Some(_))) {
            return;
        }
        if !matches!(sys::reap(), Ok(Some(_))) {
            return;
        }
    }
}

/// What of a screen is asked about.
#[derive(Clone, Copy, Default)]
struct Watches {
    master: bool,
    input: bool,
}

/// The caller's terminal (or what stands for it) beside the container's.
struct Screen {
    master: File,
    /// The caller's terminal as it was, if its input is one.
    before: Option<Termios>,
    /// What was typed and not yet taken.
    typed: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

impl Screen {
    fn over(master: OwnedFd) -> Result<Screen> {
        let doing = || "use the terminal".to_owned();
        rustix::io::ioctl_fionbio(&master, true).context(doing)?;
        let input = stdio::stdin();
        let before = if isatty(input) { Some(tcgetattr(input).context(doing)?) } else { None };
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(input, OptionalActions::Flush, &raw).context(doing)?;
        }
        let screen = Screen {
            master: File::from(master),
            before,
            typed: Vec::new(),
            input_open: true,
            output_open: true,
        };
        screen.fit();
        Ok(screen)
    }

    /// Gives the container's terminal the size of the caller's.
    fn fit(&self) {
        // Where the caller has none, the container's keeps its own.
        if let Ok(size) = tcgetwinsize(stdio::stdin()) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    fn interests<'s>(&'s self, interests: &mut Vec<PollFd<'s>>) -> Watches {
        let mut of_master = PollFlags::empty();
        if self.output_open {
            of_master |= PollFlags::IN;
        }
        if !self.typed.is_empty() {
            of_master |= PollFlags::OUT;
        }
        // A terminal whose other end is closed is ready for ever: one from which nothing is wanted is not asked.
        let watches = Watches {
            master: !of_master.is_empty(),
            input: self.input_open && self.output_open && self.typed.is_empty(),
        };
        if watches.master {
            let master: BorrowedFd<'s> = self.master.as_fd();
            interests.push(PollFd::from_borrowed_fd(master, of_master));
        }
        if watches.input {
            interests.push(PollFd::from_borrowed_fd(stdio::stdin(), PollFlags::IN));
        }
        watches
    }

    /// Moves what is ready.
    fn turn(&mut self, master: Option<PollFlags>, input: Option<PollFlags>) -> Result<()> {
        let ended = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        if master.is_some_and(|flags| flags.intersects(ended)) {
            self.show();
        }
        if input.is_some_and(|flags| !flags.is_empty()) {
            let mut some = [0; CHUNK];
            match rustix::io::read(stdio::stdin(), &mut some) {
                Ok(0) | Err(Errno::IO) => self.input_open = false,
                Ok(length) => self.typed.extend_from_slice(&some[..length]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error).context(|| "read what is typed".into()),
            }
        }
        if !self.typed.is_empty() {
            match self.master.write(&self.typed) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // Nobody reads in there any more.
                Err(_) => {
                    self.typed.clear();
                    self.input_open = false;
                }
            }
        }
        Ok(())
    }

    /// Shows what the container has printed; says whether there was something.
    fn show(&mut self) -> bool {
        let mut some = [0; CHUNK];
        match self.master.read(&mut some) {
            Ok(length @ 1..) => {
                // A caller that does not read any more does not stop the container.
                let _ = std::io::stdout().write_all(&some[..length]);
                let _ = std::io::stdout().flush();
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            // The last holder of the other end has closed it.
            Ok(0) | Err(_) => {
                self.output_open = false;
                false
            }
        }
    }

    fn drain(&mut self) {
        while self.output_open && self.show() {}
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdio::stdin(), OptionalActions::Flush, before);
        }
    }
}
