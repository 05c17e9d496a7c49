//! A place on a network that is no container's: a program's that was put there by hand (`hull ns run --net NAME`).
//!
//! It is a process's, the one that asked for it, and is given back when that ends. It is written down beneath the exec
//! root, so that a daemon that comes back goes on answering there, and gives the address to nobody else meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Allocation, HostsOf, Joiner, Live, Networks, Resolving};
use crate::blocking::see_through;
use crate::container::random_id;
use crate::model::EndpointSettings;
use crate::process::{began, ended, open as open_process};
use crate::{Engine, Error, Result};

/// What whoever takes a place is told.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Place {
    /// The network namespace's file, in the daemon's `/proc`.
    pub namespace: String,
    /// The text of /etc/hosts there.
    pub hosts: String,
    /// The text of /etc/resolv.conf there.
    pub resolv_conf: String,
    /// What it is on the network, by the network's name.
    pub networks: BTreeMap<String, EndpointSettings>,
}

/// A place as it is written down.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    id: String,
    name: String,
    owner: i32,
    /// When the owner began: an id alone may be another's by now.
    began: u64,
    /// The namespace's inode, by which the owner's child is known.
    namespace: u64,
    endpoints: BTreeMap<String, EndpointSettings>,
}

impl Networks {
    /// Decides about a place on that network, and makes its namespace. Blocks for a few milliseconds.
    fn place(&self, network: &str, name: &str, id: &str) -> Result<(Allocation, OwnedFd)> {
        let network = self.check(network, &EndpointSettings::default())?;
        if matches!(network.as_str(), "host" | "none") {
            let message =
                format!("network {network} has no addresses to be given: a namespace alone is --net");
            return Err(Error::invalid(message));
        }
        let endpoints = BTreeMap::from([(network, EndpointSettings::default())]);
        let allocation = self.allocate(&Joiner {
            id,
            name,
            hostname: name,
            endpoints: &endpoints,
            port_bindings: &BTreeMap::new(),
            exposed: &[],
            publish_all: false,
            dns: &[],
        })?;
        let namespace = self.realise(&allocation, None)?;
        Ok((allocation, namespace))
    }

    fn told(&self, allocation: &Allocation, name: &str, namespace: &OwnedFd) -> Result<Place> {
        let networks: Vec<&str> = allocation.endpoints.keys().map(String::as_str).collect();
        let resolving = Resolving { networks: &networks, dns: &[], search: &[], options: &[] };
        Ok(Place {
            namespace: format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()),
            resolv_conf: self.resolv_conf(&resolving)?,
            hosts: self.hosts(&HostsOf {
                endpoints: &allocation.endpoints,
                hostname: name,
                domainname: "",
                extra: &[],
                linked: Vec::new(),
            })?,
            networks: allocation.endpoints.clone(),
        })
    }
}

/// The process that a place is made for.
struct Owner {
    process: i32,
    /// When it began.
    began: u64,
    pidfd: OwnedFd,
}

impl Engine {
    /// Makes a namespace on that network for a process, until that ends.
    ///
    /// # Errors
    /// There is no such process or network, the network has no addresses (`host`, `none`) or none that is free, or the
    /// kernel refuses.
    pub async fn take_place(
        self: &Arc<Self>,
        network: &str,
        name: Option<&str>,
        owner: i32,
    ) -> Result<Place> {
        let nobody = || Error::invalid(format!("the place's owner: there is no process {owner}"));
        let pidfd = open_process(owner).ok_or_else(nobody)?;
        let began = began(owner).ok_or_else(nobody)?;
        let id = random_id();
        let name = name.map_or_else(|| format!("ns-{}", &id[..12]), str::to_owned);
        let (engine, network) = (Arc::clone(self), network.to_owned());
        // A client that goes away does not leave a place that nobody gives back.
        see_through("make a place on a network", async move {
            engine.make_place(network, name, id, Owner { process: owner, began, pidfd }).await
        })
        .await
    }

