//! `ns run`: unshare, and partial containers.

use std::path::PathBuf;

use clap::Args;
use hull_runtime::partial::run::{self, Partial, Propagation, Root};
use hull_runtime::partial::{Kind, Kinds, Range, Users};

use super::parts::{Files, take_place};
use crate::commands::shared::process::failed;
use crate::context::Context;
use crate::error::{Error, ExitStatus};

/// `ns run`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull ns run --net -- ip link                         # a network of its own, all else the host's
  hull ns run -mnup -- ps -ef                          # mounts, network, host name, process ids
  hull ns run --uts --hostname test -- hostname
  hull ns run --user --map-root-user -- id             # root inside, nobody outside
  hull ns run --net=front -- curl http://web/          # a program of the host on a network of containers
  hull ns run --root busybox -- ls /                   # an image's files, all else the host's")]
pub struct RunArgs {
    /// Seconds that the time since boot is ahead (with --time)
    #[arg(long, value_name = "seconds")]
    boottime: Option<i64>,
    /// New cgroup namespace
    #[arg(short = 'C', long)]
    cgroup: bool,
    /// Stay as the program's parent even if nothing needs it
    #[arg(short, long)]
    fork: bool,
    /// Host name (with --uts)
    #[arg(long, value_name = "name")]
    hostname: Option<String>,
    /// New IPC namespace
    #[arg(short, long)]
    ipc: bool,
    /// Kill the program when its parent dies, by KILL or another signal
    #[arg(
        long,
        value_name = "signal",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "KILL",
        value_parser = parse_signal
    )]
    kill_child: Option<i32>,
    /// Map the caller's subordinate users and groups (/etc/subuid, /etc/subgid) from 1 on; root is the caller
    #[arg(long)]
    map_auto: bool,
    /// Map the caller to itself
    #[arg(short = 'c', long)]
    map_current_user: bool,
    /// Be this group inside, as the caller's outside
    #[arg(long, value_name = "gid")]
    map_group: Option<u32>,
    /// Map a range of groups
    #[arg(long, value_name = "inside:outside:count")]
    map_groups: Vec<String>,
    /// Be root inside, as the caller outside
    #[arg(short = 'r', long)]
    map_root_user: bool,
    /// Be this user inside, as the caller outside
    #[arg(long, value_name = "uid")]
    map_user: Option<u32>,
    /// Map a range of users
    #[arg(long, value_name = "inside:outside:count")]
    map_users: Vec<String>,
    /// Seconds that the monotonic clock is ahead (with --time)
    #[arg(long, value_name = "seconds")]
    monotonic: Option<i64>,
    /// New mount namespace
    #[arg(short, long)]
    mount: bool,
    /// Mount a /proc of the pid namespace; --pid with --mount does so by itself
    #[arg(
        long,
        value_name = "directory",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "/proc"
    )]
    mount_proc: Option<PathBuf>,
    /// New network namespace; with a network's name, one on it, with an address and names
    #[arg(
        short,
        long,
        value_name = "network",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    net: Option<String>,
    /// New pid namespace: the program is process 1 of it
    #[arg(short, long)]
    pid: bool,
    /// What becomes of mounts: private, slave, shared, unchanged
    #[arg(long, value_name = "word")]
    propagation: Option<String>,
    /// An image whose files there are, copy on write; or a folder, by a path that begins with / or .
    #[arg(short = 'R', long, value_name = "image")]
    root: Option<String>,
    /// Become this group
    #[arg(short = 'G', long, value_name = "gid")]
    setgid: Option<u32>,
    /// Whether supplementary groups can be changed in the user namespace: allow, deny
    #[arg(long, value_name = "allow|deny")]
    setgroups: Option<String>,
    /// Become this user
    #[arg(short = 'S', long, value_name = "uid")]
    setuid: Option<u32>,
    /// New time namespace
    #[arg(short = 'T', long)]
    time: bool,
    /// New user namespace
    #[arg(short = 'U', long)]
    user: bool,
    /// New UTS namespace: host and domain name
    #[arg(short, long)]
    uts: bool,
    /// Working directory
    #[arg(short, long, value_name = "directory")]
    wd: Option<PathBuf>,
    #[arg(value_name = "PROGRAM", trailing_var_arg = true)]
    program: Vec<String>,
}

/// A signal by its name or number; 0 is none.
fn parse_signal(word: &str) -> Result<i32, String> {
    let number = hull_runtime::oci::signal_number(word).ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{word} is no signal"))
}

