//! The one binary: command line, and dispatch to what else it can be.
#![allow(unreachable_pub)] // nothing outlives a binary: `pub` here means for the crate

mod cli;
mod client;
mod commands;
mod context;
mod credentials;
mod error;
mod format;
mod help;
mod lookup;
mod oci;
mod stream;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Looked at before anything else is set up: these are processes of their own kind, with a start of their own.
    // The launcher in particular must still be single-threaded and small.
    let mut words = std::env::args_os();
    let own_name = words.next().unwrap_or_default();
    let own_name = std::path::Path::new(&own_name).file_name();
    // Under the names of those whose command line it has, it stands in for them.
    if ["hull-oci", "runc", "crun"].into_iter().any(|name| own_name == Some(name.as_ref())) {
        return oci::main(std::env::args_os().collect());
    }
    if own_name == Some("dockerd".as_ref()) {
        lookup::by_hosts_and_dns();
        return hull_api::daemon::main(words, true);
    }
    if own_name == Some(hull_runtime::container::init::NAME.as_ref()) {
        hull_runtime::container::init::main(words);
    }
    match words.next().as_deref().and_then(|first| first.to_str()) {
        Some("launcher") => hull_runtime::launcher::main(),
        Some("daemon") => {
            lookup::by_hosts_and_dns();
            hull_api::daemon::main(std::env::args_os().skip(2), false)
        }
        Some("oci") => oci::main(std::iter::once("hull oci".into()).chain(words).collect()),
        _ => {
            lookup::by_hosts_and_dns();
            cli::main()
        }
    }
}
