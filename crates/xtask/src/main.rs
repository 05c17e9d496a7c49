//! The project's own commands: test, bench, dist.

fn main() {}
