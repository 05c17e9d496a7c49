//! Containers in a user namespace (`--userns-remap`): which are, what they cannot be besides, and how their ids are told.

use hull_image::Image;
use hull_image::archive::IdMap;
use hull_runtime::partial::Kind as Namespace;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use super::mounts::Owner;
use super::spec::Share;
use crate::model::HostConfig;
use crate::remap::Remap;
use crate::{Engine, Error, Result};

impl Engine {
    /// The ids of a container; none where they are the host's: the daemon was not told otherwise, or the container was
    /// (`--userns=host`).
    pub(super) fn remap_of(&self, host: &HostConfig) -> Option<&Remap> {
        self.config.userns_remap.as_ref().filter(|_| host.userns_mode != "host")
    }

    /// Who makes files on the host for it: whoever is its root, outside.
    pub(super) fn outer_root(&self, host: &HostConfig) -> Owner {
        let (uid, gid) = self.remap_of(host).map_or((0, 0), Remap::root);
        Owner { uid, gid }
    }

    /// Whether a container can be what else it asks to be, in Docker's words where Docker has them.
    pub(super) fn check_remapped(&self, host: &HostConfig) -> Result<()> {
        if self.remap_of(host).is_none() {
            return Ok(());
        }
        let refused = if host.privileged {
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode"
        } else if host.network_mode == "host" {
            "cannot share the host's network namespace when user namespaces are enabled"
        } else if host.pid_mode == "host" {
            "cannot share the host PID namespace when user namespaces are enabled"
        } else {
            return self.check_shared_by_foreign(host);
        };
        Err(Error::invalid(refused))
    }

    /// Another runtime makes a user namespace for each container, and joins no other's.
    fn check_shared_by_foreign(&self, host: &HostConfig) -> Result<()> {
        let Some(runtime) = self.runtimes().foreign(host)? else { return Ok(()) };
        let modes = [
            ("network", &host.network_mode),
            ("IPC", &host.ipc_mode),
            ("PID", &host.pid_mode),
            ("cgroup", &host.cgroupns_mode),
        ];
        match modes.iter().find(|(_, mode)| mode.starts_with("container:")) {
            None => Ok(()),
            Some((what, mode)) => Err(Error::invalid(format!(
                "cannot share the {what} namespace of {mode} by the runtime {} when user namespaces are enabled: it makes one \
                 of its own for each container; start this one with --userns=host, or without --runtime",
                runtime.name
            ))),
        }
    }

    /// Whether a container can be of its image: `hull/host` is the host's files, which are its root's and not theirs who are
    /// root inside.
    pub(super) fn check_remapped_image(&self, host: &HostConfig, image: Option<&Image>) -> Result<()> {
        if self.remap_of(host).is_none() || image.is_none_or(|image| !image.builtin) {
            return Ok(());
        }
        Err(Error::invalid(
            "hull/host is incompatible with user namespaces: it is this machine's own files, and root inside would read those \
             of root outside; start the container with --userns=host",
        ))
    }

    /// The user namespace of a container that is to share these: that which they belong to, for nobody else has a say
    /// over them.
    pub(super) fn user_namespace(&self, host: &HostConfig, shares: [(&str, &Share); 4]) -> Result<Share> {
        if self.remap_of(host).is_none() {
            return Ok(Share::Host);
        }
        let inode = |pid: &str| Namespace::User.inode_of(pid);
        let mut user: Option<(i32, u64)> = None;
        for (what, share) in shares {
            let Share::Of(pid) = share else { continue };
            let gone = || {
                Error::conflict(format!("cannot join the {what} namespace of process {pid}: it has ended"))
            };
            let owner = inode(&pid.to_string()).ok_or_else(gone)?;
            if Some(owner) == inode("self") {
                return Err(Error::conflict(format!(
                    "cannot join the {what} namespace of a container that is in the host's user namespace (--userns=host) \
                     when user namespaces are enabled: start this one with --userns=host as well"
                )));
            }
            match user {
                Some((_, other)) if other != owner => {
                    return Err(Error::conflict(format!(
                        "cannot join the {what} namespace of one container and another namespace of another: each is in a \
                         user namespace of its own, and this one can be in one only"
                    )));
                }
                _ => user = Some((*pid, owner)),
            }
        }
        Ok(user.map_or(Share::Own, |(pid, _)| Share::Of(pid)))
    }
}

/// Ranges as the runtime takes them.
pub(super) fn mappings(ranges: &[[u32; 3]]) -> Vec<LinuxIdMapping> {
    let mapping = |[inside, outside, count]: &[u32; 3]| {
        LinuxIdMappingBuilder::default()
            .container_id(*inside)
            .host_id(*outside)
            .size(*count)
            .build()
            .unwrap_or_default()
    };
    ranges.iter().map(mapping).collect()
}

/// How the ids of a running container are told on the host: by the kernel's word, whatever the daemon says by now.
///
/// # Errors
/// It has ended.
pub(super) fn ids_of(pid: i32) -> Result<IdMap> {
    let process = pid.to_string();
    if Namespace::User.inode_of(&process) == Namespace::User.inode_of("self") {
        return Ok(IdMap::default());
    }
    let read = |file: &str| {
        let path = format!("/proc/{process}/{file}");
        std::fs::read_to_string(&path)
            .map(|text| super::explain::process::ranges(&text))
            .map_err(|error| Error::system(format_args!("read {path}"), error))
    };
    Ok(IdMap { users: read("uid_map")?, groups: read("gid_map")? })
}

/// The ids that there are inside of a container, which are told as they are. All others are nobody there.
pub(super) fn ids_there_are(remap: &Remap) -> IdMap {
    let themselves = |ranges: &[[u32; 3]]| vec![[0, 0, ranges.iter().map(|range| range[2]).sum()]];
    IdMap { users: themselves(&remap.users), groups: themselves(&remap.groups) }
}
