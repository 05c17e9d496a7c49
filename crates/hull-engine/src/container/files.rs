//! The files that hull writes for a container and binds into it: /etc/hosts, /etc/hostname and /etc/resolv.conf, in
//! its folder of the data root. The container may write them as well, so what is in them is its word: it may be long,
//! or no text at all. All here reads the disk, and is called where that may block.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use super::links::Link;
use super::{Container, Record, locked};
use crate::{Engine, Error, Result};

/// Whom a container is linked to, in /etc/hosts: the address, the alias, the host name, the name.
pub(super) type LinkLine = (IpAddr, Vec<String>);

/// The longest file that is read, in bytes: a container can let one of its own grow as long as there is disk.
const LONGEST: u64 = 1 << 20;

/// A file's bytes. `None`: it is longer than hull reads.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= LONGEST).then_some(bytes))
}

/// Changes a file in place, as it is bound into the container. One that is gone, too long or no text is what someone
/// in the container made of it, and stays, as it does where the change is none.
///
/// # Errors
/// The change's own, or the file cannot be read or written.
fn edit(path: &Path, change: impl FnOnce(&str) -> Result<Option<String>>) -> Result<()> {
    let failed = |error| Error::system(format_args!("change {}", path.display()), error);
    let text = match read(path) {
        Ok(bytes) => bytes.and_then(|bytes| String::from_utf8(bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let Some(text) = text else { return Ok(()) };
    match change(&text)? {
        Some(changed) if changed != text => fs::write(path, changed).map_err(failed),
        _ => Ok(()),
    }
}

/// By what the line of a link is known in /etc/hosts. Not by the target's name, which changes.
pub(super) struct LineOf<'a> {
    pub(super) alias: &'a str,
    /// `None`: the target is gone, and nobody knows any more.
    pub(super) hostname: Option<&'a str>,
}

impl LineOf<'_> {
    fn is(&self, line: &str) -> bool {
        let Some((_, names)) = line.trim_end().split_once('\t') else { return false };
        // It has two names or three, where lines of --add-host have one: with more it is someone else's by now.
        let names: Vec<&str> = names.split(' ').collect();
        let [alias, hostname] = match names.as_slice() {
            [alias, hostname] | [alias, hostname, _] => [*alias, *hostname],
            _ => return false,
        };
        alias == self.alias && self.hostname.is_none_or(|known| known == hostname)
    }
}

/// The text with another line for that link, or without it.
fn with_line(text: &str, of: &LineOf<'_>, new: Option<&LinkLine>) -> String {
    let mut edited = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match new {
            _ if !of.is(line) => edited.push_str(line),
            Some((address, names)) => edited.push_str(&format!("{address}\t{}\n", names.join(" "))),
            None => {}
        }
    }
    edited
}

