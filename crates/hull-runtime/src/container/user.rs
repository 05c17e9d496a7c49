//! Who a process runs as: names and numbers looked up in the container's own /etc/passwd and /etc/group, after the
//! root is the container's. The rules are Docker's.

use std::borrow::Cow;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};

use super::inroot;
use crate::protocol::UserLookup;
use crate::{Error, Result};

/// Longer files are looked at up to here, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Users and groups above are none of the kernel's (`-1` is "no change").
const ID_MAX: u32 = i32::MAX as u32;

/// A user as the kernel knows it.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// The process with its user in numbers.
pub(super) fn looked_up<'p>(process: &'p Process, lookup: Option<&UserLookup>) -> Result<Cow<'p, Process>> {
    let Some(lookup) = lookup else { return Ok(Cow::Borrowed(process)) };
    let identity = find(lookup, &read("/etc/passwd"), &read("/etc/group"))?;
    Ok(Cow::Owned(identity.of(process)))
}

/// The same, for who is not in the container: its root file system is looked into from outside.
pub(crate) fn looked_up_beneath(
    root: BorrowedFd<'_>,
    process: &Process,
    lookup: Option<&UserLookup>,
) -> Result<Process> {
    let Some(lookup) = lookup else { return Ok(process.clone()) };
    let read = |path: &str| read_beneath(root, Path::new(path));
    Ok(find(lookup, &read("/etc/passwd"), &read("/etc/group"))?.of(process))
}

impl Identity {
    /// A process with this user.
    fn of(self, process: &Process) -> Process {
        let mut process = process.clone();
        let user = process.user_mut();
        user.set_uid(self.uid);
        user.set_gid(self.gid);
        user.set_additional_gids(Some(self.groups));
        process
    }
}

/// A file beneath a root; empty where it is none. Nothing else is opened there: a device's opening alone does things.
fn read_beneath(root: BorrowedFd<'_>, path: &Path) -> String {
    let Ok(found) = inroot::open(root, path, OFlags::PATH) else { return String::new() };
    let is_file = rustix::fs::fstat(&found)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file());
    if is_file { read(&format!("/proc/self/fd/{}", found.as_raw_fd())) } else { String::new() }
}

/// A file of the container's; empty where it is none. Nonblocking: it may be a pipe.
fn read(path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else { return String::new() };
    let mut bytes = Vec::new();
    if std::fs::File::from(file).take(FILE_MAX).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn find(lookup: &UserLookup, passwd: &str, group: &str) -> Result<Identity> {
    let (user, wanted_group) = lookup.user.split_once(':').unwrap_or((&lookup.user, ""));
    let user = if user.is_empty() { "0" } else { user };
    // A line that names the user wins over one that has it for a number.
    let fields = |line: &'_ str| -> Vec<String> { line.split(':').map(str::to_owned).collect() };
    let lines: Vec<Vec<String>> = passwd.lines().map(fields).filter(|line| line.len() >= 4).collect();
    let entry =
        lines.iter().find(|line| line[0] == user).or_else(|| lines.iter().find(|line| line[2] == user));
    let (name, uid, mut gid) = match entry {
        Some(entry) => (Some(entry[0].as_str()), number(&entry[2], user)?, number(&entry[3], user)?),
        None => match user.parse::<u32>() {
            Ok(_) => (None, number(user, user)?, 0),
            Err(_) => return Err(missing("user", user, "passwd")),
        },
    };
    let groups: Vec<Vec<String>> = group.lines().map(fields).filter(|line| line.len() >= 3).collect();
    let group_number = |wanted: &str| -> Result<u32> {
        let entry = groups
            .iter()
            .find(|line| line[0] == wanted)
            .or_else(|| groups.iter().find(|line| line[2] == wanted));
        match entry {
            Some(entry) => number(&entry[2], wanted),
            None if wanted.parse::<u32>().is_ok() => number(wanted, wanted),
            None => Err(missing("group", wanted, "group")),
        }
    };
    let mut further = Vec::new();
    if wanted_group.is_empty() {
        let is_member = |line: &&Vec<String>| {
            name.is_some_and(|name| {
                line.get(3).is_some_and(|members| members.split(',').any(|member| member == name))
            })
        };
        for line in groups.iter().filter(is_member) {
            further.push(number(&line[2], &line[0])?);
        }
    } else {
        gid = group_number(wanted_group)?;
    }
    for wanted in &lookup.groups {
        further.push(group_number(wanted)?);
    }
    let mut all = vec![gid];
    for group in further {
        if !all.contains(&group) {
            all.push(group);
        }
    }
    Ok(Identity { uid, gid, groups: all })
}

fn number(text: &str, of: &str) -> Result<u32> {
    text.parse::<u32>().ok().filter(|number| *number <= ID_MAX).ok_or_else(|| {
        Error::refused(
            format!("become {of}"),
            format!("uids and gids must be in range 0-{ID_MAX}, {text} is not"),
        )
    })
}

fn missing(what: &str, name: &str, file: &str) -> Error {
    Error::refused(format!("unable to find {what} {name}"), format!("no matching entries in {file} file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/var/www:/bin/sh\n1234:x:7:8::/:/\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\naudio:x:29:web,other\nvideo:x:44:web\n";

    fn of(user: &str, groups: &[&str]) -> Result<(u32, u32, Vec<u32>)> {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let identity = find(&UserLookup { user: user.to_owned(), groups }, PASSWD, GROUP)?;
        Ok((identity.uid, identity.gid, identity.groups))
    }

    #[test]
    fn names_and_numbers_are_looked_up() {
        assert_eq!(of("", &[]).unwrap(), (0, 0, vec![0]));
        assert_eq!(of("web", &[]).unwrap(), (33, 34, vec![34, 29, 44]));
        assert_eq!(of("33", &[]).unwrap(), (33, 34, vec![34, 29, 44]));
        assert_eq!(of("web:audio", &[]).unwrap(), (33, 29, vec![29]));
        assert_eq!(of("5000", &[]).unwrap(), (5000, 0, vec![0]));
        assert_eq!(of("5000:5001", &["video", "77"]).unwrap(), (5000, 5001, vec![5001, 44, 77]));
        assert_eq!(of(":www", &[]).unwrap(), (0, 34, vec![34]));
        // A user whose name is a number is that user.
        assert_eq!(of("1234", &[]).unwrap(), (7, 8, vec![8]));
    }

    #[test]
    fn who_is_not_there_is_told() {
        assert_eq!(
            of("nobody-here", &[]).unwrap_err().to_string(),
            "unable to find user nobody-here: no matching entries in passwd file"
        );
        assert!(of("web:nothing", &[]).is_err() && of("web", &["nothing"]).is_err());
        assert!(of("4294967295", &[]).is_err() && of("-1", &[]).is_err());
    }
}
