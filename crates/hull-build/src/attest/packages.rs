//! The packages of an image, read from its package managers' own lists: an image's files are an attacker's, so every path
//! is resolved beneath it and every list has its limit.

use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};

use hull_engine::Kind;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::failure::{Failure, Result};

/// The longest list, in bytes.
const LIST_LIMIT: u64 = 32 << 20;
/// So many packages are listed.
const PACKAGES: usize = 200_000;
/// Where rpm has its list.
const RPM: [&str; 2] = ["var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite"];
/// Where it had it before 4.16, as a database of Berkeley's, and where SUSE has one of its own.
const OLD_RPM: [&str; 3] =
    ["var/lib/rpm/Packages", "var/lib/rpm/Packages.db", "usr/lib/sysimage/rpm/Packages.db"];

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    /// `deb`, `apk` or `rpm`.
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) architecture: String,
    pub(super) licence: Option<String>,
    /// The distribution's id and version.
    pub(super) distribution: (String, String),
}

impl Package {
    /// As a package URL.
    pub(super) fn url(&self) -> String {
        let (id, version) = &self.distribution;
        let namespace = match (id.is_empty(), self.kind) {
            (false, _) => id.as_str(),
            (true, "apk") => "alpine",
            (true, "rpm") => "redhat",
            (true, _) => "debian",
        };
        let distro = match version.is_empty() {
            true => String::new(),
            false => format!("&distro={}-{}", encoded(namespace), encoded(version)),
        };
        format!(
            "pkg:{}/{}/{}@{}?arch={}{distro}",
            self.kind,
            encoded(namespace),
            encoded(&self.name),
            encoded(&self.version),
            encoded(&self.architecture)
        )
    }
}

/// What means nothing in an address (RFC 3986, 2.3) stays; all else is written as its number.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encoded(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, RESERVED)
}

/// The packages that the files beneath a root say are installed.
pub(super) fn found(root: BorrowedFd<'_>) -> Result<Vec<Package>> {
    let mut rpm = None;
    for list in RPM {
        rpm = rpm.or(opened(root, list)?);
    }
    let old = OLD_RPM.into_iter().find(|list| matches!(opened(root, list), Ok(Some(_))));
    if let Some(list) = old.filter(|_| rpm.is_none()) {
        return Err(Failure::new(
            Kind::NotImplemented,
            format!(
                "--sbom: the image has packages of rpm in another database than SQLite's (/{list}), which is not read: rpm has \
                 SQLite's from 4.16 on"
            ),
        ));
    }
    let mut packages = Packages::default();
    let release = text(root, "etc/os-release")?.or(text(root, "usr/lib/os-release")?).unwrap_or_default();
    let distribution = (of_release(&release, "ID"), of_release(&release, "VERSION_ID"));
    if let Some(status) = text(root, "var/lib/dpkg/status")? {
        packages.add(dpkg(&status, &distribution))?;
    }
    // Images that are put together without dpkg have a file for each package.
    if let Some(folder) = opened(root, "var/lib/dpkg/status.d")? {
        for entry in Dir::read_from(&folder).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.starts_with('.') || name.ends_with(".md5sums") {
                continue;
            }
            let status = text(root, &format!("var/lib/dpkg/status.d/{name}"))?.unwrap_or_default();
            packages.add(dpkg(&status, &distribution))?;
        }
    }
    for list in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        if let Some(installed) = text(root, list)? {
            packages.add(apk(&installed, &distribution))?;
            break;
        }
    }
    if let Some(database) = rpm {
        packages.add(super::rpm::packages(&database, &distribution, PACKAGES)?.into_iter())?;
    }
    let mut packages = packages.0;
    packages
        .sort_by(|a, b| (&a.name, &a.version, &a.architecture).cmp(&(&b.name, &b.version, &b.architecture)));
    packages.dedup();
    Ok(packages)
}

/// What was read so far.
#[derive(Default)]
struct Packages(Vec<Package>);

impl Packages {
    /// Adds what a list has; it is left as soon as these are too many.
    fn add(&mut self, list: impl Iterator<Item = Package>) -> Result<()> {
        let left = PACKAGES - self.0.len();
        self.0.extend(list.take(left + 1));
        match self.0.len() > PACKAGES {
            true => Err(Failure::invalid(format!(
                "--sbom: the image claims more packages than the {PACKAGES} that are allowed"
            ))),
            false => Ok(()),
        }
    }
}

