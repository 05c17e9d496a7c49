//! Dockerfiles as people write them, those that need no package registry: built, run, and what they print compared.
//! `cargo xtask corpus` builds the others too.

use hull_tests::{Daemon, Engine, corpus};

#[test]
fn what_people_write_is_built_and_runs() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    let daemon = Daemon::start();
    let mut failed = Vec::new();
    let mut built = 0;
    for specimen in corpus().into_iter().filter(|specimen| !specimen.needs_packages()) {
        built += 1;
        if let Err(error) = specimen.check(&|| daemon.client(&[])) {
            failed.push(format!("{}: {error}", specimen.name));
        }
    }
    assert!(failed.is_empty(), "{} of {built}:\n{}", failed.len(), failed.join("\n"));
    assert!(built >= 15, "{built}");
}
