//! The bundle of a container: the folder that its runtime is shown, with the configuration and the root file system.
//!
//! What is mounted there is mounted in a mount namespace of the shim's own, which its runtime's commands inherit: nobody
//! else on the host sees it, and it goes with the shim. In a user namespace the runtime looks it up as the container's
//! root, who may not enter the folders of the daemon: it is mounted where everybody may go then ([`OPEN`]).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccomp, Mount, Process, RootBuilder, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::UnmountFlags;

use crate::container::{self, Owner};
use crate::error::Context;
use crate::protocol::{Rootfs, Seccomp, UserLookup};
use crate::shim::start::bounding;
use crate::sys::{self, MountAttr};
use crate::{Error, Result, seccomp};

/// The version of the specification that the configuration is written in: that of the oldest runtime still met.
const VERSION: &str = "1.0.2";

/// A folder that every machine has and everybody may enter, upon which the mounts' places are put for a user namespace. No
/// runtime needs what it hides, and what a container is given of it has been opened before.
const OPEN: &str = "/dev/shm";

/// The folder, and what lies in it.
#[derive(Debug)]
pub(super) struct Bundle {
    folder: PathBuf,
    /// Where the root and the other mounts are.
    places: PathBuf,
    /// How many mounts there are besides the root.
    binds: usize,
}

/// The configuration as the launch has it, and what a runtime that is not hull's must be told in other words.
pub(super) struct Wanted<'a> {
    pub(super) rootfs: &'a Rootfs,
    pub(super) seccomp: &'a Seccomp,
    pub(super) user: Option<&'a UserLookup>,
    /// Whose its files are, where it has a user namespace.
    pub(super) owner: Option<&'a Owner>,
    /// The network namespace that it is to join, if it was made for it.
    pub(super) network: Option<PathBuf>,
    /// The terminal's columns and rows.
    pub(super) size: Option<(u16, u16)>,
}

impl Bundle {
    /// Makes the folder, empty.
    pub(super) fn make(runtime_dir: &Path) -> Result<Bundle> {
        let folder = runtime_dir.join("bundle");
        make_folder(&folder)?;
        Ok(Bundle { places: folder.clone(), folder, binds: 0 })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn root(&self) -> PathBuf {
        self.places.join("rootfs")
    }

    /// Where a command of the runtime logs.
    pub(super) fn log(&self, verb: &str) -> PathBuf {
        self.folder.join(format!("{verb}.log"))
    }

    /// Where the runtime writes a process's id.
    pub(super) fn pid_file(&self, of: &str) -> PathBuf {
        self.folder.join(format!("{of}.pid"))
    }

    /// A file of the bundle's with this text.
    pub(super) fn write(&self, name: &str, text: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Mounts what hull knows how to mount, and writes the configuration for the rest. What the machine does not grant
    /// is cut, and told.
    pub(super) fn fill(&mut self, mut spec: Spec, wanted: &Wanted<'_>) -> Result<Vec<String>> {
        let root = self.mount(&mut spec, wanted)?;
        let mut warnings = Vec::new();
        spec.set_version(VERSION.to_owned());
        if wanted.owner.is_some() {
            // The switch is no business of a user namespace: see `start::name_domain`.
            spec.set_domainname(None);
        }
        domain_name(&mut spec);
        namespaces(&mut spec, wanted.network.as_deref());
        let read_only = spec.root().as_ref().and_then(|root| root.readonly());
        let built = RootBuilder::default().path(self.root()).readonly(read_only == Some(true)).build();
        spec.set_root(Some(
            built.map_err(|error| Error::refused("write the configuration", error.to_string()))?,
        ));
        if let Some(mut process) = spec.process().clone() {
            process = container::looked_up_beneath(root.as_fd(), &process, wanted.user)?;
            warnings.extend(fit_process(&mut process, wanted.size)?);
            let filter = filter(&spec, &process, wanted.seccomp)?;
            if let Some(linux) = spec.linux_mut() {
                linux.set_seccomp(filter);
            }
            spec.set_process(Some(process));
        }
        let doing = || "write the configuration".to_owned();
        let text = serde_json::to_vec(&spec).map_err(|error| Error::refused(doing(), error.to_string()))?;
        self.write("config.json", &text)?;
        Ok(warnings)
    }

    /// Mounts the root, and what the runtime is to find mounted. Returns the root.
    fn mount(&mut self, spec: &mut Spec, wanted: &Wanted<'_>) -> Result<OwnedFd> {
        let doing = || "make a mount namespace for the runtime".to_owned();
        sys::unshare_namespaces(libc::CLONE_NEWNS).context(doing)?;
        let host = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(doing)?;
        sys::mount_setattr(host.as_fd(), true, &MountAttr::propagation(libc::MS_SLAVE)).context(doing)?;
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        if wanted.owner.is_some() {
            mounts.extend(devices_as_binds(spec));
        }
        let mut follows = false;
        let mut trees = Vec::new();
        for (index, mount) in mounts.iter_mut().enumerate() {
            follows |= propagates(mount)?;
            if let Some(tree) = container::tree_for_another(mount, spec, wanted.owner)? {
                trees.push((index, tree));
            }
        }
        let tree = container::root_tree(spec, wanted.rootfs, wanted.owner)?;
        if wanted.owner.is_some() {
            self.open()?;
        }
        for (index, tree) in trees {
            self.bind(&mut mounts[index], tree)?;
        }
        spec.set_mounts(Some(mounts));
        if let (true, Some(linux)) = (follows, spec.linux_mut()) {
            // What is mounted on the host later is seen only where the container's own root follows it.
            linux.set_rootfs_propagation(Some("rslave".to_owned()));
        }
        let root = self.root();
        make_folder(&root)?;
        let doing = || format!("mount the root file system on {}", root.display());
        container::attach(tree.as_fd(), CWD, &root).context(doing)?;
        Ok(tree)
    }

    /// Has the places where everybody may go. Behind this the host's files there are hidden.
    fn open(&mut self) -> Result<()> {
        let doing = || format!("mount the bundle's places on {OPEN}");
        let places = container::small_tmpfs(Path::new(OPEN))?;
        container::attach(places.as_fd(), CWD, Path::new(OPEN)).context(doing)?;
        self.places = OPEN.into();
        Ok(())
    }

    /// Puts a mount where the runtime finds it as a plain folder or file.
    fn bind(&mut self, mount: &mut Mount, tree: OwnedFd) -> Result<()> {
        let place = self.places.join(format!("bind{}", self.binds));
        let doing = || format!("mount {}", place.display());
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&tree).context(doing)?.st_mode);
        if kind.is_dir() {
            rustix::fs::mkdir(&place, Mode::from_raw_mode(0o700)).context(doing)?;
        } else {
            std::fs::File::create_new(&place).context(doing)?;
        }
        self.binds += 1;
        container::attach(tree.as_fd(), CWD, &place).context(doing)?;
        mount.set_source(Some(place));
        Ok(())
    }

