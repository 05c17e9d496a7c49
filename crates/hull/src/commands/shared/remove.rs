//! Removing several objects by their names.

use crate::errln;
use crate::error::{Error, ExitStatus};

/// Has `remove` take away each of `names` and print what went, one after the other: what the first removes may decide
/// whether the next is still in use. One that cannot be removed is told and keeps none of the others; the status says so.
pub async fn each(
    names: &[String],
    remove: impl AsyncFn(&str) -> Result<(), Error>,
) -> Result<ExitStatus, Error> {
    let mut status = ExitStatus::SUCCESS;
    for name in names {
        match remove(name).await {
            Ok(()) => {}
            Err(error) if error.is_connection() => return Err(error),
            Err(error) => {
                errln!("{error}");
                status = ExitStatus::FAILURE;
            }
        }
    }
    Ok(status)
}
