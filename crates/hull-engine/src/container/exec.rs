//! Further processes in a running container.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hull_runtime::protocol::{Exit, Request};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::attach::detach_keys;
use super::end::End;
use super::{Container, Status, locked, random_id};
use crate::model::ExecConfig;
use crate::{Engine, Error, Kind, Result};

/// How many ended execs of one container are kept for who asks later.
const KEPT: usize = 64;

/// How many execs of one container may wait to be started; the one that waits longest goes for the next.
const UNSTARTED: usize = 1024;

/// How long the end of an exec is waited for whose container is ending.
const ENDING: Duration = Duration::from_secs(5);

/// How long the start of an exec is waited for.
const STARTING: Duration = Duration::from_secs(10);

/// The exit status of an exec that could not be started.
pub(super) const NOT_STARTED: u8 = 126;

/// A further process of a container: made, then started once.
pub struct Exec {
    /// 64 hexadecimal digits.
    pub id: String,
    /// What it executes.
    pub config: ExecConfig,
    /// When it was made, in nanoseconds since 1970.
    made_at_ns: i64,
    pub(super) state: Mutex<State>,
    /// Whether it has ended; whoever listens hears of its begin, too.
    pub(super) ended: watch::Sender<bool>,
    /// Found by its id as long as it is there.
    _indexed: Option<Indexed>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) pid: i32,
    exit_code: Option<i32>,
    end_reason: &'static str,
    /// All that is known of why it ended.
    end: Option<End>,
    oom_killed: bool,
    /// When it ended, in nanoseconds since 1970.
    ended_at_ns: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Created,
    Starting,
    Running,
    Ended,
}

/// The containers of all execs, by the execs' ids: none is looked for among all containers.
pub(crate) type Index = Arc<Mutex<HashMap<String, Weak<Container>>>>;

/// An exec's place in the index, which goes with it.
struct Indexed {
    index: Index,
    id: String,
}

impl Indexed {
    fn enter(index: &Index, id: &str, container: &Arc<Container>) -> Indexed {
        locked(index).insert(id.to_owned(), Arc::downgrade(container));
        Indexed { index: Arc::clone(index), id: id.to_owned() }
    }
}

impl Drop for Indexed {
    fn drop(&mut self) {
        locked(&self.index).remove(&self.id);
    }
}

/// The right to start an exec, which is given once. Dropped without a start, because whoever had it went away, the
/// exec has ended: nobody else could start it.
pub struct ExecClaim {
    pub(super) container: Arc<Container>,
    pub(super) exec: Arc<Exec>,
}

impl Drop for ExecClaim {
    fn drop(&mut self) {
        let mut state = locked(&self.exec.state);
        if state.phase == Phase::Starting {
            state.failed(i32::from(NOT_STARTED));
            drop(state);
            self.exec.ended.send_replace(true);
        }
    }
}

impl State {
    /// It ended before it ran.
    pub(super) fn failed(&mut self, exit_code: i32) {
        self.phase = Phase::Ended;
        self.ended_at_ns = super::now_ns();
        self.exit_code = Some(exit_code);
    }
}

impl Exec {
    /// The process that was its own is gone with its container.
    pub(super) fn ended_with_container(&self) {
        let mut state = locked(&self.state);
        if matches!(state.phase, Phase::Starting | Phase::Running) {
            state.phase = Phase::Ended;
            state.ended_at_ns = super::now_ns();
            state.exit_code.get_or_insert(137);
            // It was killed with its container, or had ended before: nobody saw which.
            state.end.get_or_insert_default();
        }
        drop(state);
        self.ended.send_replace(true);
    }

    /// Whether its wall-clock time was over.
    pub(super) fn timed_out(&self) -> bool {
        locked(&self.state).end_reason == super::end::reason(hull_runtime::protocol::EndReason::Timeout)
    }

    /// Whether it runs or is about to.
    pub(super) fn is_running(&self) -> bool {
        matches!(locked(&self.state).phase, Phase::Starting | Phase::Running)
    }

