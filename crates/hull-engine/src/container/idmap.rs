//! Mappings between the ids of a container and those on the host's disks.

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use super::mounts::Owner;

/// Makes a bind one in which root's files are the owner's outside.
///
/// Only root stands for somebody else. Who has the owner's own id inside has no file there, and the host's root has
/// none that is seen: otherwise a user of the container could make files of the host's root.
pub(super) fn of_owner(mount: &mut Mount, owner: Owner) {
    if owner == Owner::default() {
        // Root for root, and so for all others.
        return;
    }
    mount.set_uid_mappings(Some(as_root(owner.uid)));
    mount.set_gid_mappings(Some(as_root(owner.gid)));
    let recursive = mount.options().iter().flatten().any(|option| option == "rbind");
    let mut options = mount.options().clone().unwrap_or_default();
    options.push(if recursive { "ridmap" } else { "idmap" }.to_owned());
    mount.set_options(Some(options));
}

/// From ids on the disk to those that are seen: `owner` is 0, the others are themselves.
fn as_root(owner: u32) -> Vec<LinuxIdMapping> {
    // The last id is none.
    let all = u32::MAX;
    if owner == 0 {
        return vec![mapping(0, 0, all)];
    }
    let pieces =
        [mapping(owner, 0, 1), mapping(1, 1, owner - 1), mapping(owner + 1, owner + 1, all - owner - 1)];
    pieces.into_iter().filter(|piece| piece.size() > 0).collect()
}

fn mapping(on_disk: u32, seen: u32, size: u32) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default()
        .container_id(on_disk)
        .host_id(seen)
        .size(size)
        .build()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_stands_for_the_owner_and_the_others_for_themselves() {
        let seen = |owner: u32, id: u32| {
            let piece = as_root(owner)
                .into_iter()
                .find(|piece| (piece.container_id()..piece.container_id() + piece.size()).contains(&id))?;
            Some(piece.host_id() + (id - piece.container_id()))
        };
        for owner in [1, 1000, u32::MAX - 1] {
            assert_eq!((seen(owner, owner), seen(owner, 0)), (Some(0), None));
            for other in [2, 999, 1001, 4_000_000_000] {
                assert_eq!(seen(owner, other), Some(other));
            }
        }
        assert_eq!((seen(0, 0), seen(0, 7)), (Some(0), Some(7)));
    }
}
