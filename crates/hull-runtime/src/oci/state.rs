//! What is known of a container, and what it is doing.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, Spec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Runtime;
use super::cgroup::places;
use super::create::run_hooks;
use crate::cgroup::Cgroup;
use crate::error::Context;
use crate::{Error, Result, sys};

const RECORD: &str = "state.json";
const CONFIG: &str = "config.json";
pub(super) const START: &str = "start.sock";
/// There while a container is being made whose cgroup is its own.
const MADE_CGROUP: &str = "made-cgroup";

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
}

/// A container that was created.
#[derive(Debug)]
pub struct Container {
    pub(super) folder: PathBuf,
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
        let folder = self.folder(id)?;
        let record = folder.join(RECORD);
        let text = match fs::read(&record) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::refused(format!("container {id:?}"), "container does not exist"));
            }
            Err(error) => return Err(Error::kernel(format!("read {}", record.display()), error)),
        };
        let record = serde_json::from_slice(&text)
            .map_err(|error| Error::refused(format!("read {}", record.display()), error.to_string()))?;
        Ok(Container { folder, record, hooks: None })
    }

    /// Whether there is a container of that id.
    ///
    /// # Errors
    /// It is no id.
    pub fn is_there(&self, id: &str) -> Result<bool> {
        Ok(self.folder(id)?.join(RECORD).exists())
    }

    /// Clears away what a creation or a removal has left that was killed; says whether there was something.
    ///
    /// # Errors
    /// The container is being made just now; something cannot be removed.
    pub fn clear_unfinished(&self, id: &str) -> Result<bool> {
        let folder = self.folder(id)?;
        let doing = || format!("clear away what is left of the container {id}");
        let lock = match lock(&folder) {
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            lock => lock.context(doing)?,
        };
        if lock.is_none() {
            return Err(Error::refused(doing(), "it is being made just now"));
        }
        if folder.join(RECORD).exists() {
            return Err(Error::refused(doing(), "it was being made until just now, and is there"));
        }
        let text = fs::read(folder.join(CONFIG)).unwrap_or_default();
        // A cgroup that was there before the creation is not its to clear.
        let made = folder.join(MADE_CGROUP).exists();
        if made && let Ok(spec) = serde_json::from_slice::<Spec>(&text) {
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
        fs::remove_dir_all(&folder).context(doing)?;
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
            // What is no folder of a container's, or not any more.
            if !self.root.join(&id).join(RECORD).exists() {
                continue;
            }
            match self.container(&id) {
                Ok(container) => listed.containers.push(container),
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
        if self.folder.join(START).exists() { Ok(Status::Created) } else { Ok(Status::Running) }
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
        let path = self.folder.join(CONFIG);
        let doing = || format!("read {}", path.display());
        let text = fs::read(&path).context(doing)?;
        serde_json::from_slice(&text).map_err(|error| Error::refused(doing(), error.to_string()))
    }

    /// Runs its configuration's hooks of one point; `status` and `pid` are what they are told.
    pub(super) fn run_hooks(&self, point: &str, status: &str, pid: i32) -> Result<()> {
        let read;
        let hooks = match &self.hooks {
            Some(hooks) => hooks,
            None => {
                // Another removal may have been here just now.
                let there = self.folder.join(CONFIG).exists();
                read = if there { self.config()?.hooks().clone() } else { None };
                &read
            }
        };
        match hooks {
            Some(hooks) => run_hooks(hooks, point, &self.hook_state(status, pid)),
            None => Ok(()),
        }
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
        let doing = || format!("remove {}", self.folder.display());
        // The record last: until then it is a container, which another removal finds and clears away as well.
        for name in [START, MADE_CGROUP, CONFIG, RECORD] {
            match fs::remove_file(self.folder.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::kernel(doing(), error));
                }
                _ => {}
            }
        }
        match fs::remove_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.context(doing),
        }
    }
}

/// The folder of a container that is being made; removed with all in it unless it is kept.
pub(super) struct NewFolder {
    path: PathBuf,
    /// Locked as long as somebody is at it: one without a record that nobody holds was left by a creation that was
    /// killed.
    _lock: OwnedFd,
    kept: bool,
}

impl NewFolder {
    /// Makes it; that is what makes an id unique.
    pub(super) fn make(runtime: &Runtime, id: &str) -> Result<NewFolder> {
        let path = runtime.folder(id)?;
        let doing = || format!("create the container {id}");
        let mut folders = fs::DirBuilder::new();
        folders.mode(0o700).recursive(true).create(&runtime.root).context(doing)?;
        let make = || fs::DirBuilder::new().mode(0o700).create(&path);
        let made = match make() {
            // An empty one is what a removal has not taken away yet.
            Err(error)
                if error.kind() == std::io::ErrorKind::AlreadyExists && fs::remove_dir(&path).is_ok() =>
            {
                make()
            }
            made => made,
        };
        match made {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::refused(doing(), "container with given ID already exists"));
            }
            made => made.context(doing)?,
        }
        let lock = lock(&path).and_then(|lock| lock.ok_or(rustix::io::Errno::AGAIN)).context(doing)?;
        Ok(NewFolder { path, _lock: lock, kept: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down what is to become a container.
    pub(super) fn begin(&self, config: &[u8]) -> Result<()> {
        let written = self.write(CONFIG, config).and_then(|()| self.put(CONFIG));
        written.context(|| format!("write {}", self.path.join(CONFIG).display()))
    }

    /// Writes down that the cgroup is made for this container, and goes with it.
    pub(super) fn makes_cgroup(&self) -> Result<()> {
        let path = self.path.join(MADE_CGROUP);
        fs::write(&path, "").context(|| format!("write {}", path.display()))
    }

    /// Writes down what the container is to be: its first process may not be ready yet.
    pub(super) fn write_ahead(&self, record: &Record) -> Result<()> {
        let doing = || format!("write down the container {}", record.id);
        let text = serde_json::to_vec(record).map_err(|error| Error::refused(doing(), error.to_string()))?;
        self.write(RECORD, &text).context(doing)
    }

    /// Makes what was written ahead hold: from here on it is a container.
    pub(super) fn keep(mut self, record: Record, hooks: Option<Hooks>) -> Result<Container> {
        self.put(RECORD).context(|| format!("write down the container {}", record.id))?;
        self.kept = true;
        Ok(Container { folder: self.path.clone(), record, hooks: Some(hooks) })
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.new"))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let path = self.temporary(name);
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(bytes)
    }

    /// Gives what was written its name.
    fn put(&self, name: &str) -> std::io::Result<()> {
        fs::rename(self.temporary(name), self.path.join(name))
    }
}

/// Locks a folder, and with it what it stands for; none while another process has it.
fn lock(folder: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    use rustix::fs::{FlockOperation, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(folder)),
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.kept {
            // The error that led here is the one to tell.
            let _ = fs::remove_dir_all(&self.path);
        }
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

    #[test]
    fn what_a_removal_has_not_taken_away_yet_is_no_container() {
        let root = tempfile::tempdir().unwrap();
        let runtime = Runtime::at(root.path());
        fs::create_dir(root.path().join("c")).unwrap();
        drop(NewFolder::make(&runtime, "c").unwrap());
        fs::create_dir(root.path().join("c")).unwrap();
        fs::write(root.path().join("c").join(RECORD), "{}").unwrap();
        let Err(error) = NewFolder::make(&runtime, "c") else { panic!("an id is taken twice") };
        assert!(error.to_string().ends_with("container with given ID already exists"), "{error}");
    }
}
