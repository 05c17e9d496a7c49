//! A container by another OCI runtime, such as runc or crun: the shim stays parent, owner of streams, log and status, and
//! keeper of the time; the runtime's command makes the container and puts processes into it.
//!
//! ```text
//! shim ── create ──> runtime ──> first process, which waits     (a child of the shim when the runtime has ended)
//!      ── start ───> runtime    (the first process executes the command)
//!      ── exec ────> runtime ──> another process                (also a child of the shim)
//!      ── kill ────> runtime    (SIGKILL comes from the shim itself)
//!      ── delete ──> runtime    (when the first process has been reaped)
//! ```
//!
//! - [`bundle`]: the folder that the runtime is shown. What is mounted there is in a mount namespace of the shim's own.
//! - [`start`]: create and start, while the daemon may have something to say.
//! - [`exec`]: another process, beside whatever else happens in the shim; [`signal`]: so with signals.
//! - [`invocation`]: one command of the runtime, which is killed when it takes too long.
//! - [`words`]: what a command that failed has to say.
//! - [`end`]: delete, and whatever a runtime that hangs has left.
//!
//! The container's cgroup is hull's own, at the place that the configuration names, so that everything which reads or
//! writes cgroups does for these containers what it does for others.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::bundle::Bundle;
use self::invocation::{Invocation, Output};
use crate::Result;
use crate::protocol::ForeignRuntime;

mod bundle;
mod console;
mod end;
mod exec;
mod invocation;
mod signal;
mod start;
mod words;

pub(super) use exec::Executing;
pub(super) use signal::Signalling;
pub(super) use start::{Beginning, Begun, begin};

/// How long a command may take that makes a container or a process: a virtual machine may be what it makes.
const MAKING: Duration = Duration::from_secs(60);

/// How long a runtime may take to forget a container that has ended.
const FORGETTING: Duration = Duration::from_secs(10);

/// How long, where it has not even made it: it may be what hangs.
const GIVING_UP: Duration = Duration::from_secs(2);

/// The runtime's own records of this container, in the folder of the shim: they go with it.
const STATE: &str = "state";

/// A container of another runtime's.
#[derive(Debug)]
pub(super) struct Foreign {
    runtime: ForeignRuntime,
    id: String,
    /// Where the runtime keeps its records.
    state: PathBuf,
    bundle: Bundle,
}

impl Foreign {
    /// The container with this id, which nothing is made of yet.
    fn new(runtime: ForeignRuntime, id: &str, runtime_dir: &Path) -> Result<Foreign> {
        let bundle = Bundle::make(runtime_dir)?;
        Ok(Foreign { runtime, id: id.to_owned(), state: runtime_dir.join(STATE), bundle })
    }

    /// Begins a command: `verb`, its options, and the container's id. `log` is the name of its log.
    fn invoke(
        &self,
        names: (&'static str, &str),
        options: &[&OsStr],
        output: Output,
        limit: Duration,
    ) -> Result<Invocation> {
        self.invoke_with(names, options, &[], output, limit)
    }

    /// The same, with words behind the id.
    fn invoke_with(
        &self,
        (verb, log): (&'static str, &str),
        options: &[&OsStr],
        words: &[&OsStr],
        output: Output,
        limit: Duration,
    ) -> Result<Invocation> {
        let log = self.bundle.log(log);
        let mut arguments: Vec<&OsStr> = self.runtime.arguments.iter().map(AsRef::as_ref).collect();
        arguments.extend::<[&OsStr; 7]>([
            "--root".as_ref(),
            self.state.as_ref(),
            "--log".as_ref(),
            log.as_ref(),
            "--log-format".as_ref(),
            "json".as_ref(),
            verb.as_ref(),
        ]);
        arguments.extend(options);
        arguments.push(self.id.as_ref());
        arguments.extend(words);
        Invocation::begin(&self.runtime, verb, &arguments, log.clone(), output, limit)
    }

    /// Lets go of what was mounted for the runtime; the container has ended.
    pub(super) fn unmount(&self) {
        self.bundle.unmount();
    }
}
