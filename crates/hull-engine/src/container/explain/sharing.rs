//! With whom a container shares its namespaces.

use std::collections::BTreeMap;

use hull_runtime::partial::Kind;
use serde::Serialize;

use super::super::spec::{Namespaces, Share};
use crate::Engine;

/// A namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Its inode; none of a container that does not run.
    pub inode: Option<u64>,
    /// It is the host's, which the daemon is in, too.
    pub host: bool,
    /// The other containers that are in it, by name; none are named for the host's.
    pub containers: Vec<String>,
}

impl Engine {
    /// The namespaces of a running container's first process.
    pub(super) fn shared_with(&self, id: &str, pid: i32) -> BTreeMap<&'static str, Namespace> {
        let others: Vec<(String, String)> = self
            .containers
            .all()
            .iter()
            .filter(|other| other.id != id)
            .filter_map(|other| {
                let record = other.record();
                record.is_running().then(|| (record.name.clone(), record.state.pid.to_string()))
            })
            .collect();
        let process = pid.to_string();
        let of = |kind: Kind| {
            let inode = kind.inode_of(&process);
            let host = inode.is_some() && inode == kind.inode_of("self");
            let shares = |other: &&(String, String)| inode.is_some() && kind.inode_of(&other.1) == inode;
            let containers = match host {
                true => Vec::new(),
                false => others.iter().filter(shares).map(|(name, _)| name.clone()).collect(),
            };
            (kind.name(), Namespace { inode, host, containers })
        };
        Kind::ALL.into_iter().map(of).collect()
    }

    /// The namespaces that a start would give it.
    pub(super) fn planned_namespaces(&self, shares: &Namespaces) -> BTreeMap<&'static str, Namespace> {
        let name_of = |pid: i32| {
            let all = self.containers.all();
            let other = all.iter().find(|other| other.record().state.pid == pid);
            other.map(|other| other.record().name.clone())
        };
        let of = |kind: Kind| {
            let share = match kind {
                Kind::Net => &shares.network,
                Kind::Pid => &shares.pid,
                Kind::Ipc => &shares.ipc,
                Kind::Uts => &shares.uts,
                Kind::Cgroup => &shares.cgroup,
                Kind::User => &shares.user,
                Kind::Mount => &Share::Own,
                Kind::Time => &Share::Host,
            };
            let containers = match share {
                Share::Of(pid) => name_of(*pid).into_iter().collect(),
                Share::Own | Share::Host => Vec::new(),
            };
            (kind.name(), Namespace { inode: None, host: *share == Share::Host, containers })
        };
        Kind::ALL.into_iter().map(of).collect()
    }
}
