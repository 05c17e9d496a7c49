//! The engine about itself: `info`, `version`, what takes up the disk; and times as the API writes them.

mod time;

pub use time::{parse_rfc3339, parse_time};
