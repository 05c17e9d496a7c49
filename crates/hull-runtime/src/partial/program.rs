//! The last step: to become the program.

use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::{Error, Result};

/// Executes the program, found in `PATH` where its name has no slash. Comes back only with the reason why not.
pub(super) fn become_program(program: &[String]) -> Result<Infallible> {
    let Some((name, arguments)) = program.split_first() else {
        return Err(Error::refused("run a program", "none was named"));
    };
    // `exec` gives SIGPIPE its default action back, which a Rust program ignores.
    let error = Command::new(name).args(arguments).exec();
    let exit_status = match error.kind() {
        std::io::ErrorKind::NotFound => 127,
        _ => 126,
    };
    let advice = match exit_status {
        127 if name.contains('/') => "there is no such file, or its interpreter is missing",
        127 => "there is no such program in PATH",
        _ => "",
    };
    let mut failed = Error::kernel(format!("exec {name:?}"), error).advise(advice);
    failed.exit_status = exit_status;
    Err(failed)
}