    /// Waits while it is on its way: a client that has started it knows that before the process is there.
    async fn begun(&self) -> Result<()> {
        let mut moves = self.ended.subscribe();
        let begun =
            async { while locked(&self.state).phase == Phase::Starting && moves.changed().await.is_ok() {} };
        let late = |_| Error::new(Kind::System, "timeout waiting for exec session ready");
        tokio::time::timeout(STARTING, begun).await.map_err(late)
    }

    /// Whether it has run, or could not.
    pub(super) fn is_over(&self) -> bool {
        locked(&self.state).phase == Phase::Ended
    }

    /// As inspect shows it.
    fn shown(&self, container: &Container) -> Value {
        let state = locked(&self.state).clone();
        let words = self.config.cmd.as_deref().unwrap_or_default();
        let (entrypoint, arguments) =
            words.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        let mut process = json!({
            "tty": self.config.tty,
            "entrypoint": entrypoint,
            "arguments": arguments,
            "privileged": self.config.privileged,
        });
        if !self.config.user.is_empty() {
            process["user"] = json!(self.config.user);
        }
        // Bytes are base64 in Go's JSON; keys that nobody chose are not shown.
        let keys = Some(&self.config.detach_keys).filter(|keys| !keys.is_empty());
        let keys = keys.and_then(|keys| detach_keys(keys).ok()).unwrap_or_default();
        json!({
            "ID": self.id,
            "Running": self.is_running(),
            "ExitCode": state.exit_code,
            "ProcessConfig": process,
            "OpenStdin": self.config.attach_stdin,
            "OpenStderr": self.config.attach_stderr,
            "OpenStdout": self.config.attach_stdout,
            // Docker has never set it, and clients compare.
            "CanRemove": false,
            "ContainerID": container.id,
            "DetachKeys": BASE64_STANDARD.encode(keys),
            "Pid": state.pid,
            "OOMKilled": state.oom_killed,
            "EndReason": state.end_reason,
            "End": state.end,
        })
    }
}

