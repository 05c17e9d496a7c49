//! The kinds of namespaces, under the names that `/proc` and the commands give them.

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Mounts.
    Mount,
    /// Host and domain name.
    Uts,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Network devices, addresses, routes, firewall, sockets.
    Net,
    /// Process ids.
    Pid,
    /// Users, groups and capabilities.
    User,
    /// The root of the cgroup hierarchies.
    Cgroup,
    /// The clocks since boot.
    Time,
}

impl Kind {
    /// All of them, in the order of unshare's flags.
    pub const ALL: [Kind; 8] =
        [Kind::Mount, Kind::Uts, Kind::Ipc, Kind::Net, Kind::Pid, Kind::User, Kind::Cgroup, Kind::Time];

    /// Its file's name in `/proc/PID/ns`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mount => "mnt",
            Kind::Uts => "uts",
            Kind::Ipc => "ipc",
            Kind::Net => "net",
            Kind::Pid => "pid",
            Kind::User => "user",
            Kind::Cgroup => "cgroup",
            Kind::Time => "time",
        }
    }

    /// `CLONE_NEW…`.
    pub(crate) fn flag(self) -> libc::c_int {
        match self {
            Kind::Mount => libc::CLONE_NEWNS,
            Kind::Uts => libc::CLONE_NEWUTS,
            Kind::Ipc => libc::CLONE_NEWIPC,
            Kind::Net => libc::CLONE_NEWNET,
            Kind::Pid => libc::CLONE_NEWPID,
            Kind::User => libc::CLONE_NEWUSER,
            Kind::Cgroup => libc::CLONE_NEWCGROUP,
            Kind::Time => libc::CLONE_NEWTIME,
        }
    }

    /// Its inode for a process, `self` or an id; none where the kernel lacks the kind or hides it.
    pub fn inode_of(self, process: &str) -> Option<u64> {
        let link = std::fs::read_link(format!("/proc/{process}/ns/{}", self.name())).ok()?;
        parse_link(link.to_str()?)
    }
}

/// `net:[4026531840]`.
pub(super) fn parse_link(link: &str) -> Option<u64> {
    link.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(libc::c_int);

impl Kinds {
    /// None at all.
    pub const NONE: Kinds = Kinds(0);

    /// The same and this one.
    #[must_use]
    pub fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | kind.flag())
    }

    /// The same without this one.
    #[must_use]
    pub fn without(self, kind: Kind) -> Kinds {
        Kinds(self.0 & !kind.flag())
    }

    /// Whether it is among them.
    pub fn has(self, kind: Kind) -> bool {
        self.0 & kind.flag() != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their flags together.
    pub(crate) fn flags(self) -> libc::c_int {
        self.0
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Kinds {
        kinds.into_iter().fold(Kinds::NONE, Kinds::with)
    }
}

impl std::fmt::Display for Kinds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> =
            Kind::ALL.iter().filter(|kind| self.has(**kind)).map(|kind| kind.name()).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_this_process_has_an_inode() {
        for kind in Kind::ALL {
            assert!(kind.inode_of("self").is_some_and(|inode| inode > 0), "{kind:?}");
        }
        assert_eq!(Kind::Net.inode_of("0"), None);
        assert_eq!(parse_link("net:[12]"), Some(12));
        assert_eq!(parse_link("net"), None);
    }

    #[test]
    fn sets() {
        let kinds: Kinds = [Kind::Pid, Kind::Mount].into_iter().collect();
        assert!(kinds.has(Kind::Pid) && !kinds.has(Kind::Net) && !kinds.is_empty());
        assert_eq!(kinds.to_string(), "mnt, pid");
        assert_eq!(kinds.without(Kind::Pid).without(Kind::Mount), Kinds::NONE);
    }
}