impl RunArgs {
    fn kinds(&self) -> Kinds {
        let maps = self.map_root_user || self.map_current_user || self.map_auto;
        let maps = maps || self.map_user.is_some() || self.map_group.is_some();
        let maps = maps || !self.map_users.is_empty() || !self.map_groups.is_empty();
        let asked = [
            (self.mount, Kind::Mount),
            (self.uts, Kind::Uts),
            (self.ipc, Kind::Ipc),
            (self.net.as_deref() == Some(""), Kind::Net),
            (self.pid, Kind::Pid),
            // A map is one of a user namespace.
            (self.user || maps, Kind::User),
            (self.cgroup, Kind::Cgroup),
            (self.time, Kind::Time),
        ];
        asked.into_iter().filter(|(asked, _)| *asked).map(|(_, kind)| kind).collect()
    }

    fn users(&self) -> Result<Users, Error> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let inside = |own: u32, named: Option<u32>| match named {
            Some(named) => Some(named),
            None if self.map_root_user || self.map_auto => Some(0),
            None if self.map_current_user => Some(own),
            None => None,
        };
        let mut uids: Vec<Range> =
            inside(uid, self.map_user).map(|inside| Range::one(inside, uid)).into_iter().collect();
        let mut gids: Vec<Range> =
            inside(gid, self.map_group).map(|inside| Range::one(inside, gid)).into_iter().collect();
        for (texts, ranges) in [(&self.map_users, &mut uids), (&self.map_groups, &mut gids)] {
            for text in texts {
                ranges.push(Range::parse(text).map_err(failed)?);
            }
        }
        if self.map_auto {
            let name = user_name(uid);
            uids.push(Range::subordinate("/etc/subuid", &name, uid, 1).map_err(failed)?);
            gids.push(Range::subordinate("/etc/subgid", &name, uid, 1).map_err(failed)?);
        }
        let setgroups = match self.setgroups.as_deref() {
            None => None,
            Some("allow") => Some(true),
            Some("deny") => Some(false),
            Some(word) => return Err(Error::usage(format!("--setgroups {word}: it is allow or deny"))),
        };
        Ok(Users { uids, gids, setgroups })
    }

    fn partial(&self) -> Result<Partial, Error> {
        let propagation = match &self.propagation {
            Some(word) => Propagation::parse(word).map_err(failed)?,
            None => Propagation::default(),
        };
        Ok(Partial {
            kinds: self.kinds(),
            users: self.users()?,
            propagation,
            root: self.root.as_ref().filter(|root| is_folder(root)).map(|folder| Root::Folder(folder.into())),
            proc_at: self.mount_proc.clone(),
            network: None,
            hostname: self.hostname.clone(),
            monotonic: self.monotonic,
            boottime: self.boottime,
            directory: self.wd.clone(),
            uid: self.setuid,
            gid: self.setgid,
            fork: self.fork,
            kill_child: self.kill_child,
            program: match (&self.root, self.program.as_slice()) {
                // The caller's shell is none of an image's files.
                (Some(_), []) => vec!["/bin/sh".to_owned()],
                (_, program) => program.to_vec(),
            },
        })
    }
}

/// The user's name, for the files that know users by name.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    super::list::user_name(&passwd, uid)
}

/// Whether `--root` names a folder; otherwise an image is meant.
fn is_folder(root: &str) -> bool {
    root == "." || root == ".." || ["/", "./", "../"].iter().any(|begin| root.starts_with(begin))
}

/// `ns run`.
pub async fn run(args: RunArgs, context: &Context) -> Result<ExitStatus, Error> {
    let mut partial = args.partial()?;
    let network = match args.net.as_deref().filter(|network| !network.is_empty()) {
        Some(network) => Some(take_place(context, network, args.hostname.as_deref()).await?),
        None => None,
    };
    let files = match args.root.as_deref().filter(|root| !is_folder(root)) {
        Some(image) => Some(Files::make(context, image).await?),
        None => None,
    };
    let has_place = network.is_some();
    partial.network = network;
    if let Some(files) = &files {
        partial.root = Some(files.root.clone());
    }
    let ended = run::run(&partial, has_place || files.is_some()).map_err(failed);
    if let Some(files) = files {
        files.remove(context).await;
    }
    Ok(ExitStatus(u8::try_from(ended?).unwrap_or(u8::MAX)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn signals() {
        for (word, number) in
            [("QUIT", libc::SIGQUIT), ("sigwinch", libc::SIGWINCH), ("9", 9), ("RTMIN+1", 35)]
        {
            assert_eq!(super::parse_signal(word), Ok(number), "{word}");
        }
        for wrong in ["", "0", "65", "-1", "FLAVOUR"] {
            assert!(super::parse_signal(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn folders_and_images() {
        for folder in ["/", ".", "./x", "../x", "/srv/root"] {
            assert!(super::is_folder(folder), "{folder}");
        }
        for image in ["busybox", "workshop/busybox:1", "hull/host"] {
            assert!(!super::is_folder(image), "{image}");
        }
    }
}
