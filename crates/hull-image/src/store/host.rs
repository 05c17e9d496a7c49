//! `hull/host`: this machine's own root file system as an image, copy-on-write, nothing copied.
//!
//! A snapshot of it has two lower layers: a mask, and `/`. The mask hides, by overlayfs's opaque folders and
//! whiteouts, what is nobody else's business: home folders, keys, passwords, logs, this engine's own files.
//!
//! The mask lies on a tmpfs of its own, `<root>/host`: overlayfs refuses (ELOOP) a lower layer that lies beneath
//! another one, as every folder of the root file system would lie beneath `/`. What is mounted below `/` is not seen:
//! overlayfs takes the file system alone. Where `/usr` is such a mount, there is no `hull/host`.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::import::serialise;
use super::{HOST_NAME, Platform, Store, init};
use crate::layer::extract::OPAQUE;
use crate::{ContainerConfig, Digest, Error, ImageConfig, Result};

/// Shown as empty folders, with these modes or else their own.
const EMPTY: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var/tmp", 0o1777),
];

/// Shown as empty folders where they are there, or not at all where they are files.
const HIDDEN: &[&str] = &[
    "etc/.pwd.lock",
    "etc/NetworkManager/system-connections",
    "etc/apt/auth.conf",
    "etc/apt/auth.conf.d",
    "etc/cryptsetup-keys.d",
    "etc/docker",
    "etc/exim4/passwd.client",
    "etc/gshadow-",
    "etc/hull",
    "etc/ipsec.d/private",
    "etc/ipsec.secrets",
    "etc/krb5.keytab",
    "etc/kubernetes",
    "etc/letsencrypt",
    "etc/netplan",
    "etc/openvpn",
    "etc/pki/tls/private",
    "etc/postfix/sasl_passwd",
    "etc/postfix/sasl_passwd.db",
    "etc/ppp/chap-secrets",
    "etc/ppp/pap-secrets",
    "etc/rancher",
    "etc/shadow-",
    "etc/ssl/private",
    "etc/wireguard",
    "etc/wpa_supplicant",
    "lost+found",
    "swap.img",
    "swapfile",
    "var/backups",
    "var/cache/krb5rcache",
    "var/crash",
    "var/lib/AccountsService",
    "var/lib/NetworkManager",
    "var/lib/bluetooth",
    "var/lib/cloud",
    "var/lib/containerd",
    "var/lib/containers",
    "var/lib/docker",
    "var/lib/etcd",
    "var/lib/hull",
    "var/lib/incus",
    "var/lib/iwd",
    "var/lib/kubelet",
    "var/lib/libvirt",
    "var/lib/lxc",
    "var/lib/lxd",
    "var/lib/mongodb",
    "var/lib/mysql",
    "var/lib/postgresql",
    "var/lib/private",
    "var/lib/rancher",
    "var/lib/redis",
    "var/lib/samba/private",
    "var/lib/sss",
    "var/lib/sudo",
    "var/lib/systemd/coredump",
    "var/lib/tailscale",
    "var/log",
    "var/mail",
    "var/spool/at",
    "var/spool/cron",
    "var/spool/mail",
];

/// No home folder is one of these, whatever /etc/passwd says.
const NEVER_HIDDEN: &[&str] =
    &["", "bin", "boot", "etc", "lib", "lib32", "lib64", "nonexistent", "opt", "sbin", "srv", "usr", "var"];

/// What the mask was made from: it is made again when one of these changes.
const SOURCES: [&str; 3] = ["/etc/passwd", "/etc/shadow", "/etc/gshadow"];

type Stamp = [Option<(u64, i64, i64, u64)>; 3];

/// The tmpfs with the masks; unmounted by Drop. Mounted overlays keep theirs.
#[derive(Debug)]
pub(super) struct Host {
    mounted: PathBuf,
    hide: Vec<PathBuf>,
    stamp: Stamp,
    count: u32,
}

impl Host {
    fn open(mounted: &Path, hide: &[PathBuf]) -> Result<Host> {
        let fail = |errno: Errno| Error::file("mount a tmpfs on", mounted, errno);
        detach(mounted).map_err(fail)?;
        std::fs::create_dir_all(mounted).map_err(|error| Error::file("create", mounted, error))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("hull-host", mounted, "tmpfs", flags, c"mode=0755,size=16m").map_err(fail)?;
        let host = Host { mounted: mounted.to_owned(), hide: hide.to_vec(), stamp: stamp(), count: 0 };
        host.make()?;
        Ok(host)
    }

    /// The current mask, made again where users or passwords changed. Masks in use stay as they are.
    fn mask(&mut self) -> Result<PathBuf> {
        let now = stamp();
        if now != self.stamp {
            self.count += 1;
            self.make()?;
            self.stamp = now;
        }
        Ok(self.folder())
    }