    async fn make_place(
        self: &Arc<Self>,
        network: String,
        name: String,
        id: String,
        owner: Owner,
    ) -> Result<Place> {
        let Owner { process, began, pidfd } = owner;
        let engine = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || {
            let (allocation, namespace) = engine.networks.place(&network, &name, &id)?;
            let told = engine.networks.told(&allocation, &name, &namespace)?;
            let inode =
                fs::metadata(&told.namespace).map_err(|error| Error::system("look at a namespace", error))?;
            let endpoints = allocation.endpoints.clone();
            engine.write_place(&Record {
                id,
                name,
                owner: process,
                began,
                namespace: inode.ino(),
                endpoints,
            })?;
            Ok::<_, Error>((allocation, namespace, told))
        });
        let (allocation, namespace, told) =
            made.await.map_err(|error| Error::system("make a place on a network", error))??;
        self.networks.running(&allocation.id, &allocation, process)?;
        self.give_back_after(pidfd, allocation, Some(namespace));
        Ok(told)
    }

    /// Waits for the owner's end, then gives the place back. The daemon's own end leaves it.
    fn give_back_after(self: &Arc<Self>, owner: OwnedFd, allocation: Allocation, namespace: Option<OwnedFd>) {
        let engine = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = ended(owner).await {
                tracing::error!(id = allocation.id, %error, "the owner of a place cannot be watched");
            }
            let work = move || {
                let id = allocation.id.clone();
                drop(namespace);
                if let Err(error) = engine.networks.release(&id, allocation) {
                    tracing::warn!(%id, %error, "a place on a network could not be given back whole");
                }
                // One that stays is found without an owner by the next daemon.
                let _ = fs::remove_file(engine.place_file(&id));
            };
            if let Err(error) = tokio::task::spawn_blocking(work).await {
                tracing::error!(%error, "a place on a network could not be given back");
            }
        });
    }

    /// The places that programs have from an earlier daemon are theirs again; those without an owner are forgotten.
    /// Called within the runtime.
    pub(crate) fn take_up_places(self: &Arc<Self>) {
        if let Err(error) = fs::create_dir_all(self.places()) {
            tracing::error!(%error, "the folder of places cannot be made: {}", self.places().display());
        }
        let files = fs::read_dir(self.places()).into_iter().flatten().flatten();
        for file in files.map(|entry| entry.path()) {
            let text = fs::read(&file).unwrap_or_default();
            let taken_up =
                serde_json::from_slice::<Record>(&text).ok().and_then(|record| self.take_up_place(&record));
            if taken_up.is_none() {
                // One that stays is looked at again by the next daemon.
                let _ = fs::remove_file(&file);
            }
        }
    }

    fn take_up_place(self: &Arc<Self>, record: &Record) -> Option<()> {
        let owner = open_process(record.owner)?;
        let pid = (began(record.owner)? == record.began).then(|| inside(record))??;
        let live = Live { id: &record.id, name: &record.name, hostname: &record.name, pid, dns: &[] };
        match self.networks.restore(&live, &record.endpoints, &BTreeMap::new()) {
            Ok(allocation) => {
                self.give_back_after(owner, allocation, None);
                Some(())
            }
            Err(error) => {
                tracing::error!(id = record.id, %error, "a program's place on a network is not known any more");
                None
            }
        }
    }

    fn places(&self) -> PathBuf {
        self.config.exec_root.join("places")
    }

    fn place_file(&self, id: &str) -> PathBuf {
        self.places().join(id)
    }

    fn write_place(&self, record: &Record) -> Result<()> {
        let file = self.place_file(&record.id);
        let text = serde_json::to_vec(record).map_err(|error| Error::system("write a place down", error))?;
        // A daemon that finds half of it forgets the place, which nobody was told of yet.
        fs::write(&file, text).map_err(|error| Error::system(format_args!("write {}", file.display()), error))
    }
}

/// The owner's child that is in the namespace.
fn inside(record: &Record) -> Option<i32> {
    let owner = record.owner;
    let children = fs::read_to_string(format!("/proc/{owner}/task/{owner}/children")).ok()?;
    let in_it = |pid: &i32| {
        fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|namespace| namespace.ino() == record.namespace)
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(in_it)
}
