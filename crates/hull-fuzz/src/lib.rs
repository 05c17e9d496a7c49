//! Fuzzing of what reads others' words: seeded mutation over a corpus, on stable Rust.
//!
//! A [`Target`] is a function that is given bytes and must come back: no panic, no hang, no memory without end, and whatever
//! else it asserts. Inputs are made from its seeds by [`mutate`]; one whose outcome was not seen before joins the corpus,
//! which stands in for the coverage that only other compilers measure. The same seed makes the same inputs.
//!
//! - `cargo xtask test` runs each target for a moment (the test beside it calls [`briefly`]).
//! - `cargo xtask fuzz TARGET --seconds 3600` runs one for long. What fails lies in `target/fuzz/TARGET/`, and
//!   `cargo xtask fuzz TARGET --input FILE` does it again.
//!
//! # A target more
//!
//! A file in `targets/` with a `pub(crate) const TARGET: Target` (`targets/reference.rs` is the shortest), a line in
//! [`targets`], and a test that calls `briefly(&TARGET)`. What it found becomes a test beside the code that it was found in.

/// The words of a target that reads JSON: JSON's, and its own behind them.
macro_rules! json_words {
    ($($own:literal),* $(,)?) => {
        &["null", "true", "false", "{}", "[]", "{", "}", "[", "]", ",", "\"\"", "-1", "1e400", $($own),*]
    };
}

pub mod mutate;
mod run;
mod targets;

pub use run::{Budget, briefly, run};
pub use targets::targets;

/// Does one run, and says how it went.
pub type Once = Box<dyn FnMut(&[u8]) -> String>;

/// What reads others' words.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What is read, in a few words.
    pub about: &'static str,
    /// What is well-formed, or once was a finding.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What means something where it stands: put in and exchanged as a whole.
    pub words: &'static [&'static str],
    /// What is read in blocks (tar: 512) is also moved about by them; 1: by bytes alone.
    pub block: usize,
    /// Puts right what would have nearly every input refused before it is looked at: checksums.
    pub repair: fn(&mut [u8]),
    /// Makes what the runs share, and gives what does one. What that returns says how it went, so that inputs that lead
    /// elsewhere are told apart: the error's words will do.
    pub prepare: fn() -> Once,
}

/// Leaves an input as it is.
pub fn as_it_is(_: &mut [u8]) {}

/// What went wrong, in a form for [`Target::prepare`].
pub fn outcome<T, E: std::fmt::Display>(result: &Result<T, E>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => error.to_string(),
    }
}
