//! What a server sends may fill of the disk: no more than leaves a twentieth of it free.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::build::wanted;
use crate::cache_mounts::room;

/// Room on a disk that is not taken yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    all: u64,
    left: u64,
}

impl Room {
    /// What a folder's disk has now.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub(super) fn on(folder: &Path) -> io::Result<Room> {
        Ok(Room::of(room(folder)?))
    }

    /// So many bytes.
    pub(super) fn of(bytes: u64) -> Room {
        Room { all: bytes, left: bytes }
    }

    /// Takes some of it.
    ///
    /// # Errors
    /// There is not so much.
    pub(super) fn take(&mut self, bytes: usize) -> io::Result<()> {
        let left = self.left.checked_sub(bytes as u64);
        self.left = left.ok_or_else(|| {
            let why = format!("there is room for {} bytes, for a twentieth of the disk stays free", self.all);
            io::Error::new(io::ErrorKind::StorageFull, why)
        })?;
        Ok(())
    }
}

/// A file that is written as long as there is room for it, and somebody wants it.
pub(super) struct Bounded<'a, W> {
    pub(super) out: W,
    pub(super) room: &'a mut Room,
    pub(super) stop: &'a AtomicBool,
}

impl<W: Write> Write for Bounded<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        wanted(self.stop).map_err(|failure| io::Error::other(failure.message))?;
        self.room.take(bytes.len())?;
        // It has its room already, however many calls it takes.
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_end_where_the_room_does_or_nobody_wants_them() {
        let (mut room, stop) = (Room::of(10), AtomicBool::new(false));
        let mut bounded = |text: &[u8]| Bounded { out: Vec::new(), room: &mut room, stop: &stop }.write(text);
        assert_eq!(bounded(b"123456").unwrap(), 6);
        assert_eq!(bounded(b"12345").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(bounded(b"1234").unwrap(), 4);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut room = Room::of(10);
        assert!(Bounded { out: Vec::new(), room: &mut room, stop: &stop }.write(b"1").is_err());
    }
}
