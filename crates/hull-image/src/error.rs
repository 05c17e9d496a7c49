//! The error of this crate: a sentence for the user, and the kind that an API maps to a status.

use std::path::Path;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a failure is to the one who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What was named is not there (404).
    NotFound,
    /// The request, or the archive that came with it, is malformed (400).
    InvalidParameter,
    /// The state of things forbids it now (409).
    Conflict,
    /// It is never permitted (403).
    Forbidden,
    /// Who asks is not known, or not believed (401).
    Unauthorized,
    /// It is understood, but not supported (501).
    NotImplemented,
    /// The machine failed: a disk that is full, a file that cannot be read (500).
    System,
}

/// A failure: its kind and its sentence, in Docker's words where Docker has them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What it is to the one who asked.
    pub kind: Kind,
    /// What was asked, what stood in the way, and what to do, where that is known.
    pub message: String,
}

impl Error {
    /// An error of a kind with its sentence.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// What was named is not there.
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(Kind::NotFound, message)
    }

    /// The request or its archive is malformed.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Kind::InvalidParameter, message)
    }

    /// The state of things forbids it now.
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(Kind::Conflict, message)
    }

    /// The machine failed while `doing`, for the reason that the kernel gave.
    pub fn system(doing: impl std::fmt::Display, reason: impl Into<std::io::Error>) -> Error {
        let reason = reason.into().to_string();
        let reason = reason.split(" (os error").next().unwrap_or_default();
        Error::new(Kind::System, format!("{doing}: {reason}"))
    }

    /// The machine failed while `doing` something with a file.
    pub fn file(doing: &str, path: &Path, reason: impl Into<std::io::Error>) -> Error {
        Error::system(format_args!("{doing} {}", path.display()), reason)
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        // What to do, where the file is none any more.
        let advice = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                " (image/image.db in the data root): restore it from a copy, or move it away with its -wal and -shm: hull begins \
                 without images then, what containers wrote is kept until theirs are here again, and volumes stay"
            }
            Some(rusqlite::ErrorCode::CannotOpen) => {
                " (image/image.db in the data root): it must be a file that the daemon may read and write, in a folder that it may \
                 write to"
            }
            Some(rusqlite::ErrorCode::ReadOnly) => {
                " (image/image.db in the data root): its file system or its file is read-only: mount it for writing (after errors \
                 of the disk, check that first), or give the daemon the right to write, and start it again"
            }
            Some(rusqlite::ErrorCode::DiskFull) => {
                " (image/image.db in the data root): make room on the data root's file system"
            }
            _ => "",
        };
        Error::new(Kind::System, format!("the image store's database: {error}{advice}"))
    }
}

impl Error {
    /// Reading an archive failed: what it says is malformed, or the machine could not read it.
    pub(crate) fn archive(error: std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(_) => Error::system("read the archive", error),
            None => Error::invalid(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_database_that_cannot_be_opened_or_written_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("image.db")).unwrap();
        std::fs::write(folder.path().join("image.db/x"), "").unwrap();
        let error = crate::Store::open(folder.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("it must be a file that the daemon may read and write"), "{error}");
        for (code, advice) in [
            (rusqlite::ffi::SQLITE_READONLY, "mount it for writing"),
            (rusqlite::ffi::SQLITE_FULL, "make room on the data root's file system"),
        ] {
            let failure = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            let told = super::Error::from(failure).to_string();
            assert!(told.contains(advice), "{told}");
        }
    }

    #[test]
    fn a_database_that_is_none_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("image.db"), [b'x'; 8192]).unwrap();
        let error = crate::Store::open(folder.path(), &[]).unwrap_err().to_string();
        assert!(
            error.contains("image/image.db in the data root): restore it from a copy, or move it away"),
            "{error}"
        );
    }
}
