//! What a COPY or ADD takes, and where each of it goes.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hull_engine::Kind;
use hull_image::Digest;
use hull_image::archive::{self, Chmod, CopyOptions, Entering, Found};

use crate::dockerfile::{Add, Copy};
use crate::failure::{Failure, Result};
use crate::fetching::{Fetched, is_address};
use crate::git::{Address, Oid, is_git};
use crate::ignore::Ignore;
use crate::key::Key;
use crate::stage::Stage;

/// A COPY or ADD with its variables expanded.
pub(crate) struct Wanted {
    pub(crate) keyword: &'static str,
    pub(crate) sources: Vec<String>,
    /// Names and contents of documents.
    pub(crate) documents: Vec<(String, String)>,
    pub(crate) destination: String,
    /// The same as it is written.
    pub(crate) written: String,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<(String, Chmod)>,
    pub(crate) from: Option<String>,
    pub(crate) link: bool,
    pub(crate) parents: bool,
    pub(crate) exclude: Vec<String>,
    /// Archives are unpacked.
    pub(crate) unpack: bool,
    /// Addresses, and whether what comes from there is unpacked.
    pub(crate) addresses: Vec<String>,
    pub(crate) unpack_fetched: bool,
    pub(crate) checksum: Option<String>,
    /// Git repositories, each with the commit that is meant, once that is known.
    pub(crate) repositories: Vec<(Address, Option<Oid>)>,
    pub(crate) keep_git_dir: bool,
    /// What was fetched from there.
    pub(crate) fetched: Vec<Arc<Fetched>>,
}

/// A source, and where it goes.
pub(crate) struct Placed {
    pub(crate) found: Found,
    pub(crate) destination: String,
    /// It was fetched, and is not of the context or a stage.
    pub(crate) fetched: Option<Arc<Fetched>>,
}

/// The files that are copied from.
pub(crate) struct Files<'a> {
    pub(crate) root: BorrowedFd<'a>,
    /// They belong to whom they belong there.
    pub(crate) has_owners: bool,
    /// What is there only to be mounted on.
    pub(crate) points: BTreeSet<&'static str>,
}

impl Stage {
    /// The instruction with its variables expanded.
    pub(crate) fn wanted(&self, copy: &Copy, add: Option<&Add>) -> Result<Wanted> {
        let expand =
            |texts: &[String]| texts.iter().map(|text| self.expanded(text)).collect::<Result<Vec<_>>>();
        let optional = |text: &Option<String>| text.as_ref().map(|text| self.expanded(text)).transpose();
        let keyword = if add.is_some() { "ADD" } else { "COPY" };
        let mut documents = Vec::new();
        for document in &copy.documents {
            let content = match document.expand {
                true => self.expanded_document(&document.content)?,
                false => document.content.clone(),
            };
            documents.push((document.name.clone(), content));
        }
        let sources = expand(&copy.sources)?;
        let may_fetch = add.is_some() && self.build.request.may_fetch;
        for source in &sources {
            refuse_remote(keyword, source, add.is_some(), may_fetch)?;
            if copy.from.is_none() && !is_address(source) && !is_repository(source) && leads_out(source) {
                return Err(Failure::invalid(format!(
                    "{keyword} failed: forbidden path outside the build context: {source} ()"
                )));
            }
        }
        let destination = self.expanded(&copy.destination)?;
        if destination.is_empty() {
            return Err(Failure::invalid(format!(
                "{keyword}: the destination is empty once its variables are expanded"
            )));
        }
        if sources.len() + documents.len() > 1 && !destination.ends_with('/') && destination != "." {
            return Err(Failure::invalid(format!(
                "When using {keyword} with more than one source file, the destination must be a directory and end with a /"
            )));
        }
        let (repositories, sources): (Vec<String>, Vec<String>) =
            sources.into_iter().partition(|source| is_repository(source));
        let repositories = repositories.iter().map(|text| Ok((Address::parse(text)?, None)));
        let repositories = repositories.collect::<Result<Vec<_>>>()?;
        let (addresses, sources) = sources.into_iter().partition(|source| is_address(source));
        let checksum = add.map(|add| optional(&add.checksum)).transpose()?.flatten();
        if checksum.is_some() && Vec::len(&addresses) + repositories.len() != 1 {
            return Err(Failure::invalid("checksum can't be specified without exactly one address to fetch"));
        }
        let chmod = optional(&copy.chmod)?;
        let chmod = chmod.map(|text| text.parse::<Chmod>().map(|chmod| (text, chmod))).transpose()?;
        Ok(Wanted {
            keyword,
            sources,
            documents,
            destination: self.absolute(&destination),
            written: destination,
            chown: optional(&copy.chown)?.filter(|chown| !chown.is_empty()),
            chmod,
            from: copy.from.clone().filter(|from| !from.is_empty()),
            link: copy.link,
            parents: copy.parents,
            exclude: expand(&copy.exclude)?,
            unpack: add.is_some_and(|add| add.unpack.unwrap_or(true)),
            addresses,
            unpack_fetched: add.is_some_and(|add| add.unpack == Some(true)),
            checksum,
            repositories,
            keep_git_dir: add.is_some_and(|add| add.keep_git_dir),
            fetched: Vec::new(),
        })
    }

