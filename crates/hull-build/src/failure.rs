//! Why a build failed, as a person needs to know it.

use hull_engine::Kind;

use crate::dockerfile::{Mistake, Position, Source};

/// The result of what a build does.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A build that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Whose fault it is.
    pub kind: Kind,
    /// What went wrong, in BuildKit's words where it has them.
    pub message: String,
    /// What else a person wants to know.
    pub detail: Box<Detail>,
}

/// What else there is to a failure.
#[derive(Clone, Debug, Default)]
pub struct Detail {
    /// The same in the words of Docker's classic builder, where they differ.
    pub classic: Option<String>,
    /// It failed for something else that did before, or was stopped.
    pub interrupted: bool,
    /// The exit status of the command that failed.
    pub code: Option<i32>,
    /// The instruction that it is about: its first place and last line.
    pub place: Option<(Position, u32)>,
    /// By what the files of the command that failed are kept.
    pub kept: Option<hull_image::Digest>,
    /// The lines around that.
    pub excerpt: String,
    /// What the command printed last.
    pub output: String,
}

impl Failure {
    /// A failure of that kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), detail: Box::default() }
    }

    /// The build makes no sense as it was asked for.
    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(Kind::InvalidParameter, message)
    }

    /// The machine failed while `doing`.
    pub fn system(doing: impl std::fmt::Display, error: impl std::fmt::Display) -> Failure {
        Failure::new(Kind::System, format!("{doing}: {error}"))
    }

    /// The client went away, or said that it wants no more of it.
    pub fn cancelled() -> Failure {
        Failure::new(Kind::Conflict, "the build was cancelled")
    }

    /// The same, about an instruction, where it is not about one already.
    #[must_use]
    pub fn at(mut self, at: Position, last_line: u32) -> Failure {
        self.detail.place.get_or_insert((at, last_line));
        self
    }

    /// The same with the lines around its place.
    #[must_use]
    pub fn shown_in(mut self, source: &Source) -> Failure {
        if let (Some((at, last)), true) = (self.detail.place, self.detail.excerpt.is_empty()) {
            // A step is a line, not a letter of one.
            self.detail.excerpt = source.excerpt(Position { column: 1, ..at }, last);
        }
        self
    }

    /// A mistake in a Dockerfile.
    pub fn of_mistake(mistake: &Mistake, source: &Source) -> Failure {
        let mut failure = Failure::invalid(mistake.to_string());
        if let Some(at) = mistake.at {
            failure.detail.place = Some((at, mistake.last_line));
            failure.detail.excerpt = source.excerpt(at, mistake.last_line);
        }
        failure
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<hull_engine::Error> for Failure {
    fn from(error: hull_engine::Error) -> Failure {
        Failure::new(error.kind, error.message)
    }
}

impl From<hull_image::Error> for Failure {
    fn from(error: hull_image::Error) -> Failure {
        hull_engine::Error::from(error).into()
    }
}
