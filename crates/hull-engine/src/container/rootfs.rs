//! From a snapshot to the root of a container.

use hull_image::Snapshot;
use hull_runtime::protocol::Rootfs;
use oci_spec::runtime::Spec;

use crate::{Error, Result};

/// What the first process mounts as its root: the overlay of a snapshot, or the tree that it is, which the configuration
/// names then. `mapped`: the ids in it are those of the container's user namespace.
///
/// # Errors
/// The ids of a whole tree are to be mapped.
pub(super) fn rootfs(snapshot: Snapshot, mapped: bool, spec: &mut Spec) -> Result<Rootfs> {
    let Snapshot { lower, upper, work, is_whole } = snapshot;
    if !is_whole {
        return Ok(Rootfs::Overlay { lower, upper, work, mapped });
    }
    if mapped {
        return Err(Error::unsupported(
            "a user namespace for a container whose files are a tree of their own (the storage drivers btrfs and vfs; \
             overlayfs has it)",
        ));
    }
    let mut root = spec.root().clone().unwrap_or_default();
    root.set_path(upper);
    spec.set_root(Some(root));
    Ok(Rootfs::Path)
}
