//! Containers: what one is, which states it goes through, and who may change them.
//!
//! ```text
//! created ──start──> running ──ends──> exited ──start──> running …
//!                    │    ▲              │
//!              pause ▼    │ unpause      └──remove──> gone
//!                    paused
//! running ──ends, and its policy restarts it──> restarting ──back-off──> running
//! ```
//!
//! A [`Container`] is one entry of the registry. Its [`Record`] is what is kept in the database; whatever
//! changes it writes it under the record's lock, so the database has the changes in their order. Transitions
//! that take time (start, restart, remove) hold the container's `transition`; the end of a container is told
//! by its shim and waits for nobody.

mod archive;
mod attach;
pub(crate) mod cdi;
mod check;
mod command;
mod commit;
mod create;
mod devices;
mod end;
mod endpoints;
mod exec;
mod exec_start;
mod explain;
mod files;
mod finish;
mod freeze;
mod health;
mod idmap;
mod inherit;
mod init;
mod inspect;
mod lifecycle;
mod links;
mod list;
mod log_attributes;
mod logs;
mod mounts;
mod names;
mod network;
mod owned;
mod ownerless;
mod prepare;
mod read_logs;
mod registry;
mod rejoin;
mod remapped;
mod remove;
mod resources;
mod rootfs;
mod security;
mod selinux;
mod shim;
mod shutdown;
mod spec;
mod start;
mod starting;
mod stats;
mod step;
mod stop;
mod take_up;
mod top;
mod traits;
mod view;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use archive::PutOptions;
pub use attach::{AttachPlace, AttachRequest, ClientStream, head_is_read};
pub use commit::CommitOptions;
pub use create::Created;
pub(crate) use exec::Index as ExecIndex;
pub use exec::{Exec, ExecClaim};
pub use exec_start::ExecStart;
pub use explain::Explanation;
pub(crate) use freeze::Still;
pub(crate) use links::parse as parse_link;
pub use list::ListOptions;
pub use logs::{LogOptions, check_default as check_default_log_config};
pub(crate) use mounts::owner_of_key;
pub use mounts::{MountKind, MountPlan, Owner};
pub use read_logs::Logs;
pub(crate) use registry::Containers;
pub use remove::RemoveOptions;
pub use security::check_profile as check_seccomp_profile;
pub(crate) use selinux::Selinux;
pub use stats::Stats;
pub use step::{Step, StepView};
pub use top::Top;
pub use traits::{Mounted, Traits, is_unmasked};
pub use wait::{Condition, Ended};

use crate::database::{Database, Table};
use crate::model::{Config, EndpointSettings, HostConfig, PortBinding};
use crate::networks::Allocation;
use crate::process::Process;
use crate::volumes::Run;
use crate::{Error, Result};

/// A container.
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    record: Mutex<Record>,
    /// Held by a start, restart, rename or removal, from its first step to its last.
    pub(crate) transition: tokio::sync::Mutex<()>,
    /// The shim, while the container runs.
    shim: Mutex<Option<Arc<shim::Shim>>>,
    /// Its addresses and ports, while it runs.
    allocation: Mutex<Option<Allocation>>,
    /// Clients that attached before it runs.
    waiting_clients: Mutex<Vec<attach::Waiting>>,
    lifetime: watch::Sender<Lifetime>,
    /// Whether a shim still clears up behind it, which goes on for moments after its end has been told.
    clearing: watch::Sender<bool>,
    health: Mutex<Option<health::Monitor>>,
    /// The execs that were made and not forgotten yet, by id.
    execs: Mutex<BTreeMap<String, Arc<exec::Exec>>>,
    /// Ends a back-off before its time, when a user stops or starts the container meanwhile.
    back_off: tokio::sync::Notify,
    /// The start that is on its way, for who wants it ended.
    starting: Mutex<Option<Arc<starting::Starting>>>,
    /// The number of its run, beginning with its start; 0: the daemon took it up.
    run: AtomicU64,
    /// How many users restart it: its end in between is not that of a container with `--rm`.
    restarting: AtomicUsize,
    /// Whether a user removes it at this moment.
    removing: AtomicBool,
    /// Held by who freezes its cgroup, lets it go or gives it other limits; on threads that may block only.
    cgroup_turn: Mutex<()>,
    /// Held by who reads or writes the files that are bound into it, so that no change of another's is lost.
    files: Mutex<()>,
    /// Variables of a build's step that are written down nowhere.
    secret_env: Mutex<Vec<String>>,
}