    fn folder(&self) -> PathBuf {
        self.mounted.join(self.count.to_string())
    }

    fn make(&self) -> Result<()> {
        let folder = self.folder();
        // One that could not be made to its end.
        let _ = std::fs::remove_dir_all(&folder);
        init::fill(&folder)?;
        Mask { folder, hidden: BTreeSet::new() }.make(&self.hide)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(errno) = detach(&self.mounted) {
            tracing::warn!("unmount {}: {errno}", self.mounted.display());
        }
    }
}

/// Unmounts what an earlier daemon, or this one, mounted there.
fn detach(mounted: &Path) -> rustix::io::Result<()> {
    loop {
        match unmount(mounted, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

/// A mask that is being made.
struct Mask {
    folder: PathBuf,
    /// What is hidden already, with all beneath it; paths from `/` without the slash.
    hidden: BTreeSet<PathBuf>,
}

impl Mask {
    fn make(mut self, hide: &[PathBuf]) -> Result<()> {
        for (path, mode) in EMPTY {
            self.empty(Path::new(path), Some(*mode))?;
        }
        // The mount points of a container, which the empty folders have taken away.
        init::fill(&self.folder)?;
        let homes = read("/etc/passwd")?;
        let homes = homes.lines().filter_map(persons_home).map(PathBuf::from);
        let listed = HIDDEN.iter().map(PathBuf::from);
        let given = hide.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()));
        for path in listed.chain(homes).chain(given).chain(host_keys()) {
            self.hide(path.strip_prefix("/").unwrap_or(&path))?;
        }
        self.sanitised("etc/shadow", |name| format!("{name}:*:::::::\n"))?;
        self.sanitised("etc/gshadow", |name| format!("{name}:*::\n"))
    }

    /// Hides what is at a path of this machine: a folder becomes an empty one, anything else goes.
    fn hide(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || path.ancestors().any(|above| self.hidden.contains(above)) {
            return Ok(());
        }
        let real = Path::new("/").join(path);
        // What lies behind a link is hidden where it really is.
        let parent = real.parent().unwrap_or(Path::new("/"));
        if parent.canonicalize().ok().as_deref() != Some(parent) {
            return Ok(());
        }
        match real.symlink_metadata() {
            Ok(found) if found.is_dir() => self.empty(path, None),
            Ok(found) if found.is_symlink() => self.behind(&real),
            Ok(_) => {
                self.parents(path)?;
                let target = self.folder.join(path);
                let made = rustix::fs::mknodat(CWD, &target, FileType::CharacterDevice, Mode::empty(), 0);
                made.map_err(|errno| Error::file("create", &target, errno))
            }
            Err(_) => Ok(()),
        }
    }

    /// Hides what a link leads to.
    fn behind(&mut self, link: &Path) -> Result<()> {
        let target = link.canonicalize().ok();
        let target = target.as_deref().and_then(|target| target.strip_prefix("/").ok());
        match target.filter(|target| !NEVER_HIDDEN.iter().any(|never| target.as_os_str() == *never)) {
            Some(target) => self.hide(target),
            None => Ok(()),
        }
    }

    /// An opaque folder with the owner and mode of the one it hides.
    fn empty(&mut self, path: &Path, mode: Option<u32>) -> Result<()> {
        let real = Path::new("/").join(path).symlink_metadata();
        if real.as_ref().is_ok_and(|real| !real.is_dir()) {
            return self.behind(&Path::new("/").join(path));
        }
        self.parents(path)?;
        let target = self.folder.join(path);
        folder(&target, real.as_ref().ok(), mode)?;
        rustix::fs::setxattr(&target, OPAQUE, b"y", XattrFlags::empty())
            .map_err(|errno| Error::file("hide by", &target, errno))?;
        self.hidden.insert(path.to_owned());
        Ok(())
    }

    /// The folders on the way, as they are on this machine: they are seen in the place of its own.
    fn parents(&self, path: &Path) -> Result<()> {
        let mut above: Vec<&Path> =
            path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        above.reverse();
        for path in above {
            folder(
                &self.folder.join(path),
                Path::new("/").join(path).symlink_metadata().ok().as_ref(),
                None,
            )?;
        }
        Ok(())
    }

    /// A file of passwords with none in it.
    fn sanitised(&self, path: &str, line: impl Fn(&str) -> String) -> Result<()> {
        let real = Path::new("/").join(path);
        let Ok(found) = real.symlink_metadata() else { return Ok(()) };
        let names = read(real.to_str().unwrap_or_default())?;
        let names = names.lines().filter_map(|line| line.split(':').next()).filter(|name| !name.is_empty());
        let target = self.folder.join(path);
        self.parents(Path::new(path))?;
        std::fs::write(&target, names.map(line).collect::<String>())
            .map_err(|error| Error::file("write", &target, error))?;
        dress(&target, &found, found.mode())
    }
}

/// A folder like `real`, with a mode of its own where one is given.
fn folder(target: &Path, real: Option<&Metadata>, mode: Option<u32>) -> Result<()> {
    match std::fs::create_dir(target) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::file("create", target, error)),
    }
    let mode = mode.or(real.map(Metadata::mode)).unwrap_or(0o755);
    match real {
        Some(real) => dress(target, real, mode),
        None => rustix::fs::chmod(target, Mode::from_raw_mode(mode & 0o7777))
            .map_err(|errno| Error::file("create", target, errno)),
    }
}

