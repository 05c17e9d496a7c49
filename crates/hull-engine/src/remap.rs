//! `--userns-remap`: which ids of the host are those of the containers.
//!
//! A container has a user namespace of its own then, in which the ids from 0 on are a range of the host's that belongs to
//! nobody else: root inside is nobody in particular outside. The ranges are those of `/etc/subuid` and `/etc/subgid`. On
//! the disk nothing changes: layers and volumes are mounted with mapped ids.

use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// Whose ranges `default` means: hull's own, or those that Docker has made for the same purpose.
const DEFAULT_USERS: [&str; 2] = ["hull", "dockremap"];
/// How many ids one needs: enough for `nobody`, and what useradd(8) gives.
const USUAL: u32 = 65_536;
/// How many names are told.
const MANY: usize = 5;
/// Where ranges begin where there are none (`SUB_UID_MIN`).
const FIRST: u32 = 100_000;

/// The ids of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remap {
    /// Whose ranges they are.
    pub user: String,
    /// Users: inside, outside, how many.
    pub users: Vec<[u32; 3]>,
    /// Groups.
    pub groups: Vec<[u32; 3]>,
}

/// The files that tell of users, as text.
struct Files {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

impl Files {
    fn read() -> Result<Files> {
        let read = |path: &str| match fs::read_to_string(path) {
            Ok(text) => Ok(text),
            // A machine without ranges need not have the file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(Error::system(format_args!("--userns-remap: read {path}"), error)),
        };
        Ok(Files {
            passwd: read("/etc/passwd")?,
            group: read("/etc/group")?,
            subuid: read("/etc/subuid")?,
            subgid: read("/etc/subgid")?,
        })
    }
}

/// A name with its number, either of which a range may be given to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    name: String,
    id: Option<u32>,
}

impl Remap {
    /// What `default`, `USER[:GROUP]` or `UID[:GID]` means on this machine.
    ///
    /// # Errors
    /// There is no such user or group, or they have no range: then with the line that is missing.
    pub fn of(asked: &str) -> Result<Remap> {
        Remap::find(asked, &Files::read()?)
    }

    fn find(asked: &str, files: &Files) -> Result<Remap> {
        if asked == "default" {
            return Remap::find_default(files);
        }
        let mut parts = asked.split(':');
        let (user, group) = match (parts.next(), parts.next(), parts.next()) {
            (Some(user), group, None) if !user.is_empty() && group != Some("") => (user, group),
            _ => {
                return Err(Error::invalid(format!(
                    "invalid user/group specification in --userns-remap: {asked:?}: it is default, USER[:GROUP] or UID[:GID]"
                )));
            }
        };
        let account = |text: &str, what: &str, file: &str, accounts: &str| {
            lookup(text, accounts).ok_or_else(|| {
                Error::invalid(format!("--userns-remap={asked}: the {what} {text} has no entry in {file}"))
            })
        };
        let user = account(user, "user", "/etc/passwd", &files.passwd)?;
        if user.id == Some(0) {
            return Err(Error::invalid(format!(
                "--userns-remap={asked}: root cannot be remapped to itself; name another user, or leave the flag away"
            )));
        }
        let group = group.map(|group| account(group, "group", "/etc/group", &files.group)).transpose()?;
        let users = ranges(&files.subuid, &user);
        // A group's own range, or as newgidmap(1) has it that of the user.
        let groups =
            group.as_ref().map(|group| ranges(&files.subgid, group)).filter(|ranges| !ranges.is_empty());
        let groups = groups.unwrap_or_else(|| ranges(&files.subgid, &user));
        if users.is_empty() || groups.is_empty() {
            let missing = [("/etc/subuid", users.is_empty()), ("/etc/subgid", groups.is_empty())];
            return Err(missing_ranges(asked, &[&user.name], missing, files));
        }
        Remap::made(asked, &user.name, users, groups)
    }

    fn find_default(files: &Files) -> Result<Remap> {
        for name in DEFAULT_USERS {
            let account =
                Account { name: name.to_owned(), id: lookup(name, &files.passwd).and_then(|user| user.id) };
            let (users, groups) = (ranges(&files.subuid, &account), ranges(&files.subgid, &account));
            match (users.is_empty(), groups.is_empty()) {
                (false, false) => return Remap::made("default", name, users, groups),
                (true, true) => {}
                (no_users, no_groups) => {
                    let missing = [("/etc/subuid", no_users), ("/etc/subgid", no_groups)];
                    return Err(missing_ranges("default", &[name], missing, files));
                }
            }
        }
        Err(missing_ranges("default", &DEFAULT_USERS, [("/etc/subuid", true), ("/etc/subgid", true)], files))
    }

