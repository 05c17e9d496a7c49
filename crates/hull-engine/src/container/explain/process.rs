//! What `/proc` tells of a container's first process.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;

use hull_runtime::cgroup::Usage;
use hull_runtime::container::capabilities_in;
use hull_runtime::partial::list::container_of;
use hull_runtime::{apparmor, selinux};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use super::{Limit, Mounted, Namespace};
use crate::networks::{Element, Wire};
use crate::{Error, Result};

/// The first process of a container that runs, held so that its number is nobody else's.
pub(super) struct Alive {
    pub(super) pid: i32,
    pidfd: OwnedFd,
}

/// Who the first process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// The user's number inside.
    pub uid: u32,
    /// The group's number inside.
    pub gid: u32,
    /// Those of its further groups.
    pub groups: Vec<u32>,
    /// What users inside are outside: `/proc/PID/uid_map`, one range each (inside, outside, how many).
    pub uid_map: Vec<[u32; 3]>,
    /// The same of groups.
    pub gid_map: Vec<[u32; 3]>,
}

/// A container's processes, by the host's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Processes {
    /// The first: 1 inside, where it has process ids of its own.
    pub first: i32,
    /// The runtime's: its parent, which holds its streams and its log and waits for its end.
    pub shim: i32,
    /// All that are in its cgroup.
    pub all: Vec<i32>,
}

/// What the kernel has of a container.
#[derive(Default)]
pub(super) struct Live {
    pub(super) namespaces: BTreeMap<&'static str, Namespace>,
    pub(super) usage: Option<Usage>,
    pub(super) mounts: Vec<Mounted>,
    pub(super) interfaces: Vec<Wire>,
    pub(super) firewall: Vec<Element>,
    pub(super) user: User,
    pub(super) capabilities: Vec<String>,
    pub(super) filters: Option<u64>,
    pub(super) apparmor: String,
    pub(super) selinux: String,
    pub(super) no_new_privileges: bool,
    pub(super) limits: Vec<Limit>,
    pub(super) oom_score_adj: i64,
    pub(super) processes: Processes,
}

impl Alive {
    /// The process of that number, if it is of that container.
    pub(super) fn of(container: &str, pid: i32) -> Option<Alive> {
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        (container_of(pid).as_deref() == Some(container)).then_some(Alive { pid, pidfd })
    }

    /// Whether it has not ended: then all that was read under its number was its own.
    pub(super) fn still(&self) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    /// Reads its files; the sources of binds are those of the planned mounts at the same place.
    pub(super) fn read(&self, planned: &[Mounted]) -> Result<Live> {
        let status = self.file("status")?;
        let field = |name: &str| field(&status, name);
        let hexadecimal = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or_default();
        let first = |name: &str| numbers(field(name)).first().copied().unwrap_or_default();
        Ok(Live {
            mounts: mounts(&self.file("mountinfo")?, planned),
            user: User {
                uid: first("Uid"),
                gid: first("Gid"),
                groups: numbers(field("Groups")),
                uid_map: ranges(&self.file("uid_map")?),
                gid_map: ranges(&self.file("gid_map")?),
            },
            capabilities: capabilities_in(hexadecimal("CapBnd")),
            filters: field("Seccomp_filters").parse().ok(),
            apparmor: apparmor::profile_of(self.pid).unwrap_or_default(),
            selinux: selinux::label_of(self.pid).unwrap_or_default(),
            no_new_privileges: field("NoNewPrivs") == "1",
            limits: limits(&self.file("limits")?),
            oom_score_adj: self.file("oom_score_adj")?.trim().parse().unwrap_or_default(),
            processes: Processes {
                first: self.pid,
                shim: field("PPid").parse().unwrap_or_default(),
                all: Vec::new(),
            },
            ..Live::default()
        })
    }

    fn file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.pid);
        // A process names its mounts: they need not be UTF-8.
        let bytes = fs::read(&path).map_err(|error| Error::system(format_args!("read {path}"), error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A field of `/proc/PID/status`.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    status.lines().find_map(value).unwrap_or_default().trim()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// The kernel's list of mappings: inside, outside, how many.
pub(in super::super) fn ranges(text: &str) -> Vec<[u32; 3]> {
    text.lines().filter_map(|line| numbers(line).try_into().ok()).collect()
}

/// `Max open files   1024   524288   files`.
fn limits(text: &str) -> Vec<Limit> {
    let limit = |line: &str| {
        // The columns have fixed places: 26 for the name, 21 for each value.
        let (name, rest) = line.split_at_checked(26)?;
        let mut values = rest.split_whitespace();
        let (soft, hard) = (values.next()?, values.next()?);
        Some(Limit { name: name.trim().to_owned(), soft: soft.parse().ok(), hard: hard.parse().ok() })
    };
    text.lines().skip(1).filter_map(limit).collect()
}

/// The mounts in the text of a mountinfo.
fn mounts(text: &str, planned: &[Mounted]) -> Vec<Mounted> {
    let mount = |line: &str| {
        let (here, system) = line.split_once(" - ")?;
        let here: Vec<&str> = here.split(' ').collect();
        let mut system = system.split(' ');
        let (kind, device) = (system.next()?, system.next()?);
        let options = system.next().unwrap_or_default();
        let destination = unescape(here.get(4)?);
        let bound =
            planned.iter().find(|planned| planned.destination == destination && planned.kind == "bind");
        let own = here.get(5)?.split(',');
        // The file system's own tell of its layers or its size. Those that both have are told once, and of a bind
        // the host's file system has nothing to do with the container.
        let of_system = |option: &&str| bound.is_none() && !matches!(*option, "rw" | "ro");
        let options = own.chain(options.split(',').filter(of_system));
        Some(Mounted {
            destination,
            kind: if bound.is_some() { "bind".to_owned() } else { kind.to_owned() },
            source: bound.map_or_else(|| unescape(device), |bound| bound.source.clone()),
            options: options.filter(|option| !option.is_empty()).map(unescape).collect(),
        })
    };
    text.lines().filter_map(mount).collect()
}

/// Blanks, tabs, newlines and backslashes are written as `\040`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| byte == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match octal {
            Some(digits) => {
                bytes.push(
                    digits.iter().fold(0_u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
                );
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_as_the_kernel_tells_them() {
        let text = "9 8 0:5 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b\n\
                    10 9 254:0 /x /my\\040data ro,nosuid - ext4 /dev/vda rw,discard\nbroken\n";
        let bound = Mounted {
            destination: "/my data".into(),
            kind: "bind".into(),
            source: "/srv/x".into(),
            options: Vec::new(),
        };
        let found = mounts(text, &[bound]);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kind.as_str(), found[0].options[2].as_str()), ("overlay", "lowerdir=/a:/b"));
        assert_eq!((found[1].source.as_str(), found[1].destination.as_str()), ("/srv/x", "/my data"));
        assert_eq!(found[1].options, ["ro", "nosuid"]);
        assert_eq!(unescape("a\\134\\0"), "a\\\\0");
    }

    #[test]
    fn limits_and_ranges() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n";
        let found = limits(text);
        assert_eq!(
            (found[0].name.as_str(), found[0].soft, found[0].hard),
            ("Max open files", Some(1024), Some(524_288))
        );
        assert_eq!(found[1].soft, None);
        assert_eq!(ranges("         0     100000      65536\n"), [[0, 100_000, 65_536]]);
    }

    #[test]
    fn another_process_is_not_taken_for_a_container_s() {
        assert!(Alive::of(&"0f".repeat(32), std::process::id().cast_signed()).is_none());
    }
}
