//! What a container executes.

use crate::model::Config;
use crate::{Error, Result};

/// The entry point and the command in one.
///
/// # Errors
/// There is neither.
pub(super) fn of(config: &Config) -> Result<Vec<String>> {
    let entrypoint = config.entrypoint.iter().flatten();
    let words: Vec<String> = entrypoint.chain(config.cmd.iter().flatten()).cloned().collect();
    if words.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    if let Some(word) = words.iter().find(|word| word.contains('\0')) {
        return Err(Error::invalid(format!("the command contains a zero byte: {word:?}")));
    }
    Ok(words)
}