/// Takes the lines of links out of a text: they, and the rest.
fn taken_apart(text: &str, links: &[LineOf<'_>]) -> (Vec<LinkLine>, String) {
    let (mut lines, mut rest) = (Vec::new(), String::with_capacity(text.len()));
    for line in text.split_inclusive('\n') {
        let address = line.split_once('\t').and_then(|(address, names)| Some((address.parse().ok()?, names)));
        match address {
            Some((address, names)) if links.iter().any(|of| of.is(line)) => {
                lines.push((address, names.trim_end().split(' ').map(str::to_owned).collect()));
            }
            _ => rest.push_str(line),
        }
    }
    (lines, rest)
}

impl Engine {
    /// Gives the line of a link in a container's /etc/hosts another content, or takes it out. A line that someone there
    /// has changed is not found, and stays.
    pub(super) fn edit_link(&self, parent: &Container, of: &LineOf<'_>, new: Option<&LinkLine>) {
        let _turn = locked(&parent.files);
        let path = self.container_dir(&parent.id).join("hosts");
        if let Err(error) = edit(&path, |text| Ok(Some(with_line(text, of, new)))) {
            tracing::error!(container = parent.id, %error, "a link of a container is not as it should be");
        }
    }

    /// Writes /etc/hosts and /etc/resolv.conf of a container anew that runs and has come to other networks. A file that
    /// someone in the container has changed stays as it is.
    ///
    /// # Errors
    /// What belongs into them cannot be told, or one of them cannot be read or written.
    pub(super) fn rewrite_files(&self, container: &Container, before: &Record) -> Result<()> {
        let after = container.record().clone();
        let folder = self.container_dir(&container.id);
        let _turn = locked(&container.files);
        edit(&folder.join("hosts"), |present| {
            // Links are left as they are there: that of a target which has ended keeps its last address.
            let hostnames: Vec<Option<String>> =
                after.links.iter().map(|link| self.link_hostname(link)).collect();
            let links: Vec<LineOf<'_>> = std::iter::zip(&after.links, &hostnames)
                .map(|(link, hostname)| LineOf { alias: &link.alias, hostname: hostname.as_deref() })
                .collect();
            let (mut lines, rest) = taken_apart(present, &links);
            if rest != self.hosts_text(before, &before.endpoints, Vec::new())? {
                return Ok(None);
            }
            if !self.has_links(&after) {
                lines.clear();
            } else if !self.has_links(before) {
                lines = self.linked_running(&after).into_iter().map(|linked| linked.hosts).collect();
            }
            self.hosts_text(&after, &after.endpoints, lines).map(Some)
        })?;
        edit(&folder.join("resolv.conf"), |present| {
            let untouched = present == self.resolv_conf_text(before, &before.endpoints)?;
            untouched.then(|| self.resolv_conf_text(&after, &after.endpoints)).transpose()
        })
    }

    fn link_hostname(&self, link: &Link) -> Option<String> {
        let target = self.container(&link.target).ok()?;
        let hostname = target.record().hostname().to_owned();
        Some(hostname)
    }

    /// Gives a container the files of the one whose network it joins.
    ///
    /// # Errors
    /// One of them cannot be read or written, or was made too long in that container.
    pub(super) fn copy_files(&self, other: &str, folder: &Path) -> Result<()> {
        // Not in the middle of a change.
        let other = self.container(other)?;
        let _turn = locked(&other.files);
        let from = self.container_dir(&other.id);
        for name in ["hostname", "hosts", "resolv.conf"] {
            let path = from.join(name);
            let bytes = match read(&path) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    return Err(Error::conflict(format!(
                        "cannot join network of container {}: its /etc/{name} has grown over {LONGEST} bytes; shorten it there",
                        other.id
                    )));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(Error::system(format_args!("read {}", path.display()), error)),
            };
            let path = folder.join(name);
            fs::write(&path, bytes)
                .map_err(|error| Error::system(format_args!("write {}", path.display()), error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "127.0.0.1\tlocalhost\n172.17.0.2\tdb host\n172.17.0.3\tdb host2 name\n1.1.1.1\tdb\n";

    fn of<'a>(alias: &'a str, hostname: &'a str) -> LineOf<'a> {
        LineOf { alias, hostname: Some(hostname) }
    }

    fn line(address: &str, names: &[&str]) -> LinkLine {
        (address.parse().unwrap(), names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn one_line_of_the_hosts_file_is_changed() {
        let new = line("172.17.0.9", &["db", "host2", "other"]);
        assert_eq!(
            with_line(TEXT, &of("db", "host2"), Some(&new)),
            TEXT.replace("172.17.0.3\tdb host2 name", "172.17.0.9\tdb host2 other"),
            "by its alias and host name, whatever it is called"
        );
        assert_eq!(with_line(TEXT, &of("db", "host"), None), TEXT.replace("172.17.0.2\tdb host\n", ""));
        assert_eq!(with_line(TEXT, &of("db", "host3"), None), TEXT);
        let gone = LineOf { alias: "db", hostname: None };
        assert_eq!(with_line(TEXT, &gone, None), "127.0.0.1\tlocalhost\n1.1.1.1\tdb\n");
    }

    #[test]
    fn links_are_told_apart_from_the_rest() {
        let (lines, rest) = taken_apart(TEXT, &[of("db", "host2"), of("x", "host")]);
        assert_eq!(lines, [line("172.17.0.3", &["db", "host2", "name"])]);
        assert_eq!(rest, TEXT.replace("172.17.0.3\tdb host2 name\n", ""));
    }

    #[test]
    fn what_a_container_made_of_its_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let other = |_: &str| Ok(Some("other".to_owned()));
        edit(&path, other).unwrap();
        assert!(!path.exists());
        for grown in [vec![b'#'; LONGEST as usize + 1], vec![0xff]] {
            fs::write(&path, &grown).unwrap();
            edit(&path, other).unwrap();
            assert!(fs::read(&path).unwrap() == grown);
        }
        fs::write(&path, vec![b'#'; LONGEST as usize]).unwrap();
        edit(&path, other).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"other");
        // One that grows for ever is read to the limit only.
        assert_eq!(read(Path::new("/dev/zero")).unwrap(), None);
    }
}
