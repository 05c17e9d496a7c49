//! Owners in archives of a container that runs in a user namespace: the host sees them as its own ids, an archive tells
//! them as they are told inside.

use crate::{Error, Result};

/// The ids of a user namespace, as the kernel lists them; empty: they are the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Users: inside, outside, how many.
    pub users: Vec<[u32; 3]>,
    /// Groups.
    pub groups: Vec<[u32; 3]>,
}

/// Who has no id inside (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65_534;

/// `security.capability` as `linux/capability.h` has it: with revision 3 it names the root whose namespace it is for.
const CAPABILITY: &[u8] = b"security.capability";
const REVISION_MASK: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const LENGTH_2: usize = 20;
const LENGTH_3: usize = 24;

impl IdMap {
    /// Whether ids are the host's.
    pub fn is_hosts(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// Who is root inside, outside: user and group. `None`: the host's root, or nobody.
    pub fn root(&self) -> Option<(u32, u32)> {
        let root = (outside(&self.users, 0)?, outside(&self.groups, 0)?);
        (root != (0, 0)).then_some(root)
    }

    /// The owner inside of a file that has this one outside.
    pub(crate) fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        let of = |ranges: &[[u32; 3]], id: u32| {
            let piece = |[inside, outside, count]: &[u32; 3]| {
                id.checked_sub(*outside).filter(|offset| offset < count).map(|offset| inside + offset)
            };
            ranges.iter().find_map(piece).unwrap_or(NOBODY)
        };
        if self.is_hosts() { (uid, gid) } else { (of(&self.users, uid), of(&self.groups, gid)) }
    }

    /// The owner outside of a file that is to have this one inside.
    ///
    /// # Errors
    /// There is no such id inside.
    pub(crate) fn outside(&self, uid: u32, gid: u32) -> Result<(u32, u32)> {
        if self.is_hosts() {
            return Ok((uid, gid));
        }
        let missing = |what: &str, id: u32| {
            Error::invalid(format!(
                "{what} {id} cannot be mapped to one of the host: the container's user namespace has no such id"
            ))
        };
        Ok((
            outside(&self.users, uid).ok_or_else(|| missing("user", uid))?,
            outside(&self.groups, gid).ok_or_else(|| missing("group", gid))?,
        ))
    }

    /// An extended attribute as an archive has it.
    pub(crate) fn attribute_inside(&self, name: &[u8], value: Vec<u8>) -> Vec<u8> {
        let Some(root) = self.root() else { return value };
        if name != CAPABILITY || value.len() != LENGTH_3 || word(&value, 0) & REVISION_MASK != REVISION_3 {
            return value;
        }
        if word(&value, LENGTH_2) != root.0 {
            return value;
        }
        let mut told = value[..LENGTH_2].to_vec();
        told[..4].copy_from_slice(&(word(&value, 0) & !REVISION_MASK | REVISION_2).to_le_bytes());
        told
    }

    /// An archive's extended attribute as the container's file is to have it.
    pub(crate) fn attribute_outside(&self, name: &[u8], value: &[u8]) -> Vec<u8> {
        let Some(root) = self.root() else { return value.to_vec() };
        if name != CAPABILITY || value.len() != LENGTH_2 || word(value, 0) & REVISION_MASK != REVISION_2 {
            return value.to_vec();
        }
        let mut kept = value.to_vec();
        kept[..4].copy_from_slice(&(word(value, 0) & !REVISION_MASK | REVISION_3).to_le_bytes());
        kept.extend(root.0.to_le_bytes());
        kept
    }
}

fn outside(ranges: &[[u32; 3]], id: u32) -> Option<u32> {
    let piece = |[inside, outside, count]: &[u32; 3]| {
        id.checked_sub(*inside).filter(|offset| offset < count).map(|offset| outside + offset)
    };
    ranges.iter().find_map(piece)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> IdMap {
        IdMap { users: vec![[0, 100_000, 10], [10, 500_000, 5]], groups: vec![[0, 200_000, 65_536]] }
    }

    #[test]
    fn owners_there_and_back() {
        let ids = ids();
        assert_eq!(ids.root(), Some((100_000, 200_000)));
        for (inside, outside) in [((0, 0), (100_000, 200_000)), ((12, 7), (500_002, 200_007))] {
            assert_eq!(ids.outside(inside.0, inside.1).unwrap(), outside);
            assert_eq!(ids.inside(outside.0, outside.1), inside);
        }
        assert_eq!(ids.inside(0, 0), (NOBODY, NOBODY));
        let error = ids.outside(15, 0).unwrap_err().to_string();
        assert!(error.starts_with("user 15 cannot be mapped"), "{error}");
        let hosts = IdMap::default();
        assert_eq!((hosts.inside(5, 6), hosts.outside(5, 6).unwrap(), hosts.root()), ((5, 6), (5, 6), None));
    }

    #[test]
    fn capabilities_of_files_name_their_root_outside_alone() {
        let ids = ids();
        let plain: Vec<u8> =
            [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let rooted = ids.attribute_outside(b"security.capability", &plain);
        assert_eq!((rooted.len(), word(&rooted, 0), word(&rooted, 20)), (24, 0x0300_0001, 100_000));
        assert_eq!(ids.attribute_inside(b"security.capability", rooted.clone()), plain);
        // Another namespace's, another attribute: as they are.
        let mut others = rooted;
        others[20] ^= 1;
        assert_eq!(ids.attribute_inside(b"security.capability", others.clone()), others);
        assert_eq!(ids.attribute_outside(b"user.x", &plain), plain);
        assert_eq!(IdMap::default().attribute_outside(b"security.capability", &plain), plain);
    }
}
