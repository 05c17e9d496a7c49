//! A command that waits to be started: what lies between an OCI runtime's `create` and `start`.
//!
//! The first process, complete but for its exec, waits at a socket. Whoever connects starts it, and hears there how
//! that went, as a parent would: in the words of [`super::report`], with the end of the connection for an exec that
//! has succeeded. Where its maker starts it, the socket that both have is enough ([`Held`]).

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use serde_json::json;

use super::hooks;
use super::report::{self, Heard, Teller};
use super::{Child, Step};
use crate::{Error, Result};

/// What the waiting process has, and what its hooks are told.
#[derive(Debug)]
pub struct Hold {
    /// A listening socket (`SOCK_SEQPACKET`) that only those may connect to who may start the container; none: its maker
    /// starts it, by [`Held::let_go`].
    pub listener: Option<OwnedFd>,
    /// The container's id.
    pub id: String,
    /// The version of the specification that the configuration follows.
    pub version: String,
    /// The folder of the configuration.
    pub bundle: PathBuf,
    /// The configuration's annotations.
    pub annotations: HashMap<String, String>,
}

impl Hold {
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        self.listener.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The container's state, as the runtime specification words it, for a hook's standard input.
    pub fn state(&self, status: &str, pid: i32) -> String {
        state_for_hooks([&self.version, &self.id, status], pid, &self.bundle, &self.annotations)
    }

    /// Waits until someone starts the container, to whom everything is told from then on.
    pub(super) fn wait(&self, teller: &Teller) -> Result<()> {
        teller.held()?;
        let Some(listener) = &self.listener else { return teller.started() };
        let starter = loop {
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(starter) => break starter,
                // One that went away again, before it was heard.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(Error::kernel("wait to be started", error)),
            }
        };
        teller.tell_instead(starter);
        Ok(())
    }

    /// Runs the hooks that are part of a start; `pid` is this process outside. Their programs are the container's own
    /// files, so that they get no more than its command does.
    pub(super) fn run_start_hooks(&self, spec: &Spec, pid: Option<i32>) -> Result<()> {
        match (spec.hooks(), pid) {
            (Some(hooks), Some(pid)) => {
                hooks::run(hooks.start_container(), &self.state("created", pid), "startContainer")
            }
            _ => Ok(()),
        }
    }
}

/// A first process that its maker starts.
#[derive(Debug)]
pub struct Held {
    child: Child,
}

impl Held {
    pub(super) fn of(child: Child) -> Held {
        Held { child }
    }

    /// Lets the command be executed. How that went is heard by [`start_held`].
    ///
    /// # Errors
    /// The process cannot be told. One that has ended is no error here: it has told why.
    pub fn let_go(&self) -> Result<()> {
        self.child.let_go()
    }

    /// The connection over which it tells.
    pub fn connection(&self) -> &OwnedFd {
        &self.child.sync
    }
}

/// A container's state, as the runtime specification words it, for a hook's standard input.
pub(crate) fn state_for_hooks(
    [version, id, status]: [&str; 3],
    pid: i32,
    bundle: &Path,
    annotations: &HashMap<String, String>,
) -> String {
    let mut state =
        json!({ "ociVersion": version, "id": id, "status": status, "pid": pid, "bundle": bundle });
    if !annotations.is_empty() {
        state["annotations"] = json!(annotations);
    }
    state.to_string()
}

/// Hears, over a connection to the socket of a [`Hold`], how the start of the command went.
///
/// # Errors
/// What the command's own process had to say; or nobody was there to be started any more.
pub fn start_held(connection: &OwnedFd) -> Result<()> {
    loop {
        match report::hear(connection.as_fd())? {
            Heard::Step(Step::Running) => return Ok(()),
            Heard::Step(_) | Heard::Root(_) | Heard::NeedsOutside => {}
        }
    }
}
