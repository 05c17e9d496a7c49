//! What a container is, seen from inside.

use super::*;

#[test]
fn it_runs_and_its_status_comes_back() {
    let mut bench = Bench::new();
    let outcome = bench.shell("echo hello; exit 7").run();
    assert!(outcome.error.is_none(), "{}", outcome.error.unwrap());
    assert_eq!((outcome.output.as_str(), outcome.status), ("hello\n", 7));
}
