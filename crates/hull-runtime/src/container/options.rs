//! The options of a mount, as `fstab` and the OCI runtime specification word them, sorted into what the
//! kernel's calls take: attributes of the mount, propagation, and parameters of the file system.

pub(crate) const RDONLY: u64 = 0x1;
pub(crate) const NOSUID: u64 = 0x2;
pub(crate) const NODEV: u64 = 0x4;
pub(crate) const NOEXEC: u64 = 0x8;
const ATIME: u64 = 0x70;
const NOATIME: u64 = 0x10;
const STRICTATIME: u64 = 0x20;
const NODIRATIME: u64 = 0x80;
const NOSYMFOLLOW: u64 = 0x20_0000;

/// Attributes to set and to clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl Attributes {
    fn set(&mut self, bits: u64) {
        self.set |= bits;
        self.clear &= !bits;
    }
    fn clear(&mut self, bits: u64) {
        self.clear |= bits;
        self.set &= !bits;
    }
    /// One of the choices of access times replaces another.
    fn atime(&mut self, choice: u64) {
        self.set = (self.set & !ATIME) | choice;
        self.clear |= ATIME;
    }
    pub(crate) fn is_empty(self) -> bool {
        self == Attributes::default()
    }
}

/// Of which mounts the ids are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdMap {
    /// Of this one.
    This,
    /// Of this one and all below it.
    Recursive,
}

/// The options of one mount, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Of this mount alone.
    pub(crate) attributes: Attributes,
    /// Of this mount and all below it.
    pub(crate) recursive: Attributes,
    /// `MS_…` propagation and whether it is recursive, in order.
    pub(crate) propagation: Vec<(u64, bool)>,
    /// A bind, and whether it takes along the mounts below its source.
    pub(crate) bind: Option<bool>,
    /// The file system's own parameters, which a bind has none of.
    pub(crate) data: Vec<(String, Option<String>)>,
    /// Words of `mount(8)` that are about a file system and are each known to the kernel: a bind, which makes none, leaves
    /// its source's file system as it is.
    pub(crate) file_system: Vec<String>,
    /// What is mounted there already gets these options.
    pub(crate) remount: bool,
    /// Its ids are mapped.
    pub(crate) id_map: Option<IdMap>,
    /// A tmpfs starts with a copy of what its destination held.
    pub(crate) copy_up: bool,
    /// A tmpfs that names no mode gets that of its destination, if that is there.
    pub(crate) mode_of_place: bool,
    /// The SELinux label of all files in a file system that is made for the container.
    pub(crate) context: Option<String>,
}

/// Sorts options. Unknown words are the file system's own, which refuses what it does not know either.
pub(crate) fn parse(words: &[String]) -> Options {
    let mut options = Options::default();
    for word in words {
        sort(word, &mut options);
    }
    options
}

fn sort(word: &str, options: &mut Options) {
    let (attributes, plain) = match word.strip_prefix('r') {
        Some(rest) if is_attribute(rest) && word != "relatime" => (&mut options.recursive, rest),
        _ => (&mut options.attributes, word),
    };
    match plain {
        "ro" => attributes.set(RDONLY),
        "rw" => attributes.clear(RDONLY),
        "nosuid" => attributes.set(NOSUID),
        "suid" => attributes.clear(NOSUID),
        "nodev" => attributes.set(NODEV),
        "dev" => attributes.clear(NODEV),
        "noexec" => attributes.set(NOEXEC),
        "exec" => attributes.clear(NOEXEC),
        "nodiratime" => attributes.set(NODIRATIME),
        "diratime" => attributes.clear(NODIRATIME),
        "nosymfollow" => attributes.set(NOSYMFOLLOW),
        "symfollow" => attributes.clear(NOSYMFOLLOW),
        "noatime" => attributes.atime(NOATIME),
        "strictatime" => attributes.atime(STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => attributes.atime(0),
        // How much the kernel logs of a failed mount, which it does not by calls that answer themselves.
        "defaults" | "silent" | "loud" => {}
        "sync" | "async" | "dirsync" | "mand" | "nomand" | "lazytime" | "nolazytime" | "acl" | "noacl"
        | "iversion" | "noiversion" => options.file_system.push(word.to_owned()),
        "bind" => options.bind = Some(options.bind.unwrap_or(false)),
        "rbind" => options.bind = Some(true),
        "tmpcopyup" => options.copy_up = true,
        "idmap" => options.id_map = Some(IdMap::This),
        "ridmap" => options.id_map = Some(IdMap::Recursive),
        "remount" => options.remount = true,
        _ => match propagation(word) {
            Some(kind) => options.propagation.push(kind),
            None => options.data.push(match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (word.to_owned(), None),
            }),
        },
    }
}

fn is_attribute(word: &str) -> bool {
    const WORDS: [&str; 18] = [
        "ro",
        "rw",
        "nosuid",
        "suid",
        "nodev",
        "dev",
        "noexec",
        "exec",
        "nodiratime",
        "diratime",
        "nosymfollow",
        "symfollow",
        "noatime",
        "strictatime",
        "relatime",
        "atime",
        "norelatime",
        "nostrictatime",
    ];
    WORDS.contains(&word)
}

/// `MS_…` and whether it holds for all mounts below too.
pub(crate) fn propagation(word: &str) -> Option<(u64, bool)> {
    Some(match word {
        "shared" => (libc::MS_SHARED, false),
        "rshared" => (libc::MS_SHARED, true),
        "slave" => (libc::MS_SLAVE, false),
        "rslave" => (libc::MS_SLAVE, true),
        "private" => (libc::MS_PRIVATE, false),
        "rprivate" => (libc::MS_PRIVATE, true),
        "unbindable" => (libc::MS_UNBINDABLE, false),
        "runbindable" => (libc::MS_UNBINDABLE, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Options {
        parse(&words.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn docker_s_own_mounts() {
        let tmpfs = parsed("nosuid,strictatime,mode=755,size=65536k");
        assert_eq!(tmpfs.attributes, Attributes { set: NOSUID | STRICTATIME, clear: ATIME });
        let data = [("mode".into(), Some("755".into())), ("size".into(), Some("65536k".into()))];
        assert_eq!(tmpfs.data, data);
        let pts = parsed("nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5");
        assert_eq!(pts.data[0], ("newinstance".into(), None));
    }

    #[test]
    fn the_last_word_wins() {
        assert_eq!(parsed("ro,rw").attributes, Attributes { set: 0, clear: RDONLY });
        assert_eq!(parsed("rw,ro").attributes, Attributes { set: RDONLY, clear: 0 });
    }

    #[test]
    fn binds_and_what_is_recursive() {
        let bind = parsed("rbind,rprivate,ro");
        assert_eq!((bind.bind, bind.propagation.as_slice()), (Some(true), &[(libc::MS_PRIVATE, true)][..]));
        assert_eq!(bind.attributes.set, RDONLY);
        let deep = parsed("bind,rro,rnosuid");
        assert_eq!((deep.bind, deep.recursive.set, deep.attributes.set), (Some(false), RDONLY | NOSUID, 0));
        let synchronous = parsed("bind,sync,silent");
        assert_eq!((synchronous.file_system, synchronous.data), (vec!["sync".to_owned()], vec![]));
        assert_eq!(parsed("relatime").recursive, Attributes::default());
        assert_eq!(parsed("rbind,ridmap").id_map, Some(IdMap::Recursive));
        assert!(parsed("remount,bind,ro").remount);
    }
}
