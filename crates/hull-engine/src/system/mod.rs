//! The engine about itself: `info`, `version`, what takes up the disk; and times as the API writes them.

mod disk;
mod fsck;
mod info;
mod sizes;
mod time;

pub use disk::DiskQuery;
pub(crate) use fsck::names;
pub use info::STORAGE_DRIVER;
pub(crate) use sizes::Sizes;

pub use time::{moment_ns, parse_rfc3339};

/// Nanoseconds since 1970.
pub fn now_ns() -> i64 {
    crate::container::now_ns()
}
