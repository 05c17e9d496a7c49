//! Health checks: a command in the container from time to time, and what its results make of the container.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::task::AbortHandle;

use super::{ClientStream, Container, ExecStart, Status, locked, now_ns, rfc3339};
use crate::model::{ExecConfig, Healthcheck};
use crate::{Engine, Error, Result};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: i64 = 3;
/// How many results inspect shows.
const KEPT: usize = 5;
/// How much of a check's output is kept, in bytes.
const OUTPUT_MAX: usize = 4096;

/// The task that checks, and what it has found.
pub(super) struct Monitor {
    task: AbortHandle,
    findings: Arc<Mutex<Findings>>,
}

#[derive(Debug, Default)]
struct Findings {
    status: Health,
    failing_streak: i64,
    log: VecDeque<Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Health {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Health::Starting => "starting",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        }
    }
}

impl Findings {
    /// What a result makes of the container. True: its state has changed.
    fn enter(&mut self, healthy: bool, in_start_period: bool, retries: i64) -> bool {
        let before = self.status;
        if healthy {
            self.failing_streak = 0;
            self.status = Health::Healthy;
        } else if !(in_start_period && self.status == Health::Starting) {
            self.failing_streak += 1;
            if self.failing_streak >= retries {
                self.status = Health::Unhealthy;
            }
        }
        self.status != before
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks what a user said of health.
pub(super) fn check(health: &Healthcheck) -> Result<()> {
    const LEAST: i64 = 1_000_000;
    let durations = [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ];
    for (name, value) in durations {
        if value != 0 && value < LEAST {
            return Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    if health.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    match health.test.as_deref().unwrap_or_default() {
        [] => Ok(()),
        [kind] if kind == "NONE" => Ok(()),
        [kind, _, ..] if kind == "CMD" || kind == "CMD-SHELL" => Ok(()),
        other => {
            Err(Error::invalid(format!("Unknown type or missing command in Healthcheck.Test: {other:?}")))
        }
    }
}

/// The command of a check, if there is one.
fn command(health: &Healthcheck, shell: Option<&[String]>) -> Option<Vec<String>> {
    let (kind, rest) = health.test.as_deref()?.split_first()?;
    match kind.as_str() {
        "CMD" => Some(rest.to_vec()),
        "CMD-SHELL" => {
            let default = ["/bin/sh".to_owned(), "-c".to_owned()];
            let shell = shell.filter(|shell| !shell.is_empty()).unwrap_or(&default);
            Some(shell.iter().chain(rest).cloned().collect())
        }
        _ => None,
    }
}

impl Engine {
    /// Begins to check a container that has started, if it is to be checked.
    pub(super) fn start_health(self: &Arc<Self>, container: &Arc<Container>) {
        let (health, command) = {
            let record = container.record();
            let Some(health) = record.config.healthcheck.clone() else { return };
            let Some(command) = command(&health, record.config.shell.as_deref()) else { return };
            (health, command)
        };
        let findings = Arc::new(Mutex::new(Findings::default()));
        let task = tokio::spawn(check_forever(
            Arc::clone(self),
            Arc::downgrade(container),
            health,
            command,
            Arc::clone(&findings),
        ));
        *locked(&container.health) = Some(Monitor { task: task.abort_handle(), findings });
    }

    /// Checks no more; what was found last is shown on.
    pub(super) fn stop_health(&self, container: &Container) {
        if let Some(monitor) = locked(&container.health).as_ref() {
            monitor.task.abort();
        }
    }

    /// One check: its exit status and what it said.
    async fn check_once(
        self: &Arc<Self>,
        container: &Arc<Container>,
        command: &[String],
        timeout: Duration,
    ) -> (i32, String) {
        let config = ExecConfig {
            attach_stdout: true,
            attach_stderr: true,
            cmd: Some(command.to_vec()),
            // The shim ends what takes too long, also while the daemon is away.
            timeout: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
            ..ExecConfig::default()
        };
        match self.run_check(container, config).await {
            Ok((_, true, _)) => (-1, format!("Health check exceeded timeout ({})", human(timeout))),
            Ok((status, false, output)) => (status, output),
            Err(error) => (-1, error.message),
        }
    }

    async fn run_check(
        self: &Arc<Self>,
        container: &Arc<Container>,
        config: ExecConfig,
    ) -> Result<(i32, bool, String)> {
        let failed = |error: std::io::Error| Error::system("connect to a health check", error);
        let (ours, theirs) = tokio::net::UnixStream::pair().map_err(failed)?;
        let theirs = OwnedFd::from(theirs.into_std().map_err(failed)?);
        let exec = self.create_exec(container, config)?;
        let claim = self.claim_exec(container, &exec)?;
        let client = ClientStream { socket: theirs, already_read: Vec::new() };
        let start = ExecStart { detach: false, client: Some(client), framed: true, console_size: None };
        self.start_exec(claim, start).await?;
        let output = read_frames(ours).await;
        let status = self.exec_end(&exec).await;
        let timed_out = exec.timed_out();
        locked(&container.execs).remove(&exec.id);
        Ok((status, timed_out, output))
    }
}

/// Checks until the container ends or is forgotten.
async fn check_forever(
    engine: Arc<Engine>,
    container: std::sync::Weak<Container>,
    health: Healthcheck,
    command: Vec<String>,
    findings: Arc<Mutex<Findings>>,
) {
    let or = |value: i64, default: Duration| {
        u64::try_from(value).ok().filter(|value| *value > 0).map_or(default, Duration::from_nanos)
    };
    let interval = or(health.interval, INTERVAL);
    let timeout = or(health.timeout, TIMEOUT);
    let start_period = or(health.start_period, Duration::ZERO);
    let start_interval = or(health.start_interval, START_INTERVAL);
    let retries = if health.retries > 0 { health.retries } else { RETRIES };
    let started = tokio::time::Instant::now();
    loop {
        let starting = locked(&findings).status == Health::Starting && started.elapsed() < start_period;
        tokio::time::sleep(if starting { start_interval.min(interval) } else { interval }).await;
        let Some(container) = container.upgrade() else { return };
        match container.record().state.status {
            Status::Running => {}
            Status::Paused => continue,
            _ => return,
        }
        let begin = now_ns();
        let (status, output) = engine.check_once(&container, &command, timeout).await;
        let changed = {
            let mut findings = locked(&findings);
            findings.log.push_back(json!({
                "Start": rfc3339(begin),
                "End": rfc3339(now_ns()),
                "ExitCode": status,
                "Output": output,
            }));
            if findings.log.len() > KEPT {
                findings.log.pop_front();
            }
            findings.enter(status == 0, started.elapsed() < start_period, retries)
        };
        if changed {
            let word = locked(&findings).status.word();
            engine.tell(&container, format!("health_status: {word}"));
        }
    }
}

/// What came in Docker's frames, both streams in one, cut at [`OUTPUT_MAX`].
async fn read_frames(mut stream: tokio::net::UnixStream) -> String {
    let mut output = Vec::new();
    let mut header = [0_u8; 8];
    while stream.read_exact(&mut header).await.is_ok() {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut frame = vec![0_u8; length as usize];
        if stream.read_exact(&mut frame).await.is_err() {
            break;
        }
        let room = OUTPUT_MAX.saturating_sub(output.len());
        output.extend_from_slice(&frame[..frame.len().min(room)]);
    }
    String::from_utf8_lossy(&output).into_owned()
}

/// A duration as Go prints it: `1.5s`, `30s`, `1m30s`.
fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 60, seconds % 60, duration.subsec_millis()) {
        (0, 0, millis) => format!("{millis}ms"),
        (0, seconds, 0) => format!("{seconds}s"),
        (0, seconds, millis) => format!("{seconds}.{}s", format!("{millis:03}").trim_end_matches('0')),
        (minutes, seconds, _) => format!("{minutes}m{seconds}s"),
    }
}

impl Container {
    /// Health as inspect shows it: nothing where it is not checked.
    pub(super) fn health(&self) -> Option<Value> {
        let health = locked(&self.health);
        let findings = locked(&health.as_ref()?.findings);
        Some(json!({
            "Status": findings.status.word(),
            "FailingStreak": findings.failing_streak,
            "Log": findings.log,
        }))
    }

    /// The word of its health: `none` where it is not checked.
    pub(super) fn health_word(&self) -> &'static str {
        let health = locked(&self.health);
        health.as_ref().map_or("none", |monitor| locked(&monitor.findings).status.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_after_the_start_period_and_in_a_row() {
        let mut findings = Findings::default();
        assert!(!findings.enter(false, true, 2));
        assert_eq!(findings.failing_streak, 0);
        assert!(findings.enter(true, true, 2));
        assert!(!findings.enter(false, true, 2));
        assert!(findings.enter(false, false, 2));
        assert_eq!(findings.status, Health::Unhealthy);
        assert!(findings.enter(true, false, 2));
        assert_eq!((findings.status, findings.failing_streak), (Health::Healthy, 0));
    }

    #[test]
    fn the_shell_of_a_check_is_the_images() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let health = |test: &[&str]| Healthcheck { test: Some(words(test)), ..Healthcheck::default() };
        assert_eq!(command(&health(&["CMD-SHELL", "x"]), None).unwrap(), ["/bin/sh", "-c", "x"]);
        let shell = words(&["/bin/bash", "-ec"]);
        assert_eq!(command(&health(&["CMD-SHELL", "x"]), Some(&shell)).unwrap(), ["/bin/bash", "-ec", "x"]);
        assert_eq!(command(&health(&["CMD", "a", "b"]), None).unwrap(), ["a", "b"]);
        assert_eq!(command(&health(&["NONE"]), None), None);
        assert!(check(&health(&["WHAT"])).is_err() && check(&health(&["CMD"])).is_err());
    }
}