    /// Unmounts what [`Bundle::fill`] has mounted, in the shim's own namespace. Nothing is removed: the folder goes with the
    /// shim's, and the next start of this container may be at it already.
    pub(super) fn unmount(&self) {
        let binds = (0..self.binds).map(|index| self.places.join(format!("bind{index}")));
        let opened = (self.places != self.folder).then(|| self.places.clone());
        for place in binds.chain([self.root()]).chain(opened) {
            // What is not mounted any more is gone already.
            let _ = rustix::mount::unmount(&place, UnmountFlags::DETACH);
        }
    }
}

/// What a process gets that is not what was asked for, and in which words.
pub(super) fn fit_process(process: &mut Process, size: Option<(u16, u16)>) -> Result<Vec<String>> {
    if let (Some(true), Some((width, height))) = (process.terminal(), size) {
        let built = oci_spec::runtime::BoxBuilder::default().width(width).height(height).build();
        process.set_console_size(built.ok());
    }
    container::cut_to_granted(process)
}

/// A process as the runtime's `exec` reads it.
pub(super) fn looked_up(
    root: BorrowedFd<'_>,
    process: &Process,
    user: Option<&UserLookup>,
) -> Result<Process> {
    container::looked_up_beneath(root, process, user)
}

/// The devices that have another path in the container than on the host, as binds, and no more as devices: in a user
/// namespace no node can be made, and a runtime binds the host's, which it looks for at the container's path.
fn devices_as_binds(spec: &mut Spec) -> Vec<Mount> {
    let Some(linux) = spec.linux_mut() else { return Vec::new() };
    let (mut binds, mut others) = (Vec::new(), Vec::new());
    for device in linux.devices().clone().unwrap_or_default() {
        let Some(host) = container::device_elsewhere(&device) else {
            others.push(device);
            continue;
        };
        let mut bind = Mount::default();
        bind.set_destination(device.path().clone());
        bind.set_typ(Some("bind".to_owned()));
        bind.set_source(Some(host));
        bind.set_options(Some(["bind", "rprivate", "rw", "nosuid", "noexec"].map(str::to_owned).to_vec()));
        binds.push(bind);
    }
    linux.set_devices(Some(others));
    binds
}

fn make_folder(folder: &Path) -> Result<()> {
    rustix::fs::mkdir(folder, Mode::from_raw_mode(0o700))
        .context(|| format!("make the folder {}", folder.display()))
}

