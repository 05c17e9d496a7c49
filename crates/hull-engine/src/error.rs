//! The error of the engine: a kind, which the API maps to a status, and a sentence for the user.

/// The result of the engine's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the sense of who has to do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was named does not exist.
    NotFound,
    /// The request makes no sense.
    InvalidParameter,
    /// The request makes sense, but not in the present state.
    Conflict,
    /// It is like that already.
    NotModified,
    /// It is not allowed.
    Forbidden,
    /// Who asks is not known, or not believed.
    Unauthorized,
    /// It is for engines in another role: a manager of a swarm.
    Unavailable,
    /// hull cannot do that (yet).
    NotImplemented,
    /// The machine or the engine failed.
    System,
}

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind of failure.
    pub kind: Kind,
    /// What was asked, what stood in the way, what to do.
    pub message: String,
    /// The exit status that a container has which could not be started for this: 126, 127, or 128.
    pub exit_status: u8,
    /// The kernel's errno, where that is why a container could not be started.
    pub errno: Option<i32>,
}

impl Error {
    /// A failure of that kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), exit_status: 128, errno: None }
    }

    /// What was named does not exist.
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(Kind::NotFound, message)
    }

    /// The request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Kind::InvalidParameter, message)
    }

    /// The state does not allow it.
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(Kind::Conflict, message)
    }

    /// hull has not got it.
    pub fn unsupported(what: impl std::fmt::Display) -> Error {
        Error::new(Kind::NotImplemented, format!("{what} is not supported by hull yet"))
    }

    /// The machine failed while `doing`.
    pub fn system(doing: impl std::fmt::Display, error: impl std::fmt::Display) -> Error {
        let reason = error.to_string();
        // Rust's number behind the system's words tells nobody anything.
        let is_number =
            |rest: &str| rest.strip_suffix(')').is_some_and(|digits| digits.parse::<i32>().is_ok());
        let words = reason.rsplit_once(" (os error ").filter(|(_, rest)| is_number(rest));
        Error::new(Kind::System, format!("{doing}: {}", words.map_or(&*reason, |(words, _)| words)))
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        Error::system("write the engine's database", error)
    }
}

impl From<hull_runtime::Error> for Error {
    fn from(error: hull_runtime::Error) -> Error {
        let exit_status = if matches!(error.exit_status, 126 | 127) { error.exit_status } else { 128 };
        Error { exit_status, errno: error.errno, ..Error::new(Kind::System, error.to_string()) }
    }
}
