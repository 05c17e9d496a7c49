//! The last step: to become the program.

use std::convert::Infallible;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::{Error, Result};

/// The shell that all have.
const SHELL: &str = "/bin/sh";

/// Executes the program, found in `PATH` where its name has no slash; where none is named, the caller's shell, or the one
/// that all have: the caller's may be none of the files that the program sees. Comes back only with the reason why not.
pub(super) fn become_program(program: &[String]) -> Result<Infallible> {
    if let Some((name, arguments)) = program.split_first() {
        return execute(name, arguments);
    }
    let own = std::env::var("SHELL").ok().filter(|own| !own.is_empty() && own != SHELL);
    if let Some(own) = &own {
        // Whatever is wrong with it: the other one may do.
        let _ = execute(own, &[]);
    }
    execute(SHELL, &[]).map_err(|error| match own {
        Some(own) => {
            error.advise(format!("your shell {own} cannot be executed either; name a program behind --"))
        }
        None => error.advise("name a program behind --"),
    })
}

fn execute(name: &str, arguments: &[String]) -> Result<Infallible> {
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
