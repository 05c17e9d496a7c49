//! A layer's archive into a folder of its own, with all that is needed to give it back.

use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::extract::{Extractor, Rules};
use super::split::SplitWriter;
use super::stream::{ChunkReader, Passed, pass};
use crate::tar::Reader;
use crate::{Error, Result};

/// Where a layer is unpacked to before it has its place.
pub(crate) struct Place {
    /// The files.
    pub(crate) tree: PathBuf,
    /// What is in the archive besides the bytes of the files.
    pub(crate) split: PathBuf,
    /// Files that later entries of the same archive replaced.
    pub(crate) kept: PathBuf,
}

impl Place {
    /// The places beneath one temporary folder, which exists.
    pub(crate) fn beneath(folder: &Path) -> Place {
        Place { tree: folder.join("tree"), split: folder.join("split"), kept: folder.join("kept") }
    }
}

/// Unpacks a layer. The value is the number of bytes of its files. An archive without its end-of-archive marker is
/// refused where nothing else (a digest) would tell that it was cut off.
pub(crate) fn unpack(
    source: &mut dyn Read,
    place: &Place,
    end_required: bool,
    progress: &dyn Fn(u64),
) -> Result<Passed<u64>> {
    std::fs::create_dir(&place.tree).map_err(|error| Error::file("create", &place.tree, error))?;
    pass(source, progress, |chunks| consume(chunks, place, end_required))
}

fn consume(chunks: ChunkReader, place: &Place, end_required: bool) -> Result<u64> {
    let create = |error| Error::file("write", &place.split, error);
    let root =
        rustix::fs::open(&place.tree, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::file("open", &place.tree, errno))?;
    rustix::fs::chmod(&place.tree, Mode::from(0o755))
        .map_err(|errno| Error::file("open", &place.tree, errno))?;
    let mut reader = Reader::new(chunks, SplitWriter::create(&place.split).map_err(create)?);
    let rules = Rules::Layer { kept: &place.kept };
    let mut extractor = Extractor::new(std::os::fd::AsFd::as_fd(&root), b"", rules);
    while let Some(entry) = reader.next().map_err(Error::archive)? {
        extractor.entry(entry, &mut reader, SplitWriter::contents_count)?;
    }
    let (ended, split) = reader.finish().map_err(Error::archive)?;
    if !ended && end_required {
        return Err(Error::invalid("invalid tar archive: it is truncated (it has no end-of-archive marker)"));
    }
    split.finish().map_err(create)?;
    extractor.finish()
}
