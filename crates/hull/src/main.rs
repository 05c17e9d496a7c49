//! The one binary: command line, and dispatch to what else it can be.

fn main() {}
