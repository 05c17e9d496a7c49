//! What a snapshot changed, as a layer of a new image.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::diff::{Changes, open_upper};
use super::import::serialise;
use super::{ChangeKind, Commit, Image, Platform, Store};
use crate::archive::pack::{Packer, reading};
use crate::config::History;
use crate::layer::extract::split;
use crate::reference::Reference;
use crate::tar::{Entry, Kind};
use crate::{Error, ImageConfig, Result, instruction};

impl Store {
    /// Makes an image of what a snapshot changed. `parent` is the image that the snapshot was made of. The container
    /// should be paused meanwhile, or what it writes is caught at different times.
    pub fn commit(&self, snapshot: &str, parent: Option<&Image>, options: Commit) -> Result<Arc<Image>> {
        let reference = options.reference.as_deref().map(Reference::parse_tag).transpose()?;
        self.check_not_builtin(reference.as_ref())?;
        if parent.is_some_and(|parent| parent.builtin) {
            return Err(Error::new(
                crate::Kind::Forbidden,
                "a container of hull/host cannot be committed: what lies below its changes is this machine itself, \
                 which is no layer; export it instead",
            ));
        }
        let mut container = options.config;
        instruction::apply(&mut container, &options.changes)?;
        let changes = self.raw_changes(snapshot)?;
        // As in Docker, what changed nothing is a line of the history and no layer.
        let mut layers = Vec::new();
        if !changes.is_empty() {
            let upper = self.snapshot(snapshot)?.upper;
            layers.push(self.unpack_from(|out| pack(&upper, &changes, out))?);
        }
        let now = jiff::Timestamp::now().to_string();
        let mut config = match parent {
            Some(parent) => parent.config.clone(),
            None => {
                let Platform { os, architecture, variant } = Platform::host();
                ImageConfig { os, architecture, variant, ..ImageConfig::default() }
            }
        };
        config.history.push(History {
            created: Some(now.clone()),
            author: options.author.clone(),
            created_by: options.created_by,
            comment: options.comment.clone(),
            empty_layer: layers.is_empty(),
            ..History::default()
        });
        config.rootfs.diff_ids.extend(layers.iter().map(|layer| layer.passed.diff_id));
        config.created = Some(now);
        config.author = options.author;
        config.comment = options.comment;
        config.config = Some(container);
        env!("CARGO_PKG_VERSION").clone_into(&mut config.docker_version);
        config.made_of(options.container, options.container_config);
        let parent = parent.map(|parent| parent.id);
        self.enter(&serialise(&config)?, layers, parent, reference.as_slice())
    }

    /// Unpacks a layer from what `write` writes, in a thread of its own.
    pub(super) fn unpack_from(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
    ) -> Result<super::import::Unpacked<'_>> {
        piped(write, |reader| self.unpack(reader, true, &|_| {}))
    }
}

/// Has an archive read while it is written, by a thread of its own.
fn piped<T>(
    write: impl FnOnce(&mut dyn Write) -> Result<()> + Send,
    read: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let pipe = |error| Error::system("make a pipe", error);
    let (mut reader, mut writer) = std::io::pipe().map_err(pipe)?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let done = write(&mut std::io::BufWriter::with_capacity(64 * 1024, &mut writer));
            drop(writer);
            done
        });
        let taken = read(&mut reader);
        // Whoever still writes is told that nobody reads.
        drop(reader);
        let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A writer that failed is why the archive was cut off.
        match (taken, written) {
            (Ok(taken), Ok(())) => Ok(taken),
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(other)) if other.message.contains("Broken pipe") => Err(error),
            (_, Err(error)) => Err(error),
        }
    })
}

/// Writes the changes as a layer's archive: what is there as it is, what is gone as a whiteout.
pub(super) fn pack(upper: &Path, changes: &Changes, out: &mut dyn Write) -> Result<()> {
    pack_of(&open_upper(upper)?, changes, out)
}

/// The same of a folder that is open.
pub(super) fn pack_of(upper: &OwnedFd, changes: &Changes, out: &mut dyn Write) -> Result<()> {
    let mut packer = Packer::new(out, false);
    for (path, kind) in changes {
        let (folder, name) = split(path);
        if *kind == ChangeKind::Deleted {
            let whiteout = [folder, if folder.is_empty() { b"" } else { b"/" }, b".wh.", name].concat();
            let entry = Entry::new("", Kind::File, 0o600, 0, 0);
            packer.entry(&Entry { path: whiteout, ..entry })?;
            continue;
        }
        let folder = if folder.is_empty() { b"." } else { folder };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(upper, folder, flags, Mode::empty(), resolve) {
            Ok(folder) => packer.one(folder.as_fd(), name, path)?,
            // It went, or became a link, since the changes were looked at.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(errno) => return Err(reading(path, errno)),
        };
    }
    packer.finish()?.flush().map_err(|error| Error::system("write the layer", error))
}
