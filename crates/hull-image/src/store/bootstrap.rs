//! Images made from a package archive, for a machine without any registry. Here, and only here, other programs are
//! run: mmdebstrap, apt-get, dpkg-deb.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{Image, Import, Progress, Report, Store};
use crate::tar::{Entry, Kind, Reader, Writer};
use crate::{Error, Result};

const PATH: &str = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Store {
    /// Makes an image from a package archive: `debian:bookworm`, `ubuntu:noble` (by mmdebstrap, under the same name)
    /// or `busybox` (from Debian's static binary, that of this machine or else downloaded by apt-get).
    pub fn bootstrap(&self, what: &str, progress: Report<'_>) -> Result<Arc<Image>> {
        let (distribution, suite) = what.split_once(':').unwrap_or((what, ""));
        let is_suite = !suite.is_empty()
            && suite.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !suite.starts_with('-');
        match distribution {
            "busybox" => self.bootstrap_busybox(suite, progress),
            "debian" | "ubuntu" if is_suite => self.bootstrap_distribution(distribution, suite, progress),
            "debian" | "ubuntu" => Err(Error::invalid(format!(
                "cannot bootstrap {what:?}: the suite's name is expected, as in debian:bookworm or ubuntu:noble"
            ))),
            _ => Err(Error::invalid(format!(
                "cannot bootstrap {what:?}: debian:SUITE, ubuntu:SUITE and busybox are known"
            ))),
        }
    }

    fn bootstrap_distribution(
        &self,
        distribution: &str,
        suite: &str,
        progress: Report<'_>,
    ) -> Result<Arc<Image>> {
        progress(Progress { id: String::new(), status: "Fetching packages", current: 0, total: 0 });
        let errors = self.temporary()?;
        let log = errors.join("errors");
        let done = self.run_mmdebstrap(distribution, suite, &log, progress);
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        self.discard(&errors);
        done.map_err(|error| match last_errors(&said) {
            said if said.is_empty() => error,
            said => {
                Error::new(error.kind, format!("mmdebstrap could not make {distribution}:{suite}: {said}"))
            }
        })
    }

    fn run_mmdebstrap(
        &self,
        distribution: &str,
        suite: &str,
        log: &Path,
        progress: Report<'_>,
    ) -> Result<Arc<Image>> {
        let log = std::fs::File::create(log).map_err(|error| Error::file("create", log, error))?;
        let mut child = Command::new("mmdebstrap")
            .args(["--variant=minbase", "--mode=root", "--format=tar", suite, "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Error::new(
                    crate::Kind::System,
                    format!(
                        "mmdebstrap is not installed, which makes {distribution}:{suite}: install it with \
                         apt-get install mmdebstrap{}",
                        if distribution == "ubuntu" { " ubuntu-keyring" } else { "" }
                    ),
                ),
                _ => Error::system("run mmdebstrap", error),
            })?;
        let options = Import {
            changes: vec![PATH.to_owned(), "CMD [\"bash\"]".to_owned()],
            message: format!("bootstrapped from the package archive: {distribution}:{suite}"),
            platform: None,
            reference: None,
        };
        let imported = match child.stdout.take() {
            Some(mut tar) => self.import(&mut tar, options, progress),
            None => Err(Error::new(crate::Kind::System, "mmdebstrap has no output")),
        };
        if imported.is_err() {
            // It has ended already, or is of no use any more.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| Error::system("wait for mmdebstrap", error))?;
        let image = match imported {
            Ok(image) if status.success() => image,
            Ok(image) => {
                self.remove(&image.id.to_string(), true, false, &|_| None)?;
                return Err(Error::new(crate::Kind::System, format!("mmdebstrap failed ({status})")));
            }
            Err(error) => return Err(error),
        };
        self.tag(&image.id.to_string(), &format!("{distribution}:{suite}"))?;
        self.image(&image.id)
    }

    fn bootstrap_busybox(&self, tag: &str, progress: Report<'_>) -> Result<Arc<Image>> {
        let binary = match ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| static_binary(path)) {
            Some(binary) => binary,
            None => self.download_busybox()?,
        };
        let tar = busybox_tar(&binary, &self.applets(&binary)?)?;
        let options = Import {
            changes: vec![PATH.to_owned(), "CMD [\"sh\"]".to_owned()],
            message: "made of Debian's busybox-static".to_owned(),
            platform: None,
            reference: Some(if tag.is_empty() { "busybox".to_owned() } else { format!("busybox:{tag}") }),
        };
        self.import(&mut &tar[..], options, progress)
    }

    /// What the binary says it can do.
    fn applets(&self, binary: &[u8]) -> Result<Vec<String>> {
        let folder = self.temporary()?;
        let path = folder.join("busybox");
        let run = || -> std::io::Result<std::process::Output> {
            std::fs::write(&path, binary)?;
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            Command::new(&path).arg("--list").output()
        };
        let output = run();
        self.discard(&folder);
        let output = output.map_err(|error| Error::system("run busybox --list", error))?;
        let names = String::from_utf8_lossy(&output.stdout);
        let is_name = |name: &&str| !name.is_empty() && !name.contains('/') && *name != "busybox";
        Ok(names.lines().filter(is_name).map(str::to_owned).collect())
    }

    fn download_busybox(&self) -> Result<Vec<u8>> {
        let folder = self.temporary()?;
        let done = download(&folder);
        self.discard(&folder);
        done
    }
}

