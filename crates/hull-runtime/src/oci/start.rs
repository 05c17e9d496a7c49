//! Start: the word that a created container waits for.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::create::of_process;
use super::descriptors::{address, socket_at};
use super::watch::Watched;
use super::{Container, Notify, Status};
use crate::container::{Held, start_held, state_for_hooks};
use crate::error::Context;
use crate::{Error, Result};

impl Container {
    /// Lets the command be executed, and returns when it was.
    ///
    /// # Errors
    /// It was started before, or has ended; or the exec failed, in the words of the container's own process, which
    /// has ended then.
    pub fn start(&self) -> Result<()> {
        self.start_heard(None).map(drop)
    }

    /// [`Container::start`], for who waits until the container says that it is ready: at a socket of its own, of which
    /// `host` (what `NOTIFY_SOCKET` names) is told. Returns a warning where nobody could be told.
    ///
    /// # Errors
    /// As of that; or the container was created without such a socket.
    pub fn start_ready(&self, host: &OsStr) -> Result<Option<String>> {
        self.start_heard(Some(host))
    }

    fn start_heard(&self, host: Option<&OsStr>) -> Result<Option<String>> {
        let doing = || format!("start the container {}", self.id());
        match self.status()? {
            Status::Created => {}
            Status::Stopped => {
                return Err(Error::refused(doing(), "cannot start a container that has stopped"));
            }
            Status::Paused => {
                return Err(Error::refused(doing(), "cannot start a container in the paused state"));
            }
            Status::Running => {
                return Err(Error::refused(doing(), "cannot start an already running container"));
            }
        }
        let heard = host.map(|host| self.listen(host)).transpose()?;
        let (folder, name) = socket_at(&self.start).context(doing)?;
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let socket = socket.context(doing)?;
        rustix::net::connect(&socket, &address(&folder, &name).context(doing)?).context(doing)?;
        let started = start_held(&socket);
        // From here on it has been started, whatever came of it.
        std::fs::remove_file(&self.start).context(doing)?;
        started.map_err(of_process)?;
        self.has_started()?;
        match heard {
            Some((mut notify, Some(pidfd))) => notify.wait(pidfd.as_fd(), self.record.pid),
            Some((_, None)) | None => Ok(None),
        }
    }

    /// Where it is heard that it is ready, and what its end is seen by.
    fn listen(&self, host: &OsStr) -> Result<(Notify, Option<OwnedFd>)> {
        if !self.record.notify {
            let reason = "NOTIFY_SOCKET is set, and was not when it was created: it has nothing to say at that it is \
                          ready; unset it, or set it for create as well";
            return Err(Error::refused(format!("start the container {}", self.id()), reason));
        }
        Ok((Notify::listen(&self.start, host)?, self.first_process()?))
    }

    /// Sees the start of one through that has been let go, and whose exec may be watched.
    pub(super) fn start_held(&self, held: &Held, watched: Option<Watched>) -> Result<()> {
        // A traced process stands still at each of its signals until it is let go on: it is followed first, and what it
        // has said is heard when it has executed its command or ended.
        watched
            .map_or(Ok(()), Watched::exec)
            .and_then(|()| start_held(held.connection()).map_err(of_process))?;
        self.has_started()
    }

    fn has_started(&self) -> Result<()> {
        self.run_hooks("poststart", "running", self.record.pid)
    }

    /// What hooks outside of the container are told.
    pub(super) fn hook_state(&self, status: &str, pid: i32) -> String {
        let record = &self.record;
        let words = [record.oci_version.as_str(), &record.id, status];
        state_for_hooks(words, pid, &record.bundle, &record.annotations)
    }
}
