//! How the binary is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    // A static binary is linked in a way of its own.
    if features.split(',').any(|feature| feature == "crt-static") {
        return;
    }
    unwinder();
    // At a fixed address: a position-independent executable of this size has some thirty thousand pointers to put right,
    // which costs each start of it, as a client or as an OCI runtime, about half a millisecond and 600 KiB of memory.
    println!("cargo:rustc-link-arg-bins=-no-pie");
}

/// The unwinder from the compiler's own archive instead of from a library: one less to be loaded at each start.
fn unwinder() {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let found = std::process::Command::new(compiler).arg("-print-file-name=libgcc_eh.a").output();
    let path = found.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    // A compiler that has none prints the bare name.
    if let Some(folder) = std::path::Path::new(path.trim()).parent().filter(|folder| folder.is_absolute()) {
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-lib=static=gcc_eh");
    }
}
