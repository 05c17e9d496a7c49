//! Room that is kept for when there is none.

use std::fs::File;
use std::path::Path;

use rustix::fs::FallocateFlags;

/// What SQLite writes into its write-ahead log before it begins again at the log's start, in bytes: a thousand pages with
/// their heads (<https://www.sqlite.org/wal.html#automatic_checkpoint>).
const LOG: u64 = 1000 * (4096 + 24) + 32;

/// Reserves the blocks of a database's write-ahead log, which is there: on a full disk, what gives room back can still be
/// written down. Where the file system cannot, the log takes its blocks as it grows.
pub fn reserve_log(log: &Path) {
    let reserved = File::options()
        .write(true)
        .open(log)
        .and_then(|file| Ok(rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, LOG)?));
    if let Err(error) = reserved {
        tracing::debug!(%error, "no blocks are reserved for {}", log.display());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_log_has_its_blocks_before_it_has_its_bytes() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let log = folder.path().join("db-wal");
        reserve_log(&log);
        assert!(!log.exists(), "the database's to make");
        std::fs::write(&log, "x").unwrap();
        reserve_log(&log);
        let found = log.metadata().unwrap();
        assert!(found.len() == 1 && found.blocks() * 512 >= LOG, "{found:?}");
    }
}
