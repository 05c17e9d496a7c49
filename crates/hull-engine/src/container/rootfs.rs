//! From a snapshot to the root of a container.

use hull_image::Snapshot;
use hull_runtime::protocol::Rootfs;
use oci_spec::runtime::Spec;

/// What the first process mounts as its root: the overlay of a snapshot, or the tree that it is, which the configuration
/// names then. `mapped`: the ids in it are those of the container's user namespace.
pub(super) fn rootfs(snapshot: Snapshot, mapped: bool, spec: &mut Spec) -> Rootfs {
    let Snapshot { lower, upper, work, is_whole } = snapshot;
    if !is_whole {
        return Rootfs::Overlay { lower, upper, work, mapped };
    }
    let mut root = spec.root().clone().unwrap_or_default();
    root.set_path(upper);
    spec.set_root(Some(root));
    if mapped { Rootfs::MappedPath } else { Rootfs::Path }
}