/// Opens a file or folder for reading; none where there is neither. To open a device of an image's is to use the host's.
fn opened(root: BorrowedFd<'_>, path: &str) -> Result<Option<std::fs::File>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let failed = |errno: Errno| Failure::system(format_args!("read /{path} of the image"), errno);
    let found = match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(errno) => return Err(failed(errno)),
    };
    let kind = fstat(&found).map(|found| FileType::from_raw_mode(found.st_mode)).map_err(failed)?;
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(None);
    }
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    Ok(Some(file.into()))
}

fn text(root: BorrowedFd<'_>, path: &str) -> Result<Option<String>> {
    let Some(file) = opened(root, path)?.filter(|file| file.metadata().is_ok_and(|file| file.is_file()))
    else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(LIST_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::system(format_args!("read /{path} of the image"), error))?;
    if bytes.len() as u64 > LIST_LIMIT {
        return Err(Failure::invalid(format!("--sbom: /{path} is longer than {LIST_LIMIT} bytes")));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn of_release(text: &str, name: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
}

/// dpkg's paragraphs: what is installed of them.
fn dpkg(text: &str, distribution: &(String, String)) -> impl Iterator<Item = Package> {
    let paragraph = |paragraph: &str| {
        let field = |name: &str| {
            let value = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.unwrap_or_default().trim().to_owned()
        };
        let (name, version, status) = (field("Package"), field("Version"), field("Status"));
        // One file for each package says nothing of its status.
        let installed = status.is_empty() || status.ends_with(" installed");
        (installed && !name.is_empty() && !version.is_empty()).then(|| Package {
            kind: "deb",
            name,
            version,
            architecture: field("Architecture"),
            licence: None,
            distribution: distribution.clone(),
        })
    };
    text.split("\n\n").filter_map(paragraph)
}

/// apk's records.
fn apk(text: &str, distribution: &(String, String)) -> impl Iterator<Item = Package> {
    let record = |record: &str| {
        let field = |name: &str| {
            record.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
        };
        let (name, version) = (field("P:"), field("V:"));
        (!name.is_empty() && !version.is_empty()).then(|| Package {
            kind: "apk",
            name,
            version,
            architecture: field("A:"),
            licence: Some(field("L:")).filter(|licence| !licence.is_empty()),
            distribution: distribution.clone(),
        })
    };
    text.split("\n\n").filter_map(record)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn lists_are_read_beneath_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
        put(
            "var/lib/dpkg/status",
            "Package: b\nStatus: install ok installed\nArchitecture: all\nVersion: 2\n\nPackage: gone\nStatus: deinstall ok \
             config-files\nVersion: 1\n",
        );
        put("var/lib/dpkg/status.d/a", "Package: a\nVersion: 1\nArchitecture: amd64\n");
        put("var/lib/dpkg/status.d/a.md5sums", "Package: no\nVersion: 1\n");
        std::fs::create_dir_all(folder.path().join("lib/apk/db")).unwrap();
        std::os::unix::fs::symlink("/../../../../etc/passwd", folder.path().join("lib/apk/db/installed"))
            .unwrap();
        let root = std::fs::File::open(folder.path()).unwrap();
        let packages = found(root.as_fd()).unwrap();
        let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(packages[0].url(), "pkg:deb/debian/a@1?arch=amd64&distro=debian-12");
        std::fs::create_dir_all(folder.path().join("usr/lib/sysimage/rpm")).unwrap();
        super::super::rpm::tests::database(&folder.path().join("usr/lib/sysimage/rpm/rpmdb.sqlite"));
        let names: Vec<String> =
            found(root.as_fd()).unwrap().into_iter().map(|package| package.name).collect();
        assert_eq!(names, ["a", "b", "bash"]);
        std::fs::remove_file(folder.path().join("usr/lib/sysimage/rpm/rpmdb.sqlite")).unwrap();
        put("var/lib/rpm/Packages", "x");
        assert!(found(root.as_fd()).unwrap_err().message.contains("rpm"));
    }

    #[test]
    fn apks_records() {
        let text = "C:x\nP:musl\nV:1.2-r0\nA:x86_64\nL:MIT\n\nP:nothing\n";
        let packages: Vec<Package> = apk(text, &("alpine".to_owned(), String::new())).collect();
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].url(), "pkg:apk/alpine/musl@1.2-r0?arch=x86_64");
        assert_eq!(packages[0].licence.as_deref(), Some("MIT"));
    }
}
