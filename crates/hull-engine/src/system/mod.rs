//! The engine about itself: `info`, `version`, what takes up the disk; and times as the API writes them.

mod disk;
mod info;
mod time;

pub use disk::DiskQuery;
pub use info::STORAGE_DRIVER;

pub use time::{moment_ns, parse_rfc3339};

/// Nanoseconds since 1970.
pub fn now_ns() -> i64 {
    crate::container::now_ns()
}
