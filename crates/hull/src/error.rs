//! What can go wrong on the client's side, and the exit status that says so.

use std::fmt;
use std::io;

pub use hull_runtime::error::words;

/// The status with which the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub u8);

impl ExitStatus {
    /// All that was asked was done.
    pub const SUCCESS: Self = Self(0);
    /// Some of it failed; each failure has been told already.
    pub const FAILURE: Self = Self(1);
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// The daemon refused, with this HTTP status.
    Daemon(u16),
    /// No daemon was reached.
    Connection,
    /// The command line itself is wrong; the help is worth pointing to.
    Usage,
    /// A flag that is not there, or whose value is none: the usage line is worth showing as well.
    Flag,
    /// Anything on this side of the socket.
    Local,
    /// Told already, or there is nobody to tell (a closed pipe).
    Silent,
}

/// Why a command failed: words for the user and the exit status.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    status: u8,
}

impl Error {
    /// A failure on this side: exit status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { kind: Kind::Local, message: message.into(), status: 1 }
    }

    /// A command line that makes no sense: exit status 125, with a hint at the help.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, message: message.into(), status: 125 }
    }

    /// A flag that does not exist or has a wrong value: as [`Error::usage`], with the usage line.
    pub fn flag(message: impl Into<String>) -> Self {
        Self { kind: Kind::Flag, message: message.into(), status: 125 }
    }

    /// The daemon's own refusal, as it words it.
    pub fn daemon(http_status: u16, message: impl Into<String>) -> Self {
        Self { kind: Kind::Daemon(http_status), message: message.into(), status: 1 }
    }

    /// No daemon answers.
    pub fn connection(message: impl Into<String>) -> Self {
        Self { kind: Kind::Connection, message: message.into(), status: 1 }
    }

    /// Ends the process with a status and no words: all has been said.
    pub fn silent(status: u8) -> Self {
        Self { kind: Kind::Silent, message: String::new(), status }
    }

    /// The same error with another exit status.
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// The same error, with what was being done before it.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// The same error, with more words after it.
    pub fn followed_by(mut self, words: &str) -> Self {
        self.message.push_str(words);
        self
    }

    /// The exit status this error ends the process with.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// The HTTP status, where the daemon answered with one.
    pub fn http_status(&self) -> Option<u16> {
        match self.kind {
            Kind::Daemon(status) => Some(status),
            _ => None,
        }
    }

    /// The daemon's words alone, without the `Error response from daemon:` before them.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether no daemon was reached at all.
    pub fn is_connection(&self) -> bool {
        self.kind == Kind::Connection
    }

    /// Whether there is nothing left to print.
    pub fn is_silent(&self) -> bool {
        self.kind == Kind::Silent
    }

    /// Whether the command line itself was wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self.kind, Kind::Usage | Kind::Flag)
    }

    /// Whether a flag was.
    pub fn is_flag(&self) -> bool {
        self.kind == Kind::Flag
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Daemon(_) => write!(f, "Error response from daemon: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    /// A closed pipe on standard output is the reader's wish, not an error: 141 is what SIGPIPE would have given.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(141);
        }
        Self::new(words(&error))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::new(format!("the daemon's answer is not the JSON it should be: {error}"))
    }
}

impl From<hyper::Error> for Error {
    fn from(error: hyper::Error) -> Self {
        let mut said = format!("the connection to the daemon broke: {error}");
        // hyper names the kind; what happened stands behind it: a certificate refused, a reset.
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            said.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        if error.is_parse() {
            said.push_str(": is it HTTP there, or does the daemon ask for TLS (--tlsverify)?");
        }
        Self::connection(said)
    }
}

/// Writes to standard output; unlike `print!`, a closed pipe is an error and not a panic.
#[macro_export]
macro_rules! out {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        write!(std::io::stdout().lock(), $($arg)*).map_err($crate::error::Error::from)
    }};
}

/// Writes a line to standard output; unlike `println!`, a closed pipe is an error and not a panic.
#[macro_export]
macro_rules! outln {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout().lock(), $($arg)*).map_err($crate::error::Error::from)
    }};
}

/// Writes a line to standard error. Where even that is closed, there is nobody left to tell.
#[macro_export]
macro_rules! errln {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($arg)*);
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_errors_are_nobodys_words() {
        let missing = io::Error::from_raw_os_error(2);
        assert_eq!(words(&missing), "No such file or directory");
        assert_eq!(words(&io::Error::other("a (os error 2)")), "a (os error 2)", "these are somebody's own");
        assert_eq!(Error::from(missing).to_string(), "No such file or directory");
    }
}