impl Engine {
    /// Makes an exec; it is started once.
    ///
    /// # Errors
    /// The container does not run or is paused, or the command is none.
    pub fn create_exec(&self, container: &Arc<Container>, config: ExecConfig) -> Result<Arc<Exec>> {
        self.can_exec(container)?;
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(Error::invalid("No exec command specified"));
        }
        if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory '{}' is not an absolute path",
                config.working_dir
            )));
        }
        if config.timeout < 0 || config.cpu_time < 0 {
            return Err(Error::invalid("a limit of time cannot be negative"));
        }
        detach_keys(&config.detach_keys)?;
        let id = random_id();
        let exec = Arc::new(Exec {
            config,
            made_at_ns: super::now_ns(),
            state: Mutex::default(),
            ended: watch::Sender::new(false),
            _indexed: Some(Indexed::enter(&self.execs, &id, container)),
            id,
        });
        let mut execs = locked(&container.execs);
        forget(&mut execs);
        execs.insert(exec.id.clone(), Arc::clone(&exec));
        drop(execs);
        self.tell_exec(container, &exec, "exec_create");
        Ok(exec)
    }

    fn can_exec(&self, container: &Container) -> Result<()> {
        match container.record().state.status {
            Status::Running => Ok(()),
            Status::Paused => Err(Error::conflict(format!(
                "Container {} is paused, unpause the container before exec",
                container.id
            ))),
            Status::Restarting => Err(Error::conflict(format!(
                "Container {} is restarting, wait until the container is running",
                container.id
            ))),
            _ => Err(Error::conflict(format!("container {} is not running", container.id))),
        }
    }

    /// Finds an exec, and its container.
    ///
    /// # Errors
    /// There is none of that id.
    pub fn exec(&self, id: &str) -> Result<(Arc<Container>, Arc<Exec>)> {
        let none = || Error::not_found(format!("No such exec instance: {id}"));
        // One lock at a time: whoever holds a container's execs may drop one, which leaves the index.
        let container = locked(&self.execs).get(id).and_then(Weak::upgrade).ok_or_else(none)?;
        // One that is forgotten may be held by who has just started it.
        let exec = locked(&container.execs).get(id).cloned().ok_or_else(none)?;
        Ok((container, exec))
    }

    /// An exec as inspect shows it.
    pub async fn inspect_exec(&self, container: &Container, exec: &Exec) -> Value {
        // Who has seen the end of its stream is to see its end here too: the shim's word of it comes before its answer.
        if exec.is_running() {
            let answered = match container.shim() {
                Ok(shim) => shim.ask(&Request::State, &[]).await.is_ok(),
                Err(_) => false,
            };
            if !answered {
                // The container is ending, and this exec with it: that is written down in a moment.
                let ended = self.exec_end(exec);
                if tokio::time::timeout(ENDING, ended).await.is_err() {
                    tracing::warn!(
                        container = container.id,
                        exec = exec.id,
                        "an exec outlives its container's shim"
                    );
                }
            }
        }
        exec.shown(container)
    }

    /// Takes the right to start an exec; it can be started once.
    ///
    /// # Errors
    /// It was started already, or its container does not run.
    pub fn claim_exec(&self, container: &Arc<Container>, exec: &Arc<Exec>) -> Result<ExecClaim> {
        let mut state = locked(&exec.state);
        match state.phase {
            Phase::Created => {}
            Phase::Starting | Phase::Running => {
                return Err(Error::conflict(format!("Error: Exec command {} is already running", exec.id)));
            }
            Phase::Ended => {
                return Err(Error::conflict(format!("Error: Exec command {} has already run", exec.id)));
            }
        }
        self.can_exec(container)?;
        state.phase = Phase::Starting;
        Ok(ExecClaim { container: Arc::clone(container), exec: Arc::clone(exec) })
    }

    /// The shim tells that an exec has ended.
    pub(super) async fn exec_ended(self: &Arc<Self>, container: &Container, id: &str, exit: &Exit) {
        let Some(exec) = locked(&container.execs).get(id).cloned() else { return };
        let disk_limit = self.disk_limit_met(container).await;
        {
            let mut state = locked(&exec.state);
            state.phase = Phase::Ended;
            state.ended_at_ns = super::now_ns();
            state.exit_code = Some(exit.status);
            state.oom_killed = exit.oom_killed;
            state.end_reason = super::end::reason(exit.reason);
            state.end = Some(End::told(exit, disk_limit));
        }
        exec.ended.send_replace(true);
        let mut attributes = container.record().event_attributes();
        attributes.insert("execID".to_owned(), exec.id.clone());
        attributes.insert("exitCode".to_owned(), exit.status.to_string());
        self.events.publish(crate::events::Kind::Container, "exec_die", &container.id, attributes);
    }

    /// Sends a signal to an exec: to its first process, or to be killed to all that came of it.
    ///
    /// # Errors
    /// It does not run, or the signal is unknown.
    pub async fn kill_exec(
        &self,
        container: &Container,
        exec: &Exec,
        signal_name: Option<&str>,
    ) -> Result<()> {
        let name = signal_name.filter(|name| !name.is_empty()).unwrap_or("SIGKILL");
        let signal = super::lifecycle::signal(name)?;
        let gone = || Error::conflict(format!("cannot kill exec {}: it is not running", exec.id));
        if locked(&exec.state).phase != Phase::Running {
            return Err(gone());
        }
        let request = Request::Signal { exec: Some(exec.id.clone()), signal };
        match container.shim()?.ask(&request, &[]).await {
            Ok(_) => Ok(()),
            // It has ended meanwhile.
            Err(_) if !exec.is_running() => Err(gone()),
            Err(error) => Err(error),
        }
    }

    /// Sets the size of an exec's terminal.
    ///
    /// # Errors
    /// It does not run.
    pub async fn resize_exec(
        &self,
        container: &Container,
        exec: &Exec,
        width: u16,
        height: u16,
    ) -> Result<()> {
        exec.begun().await?;
        if locked(&exec.state).phase != Phase::Running {
            return Err(Error::new(Kind::Conflict, format!("exec {} is not running", exec.id)));
        }
        // Without a terminal there is nothing whose size could be set, which is no mistake of the client's.
        if !exec.config.tty {
            return Ok(());
        }
        container
            .shim()?
            .ask(&Request::Resize { exec: Some(exec.id.clone()), width, height }, &[])
            .await
            .map(drop)
    }

    pub(super) fn tell_exec(&self, container: &Container, exec: &Exec, action: &str) {
        // The program, a blank, its arguments: the blank is there without any, too.
        let words = exec.config.cmd.as_deref().unwrap_or_default();
        let (program, arguments) =
            words.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        let action = format!("{action}: {program} {}", arguments.join(" "));
        self.tell_with(container, action, [("execID", exec.id.clone())]);
    }

    /// Waits for an exec's end; its exit status.
    pub(super) async fn exec_end(&self, exec: &Exec) -> i32 {
        let mut ended = exec.ended.subscribe();
        // The sender lives in the exec, which is borrowed.
        let _ = ended.wait_for(|ended| *ended).await;
        locked(&exec.state).exit_code.unwrap_or(-1)
    }
}