fn dress(target: &Path, real: &Metadata, mode: u32) -> Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(real.uid())), Some(Gid::from_raw(real.gid())));
    rustix::fs::chown(target, uid, gid)
        .and_then(|()| rustix::fs::chmod(target, Mode::from_raw_mode(mode & 0o7777)))
        .map_err(|errno| Error::file("create", target, errno))
}

/// The home folder of a line of /etc/passwd that is a person's.
fn persons_home(line: &str) -> Option<&str> {
    let mut fields = line.split(':');
    let uid: u32 = fields.nth(2)?.parse().ok()?;
    let home = fields.nth(2)?.trim_matches('/');
    let is_person = (1000..65_534).contains(&uid) || uid > 65_535;
    (is_person && !NEVER_HIDDEN.contains(&home) && !home.split('/').any(|part| part == "..")).then_some(home)
}

/// The private keys of this machine's ssh server.
fn host_keys() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/etc/ssh").into_iter().flatten().flatten();
    let is_key = |path: &PathBuf| path.to_string_lossy().ends_with("key");
    entries.map(|entry| entry.path()).filter(is_key).collect()
}

fn stamp() -> Stamp {
    SOURCES.map(|path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
    })
}

/// A file that need not be there.
fn read(path: &str) -> Result<String> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::file("read", Path::new(path), error)),
    }
}

/// When this machine's root was made, where its file system tells: the same at every start, for it is part of the image's id.
fn made_at() -> Option<String> {
    let born = std::fs::metadata("/").and_then(|root| root.created()).ok()?;
    jiff::Timestamp::try_from(born).ok().map(|time| time.to_string())
}

impl Store {
    /// Makes the mask and the image. Where it cannot be made, the image is there and says why when it is used.
    pub(super) fn open_host(&self, hide: &[PathBuf]) -> Result<()> {
        let platform = Platform::host();
        let config = ImageConfig {
            architecture: platform.architecture,
            os: platform.os,
            comment: "this machine's own files, copy-on-write".to_owned(),
            created: made_at(),
            config: Some(ContainerConfig {
                env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
                cmd: Some(vec!["sh".to_owned()]),
                ..ContainerConfig::default()
            }),
            ..ImageConfig::default()
        };
        let raw_config = serialise(&config)?;
        let id = Digest::of(&raw_config);
        let mut state = self.state_mut();
        state.add_image(id, raw_config.into(), None, 0)?;
        state.set_builtin(&id);
        state.set_name(HOST_NAME.to_owned(), id);
        drop(state);
        let mut hide = hide.to_vec();
        hide.push(self.root.clone());
        let host = match is_one_file_system() {
            true => Host::open(&self.root.join("host"), &hide),
            false => Err(Error::new(
                crate::Kind::NotImplemented,
                "hull/host needs /usr on the root file system: what is mounted elsewhere is not seen in it",
            )),
        };
        if let Err(error) = &host {
            tracing::warn!("hull/host cannot be used: {error}");
        }
        *self.host() = Some(host);
        Ok(())
    }

    /// The lower layers of a snapshot of this machine.
    pub(super) fn host_lower(&self) -> Result<Vec<PathBuf>> {
        match &mut *self.host() {
            Some(Ok(host)) => Ok(vec![host.mask()?, PathBuf::from("/")]),
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::new(crate::Kind::System, "hull/host is not there yet")),
        }
    }
}

fn is_one_file_system() -> bool {
    let device = |path: &str| std::fs::metadata(path).map(|found| found.dev()).ok();
    device("/usr") == device("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_of_persons() {
        assert_eq!(persons_home("ann:x:1000:1000:Ann:/home/ann:/bin/sh"), Some("home/ann"));
        assert_eq!(persons_home("bob:x:1001:1000::/opt/bob/:/bin/sh"), Some("opt/bob"));
        for line in [
            "root:x:0:0::/root:/bin/sh",
            "daemon:x:1:1::/usr/sbin:/bin/sh",
            "nobody:x:65534:1::/nonexistent:/bin/sh",
            "eve:x:1000:1::/:/bin/sh",
            "eve:x:1000:1::/etc:/bin/sh",
            "eve:x:1000:1::/a/../etc:/bin/sh",
            "x",
            "",
            "a:b:c:d:e:f",
        ] {
            assert_eq!(persons_home(line), None, "{line}");
        }
    }
}