    /// A path in the image; a relative one is beneath the working directory. A slash at its end stays.
    fn absolute(&self, path: &str) -> String {
        let working_dir = self.made.draft.image.container_config().working_dir;
        let joined = hull_image::instruction::join(&working_dir, path);
        let is_folder = path.ends_with('/') || path.ends_with("/.") || path == ".";
        if is_folder && joined != "/" { format!("{joined}/") } else { joined }
    }
}

/// Whether a source is a git repository; what could be a path of the context is one.
fn is_repository(source: &str) -> bool {
    is_git(source) && !source.starts_with("github.com/")
}

/// What comes from elsewhere and cannot be had.
fn refuse_remote(keyword: &str, source: &str, is_add: bool, may_fetch: bool) -> Result<()> {
    if !is_repository(source) && !is_address(source) {
        return Ok(());
    }
    if !is_add {
        return Err(Failure::invalid(format!("source can't be a URL for {keyword}")));
    }
    if !may_fetch {
        return Err(Failure::new(
            Kind::Forbidden,
            format!(
                "ADD of {source}: the daemon fetches it from the host's network, which this socket refuses; fetch it in a RUN"
            ),
        ));
    }
    Ok(())
}

/// Whether a path leads out of the folder that it begins in.
pub(crate) fn leads_out(source: &str) -> bool {
    let mut depth = 0i64;
    for part in source.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

pub(crate) type LeftOut = dyn Fn(&[u8], bool) -> Entering + Sync;

impl Wanted {
    /// Whether it is of git repositories alone, whose commits say all about their files.
    pub(crate) fn is_of_commits(&self) -> bool {
        !self.repositories.is_empty() && self.sources.is_empty() && self.addresses.is_empty()
    }

    /// Whether all its files are the context's.
    pub(crate) fn is_of_context(&self) -> bool {
        self.from.is_none() && self.addresses.is_empty() && self.repositories.is_empty()
    }

    /// What is left out of a source that is copied: what the instruction says, and what is there only to be mounted on.
    pub(crate) fn excluded(&self, source: &Found, points: &BTreeSet<&'static str>) -> Result<Box<LeftOut>> {
        let beneath = if source.path.is_empty() { String::new() } else { format!("{}/", source.path) };
        let points: BTreeSet<&[u8]> =
            points.iter().filter_map(|path| path.strip_prefix(&beneath)).map(str::as_bytes).collect();
        if self.exclude.is_empty() && points.is_empty() {
            return Ok(Box::new(|_, _| Entering::Take));
        }
        let ignore = Ignore::of(self.exclude.iter().map(String::as_str)).map_err(Failure::invalid)?;
        Ok(Box::new(move |path, is_folder| match ignore.excludes(path) {
            _ if points.contains(path) => Entering::Leave,
            false => Entering::Take,
            true if is_folder && ignore.may_include_beneath(path) => Entering::Look,
            true => Entering::Leave,
        }))
    }

    /// The sources that are there, and where each goes.
    pub(crate) fn placed(
        &self,
        root: BorrowedFd<'_>,
        points: &BTreeSet<&'static str>,
    ) -> Result<Vec<Placed>> {
        let mut placed = Vec::new();
        for source in &self.sources {
            let (pivot, pattern) = match source.split_once("/./").filter(|_| self.parents) {
                Some((before, after)) => {
                    // Files are named by plain paths.
                    let parts = before.split('/').filter(|part| !matches!(*part, "" | "."));
                    (parts.map(|part| format!("{part}/")).collect(), format!("{before}/{after}"))
                }
                None => (String::new(), source.clone()),
            };
            let missing = |error: hull_image::Error| {
                let mut failure = Failure::from(error.clone());
                if error.kind == hull_image::Kind::NotFound {
                    failure.message = self.not_found(source);
                    failure.detail.classic = self.classic_not_found(source);
                }
                failure
            };
            let mut found = archive::find(root, &pattern).map_err(missing)?;
            found.retain(|found| !points.contains(found.path.as_str()));
            if found.is_empty() {
                let is_pattern = source.contains(['*', '?', '[']);
                let none = format!("{} failed: no source files were specified", self.keyword);
                let mut failure = Failure::invalid(match is_pattern && self.from.is_none() {
                    true => none.clone(),
                    false => self.not_found(source),
                });
                failure.detail.classic = if is_pattern { Some(none) } else { self.classic_not_found(source) };
                return Err(failure);
            }
            for found in found {
                let destination = match self.parents {
                    true => self.with_parents(&found, &pivot),
                    false => self.destination.clone(),
                };
                placed.push(Placed { found, destination, fetched: None });
            }
        }
        for fetched in &self.fetched {
            let destination = self.destination.clone();
            placed.push(Placed { found: fetched.found(), destination, fetched: Some(Arc::clone(fetched)) });
        }
        // A pattern that means several files needs a folder, whatever it looks like.
        if placed.len() > 1 && !self.parents {
            for one in placed.iter_mut().filter(|one| !one.destination.ends_with('/')) {
                one.destination.push('/');
            }
        }
        Ok(placed)
    }

    fn not_found(&self, source: &str) -> String {
        match &self.from {
            None => format!(
                "{} failed: file not found in build context or excluded by .dockerignore: stat {source}: file does not exist",
                self.keyword
            ),
            Some(from) => format!("{} failed: {source:?} from {from}: not found", self.keyword),
        }
    }

    /// The same in the words of Docker's classic builder.
    fn classic_not_found(&self, source: &str) -> Option<String> {
        let source = source.trim_start_matches('/');
        self.from.as_ref().map(|_| format!("{} failed: stat {source}: file does not exist", self.keyword))
    }

    /// Beneath the destination, with the folders that the source is named by.
    fn with_parents(&self, found: &Found, pivot: &str) -> String {
        let named = found.named.strip_prefix(pivot.trim_start_matches('/')).unwrap_or(&found.named);
        let folder = match found.is_folder {
            true => named,
            false => named.rsplit_once('/').map_or("", |(folder, _)| folder),
        };
        let base = self.destination.trim_end_matches('/');
        if folder.is_empty() { format!("{base}/") } else { format!("{base}/{folder}/") }
    }

    /// The words of the line of the history, as Docker's classic builder writes it behind this shell.
    pub(crate) fn done(&self, mut shell: Vec<String>, digest: &Digest, placed: &[Placed]) -> Vec<String> {
        let kind = match placed {
            [one] if self.documents.is_empty() => {
                if one.found.is_folder {
                    "dir"
                } else {
                    "file"
                }
            }
            [] if self.documents.len() == 1 => "file",
            _ => "multi",
        };
        let mut flags = String::new();
        if let Some(chown) = &self.chown {
            flags.push_str(&format!("--chown={chown} "));
        }
        if let Some((chmod, _)) = &self.chmod {
            flags.push_str(&format!("--chmod={chmod} "));
        }
        let digest = match self.documents.is_empty() {
            true => *digest,
            false => Key::of("documents")
                .with(digest.to_string())
                .with_all(self.documents.iter().flat_map(|(name, text)| [name, text]))
                .finish(),
        };
        shell.push(format!("#(nop) {} {flags}{kind}:{} in {} ", self.keyword, digest.hex(), self.written));
        shell
    }

    /// Writes everything beneath a root.
    pub(crate) fn write(
        &self,
        from: &Files<'_>,
        placed: &[Placed],
        to: BorrowedFd<'_>,
        owner: Option<(u32, u32)>,
        stop: &AtomicBool,
    ) -> Result<()> {
        // What was sent is root's; what a stage made keeps its owners.
        let copied_owner = owner.or((!from.has_owners).then_some((0, 0)));
        let options = CopyOptions {
            owner: copied_owner,
            mode: self.chmod.as_ref().map(|(_, chmod)| chmod.clone()),
            ..CopyOptions::default()
        };
        if self.link {
            // As if it were a layer that knows nothing of those below it: links on the way are not followed.
            for place in placed.iter().map(|one| &one.destination).chain([&self.destination]) {
                archive::make_plain_path(to, place, owner.unwrap_or((0, 0)))?;
            }
        }
        for one in placed {
            let root = one.fetched.as_ref().map_or(from.root, |fetched| fetched.root());
            let unpack = if one.fetched.is_some() { self.unpack_fetched } else { self.unpack };
            if unpack && !one.found.is_folder && self.unpacked(root, one, to, copied_owner)? {
                continue;
            }
            let exclude = self.excluded(&one.found, &from.points)?;
            archive::copy_in(root, &one.found, to, &one.destination, &options, &*exclude, stop)?;
        }
        for (name, text) in &self.documents {
            let path = match self.destination.ends_with('/') || is_folder(to, &self.destination) {
                true => format!("{}/{name}", self.destination.trim_end_matches('/')),
                false => self.destination.clone(),
            };
            let mode = self.chmod.as_ref().map_or(0o644, |(_, chmod)| chmod.applied(0o644, false));
            archive::write_file(to, &path, text.as_bytes(), mode, owner.unwrap_or((0, 0)))?;
        }
        Ok(())
    }

    /// Unpacks a source that is an archive; false where it is none.
    fn unpacked(
        &self,
        from: BorrowedFd<'_>,
        one: &Placed,
        to: BorrowedFd<'_>,
        owner: Option<(u32, u32)>,
    ) -> Result<bool> {
        let Some(mut file) = archive::open_archive(from, &one.found)? else { return Ok(false) };
        // The owners in the archive are its own, unless somebody's are asked for.
        let owner = self.chown.as_ref().and(owner);
        archive::make_folder(to, &one.destination, owner.unwrap_or((0, 0)))?;
        let put = archive::Put { owner, no_devices: true, ..archive::Put::default() };
        archive::put(to, &one.destination, &mut file, put)?;
        Ok(true)
    }
}

fn is_folder(root: BorrowedFd<'_>, path: &str) -> bool {
    archive::find(root, path).is_ok_and(|found| found.iter().any(|found| found.is_folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_of_the_context() {
        for (path, out) in
            [("a/../b", false), ("..", true), ("a/../../b", true), ("/../x", true), (".", false)]
        {
            assert_eq!(leads_out(path), out, "{path}");
        }
    }

    #[test]
    fn what_is_elsewhere_is_refused_by_name() {
        let refused = |keyword: &str, source: &str, may_fetch| {
            refuse_remote(keyword, source, keyword == "ADD", may_fetch).unwrap_err().message
        };
        assert!(refused("COPY", "https://e/x", true).contains("can't be a URL for COPY"));
        assert!(refused("COPY", "https://e/x.git#main", true).contains("can't be a URL for COPY"));
        assert!(refused("ADD", "https://e/x.git#main", false).contains("the host's network"));
        assert!(refuse_remote("COPY", "github.com/a/b", false, false).is_ok());
        assert!(refused("ADD", "http://e/x", false).contains("the host's network"));
        assert!(refuse_remote("ADD", "https://e/x", true, true).is_ok());
        assert!(refuse_remote("COPY", "file", false, false).is_ok());
    }
}