/// Another's user namespace is joined by hull's own runtime alone: whether its mappings are told besides is one way with
/// one version of runc and the other way with another.
pub(super) fn own_user_namespace(spec: &Spec) -> Result<()> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let joins = |namespace: &oci_spec::runtime::LinuxNamespace| {
        namespace.typ() == LinuxNamespaceType::User && namespace.path().is_some()
    };
    if namespaces.into_iter().flatten().any(joins) {
        let reason = "only hull's own runtime does: say --userns host, or leave --runtime out";
        return Err(Error::refused("join another container's user namespace by another runtime", reason));
    }
    Ok(())
}

/// Whether a mount is to see what is mounted below its source later.
fn propagates(mount: &Mount) -> Result<bool> {
    let has =
        |words: [&str; 2]| mount.options().iter().flatten().any(|option| words.contains(&option.as_str()));
    if has(["shared", "rshared"]) {
        let place = mount.destination().display();
        let reason =
            "what a container mounts reaches the host only with hull's own runtime: leave --runtime out";
        return Err(Error::refused(format!("mount {place} as shared"), reason));
    }
    Ok(has(["slave", "rslave"]))
}

/// Older runtimes know no `domainname`; the kernel's own switch says the same.
fn domain_name(spec: &mut Spec) {
    let Some(name) = spec.domainname().clone() else { return };
    spec.set_domainname(None);
    if let Some(linux) = spec.linux_mut() {
        let mut switches = linux.sysctl().clone().unwrap_or_default();
        switches.entry("kernel.domainname".to_owned()).or_insert(name);
        linux.set_sysctl(Some(switches));
    }
}

/// Names the network namespace that was made for the container.
fn namespaces(spec: &mut Spec, network: Option<&Path>) {
    let Some(linux) = spec.linux_mut() else { return };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    for namespace in &mut namespaces {
        if let (LinuxNamespaceType::Network, None, Some(path)) = (namespace.typ(), namespace.path(), network)
        {
            namespace.set_path(Some(path.to_owned()));
        }
    }
    linux.set_namespaces(Some(namespaces));
}

/// The filter of system calls in the specification's words.
fn filter(spec: &Spec, process: &Process, wanted: &Seccomp) -> Result<Option<LinuxSeccomp>> {
    match wanted {
        Seccomp::Default => seccomp::default_profile(&bounding(Some(process))).map(Some),
        Seccomp::Spec => Ok(spec.linux().as_ref().and_then(|linux| linux.seccomp().clone())),
        Seccomp::Unconfined => Ok(None),
    }
}

/// An option and its value, for a command line.
pub(super) fn option<'a>(name: &'a str, value: &'a Path) -> [&'a OsStr; 2] {
    [name.as_ref(), value.as_os_str()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(options: &[&str]) -> Mount {
        let mut mount = Mount::default();
        mount.set_destination("/v".into());
        mount.set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
        mount
    }

    #[test]
    fn a_mount_that_would_reach_the_host_is_refused() {
        assert!(!propagates(&mount(&["rbind", "rprivate"])).unwrap());
        assert!(propagates(&mount(&["rbind", "rslave"])).unwrap());
        let error = propagates(&mount(&["rbind", "rshared"])).unwrap_err();
        assert!(error.to_string().contains("mount /v as shared"), "{error}");
    }

    #[test]
    fn another_s_user_namespace_is_refused() {
        let mut spec = Spec::default();
        let mut namespace = oci_spec::runtime::LinuxNamespace::default();
        namespace.set_typ(LinuxNamespaceType::User);
        spec.linux_mut().as_mut().unwrap().set_namespaces(Some(vec![namespace.clone()]));
        own_user_namespace(&spec).unwrap();
        namespace.set_path(Some("/proc/1/ns/user".into()));
        spec.linux_mut().as_mut().unwrap().set_namespaces(Some(vec![namespace]));
        assert!(own_user_namespace(&spec).unwrap_err().to_string().contains("--userns host"));
    }

    #[test]
    fn the_domain_name_is_a_switch_of_the_kernel() {
        let mut spec = Spec::default();
        spec.set_domainname(Some("example.org".to_owned()));
        domain_name(&mut spec);
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.sysctl().as_ref().unwrap()["kernel.domainname"], "example.org");
        assert!(spec.domainname().is_none());
    }

    #[test]
    fn the_network_that_was_made_is_named_and_no_other() {
        let mut spec = Spec::default();
        namespaces(&mut spec, Some(Path::new("/proc/1/fd/9")));
        let linux = spec.linux().as_ref().unwrap();
        for namespace in linux.namespaces().iter().flatten() {
            let is_network = namespace.typ() == LinuxNamespaceType::Network;
            assert_eq!(namespace.path().is_some(), is_network, "{namespace:?}");
        }
    }
}
