//! The language: from the text of a Dockerfile to typed instructions with their places, as BuildKit reads it.
//!
//! [`lines`] makes logical lines of physical ones (directives, comments, continuations, heredocs), [`parse`] makes
//! instructions of those, [`expand`] expands variables when an instruction is evaluated, [`lint`] tells what is legal
//! and unwise. All of it is pure: no file is opened here.

pub mod expand;
mod flags;
mod instruction;
mod lines;
pub mod lint;
mod mistake;
mod mount;
mod nearest;
mod parse;
#[cfg(test)]
mod tests;
mod values;

pub use instruction::*;
pub use lines::Heredoc;
pub use mistake::{Mistake, Position, Source};
pub use mount::{Mount, MountKind, Sharing};
pub use nearest::nearest;
pub use parse::{parse, parse_trigger};
