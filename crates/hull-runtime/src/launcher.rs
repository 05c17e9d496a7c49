//! The launcher: a small single-threaded process that forks shims.