/// What those who wait for a container see.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Lifetime {
    /// It runs, or its policy is about to start it again.
    pub(crate) running: bool,
    /// How often it has ended, or could not be started.
    pub(crate) ends: u64,
    /// The same without the starts of users that failed: who waits for its next exit waits on, as with Docker. Its
    /// clients ask before they start it, and would tell of one failure twice.
    pub(crate) exits: u64,
    /// How it ended last.
    pub(crate) ended: Ended,
    /// It is removed.
    pub(crate) removed: bool,
    /// Why it could not be removed by itself; empty: nothing of the kind.
    pub(crate) stays: String,
}

/// What is kept of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// Without Docker's leading slash.
    pub(crate) name: String,
    /// RFC 3339.
    pub(crate) created: String,
    /// The image's id, with `sha256:`; empty without an image.
    pub(crate) image_id: String,
    /// What is executed: the entry point and the command in one.
    pub(crate) command: Vec<String>,
    pub(crate) config: Config,
    pub(crate) host_config: HostConfig,
    pub(crate) mounts: Vec<MountPlan>,
    /// By network name: what was asked for, and while it runs what it got.
    pub(crate) endpoints: BTreeMap<String, EndpointSettings>,
    /// While it runs.
    #[serde(default)]
    pub(crate) ports: BTreeMap<String, Vec<PortBinding>>,
    pub(crate) state: State,
    /// Whom it knows on the default network by `--link`.
    #[serde(default)]
    pub(crate) links: Vec<links::Link>,
    #[serde(default)]
    pub(crate) restart_count: u64,
    /// A user stopped it: its policy does not start it again.
    #[serde(default)]
    pub(crate) stopped_by_user: bool,
    /// It is a step of a build, and nothing without that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) build_step: bool,
    /// It is listed and told of nowhere: only a build knows of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hidden: bool,
    /// Whose it is: it is removed when that process ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Process>,
    /// Its SELinux labels, where the daemon gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) labels: Option<selinux::Labels>,
}

/// Which state a container is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

impl Status {
    /// The word of the API.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Removing => "removing",
            Status::Exited => "exited",
            Status::Dead => "dead",
        }
    }
}

/// How long the shim of the last run gets to clear up.
const CLEARING_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The zero time as Go writes it.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// The state of a container, and how it ended last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) status: Status,
    /// The first process, 0 when it does not run.
    pub(crate) pid: i32,
    pub(crate) exit_code: i32,
    /// Why it could not be started.
    pub(crate) error: String,
    pub(crate) oom_killed: bool,
    /// Why it ended: `exited`, `signal`, `oom`, `timeout`, `cpu-time`; empty while it runs.
    #[serde(default)]
    pub(crate) end_reason: String,
    /// All that is known of why; none while it runs, and before its first run.
    #[serde(default)]
    pub(crate) end: Option<end::End>,
    /// The AppArmor profile that it runs under, empty if it is under none; what is the default may be another by now. Not
    /// there where no daemon wrote it down: that says nothing of what it runs under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) apparmor: Option<String>,
    /// It stands still for the daemon, which copies its files: no user has paused it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) held: bool,
    /// RFC 3339.
    pub(crate) started_at: String,
    /// RFC 3339.
    pub(crate) finished_at: String,
}

impl Default for State {
    fn default() -> State {
        State {
            status: Status::Created,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            end_reason: String::new(),
            end: None,
            apparmor: None,
            held: false,
            started_at: NEVER.to_owned(),
            finished_at: NEVER.to_owned(),
        }
    }
}

impl Record {
    /// The AppArmor profile that it runs under, or would if it were started.
    pub(crate) fn apparmor(&self) -> Result<Option<String>> {
        if let Some(profile) = self.state.apparmor.as_ref().filter(|_| self.is_running()) {
            return Ok(Some(profile.clone()).filter(|profile| !profile.is_empty()));
        }
        Ok(security::security(&self.host_config)?.apparmor)
    }