/// A container that executes for days does not remember each: only those that ended last, and of those that nobody
/// has started the latest.
fn forget(execs: &mut BTreeMap<String, Arc<Exec>>) {
    let (mut ended, mut unstarted) = (Vec::new(), Vec::new());
    for exec in execs.values() {
        let state = locked(&exec.state);
        match state.phase {
            Phase::Ended => ended.push((state.ended_at_ns, exec.id.clone())),
            Phase::Created => unstarted.push((exec.made_at_ns, exec.id.clone())),
            Phase::Starting | Phase::Running => {}
        }
    }
    // One more is about to come.
    for (mut of_a_kind, kept) in [(ended, KEPT), (unstarted, UNSTARTED - 1)] {
        let surplus = of_a_kind.len().saturating_sub(kept);
        of_a_kind.sort_unstable();
        for (_, id) in of_a_kind.into_iter().take(surplus) {
            execs.remove(&id);
        }
    }
}

impl Container {
    /// Its processes ended with it; those that are shown a while longer have ended too. Those that nobody has started
    /// belong to a run that is over.
    pub(super) fn end_execs(&self) {
        let mut execs = locked(&self.execs);
        execs.retain(|_, exec| locked(&exec.state).phase != Phase::Created);
        for exec in execs.values() {
            exec.ended_with_container();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(made_at_ns: i64) -> Arc<Exec> {
        let (config, ended) = (ExecConfig::default(), watch::Sender::new(false));
        let state = Mutex::default();
        Arc::new(Exec { id: random_id(), config, made_at_ns, state, ended, _indexed: None })
    }

    #[test]
    fn an_exec_whose_client_goes_away_before_its_start_has_ended() {
        let container = Arc::new(Container::new(super::super::Record::named(&random_id())));
        let exec = exec(0);
        locked(&exec.state).phase = Phase::Starting;
        drop(ExecClaim { container: Arc::clone(&container), exec: Arc::clone(&exec) });
        assert!(exec.is_over() && *exec.ended.borrow());
        assert_eq!(locked(&exec.state).exit_code, Some(126));
        // One that runs is not touched by the end of its start.
        locked(&exec.state).phase = Phase::Running;
        drop(ExecClaim { container, exec: Arc::clone(&exec) });
        assert!(exec.is_running());
    }

    #[test]
    fn an_exec_is_in_the_index_as_long_as_it_is_there() {
        let index = Index::default();
        let container = Arc::new(Container::new(super::super::Record::named("x")));
        let indexed = ["one", "two"].map(|id| Indexed::enter(&index, id, &container));
        assert!(locked(&index)["two"].upgrade().is_some_and(|found| found.id == "x"));
        let [one, _two] = indexed;
        drop(one);
        assert!(locked(&index).keys().eq(["two"]));
    }

    #[test]
    fn execs_that_nobody_starts_are_not_kept_for_ever() {
        let mut execs = BTreeMap::new();
        for made_at_ns in 0..UNSTARTED as i64 + 10 {
            forget(&mut execs);
            let exec = exec(made_at_ns);
            execs.insert(exec.id.clone(), exec);
        }
        assert_eq!(execs.len(), UNSTARTED);
        assert_eq!(execs.values().map(|exec| exec.made_at_ns).min(), Some(10));
    }
}