    /// Lays the ranges one behind another, from id 0 on, in the order of the host's ids, as Docker does.
    fn made(asked: &str, user: &str, users: Vec<(u32, u32)>, groups: Vec<(u32, u32)>) -> Result<Remap> {
        let laid = |mut ranges: Vec<(u32, u32)>, file: &str| {
            let refuse = |why: String| {
                Err(Error::invalid(format!("--userns-remap={asked}: the ranges of {user} in {file}: {why}")))
            };
            ranges.sort_unstable();
            let (mut inside, mut free) = (0_u32, 1_u32);
            let mut laid = Vec::with_capacity(ranges.len());
            for (outside, count) in ranges {
                if outside == 0 {
                    return refuse("they have the host's root among them".to_owned());
                }
                if outside < free {
                    return refuse(format!("{outside} is in two of them"));
                }
                match (inside.checked_add(count), outside.checked_add(count)) {
                    (Some(next), Some(end)) => {
                        laid.push([inside, outside, count]);
                        (inside, free) = (next, end);
                    }
                    _ => return refuse(format!("there are no {count} ids from {outside} on")),
                }
            }
            Ok(laid)
        };
        Ok(Remap {
            user: user.to_owned(),
            users: laid(users, "/etc/subuid")?,
            groups: laid(groups, "/etc/subgid")?,
        })
    }

    /// Who is root inside, outside: user and group.
    pub fn root(&self) -> (u32, u32) {
        let first = |ranges: &[[u32; 3]]| ranges.first().map_or(0, |[_, outside, _]| *outside);
        (first(&self.users), first(&self.groups))
    }

    /// Warns of users and groups of this machine that have ids of the ranges: they are somebody inside, and what is theirs
    /// outside is that somebody's.
    ///
    /// # Errors
    /// The files that tell of them cannot be read.
    pub fn warn_of_others(&self) -> Result<()> {
        for told in self.others(&Files::read()?) {
            tracing::warn!("--userns-remap: {told}; give {} ids that nobody has", self.user);
        }
        Ok(())
    }

    /// Those whose ids are in the ranges, a line for each file.
    fn others(&self, files: &Files) -> Vec<String> {
        let kinds = [
            ("users", "/etc/passwd", &files.passwd, "/etc/subuid", &self.users),
            ("groups", "/etc/group", &files.group, "/etc/subgid", &self.groups),
        ];
        let mut told = Vec::new();
        for (what, file, accounts, ranges_file, ranges) in kinds {
            let is_inside = |id: u32| {
                ranges.iter().any(|[_, start, count]| id.checked_sub(*start).is_some_and(|nth| nth < *count))
            };
            let mut found = accounts.lines().filter_map(|line| {
                let mut fields = line.split(':');
                let (name, id) = (fields.next()?, fields.nth(1)?.parse().ok()?);
                is_inside(id).then(|| format!("{name} ({id})"))
            });
            let mut names: Vec<String> = found.by_ref().take(MANY).collect();
            if names.is_empty() {
                continue;
            }
            if let more @ 1.. = found.count() {
                names.push(format!("{more} more"));
            }
            told.push(format!(
                "{what} of {file} have ids of the ranges of {} in {ranges_file}: {}: a container's processes can be them \
                 outside",
                self.user,
                names.join(", ")
            ));
        }
        told
    }

    /// Finds out, by trying, whether containers' files on that folder's file system can have mapped ids, as the storage
    /// driver that was asked for makes them. To be called before there are threads.
    ///
    /// # Errors
    /// They cannot.
    pub fn probe(&self, data_root: &Path, driver: Option<&str>) -> Result<()> {
        crate::engine::make_private(data_root)?;
        let trees = matches!(driver, Some("btrfs" | "vfs"));
        hull_runtime::container::probe_mapped(data_root, &self.users, &self.groups, trees).map_err(|error| {
            Error::new(
                crate::Kind::System,
                format!(
                    "--userns-remap: the layers of images cannot be mounted with mapped ids: {error}; it needs user \
                     namespaces, Linux 5.19 or newer, and a file system that can (ext4, xfs, btrfs) under the data root {}",
                    data_root.display()
                ),
            )
        })
    }
}

/// The account of a name or a number in `/etc/passwd` or `/etc/group`, which have both at the same places.
fn lookup(text: &str, accounts: &str) -> Option<Account> {
    let number: Option<u32> = text.parse().ok();
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        let is = name == text || number == Some(id);
        is.then(|| Account { name: name.to_owned(), id: Some(id) })
    })
}

/// The ranges of an account: where they begin, and how many ids they have. A line that is none is passed over, as
/// newuidmap(1) does.
fn ranges(file: &str, account: &Account) -> Vec<(u32, u32)> {
    every_range(file)
        .filter(|(owner, ..)| *owner == account.name || account.id.is_some_and(|id| owner.parse() == Ok(id)))
        .map(|(_, start, count)| (start, count))
        .collect()
}

fn every_range(file: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    file.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let range = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (range.2 > 0 && fields.next().is_none()).then_some(range)
    })
}