/// Downloads Debian's package and takes the binary out of it.
fn download(folder: &Path) -> Result<Vec<u8>> {
    let package = "busybox-static";
    let missing = "busybox is not on this machine: install it with apt-get install busybox-static";
    let output = Command::new("apt-get")
        .args(["download", package])
        .current_dir(folder)
        .output()
        .map_err(|_| Error::new(crate::Kind::System, missing))?;
    let found = std::fs::read_dir(folder).map_err(|error| Error::file("read", folder, error))?.flatten();
    let deb = found.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "deb"));
    let Some(deb) = deb.filter(|_| output.status.success()) else {
        let said = last_errors(&String::from_utf8_lossy(&output.stderr));
        return Err(Error::new(
            crate::Kind::System,
            format!("apt-get download {package} failed: {said}; {missing}"),
        ));
    };
    let output = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .output()
        .map_err(|error| Error::system("run dpkg-deb", error))?;
    let mut reader = Reader::new(&output.stdout[..], ());
    while let Some(entry) = reader.next().map_err(Error::archive)? {
        if entry.kind == Kind::File && entry.path.ends_with(b"bin/busybox") {
            let mut binary = Vec::new();
            loop {
                let piece = reader.data().map_err(Error::archive)?;
                if piece.is_empty() {
                    return Ok(binary);
                }
                binary.extend_from_slice(piece);
                let count = piece.len();
                reader.consume(count);
            }
        }
    }
    Err(Error::new(crate::Kind::System, format!("the package {package} has no busybox in it")))
}

/// A root file system of one binary.
fn busybox_tar(binary: &[u8], applets: &[String]) -> Result<Vec<u8>> {
    let now = jiff::Timestamp::now().as_second();
    let mut out = Writer::new(Vec::new());
    let mut write = || -> std::io::Result<()> {
        let folders = [("bin", 0o755), ("etc", 0o755), ("home", 0o755), ("root", 0o700), ("tmp", 0o1777)];
        for (folder, mode) in folders.into_iter().chain([("usr", 0o755), ("usr/bin", 0o755), ("var", 0o755)])
        {
            out.header(&Entry::new(&format!("{folder}/"), Kind::Directory, mode, 0, now))?;
        }
        out.header(&Entry::new("bin/busybox", Kind::File, 0o755, binary.len() as u64, now))?;
        out.contents(binary)?;
        out.pad(binary.len() as u64)?;
        for applet in applets {
            let link = Entry::new(&format!("bin/{applet}"), Kind::HardLink, 0o755, 0, now);
            out.header(&Entry { link: b"bin/busybox".to_vec(), ..link })?;
        }
        let env = Entry::new("usr/bin/env", Kind::Symlink, 0o777, 0, now);
        out.header(&Entry { link: b"../../bin/env".to_vec(), ..env })?;
        out.file(
            "etc/passwd",
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
            now,
        )?;
        out.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n", now)?;
        out.file("etc/shadow", b"root:*:::::::\nnobody:*:::::::\n", now)
    };
    write().and_then(|()| out.finish()).map_err(|error| Error::system("make the image's archive", error))
}

/// A binary that needs no dynamic loader.
fn static_binary(path: &str) -> Option<Vec<u8>> {
    let mut binary = Vec::new();
    std::fs::File::open(path).ok()?.take(64 << 20).read_to_end(&mut binary).ok()?;
    needs_no_loader(&binary).then_some(binary)
}

/// An ELF file of 64 bits without a PT_INTERP header.
fn needs_no_loader(binary: &[u8]) -> bool {
    let number = |at: usize, length: usize| {
        let bytes = binary.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte)))
    };
    let headers = || {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count)
            .map(|index| number(usize::try_from(start.checked_add(index * size)?).ok()?, 4))
            .collect::<Option<Vec<u64>>>()
    };
    binary.starts_with(b"\x7fELF\x02\x01") && headers().is_some_and(|kinds| !kinds.contains(&3))
}

/// The lines that say what went wrong, or else the last.
fn last_errors(said: &str) -> String {
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("E:")).collect();
    let lines = match errors.is_empty() {
        true => said.lines().rev().take(1).collect(),
        false => errors,
    };
    let mut said = lines.into_iter().take(3).collect::<Vec<_>>().join("; ");
    if said.contains("is not signed") {
        // Debian has the keys of Ubuntu's archive in a package of their own, and the other way round.
        said.push_str(
            "; the archive's keys are missing here: apt-get install ubuntu-keyring debian-archive-keyring",
        );
    }
    said
}

#[cfg(test)]
mod tests {
    use super::last_errors;

    #[test]
    fn what_mmdebstrap_says_is_cut_to_its_errors_with_what_to_do() {
        assert_eq!(last_errors("I: trying\nE: no such suite\nI: cleaning\n"), "E: no such suite");
        assert_eq!(last_errors("first\nlast\n"), "last");
        let said = last_errors("E: The repository 'http://archive.example noble InRelease' is not signed.\n");
        assert!(said.ends_with("apt-get install ubuntu-keyring debian-archive-keyring"), "{said}");
    }
}
