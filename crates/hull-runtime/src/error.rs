//! The error of this crate: what was being done, on what, and the kernel's reason.

use serde::{Deserialize, Serialize};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed step. It travels from the container's first process to the shim and on to the daemon, so it is
/// plain data.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Error {
    /// What was being done, with its object: `mount proc on /proc`.
    pub doing: String,
    /// The kernel's errno, where there was one.
    pub errno: Option<i32>,
    /// What to do about it, or what is known beyond the errno; empty where there is nothing to say.
    pub advice: String,
    /// The exit status that this failure stands for in Docker's convention: 125 (the engine's), 126 (the
    /// command cannot be executed), 127 (the command is not there).
    pub exit_status: u8,
}

impl Error {
    /// A failed system call while `doing`.
    pub fn kernel(doing: impl Into<String>, error: impl Into<std::io::Error>) -> Error {
        let error = error.into();
        let advice = if error.raw_os_error().is_none() { error.to_string() } else { String::new() };
        Error { doing: doing.into(), errno: error.raw_os_error(), advice, exit_status: 125 }
    }

    /// A request that cannot be met, for a reason that is not the kernel's.
    pub fn refused(doing: impl Into<String>, reason: impl Into<String>) -> Error {
        Error { doing: doing.into(), errno: None, advice: reason.into(), exit_status: 125 }
    }

    /// The same failure with what to do about it.
    pub fn advise(mut self, advice: impl Into<String>) -> Error {
        self.advice = advice.into();
        self
    }

    fn sentence(&self) -> String {
        let mut text = self.doing.clone();
        if let Some(errno) = self.errno {
            text.push_str(": ");
            text.push_str(&words(&std::io::Error::from_raw_os_error(errno)).to_lowercase());
        }
        if !self.advice.is_empty() {
            text.push_str(": ");
            text.push_str(&self.advice);
        }
        text
    }
}

/// An error's words in the system's own way, without Rust's number after them, which tells nobody anything.
pub fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let number = error.raw_os_error().map(|number| format!(" (os error {number})"));
    number.and_then(|number| text.strip_suffix(&number).map(str::to_owned)).unwrap_or(text)
}

/// Wraps a system call's failure with what was being done.
pub trait Context<T> {
    /// `doing` is only evaluated on failure.
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::kernel(doing(), error))
    }
}