/// What is missing, and the line that would do.
fn missing_ranges(asked: &str, users: &[&str], files: [(&str, bool); 2], text: &Files) -> Error {
    let missing: Vec<&str> = files.iter().filter(|(_, missing)| *missing).map(|(file, _)| *file).collect();
    // One line for both, that takes nobody's ids.
    let start = every_range(&text.subuid)
        .chain(every_range(&text.subgid))
        .map(|(_, start, count)| start.saturating_add(count))
        .fold(FIRST, u32::max);
    let (files, to) = (missing.join(" and "), missing.join(" and to "));
    Error::invalid(format!(
        "--userns-remap={asked}: there is no range of ids for {} in {files}: add the line {}:{start}:{USUAL} to {to}",
        users.join(" or "),
        users[0],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(subuid: &str, subgid: &str) -> Files {
        Files {
            passwd: "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/:/bin/sh\nbare:x:1000:1000::/:/bin/sh\n"
                .to_owned(),
            group: "root:x:0:\nwww:x:44:\nbare:x:1000:\n".to_owned(),
            subuid: subuid.to_owned(),
            subgid: subgid.to_owned(),
        }
    }

    /// Whose they are, the users and the groups.
    type Found = (String, Vec<[u32; 3]>, Vec<[u32; 3]>);

    fn found(asked: &str, subuid: &str, subgid: &str) -> std::result::Result<Found, String> {
        Remap::find(asked, &files(subuid, subgid))
            .map(|remap| (remap.user, remap.users, remap.groups))
            .map_err(|error| error.message)
    }

    #[test]
    fn the_default_is_hull_or_who_docker_has() {
        let one = |user: &str| Ok((user.to_owned(), vec![[0, 1 << 20, 9]], vec![[0, 1 << 21, 8]]));
        assert_eq!(found("default", "hull:1048576:9", "hull:2097152:8"), one("hull"));
        assert_eq!(found("default", "dockremap:1048576:9\nx:1:1", "dockremap:2097152:8"), one("dockremap"));
        let error = found("default", "web:200000:70000", "").unwrap_err();
        assert_eq!(
            error,
            "--userns-remap=default: there is no range of ids for hull or dockremap in /etc/subuid and /etc/subgid: add \
             the line hull:270000:65536 to /etc/subuid and to /etc/subgid"
        );
        let error = found("default", "hull:100000:65536", "").unwrap_err();
        assert!(
            error.ends_with("for hull in /etc/subgid: add the line hull:165536:65536 to /etc/subgid"),
            "{error}"
        );
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        let web = Ok(("web".to_owned(), vec![[0, 300_000, 10]], vec![[0, 400_000, 10]]));
        for (asked, subuid, subgid) in [
            ("web", "web:300000:10", "web:400000:10"),
            ("33", "33:300000:10", "web:400000:10"),
            ("web:www", "web:300000:10", "www:400000:10\nweb:500000:10"),
            ("33:44", "web:300000:10", "44:400000:10"),
            ("web:www", "web:300000:10", "web:400000:10"),
        ] {
            assert_eq!(found(asked, subuid, subgid), web, "{asked}");
        }
        for (asked, why) in [
            ("", "invalid user/group specification"),
            ("a:b:c", "invalid user/group specification"),
            ("web:", "invalid user/group specification"),
            ("nobody", "the user nobody has no entry in /etc/passwd"),
            ("web:nobody", "the group nobody has no entry in /etc/group"),
            ("root", "root cannot be remapped to itself"),
            ("0:44", "root cannot be remapped to itself"),
            ("bare", "add the line bare:310000:65536 to /etc/subuid and to /etc/subgid"),
        ] {
            let error = found(asked, "web:300000:10000", "").unwrap_err();
            assert!(error.contains(why), "{asked}: {error}");
        }
    }

    #[test]
    fn who_has_ids_of_the_ranges_is_told() {
        let others = |subuid: &str, subgid: &str| {
            let files = files(subuid, subgid);
            Remap::find("web", &files).unwrap().others(&files)
        };
        assert!(others("web:100000:65536\nweb:1001:9", "web:100000:65536").is_empty());
        assert_eq!(
            others("web:30:2\nweb:900:101", "web:1:65536"),
            [
                "users of /etc/passwd have ids of the ranges of web in /etc/subuid: bare (1000): a container's processes can \
                 be them outside",
                "groups of /etc/group have ids of the ranges of web in /etc/subgid: www (44), bare (1000): a container's \
                 processes can be them outside",
            ]
        );
        let files = Files {
            passwd: (1..9).map(|id| format!("u{id}:x:{id}:1::/:/bin/sh\n")).collect(),
            ..files("u1:1:9", "u1:70000:9")
        };
        let told = Remap::find("u1", &files).unwrap().others(&files).concat();
        assert!(told.contains("u5 (5), 3 more: a"), "{told}");
    }

    #[test]
    fn several_ranges_are_laid_one_behind_another() {
        let (_, users, _) = found("web", "web:500:5\nweb:300:10\nbroken\nweb:x:1", "web:1:1").unwrap();
        assert_eq!(users, [[0, 300, 10], [10, 500, 5]]);
        for (subuid, why) in [
            ("web:0:10", "the host's root among them"),
            ("web:10:10\nweb:15:10", "15 is in two of them"),
            ("web:4294967290:10", "there are no 10 ids from 4294967290 on"),
        ] {
            let error = found("web", subuid, "web:1:1").unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
