//! What is known of a container, and what it is doing.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::{Hooks, Spec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Runtime;
use super::cgroup::places;
use super::create::run_hooks;
use super::file::{self, Written};
use super::notify;
use crate::cgroup::Cgroup;
use crate::container::hooks;
use crate::error::Context;
use crate::{Error, Result, sys};

/// What the runtime specification calls the state's status, and runc's `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It waits to be started.
    Created,
    /// Its command runs.
    Running,
    /// Its processes stand still.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// What create writes down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) oci_version: String,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// The first process, in the runtime's pid namespace.
    pub(super) pid: i32,
    /// When it started, in ticks since the machine did: another process that has its id by now has another.
    pub(super) pid_began: u64,
    /// RFC 3339.
    pub(super) created: String,
    /// Who called.
    pub(super) owner: u32,
    pub(super) cgroup: String,
    /// The unit that it is, where systemd made it.
    #[serde(default)]
    pub(super) unit: Option<String>,
    pub(super) annotations: HashMap<String, String>,
    /// A class of `resctrl` that was made for it.
    pub(super) resctrl: Option<PathBuf>,
    /// Whether it has a socket to say at that it is ready.
    #[serde(default)]
    pub(super) notify: bool,
}

/// A container that was created.
#[derive(Debug)]
pub struct Container {
    /// What it is written down in.
    pub(super) file: PathBuf,
    /// Where its first process waits to be started, while it does.
    pub(super) start: PathBuf,
    pub(super) record: Record,
    /// Its configuration's hooks, where that has just been read.
    pub(super) hooks: Option<Option<Hooks>>,
}

/// The containers of a runtime's root.
#[derive(Debug, Default)]
pub struct Listed {
    /// Those that there are.
    pub containers: Vec<Container>,
    /// Why others cannot be told: their records are damaged, or another user's.
    pub unreadable: Vec<Error>,
}

impl Runtime {
    /// The container of that id.
    ///
    /// # Errors
    /// There is none, or what is known of it cannot be read.
    pub fn container(&self, id: &str) -> Result<Container> {
        let none = || Error::refused(format!("container {id:?}"), "container does not exist");
        self.find(id)?.ok_or_else(none)
    }

    fn find(&self, id: &str) -> Result<Option<Container>> {
        let file = self.place(id)?;
        let Some(Written { start, record: Some(record), .. }) = file::read(&file)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| {
            Error::refused(format!("read {}", file.display()), format!("it is damaged: {error}"))
        };
        let record = serde_json::from_slice(&record).map_err(damaged)?;
        Ok(Some(Container { file, start, record, hooks: None }))
    }

    /// Whether there is a container of that id.
    ///
    /// # Errors
    /// It is no id, or what is known of it cannot be read.
    pub fn is_there(&self, id: &str) -> Result<bool> {
        Ok(file::read(&self.place(id)?)?.is_some_and(|written| written.record.is_some()))
    }

    /// Clears away what a creation has left that was killed; says whether there was something.
    ///
    /// # Errors
    /// The container is being made just now; something cannot be removed.
    pub fn clear_unfinished(&self, id: &str) -> Result<bool> {
        let path = self.place(id)?;
        let doing = || format!("clear away what is left of the container {id}");
        if file::read(&path)?.is_none() {
            return Ok(false);
        }
        let Some(_held) = file::hold(&path)? else {
            return Err(Error::refused(doing(), "it is being made just now"));
        };
        let Some(left) = file::read(&path)? else { return Ok(false) };
        if left.record.is_some() {
            return Err(Error::refused(doing(), "it was being made until just now, and is there"));
        }
        // A cgroup that was there before the creation is not its to clear.
        if left.made_cgroup
            && let Ok(spec) = serde_json::from_slice::<Spec>(&left.config)
        {
            for path in places(&spec, id) {
                // Another container may have the place by now.
                let others = self.containers()?.containers;
                let others = others.iter().any(|other| other.record.cgroup == path);
                if let (Ok(cgroup), false) = (Cgroup::open(&path), others) {
                    cgroup.kill_all()?;
                    cgroup.remove()?;
                }
            }
        }
        notify::remove(&left.start).and_then(|()| file::remove(&path, &left.start)).context(doing)?;
        Ok(true)
    }

