//! The listener of a filter that asks about system calls (`SCMP_ACT_NOTIFY`): who answers is handed the kernel's
//! descriptor, over a socket that the configuration names.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::json;

use crate::error::Context;
use crate::seccomp::Listener;
use crate::sys::sockets;
use crate::{Error, Result};

/// A connection to who answers, made while the host's paths are there.
pub(super) struct Answerer {
    socket: OwnedFd,
    /// What the specification calls the container process state, as JSON.
    message: String,
}

impl Answerer {
    /// Connects; `pid` is the process outside, `state` the container's.
    pub(super) fn find(listener: &Listener, version: &str, pid: i32, state: &str) -> Result<Answerer> {
        let doing = || format!("connect to the listener of the seccomp filter, {}", listener.path.display());
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let socket = socket.context(doing)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(&listener.path).context(doing)?).context(doing)?;
        let state: serde_json::Value =
            serde_json::from_str(state).map_err(|error| Error::refused(doing(), error.to_string()))?;
        let message = json!({
            "ociVersion": version,
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": listener.metadata,
            "state": state,
        });
        Ok(Answerer { socket, message: message.to_string() })
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Hands over the kernel's descriptor. The filter is in force: a profile that asks about `sendmsg` is refused
    /// beforehand.
    pub(super) fn hand_over(&self, notifications: &OwnedFd) -> Result<()> {
        sockets::send(self.socket.as_fd(), self.message.as_bytes(), Some(notifications.as_fd()))
            .context(|| "hand over the notifications of the seccomp filter".into())
    }
}
