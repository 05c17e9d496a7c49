//! Hooks: programs that the configuration wants run at points of a container's life. Each gets the container's state on
//! its standard input.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::Context;
use crate::{Error, Result, sys};

/// How much of what a hook says is told when it fails, in bytes.
const SAID_MAX: usize = 4096;

/// Runs hooks one after the other; `state` is what they read. The first that fails ends it.
///
/// # Errors
/// A hook could not be executed, ended otherwise than with 0, or took longer than its time limit, after which it is
/// killed.
pub fn run(hooks: &Option<Vec<Hook>>, state: &str, point: &str) -> Result<()> {
    hooks.iter().flatten().try_for_each(|hook| run_one(hook, state, point))
}

/// Runs all of them, whatever came of those before, and returns what failed: the specification has it so where a container
/// has ended, and nothing is left that could be undone.
pub fn run_each(hooks: &Option<Vec<Hook>>, state: &str, point: &str) -> Vec<Error> {
    hooks.iter().flatten().filter_map(|hook| run_one(hook, state, point).err()).collect()
}

fn run_one(hook: &Hook, state: &str, point: &str) -> Result<()> {
    let doing = || format!("run the {point} hook {}", hook.path().display());
    let (mut heard, said) = std::io::pipe().context(doing)?;
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(arguments);
    }
    if let Some(environment) = hook.env() {
        command.env_clear().envs(environment.iter().filter_map(|variable| variable.split_once('=')));
    }
    command.stdin(input(state).context(doing)?).stdout(said.try_clone().context(doing)?).stderr(said);
    let mut child = sys::with_default_signals(&mut command).spawn().context(doing)?;
    // The command holds the writing ends of the pipe.
    drop(command);
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    let (ended, words) = follow(&mut child, &mut heard, limit.map(Duration::from_secs)).context(doing)?;
    let words = String::from_utf8_lossy(&words);
    let words = if words.trim().is_empty() { String::new() } else { format!(": {}", words.trim()) };
    if !ended {
        let limit = limit.unwrap_or_default();
        return Err(Error::refused(doing(), format!("it took longer than its {limit} seconds{words}")));
    }
    let status = child.wait().context(doing)?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Error::refused(doing(), format!("it ended with status {code}{words}"))),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            Err(Error::refused(doing(), format!("it was ended by signal {signal}{words}")))
        }
    }
}

/// A file that holds the state: a hook that does not read it holds nobody up.
fn input(state: &str) -> std::io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(state.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// Reads what a hook says until it ends; says whether it did by itself. What it has left running may hold on to the
/// pipe and is not waited for.
fn follow(
    child: &mut Child,
    heard: &mut std::io::PipeReader,
    limit: Option<Duration>,
) -> std::io::Result<(bool, Vec<u8>)> {
    let pidfd: OwnedFd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let end = limit.map(|limit| Instant::now() + limit);
    let mut words = Vec::new();
    let mut open = true;
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            child.kill()?;
            child.wait()?;
            return Ok((false, words));
        }
        let left = left
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        let mut both = [
            PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(heard.as_fd(), PollFlags::IN),
        ];
        let watched = if open { 2 } else { 1 };
        match poll(&mut both[..watched], left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !both[1].revents().is_empty() {
            let mut some = [0; SAID_MAX];
            let length = heard.read(&mut some)?;
            open = length > 0;
            let room = SAID_MAX.saturating_sub(words.len());
            words.extend_from_slice(&some[..length.min(room)]);
            continue;
        }
        if !both[0].revents().is_empty() {
            return Ok((true, words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(json: serde_json::Value) -> Option<Vec<Hook>> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_own_environment() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("told");
        let script = format!("cat >{0}; echo $0 $WHO $HOME >>{0}", at.display());
        let hook = serde_json::json!([{ "path": "/bin/sh", "args": ["named", "-c", script, "zero"], "env": ["WHO=hook"] }]);
        run(&hooks(hook), "{\"id\":\"c\"}", "prestart").unwrap();
        assert_eq!(std::fs::read_to_string(at).unwrap(), "{\"id\":\"c\"}zero hook\n");
    }

    #[test]
    fn what_a_hook_says_is_told_when_it_fails() {
        let fails =
            serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 3"] }]);
        let error = run(&hooks(fails), "{}", "poststop").unwrap_err();
        assert_eq!(error.to_string(), "run the poststop hook /bin/sh: it ended with status 3: no luck");
        let missing = serde_json::json!([{ "path": "/no/such/hook" }]);
        let error = run(&hooks(missing), "{}", "prestart").unwrap_err().to_string();
        assert_eq!(error, "run the prestart hook /no/such/hook: no such file or directory");
    }

    #[test]
    fn one_that_fails_keeps_no_other_from_running_where_all_are_to() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("ran");
        let three = serde_json::json!([
            { "path": "/bin/false" }, { "path": "/no/such/hook" }, { "path": "/bin/touch", "args": ["touch", at] },
        ]);
        let failed = run_each(&hooks(three.clone()), "{}", "poststop");
        assert!(failed.len() == 2 && at.exists(), "{failed:?}");
        std::fs::remove_file(&at).unwrap();
        assert!(run(&hooks(three), "{}", "prestart").is_err() && !at.exists());
    }

    #[test]
    fn a_hook_has_its_time_and_no_more() {
        let slow = serde_json::json!([{ "path": "/bin/sleep", "args": ["sleep", "600"], "timeout": 1 }]);
        let began = Instant::now();
        let error = run(&hooks(slow), "{}", "prestart").unwrap_err().to_string();
        assert!(error.ends_with("it took longer than its 1 seconds"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(60));
        // What it leaves running is not waited for.
        let leaves = serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", "sleep 5 &"] }]);
        let began = Instant::now();
        run(&hooks(leaves), "{}", "prestart").unwrap();
        assert!(began.elapsed() < Duration::from_secs(4));
    }
}