    /// Whether its processes exist.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state.status, Status::Running | Status::Paused)
    }

    /// Name and image and labels: what its events carry.
    pub(crate) fn event_attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = self.config.labels.clone().unwrap_or_default();
        attributes.insert("image".to_owned(), self.config.image.clone());
        attributes.insert("name".to_owned(), self.name.clone());
        attributes
    }

    /// The host name: the one asked for, or the id's first digits.
    pub(crate) fn hostname(&self) -> &str {
        if self.config.hostname.is_empty() { &self.id[..12] } else { &self.config.hostname }
    }

    /// Whom it is linked to by that alias: an id.
    pub(crate) fn target_of(&self, alias: &str) -> Option<&str> {
        self.links.iter().find(|link| link.alias == alias).map(|link| link.target.as_str())
    }

    /// The ids of those that it is linked to.
    pub(crate) fn link_targets(&self) -> Vec<String> {
        self.links.iter().map(|link| link.target.clone()).collect()
    }

    /// The keys of the snapshots that hold the images that are mounted.
    pub(crate) fn image_mounts(&self) -> Vec<String> {
        let mounts = self.mounts.iter().enumerate();
        let of_images = mounts.filter(|(_, mount)| !mount.image.is_empty());
        of_images.map(|(index, _)| mounts::image_key(&self.id, index)).collect()
    }

    /// The names of the volumes it uses, each once.
    pub(crate) fn volume_names(&self) -> BTreeSet<String> {
        let names = self.mounts.iter().map(|mount| &mount.name);
        names.filter(|name| !name.is_empty()).cloned().collect()
    }
}

#[cfg(test)]
impl Record {
    /// A container of that id and name that nothing else is said of.
    pub(crate) fn named(id: &str) -> Record {
        Record {
            id: id.to_owned(),
            name: id.to_owned(),
            created: NEVER.to_owned(),
            image_id: String::new(),
            command: Vec::new(),
            config: Config::default(),
            host_config: HostConfig::default(),
            mounts: Vec::new(),
            endpoints: BTreeMap::new(),
            ports: BTreeMap::new(),
            state: State::default(),
            links: Vec::new(),
            restart_count: 0,
            stopped_by_user: false,
            build_step: false,
            hidden: false,
            owner: None,
            labels: None,
        }
    }
}

impl Container {
    pub(crate) fn new(record: Record) -> Container {
        let lifetime = Lifetime {
            running: record.is_running() || record.state.status == Status::Restarting,
            ended: Ended { status: record.state.exit_code, error: record.state.error.clone() },
            ..Lifetime::default()
        };
        Container {
            id: record.id.clone(),
            record: Mutex::new(record),
            transition: tokio::sync::Mutex::new(()),
            shim: Mutex::new(None),
            allocation: Mutex::new(None),
            waiting_clients: Mutex::new(Vec::new()),
            lifetime: watch::Sender::new(lifetime),
            clearing: watch::Sender::new(false),
            health: Mutex::new(None),
            execs: Mutex::new(BTreeMap::new()),
            back_off: tokio::sync::Notify::new(),
            starting: Mutex::new(None),
            run: AtomicU64::new(0),
            restarting: AtomicUsize::new(0),
            removing: AtomicBool::new(false),
            cgroup_turn: Mutex::new(()),
            files: Mutex::new(()),
            secret_env: Mutex::default(),
        }
    }

    /// What is kept of it. The lock is held for moments only, never over an await.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        locked(&self.record)
    }

    /// The networks that it is on, by name.
    pub(crate) fn network_names(&self) -> Vec<String> {
        self.record().endpoints.keys().cloned().collect()
    }

    /// When it was made, RFC 3339.
    pub(crate) fn created(&self) -> String {
        self.record().created.clone()
    }

    /// Changes what is kept of it, and writes it. What cannot be written has not changed.
    ///
    /// # Errors
    /// It cannot be written, or the container is removed: its row does not come back.
    pub(crate) fn change<T>(&self, database: &Database, change: impl FnOnce(&mut Record) -> T) -> Result<T> {
        let mut record = self.record();
        if record.state.status == Status::Removing {
            return Err(Error::not_found(format!("No such container: {}", self.id)));
        }
        let mut changed = record.clone();
        let result = change(&mut changed);
        database.put(Table::Containers, &self.id, &changed)?;
        *record = changed;
        Ok(result)
    }

    /// Takes note of what is a fact already, and holds although it cannot be written now: the next change writes it too,
    /// and a daemon that starts finds out by itself.
    pub(crate) fn change_anyway<T>(&self, database: &Database, change: impl FnOnce(&mut Record) -> T) -> T {
        let mut record = self.record();
        let result = change(&mut record);
        if record.state.status != Status::Removing
            && let Err(error) = database.put(Table::Containers, &self.id, &*record)
        {
            tracing::error!(container = self.id, %error, "a change of a container could not be written down");
        }
        result
    }

    /// The shim of a running container.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn shim(&self) -> Result<Arc<shim::Shim>> {
        let shim = locked(&self.shim).clone();
        shim.ok_or_else(|| Error::conflict(format!("container {} is not running", self.id)))
    }

    /// Waits until the shim of its last run has cleared up: then nothing of that run is left on the machine.
    /// One that has not by then hangs in the kernel, and is waited for no longer.
    async fn cleared(&self) {
        let mut clearing = self.clearing.subscribe();
        // The sender lives in the container, which is borrowed.
        let cleared = clearing.wait_for(|clearing| !clearing);
        if tokio::time::timeout(CLEARING_PATIENCE, cleared).await.is_err() {
            tracing::warn!(container = self.id, "the shim of its last run does not end");
        }
    }

    /// [`Container::cleared`], where it does not run.
    async fn cleared_at_rest(&self) {
        if !self.record().is_running() {
            self.cleared().await;
        }
    }

    /// Its run, which is the one after the last until it is started again.
    fn run(&self) -> Run {
        Run { container: self.id.clone(), number: self.run.load(Ordering::Acquire) }
    }

    /// A start begins a run. Whoever calls holds the transition.
    fn begin_run(&self) {
        self.run.fetch_add(1, Ordering::AcqRel);
    }

    /// Its cgroup, in every hierarchy.
    pub(crate) fn cgroup_path(&self, instance: &str) -> String {
        let parent = self.record().host_config.resources.cgroup_parent.clone();
        spec::cgroup_path(&parent, instance, &self.id)
    }
}

