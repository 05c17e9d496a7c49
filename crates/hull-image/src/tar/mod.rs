//! The tar format, read and written: ustar, GNU and PAX, with sparse files and extended attributes.

mod header;
mod pax;
mod read;
mod write;

pub(crate) use read::{Reader, Record};
pub(crate) use write::Writer;

/// The size of tar's blocks.
pub(crate) const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// One entry's metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// The name as the archive has it.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The size of the file once unpacked, holes included.
    pub(crate) size: u64,
    /// Seconds and nanoseconds of Unix time.
    pub(crate) mtime: (i64, u32),
    /// Where a link leads.
    pub(crate) link: Vec<u8>,
    /// A device's major and minor number.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored bytes belong, for a sparse file: offsets and lengths, ascending.
    pub(crate) sparse: Option<Vec<(u64, u64)>>,
}
