//! Mappings between the ids of a container and those on the host's disks.

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use super::mounts::Owner;
use crate::remap::Remap;

/// Makes a bind one in which root's files are the owner's outside.
///
/// Only root stands for somebody else. Who has the owner's own id inside has no file there, and the host's root has
/// none that is seen: otherwise a user of the container could make files of the host's root.
pub(super) fn of_owner(mount: &mut Mount, owner: Owner, remap: Option<&Remap>) {
    if owner == Owner::default() && remap.is_none() {
        // Root for root, and so for all others.
        return;
    }
    let whole = [[0, 0, u32::MAX]];
    let (users, groups) = remap.map_or((&whole[..], &whole[..]), |remap| (&remap.users, &remap.groups));
    mount.set_uid_mappings(Some(through(&as_root(owner.uid), users)));
    mount.set_gid_mappings(Some(through(&as_root(owner.gid), groups)));
    add_option(mount);
}

/// Makes a bind one in which everybody's files on the disk are theirs inside of the container that it is in.
pub(super) fn as_in_container(mount: &mut Mount) {
    // Of this mount alone: what may be mounted beneath it is no part of it.
    let mut options = mount.options().clone().unwrap_or_default();
    options.push("idmap".to_owned());
    mount.set_options(Some(options));
}

/// Makes a bind one in which files are told as they are told inside of a container with these ids, where nothing but the
/// bind is mapped. Those who have no id inside get one behind these, for nobody can read a file that has no owner.
pub(super) fn seen_from_inside(mount: &mut Mount, remap: &Remap) {
    mount.set_uid_mappings(Some(turned(&remap.users)));
    mount.set_gid_mappings(Some(turned(&remap.groups)));
    add_option(mount);
}

/// From ids on the disk to those inside of a container: its ranges, which are in the order of the disk's, and the rest.
fn turned(ranges: &[[u32; 3]]) -> Vec<LinuxIdMapping> {
    let mut mappings: Vec<_> =
        ranges.iter().map(|[inside, outside, count]| mapping(*outside, *inside, *count)).collect();
    let mut free = ranges.iter().map(|[_, _, count]| count).sum::<u32>();
    let mut begin = 0;
    // The last id is none.
    for (outside, count) in ranges.iter().map(|range| (range[1], range[2])).chain([(u32::MAX, 0)]) {
        if outside > begin {
            mappings.push(mapping(begin, free, outside - begin));
            free += outside - begin;
        }
        begin = outside.saturating_add(count);
    }
    mappings
}

fn add_option(mount: &mut Mount) {
    let recursive = mount.options().iter().flatten().any(|option| option == "rbind");
    let mut options = mount.options().clone().unwrap_or_default();
    options.push(if recursive { "ridmap" } else { "idmap" }.to_owned());
    mount.set_options(Some(options));
}

/// A mapping from the disk to ids of a container, and from these by its user namespace to the host's.
fn through(to_container: &[LinuxIdMapping], to_host: &[[u32; 3]]) -> Vec<LinuxIdMapping> {
    let piece = |first: &LinuxIdMapping, [inside, outside, count]: &[u32; 3]| {
        let (from, to) = (u64::from(first.host_id()), u64::from(first.host_id()) + u64::from(first.size()));
        let begin = from.max(u64::from(*inside));
        let end = to.min(u64::from(*inside) + u64::from(*count));
        let length = u32::try_from(end.checked_sub(begin)?).ok().filter(|length| *length > 0)?;
        let (skipped, offset) =
            (u32::try_from(begin - from).ok()?, u32::try_from(begin - u64::from(*inside)).ok()?);
        Some(mapping(first.container_id() + skipped, outside + offset, length))
    };
    to_container
        .iter()
        .flat_map(|first| to_host.iter().filter_map(move |second| piece(first, second)))
        .collect()
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

    #[test]
    fn from_inside_everybody_has_an_id() {
        let mappings = turned(&[[0, 1000, 10], [10, 5000, 10]]);
        let seen = |id: u32| {
            let piece = mappings
                .iter()
                .find(|piece| piece.container_id() <= id && id - piece.container_id() < piece.size())?;
            Some(piece.host_id() + (id - piece.container_id()))
        };
        assert_eq!((seen(1000), seen(1009), seen(5000), seen(5009)), (Some(0), Some(9), Some(10), Some(19)));
        assert_eq!(
            (seen(0), seen(999), seen(1010), seen(5010)),
            (Some(20), Some(1019), Some(1020), Some(5010))
        );
        assert_eq!((seen(u32::MAX - 1), seen(u32::MAX)), (Some(u32::MAX - 1), None));
    }

    #[test]
    fn in_a_user_namespace_root_stands_for_the_owner_too() {
        let ranges = [[0, 100_000, 10], [10, 500_000, 100]];
        let mappings = through(&as_root(50), &ranges);
        let seen = |id: u32| {
            let piece = mappings
                .iter()
                .find(|piece| (piece.container_id()..piece.container_id() + piece.size()).contains(&id))?;
            Some(piece.host_id() + (id - piece.container_id()))
        };
        assert_eq!((seen(50), seen(0)), (Some(100_000), None));
        assert_eq!((seen(1), seen(9), seen(10)), (Some(100_001), Some(100_009), Some(500_000)));
        assert_eq!(
            (seen(49), seen(51), seen(109), seen(110)),
            (Some(500_039), Some(500_041), Some(500_099), None)
        );
    }
}
