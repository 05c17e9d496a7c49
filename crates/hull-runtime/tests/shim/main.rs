//! Containers driven as the daemon drives them: through the launcher and over the sockets of their shims.
//! Needs root and Debian's busybox-static.

mod bench;
mod clients;
mod daemons;
mod execs;
mod figures;
mod lives;
mod logs;

/// Started by [`hull_runtime::launcher::start`] as `hull launcher`, this test program becomes the launcher:
/// the test runner takes the word for the name of this test.
#[test]
fn launcher() {
    if std::env::args().next().as_deref() == Some("hull") {
        hull_runtime::launcher::main();
    }
}
