//! The file system of a container from outside: of one that runs by its first process, of another by a view.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_image::Image;
use hull_image::archive::IdMap;
use hull_runtime::protocol::{self, Event, ToLauncher};
use oci_spec::runtime::{Linux, Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags};

use super::mounts::{MountKind, MountPlan, Owner};
use super::rootfs::rootfs;
use super::shim::Shim;
use super::spec::{self, Source};
use super::{Container, Record, idmap, remapped};
use crate::blocking::may_hang_if;
use crate::remap::Remap;
use crate::volumes::Run;
use crate::{Engine, Error, Kind, Result};

/// A container's root folder, as long as this is held.
pub(super) struct View {
    /// The root folder.
    pub(super) root: OwnedFd,
    /// How the ids in it are told on the host: of a container in a user namespace.
    pub(super) ids: IdMap,
    /// The process that holds the mounts of a stopped container ends when this closes.
    _holder: Option<Arc<Shim>>,
}

impl View {
    /// Lets go of it, and waits until nothing of it is mounted any more.
    pub(super) async fn close(self) {
        let View { root, _holder: holder, .. } = self;
        drop(root);
        if let Some(holder) = holder {
            holder.finish().await;
        }
    }
}

/// Volumes that are new to a container, with their places in it.
#[derive(Default)]
struct Fresh {
    /// Those without anything in them, and their folders.
    empty: Vec<(String, PathBuf)>,
    /// Those that the kernel does not mount, and why.
    unmountable: Vec<(String, Error)>,
}

impl Engine {
    /// Shows a container's root with all that is mounted in it, whether it runs or not.
    pub(super) async fn view(&self, container: &Container) -> Result<View> {
        let record = container.record().clone();
        if record.is_running() {
            let (root, ids) = (running_root(record.state.pid)?, remapped::ids_of(record.state.pid)?);
            return Ok(View { root, ids, _holder: None });
        }
        let mut mounts = Vec::new();
        let remap = self.remap_of(&record.host_config).filter(|_| !record.build_step);
        for (index, plan) in record.mounts.iter().enumerate() {
            // Not there while nothing runs.
            if plan.kind != MountKind::Tmpfs {
                let source = self.source_of(&record, index, plan)?;
                mounts.push(mount_in_view(plan, &source, remap));
            }
        }
        self.view_of(&record, mounts).await
    }

    /// Shows the container's own file system without what is mounted in it.
    pub(super) async fn plain_view(&self, record: &Record) -> Result<View> {
        self.view_of(record, Vec::new()).await
    }

    async fn view_of(&self, record: &Record, mounts: Vec<Mount>) -> Result<View> {
        let snapshot = self.images.snapshot(&record.id).map_err(crate::images::error)?;
        let mut spec = Spec::default();
        spec.set_mounts(Some(mounts));
        let mut linux = Linux::default();
        linux.set_mount_label(record.mount_label());
        spec.set_linux(Some(linux));
        let (ours, theirs) = protocol::pair()?;
        // As it is on the disk, which is as it is told inside.
        let rootfs = rootfs(snapshot, false, &mut spec);
        let view = protocol::View { version: protocol::VERSION, spec, rootfs };
        self.launcher.send(&ToLauncher::View(Box::new(view)), &[theirs.as_fd()])?;
        drop(theirs);
        let holder = Shim::new(ours)?;
        match holder.event().await? {
            Some((Event::ViewReady, descriptors)) => {
                let root = descriptors.into_iter().next().ok_or_else(|| {
                    Error::system("look at the container's files", "the view came without its root")
                })?;
                let ids = self.remap_of(&record.host_config).map(remapped::ids_there_are).unwrap_or_default();
                Ok(View { root, ids, _holder: Some(holder) })
            }
            Some((Event::StartFailed(error), _)) => Err(error.into()),
            _ => Err(Error::system("look at the container's files", "the view ended without a word")),
        }
    }

    /// Fills volumes that are new with what the image holds at their places.
    pub(super) async fn fill_volumes(self: &Arc<Self>, record: &Record, fresh: &[usize]) -> Result<()> {
        let plans: Vec<MountPlan> =
            fresh.iter().filter_map(|index| record.mounts.get(*index)).cloned().collect();
        let may_hang = self.volumes.of_a_container_are_mounts(&record.id);
        let filled = self.fill_mounted(record, &plans, may_hang).await;
        // Whatever came of it: a volume that stays mounted here would never be unmounted.
        let run = Run::before_any(&record.id);
        let unmounted = may_hang_if(may_hang, self, move |engine| {
            let unmounted = plans.iter().map(|plan| engine.volumes.unmount(&plan.name, &run).map(drop));
            unmounted.fold(Ok(()), Result::and)
        });
        filled.and(unmounted.await)
    }

