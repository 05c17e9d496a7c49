//! The maps of a user namespace: who inside is who outside.

use std::fs;

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
            fs::write(&path, text).map_err(|error| {
                let denied = error.raw_os_error() == Some(libc::EPERM);
                let error = Error::kernel(format!("write {:?} to {file}", text.trim_end()), error);
                if denied { error.advise("only root maps others than itself") } else { error }
            })
        };
        // Without privilege a group can be mapped only where the supplementary ones stay as they are.
        let root = rustix::process::geteuid().is_root();
        let allow = self.setgroups.or((!self.gids.is_empty() && !root).then_some(false));
        if let Some(allow) = allow {
            put("setgroups", if allow { "allow" } else { "deny" })?;
        }
        for (file, ranges) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            if !ranges.is_empty() {
                put(file, &lines(ranges))?;
            }
        }
        Ok(())
    }
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