    /// Every container, in the order of their ids. One that is being made or removed just now is none.
    ///
    /// # Errors
    /// The root cannot be read.
    pub fn containers(&self) -> Result<Listed> {
        let mut listed = Listed::default();
        let doing = || format!("read {}", self.root.display());
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(listed),
            entries => entries.context(doing)?,
        };
        let mut ids: Vec<String> = Vec::new();
        for entry in entries {
            ids.extend(entry.context(doing)?.file_name().into_string().ok());
        }
        ids.sort_unstable();
        for id in ids {
            // Who is called otherwise is no container: the sockets at which first processes wait.
            if self.place(&id).is_err() {
                continue;
            }
            match self.find(&id) {
                Ok(container) => listed.containers.extend(container),
                Err(error) => listed.unreadable.push(error),
            }
        }
        Ok(listed)
    }
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Its first process, in the caller's pid namespace; none when that has ended.
    pub fn pid(&self) -> Option<i32> {
        is_alive(self.record.pid, self.record.pid_began).then_some(self.record.pid)
    }

    /// A handle of its first process; none when that has ended. Opened before it is looked at, so that it is never
    /// another process which has that number by now.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn first_process(&self) -> Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.record.pid) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(self.pid().is_some().then_some(pidfd)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => {
                Err(Error::kernel(format!("open the first process of the container {}", self.id()), error))
            }
        }
    }

    /// What it is doing.
    ///
    /// # Errors
    /// Its cgroup cannot be read.
    pub fn status(&self) -> Result<Status> {
        if self.pid().is_none() {
            return Ok(Status::Stopped);
        }
        match self.cgroup().map(|cgroup| cgroup.is_frozen()) {
            Some(Ok(true)) => return Ok(Status::Paused),
            // Removed just now, by who deletes it.
            Some(Err(error)) if !matches!(error.errno, Some(libc::ENOENT | libc::ENODEV)) => {
                return Err(error);
            }
            _ => {}
        }
        if self.start.exists() { Ok(Status::Created) } else { Ok(Status::Running) }
    }

    /// Its cgroup, while that is there.
    pub fn cgroup(&self) -> Option<Cgroup> {
        Cgroup::open(&self.record.cgroup).ok()
    }

    /// Its processes, in the caller's pid namespace; the first one's alone where it has no cgroup of its own.
    ///
    /// # Errors
    /// Its cgroup cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        match self.cgroup() {
            Some(cgroup) => cgroup.processes(),
            None => Ok(self.pid().into_iter().collect()),
        }
    }

    /// Its configuration, as it was when it was created.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn config(&self) -> Result<Spec> {
        let gone = || Error::refused(format!("container {:?}", self.id()), "container does not exist");
        self.config_if_there()?.ok_or_else(gone)
    }

    /// Its configuration; none where another removal has been here just now.
    fn config_if_there(&self) -> Result<Option<Spec>> {
        let Some(written) = file::read(&self.file)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| {
            Error::refused(format!("read {}", self.file.display()), format!("it is damaged: {error}"))
        };
        serde_json::from_slice(&written.config).map(Some).map_err(damaged)
    }

    /// Runs its configuration's hooks of one point; `status` and `pid` are what they are told.
    pub(super) fn run_hooks(&self, point: &str, status: &str, pid: i32) -> Result<()> {
        let read;
        let hooks = match &self.hooks {
            Some(hooks) => hooks,
            None => {
                read = self.config_if_there()?.and_then(|spec| spec.hooks().clone());
                &read
            }
        };
        match hooks {
            Some(hooks) => run_hooks(hooks, point, &self.hook_state(status, pid)),
            None => Ok(()),
        }
    }

    /// Runs the hooks of its end, all of them; returns what went wrong, which changes nothing any more.
    pub(super) fn run_last_hooks(&self) -> Vec<String> {
        let hooks = match &self.hooks {
            Some(hooks) => Ok(hooks.clone()),
            None => self.config_if_there().map(|spec| spec.and_then(|spec| spec.hooks().clone())),
        };
        let failed = match hooks {
            Ok(Some(all)) => hooks::run_each(all.poststop(), &self.hook_state("stopped", 0), "poststop"),
            Ok(None) => Vec::new(),
            Err(error) => vec![error],
        };
        failed.iter().map(Error::to_string).collect()
    }

    /// Its state as runc prints it: the specification's, with the root file system, the time and the owner.
    ///
    /// # Errors
    /// Its cgroup cannot be read.
    pub fn state(&self) -> Result<Value> {
        let record = &self.record;
        let mut state = json!({
            "ociVersion": record.oci_version,
            "id": record.id,
            "pid": self.pid().unwrap_or(0),
            "status": self.status()?,
            "bundle": record.bundle,
            "rootfs": record.rootfs,
            "created": record.created,
            "owner": self.owner(),
        });
        if !record.annotations.is_empty() {
            state["annotations"] = json!(record.annotations);
        }
        Ok(state)
    }

    /// The name of who created it; empty for root, as runc has it, or the number where it has none.
    fn owner(&self) -> String {
        let wanted = self.record.owner;
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields.len() > 2 && fields[2].parse() == Ok(wanted)).then(|| fields[0].to_owned())
        });
        if wanted == 0 { String::new() } else { name.unwrap_or_else(|| wanted.to_string()) }
    }

    /// Lets go of everything that is written down of it.
    pub(super) fn forget(&self) -> Result<()> {
        let notify = if self.record.notify { notify::remove(&self.start) } else { Ok(()) };
        notify
            .and_then(|()| file::remove(&self.file, &self.start))
            .context(|| format!("remove {}", self.file.display()))
    }
}

/// When a process started, in ticks since the machine did, and the letter of what it does; none when there is none.
pub fn process_began(pid: i32) -> Option<(u64, char)> {
    let mut stat = [0; 1024];
    let length = sys::read_once(&format!("/proc/{pid}/stat"), &mut stat).ok()?;
    parse_began(&String::from_utf8_lossy(&stat[..length]))
}

/// The 22nd and the third field of a `/proc/PID/stat`; the second may hold anything, and ends with the last parenthesis.
fn parse_began(stat: &str) -> Option<(u64, char)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Some((fields.get(19)?.parse().ok()?, fields.first()?.chars().next()?))
}

fn is_alive(pid: i32, began: u64) -> bool {
    // A zombie has ended, whoever has not asked for its status yet.
    process_began(pid).is_some_and(|(other, state)| other == began && !matches!(state, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_a_process_began() {
        let fields: Vec<String> = (4..=30).map(|field| field.to_string()).collect();
        assert_eq!(parse_began(&format!("9 (a ) b) S {}", fields.join(" "))), Some((22, 'S')));
        assert_eq!(parse_began("9 (a"), None);
        assert!(process_began(std::process::id().cast_signed()).is_some());
    }
}
