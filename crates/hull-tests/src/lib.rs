//! Tests from outside: the release binary, driven by its command line and its API.