impl crate::Engine {
    /// The shim's folder in the exec root.
    pub(crate) fn runtime_dir(&self, id: &str) -> PathBuf {
        self.config.exec_root.join("c").join(id)
    }

    /// The container's folder in the data root: its logs.
    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.config.data_root.join("containers").join(id)
    }

    /// Tells what happened to a container.
    pub(crate) fn tell(&self, container: &Container, action: impl Into<String>) {
        self.tell_with(container, action, []);
    }

    /// The same with further attributes.
    pub(crate) fn tell_with<const N: usize>(
        &self,
        container: &Container,
        action: impl Into<String>,
        further: [(&str, String); N],
    ) {
        let mut attributes = {
            let record = container.record();
            if record.hidden {
                return;
            }
            record.event_attributes()
        };
        attributes.extend(further.map(|(name, value)| (name.to_owned(), value)));
        self.events.publish(crate::events::Kind::Container, action, &container.id, attributes);
    }
}

/// A lock whose holder panicked is taken all the same: what it guards is changed in single steps.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// A moment as Go writes it: RFC 3339 in UTC, nanoseconds without closing zeros.
pub fn rfc3339(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .map_or_else(|_| NEVER.to_owned(), |time| time.to_string())
}

/// 64 random hexadecimal digits. The first twelve, which a container is called by inside, are never a decimal number: the C
/// library takes such a name for an address, and finds the container not even in its own /etc/hosts.
pub(crate) fn random_id() -> String {
    loop {
        let id = random_digits();
        if !id.bytes().take(12).all(|digit| digit.is_ascii_digit()) {
            return id;
        }
    }
}

fn random_digits() -> String {
    use std::fmt::Write;
    let mut bytes = [0_u8; 32];
    // The kernel's random numbers do not fail once the machine is up; without them there would be no ids.
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "the kernel gave no random numbers; the clock stands in");
        bytes[..8].copy_from_slice(&now_ns().to_le_bytes());
    }
    bytes.iter().fold(String::with_capacity(64), |mut digits, byte| {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::{Record, State, Status, random_id};

    #[test]
    fn no_container_is_called_by_a_number() {
        // Of random digits alone, one in three hundred ids would be.
        for _ in 0..3000 {
            let id = random_id();
            assert!(id.len() == 64 && id[..12].parse::<u64>().is_err(), "{id}");
        }
    }

    #[test]
    fn what_a_container_runs_under_is_not_none_because_nobody_wrote_it_down() {
        let mut record = Record::named("box");
        record.host_config.security_opt = Some(vec!["apparmor=its-own".to_owned()]);
        let of_before = serde_json::to_value(State::default()).unwrap();
        assert!(of_before.get("apparmor").is_none());
        record.state = serde_json::from_value(of_before).unwrap();
        record.state.status = Status::Running;
        assert_eq!(record.apparmor().unwrap().as_deref(), Some("its-own"));
        record.state.apparmor = Some(String::new());
        assert_eq!(record.apparmor().unwrap(), None);
        record.state.apparmor = Some("of-its-start".to_owned());
        assert_eq!(record.apparmor().unwrap().as_deref(), Some("of-its-start"));
        record.state.status = Status::Exited;
        assert_eq!(record.apparmor().unwrap().as_deref(), Some("its-own"));
    }
}
