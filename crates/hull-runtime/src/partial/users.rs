//! The maps of a user namespace: who inside is who outside.

use std::fs;

use crate::container::write_by_helper;
use crate::error::Context as _;
use crate::{Error, Result};

/// A range of ids: `count` of them, from `inside` on, are those from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first id in the namespace.
    pub inside: u32,
    /// The first id in the caller's.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl Range {
    /// One id.
    pub fn one(inside: u32, outside: u32) -> Range {
        Range { inside, outside, count: 1 }
    }

    /// `INSIDE:OUTSIDE:COUNT`.
    ///
    /// # Errors
    /// It is not of that form.
    pub fn parse(text: &str) -> Result<Range> {
        let mut numbers = text.split(':').map(str::parse::<u32>);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count)), None) if count > 0 => {
                Ok(Range { inside, outside, count })
            }
            _ => Err(Error::refused(format!("map {text:?}"), "a range of ids is INSIDE:OUTSIDE:COUNT")),
        }
    }

    /// The range that `/etc/subuid` or `/etc/subgid` gives a user, from `inside` on.
    ///
    /// # Errors
    /// The file gives the user none.
    pub fn subordinate(file: &str, user: &str, uid: u32, inside: u32) -> Result<Range> {
        let doing = || format!("look up the range of {user} in {file}");
        let text = fs::read_to_string(file).context(doing)?;
        let number = uid.to_string();
        let line = text
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() == 3 && (fields[0] == user || fields[0] == number));
        let range = line.and_then(|fields| {
            let (outside, count) = (fields[1].parse().ok()?, fields[2].parse().ok()?);
            Some(Range { inside, outside, count })
        });
        let advice = || format!("it has none: echo {user}:100000:65536 >>{file}");
        range.ok_or_else(|| Error::refused(doing(), advice()))
    }
}

/// The maps of a new user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Users.
    pub uids: Vec<Range>,
    /// Groups.
    pub gids: Vec<Range>,
    /// Whether a process there may change its supplementary groups; by default what the kernel allows.
    pub setgroups: Option<bool>,
}

impl Users {
    /// Writes them for a process in the new namespace, from the outside.
    pub(crate) fn write(&self, pid: i32) -> Result<()> {
        let put = |file: &str, text: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::write(&path, text).context(|| format!("write {:?} to {file}", text.trim_end()))
        };
        let root = rustix::process::geteuid().is_root();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let others = |ranges: &[Range], own| !root && maps_others(ranges, own);
        // Without privilege one's own group can be mapped only where the supplementary ones stay as they are.
        let alone = !self.gids.is_empty() && !root && !others(&self.gids, gid);
        if let Some(allow) = self.setgroups.or(alone.then_some(false)) {
            put("setgroups", if allow { "allow" } else { "deny" })?;
        }
        let maps = [("uid_map", "newuidmap", &self.uids, uid), ("gid_map", "newgidmap", &self.gids, gid)];
        for (file, helper, ranges, own) in maps {
            if others(ranges, own) {
                write_by_helper(pid, helper, &lines(ranges))?;
            } else if !ranges.is_empty() {
                put(file, &lines(ranges))?;
            }
        }
        Ok(())
    }
}

/// Whether a map has more than its writer, who needs privileges then.
fn maps_others(ranges: &[Range], own: u32) -> bool {
    !matches!(ranges, [] | [Range { count: 1, .. }]) || ranges.iter().any(|range| range.outside != own)
}

fn lines(ranges: &[Range]) -> String {
    ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(Range::parse("0:1000:1").unwrap(), Range::one(0, 1000));
        for wrong in ["", "0:1", "0:1:0", "0:1:2:3", "a:1:2"] {
            assert!(Range::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(lines(&[Range::one(0, 5), Range { inside: 1, outside: 9, count: 2 }]), "0 5 1\n1 9 2\n");
    }

    #[test]
    fn one_maps_oneself_alone() {
        assert!(!maps_others(&[], 5) && !maps_others(&[Range::one(0, 5)], 5));
        assert!(maps_others(&[Range::one(0, 6)], 5));
        assert!(maps_others(&[Range { inside: 0, outside: 5, count: 2 }], 5));
        assert!(maps_others(&[Range::one(0, 5), Range { inside: 1, outside: 100_000, count: 9 }], 5));
    }

    #[test]
    fn subordinate_ranges_by_name_and_by_number() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("subuid");
        fs::write(&file, "web:100000:65536\n7:300000:10\nbroken\n").unwrap();
        let file = file.to_str().unwrap();
        let of = |user, uid| Range::subordinate(file, user, uid, 1).map(|range| range.outside);
        assert_eq!(of("web", 33).unwrap(), 100_000);
        assert_eq!(of("seven", 7).unwrap(), 300_000);
        assert!(of("nobody", 65534).unwrap_err().to_string().contains("echo nobody:"));
    }
}