    async fn fill_mounted(
        self: &Arc<Self>,
        record: &Record,
        plans: &[MountPlan],
        may_hang: bool,
    ) -> Result<()> {
        let (id, names) = (record.id.clone(), plans.to_vec());
        let Fresh { empty, unmountable } =
            may_hang_if(may_hang, self, move |engine| engine.fresh_volumes(&id, &names)).await?;
        if !empty.is_empty() || !unmountable.is_empty() {
            let view = self.plain_view(record).await?;
            let copied = tokio::task::spawn_blocking(move || {
                for (place, error) in unmountable {
                    // Where the image has nothing to fill it with, it is the start that mounts it, and fails.
                    if hull_image::archive::has(view.root.as_fd(), &place).map_err(crate::images::error)? {
                        return Err(error);
                    }
                }
                for (place, folder) in empty {
                    let volume = open_folder(&folder)?;
                    hull_image::archive::copy_up(view.root.as_fd(), &place, volume.as_fd())
                        .map_err(crate::images::error)?;
                }
                Ok(())
            });
            copied.await.unwrap_or_else(|error| Err(Error::system("fill a volume", error)))?;
        }
        Ok(())
    }

    /// Of these volumes of a container, which it mounts for that: those that are empty and those that cannot be mounted.
    fn fresh_volumes(&self, id: &str, plans: &[MountPlan]) -> Result<Fresh> {
        let run = Run::before_any(id);
        let mut fresh = Fresh::default();
        for plan in plans {
            let folder = match self.volumes.mount(&plan.name, &run) {
                Ok(folder) => folder,
                Err(error) if error.kind == Kind::NotFound => return Err(error),
                Err(error) => {
                    fresh.unmountable.push((plan.destination.clone(), error));
                    continue;
                }
            };
            let is_empty = std::fs::read_dir(&folder)
                .map_err(|error| Error::system(format_args!("look into the volume {}", plan.name), error))?
                .next()
                .is_none();
            if is_empty {
                fresh.empty.push((plan.destination.clone(), folder));
            }
        }
        Ok(fresh)
    }

    /// The image that a container was made of, if it is still there.
    pub(super) fn image_of_record(&self, record: &Record) -> Option<Arc<Image>> {
        self.images.resolve(&record.image_id).ok()
    }
}

/// A mount as the container has it, but for what a look at it changes: it is told as it is inside, without a user namespace,
/// and nothing of it goes to the host, whose mounts it may be.
fn mount_in_view(plan: &MountPlan, source: &Source, remap: Option<&Remap>) -> Mount {
    let plan = MountPlan { propagation: String::new(), ..plan.clone() };
    let mut mount = spec::planned_mount(&plan, source, None);
    if let Some(remap) = remap.filter(|_| plan.owner.is_none() && !source.own) {
        idmap::seen_from_inside(&mut mount, remap);
    }
    mount
}

/// The root of a running container, held by its own process: what it mounts later is seen too.
fn running_root(pid: i32) -> Result<OwnedFd> {
    open_folder(Path::new(&format!("/proc/{pid}/root")))
}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::system(format_args!("open {}", path.display()), error))
}

/// The place of a /dev/shm that other containers may join, in the container's runtime folder.
pub(super) fn shared_memory(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("shm")
}

/// Mounts it.
pub(super) fn mount_shared_memory(
    runtime_dir: &Path,
    size: i64,
    root: Owner,
    label: Option<&str>,
) -> Result<()> {
    use rustix::mount::{MountFlags, mount};
    let folder = shared_memory(runtime_dir);
    let failed = |error: std::io::Error| Error::system(format_args!("mount {}", folder.display()), error);
    std::fs::create_dir(&folder).map_err(failed)?;
    let mut words = format!("mode=1777,size={size},uid={},gid={}", root.uid, root.gid);
    if let Some(label) = label {
        words = format!("{words},{}", hull_runtime::selinux::context_option(label)?);
    }
    let options = std::ffi::CString::new(words).map_err(|error| failed(error.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("shm", &folder, "tmpfs", flags, options.as_c_str()).map_err(|error| failed(error.into()))
}

/// Undoes [`mount_shared_memory`].
pub(super) fn unmount_shared_memory(runtime_dir: &Path) {
    let folder = shared_memory(runtime_dir);
    match rustix::mount::unmount(&folder, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => tracing::error!(%error, "{} could not be unmounted", folder.display()),
    }
}
