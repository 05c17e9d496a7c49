//! How the binary is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(hull_static)");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    // A static binary is linked in a way of its own.
    if features.split(',').any(|feature| feature == "crt-static") {
        println!("cargo:rustc-cfg=hull_static");
        return;
    }
    // At a fixed address: a position-independent executable of this size has some thirty thousand pointers to put right,
    // which costs each start of it, as a client or as an OCI runtime, about half a millisecond and 600 KiB of memory.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    // Whole: the dynamic loader with the C library costs each start another third of a millisecond.
    match archives() {
        Ok(()) => {
            println!("cargo:rustc-link-arg-bins=-static");
            println!("cargo:rustc-cfg=hull_static");
        }
        Err(missing) => {
            println!("cargo:warning={missing}: hull is linked with the C library's shared objects")
        }
    }
}

/// The C library's and the unwinder's archives in a folder that the linker looks into first: rustc asks for them by name
/// as shared objects, and where both kinds could be meant the linker takes what the first folder has.
fn archives() -> Result<(), String> {
    let folder = std::path::PathBuf::from(std::env::var("OUT_DIR").unwrap_or_default()).join("archives");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for (archive, name) in [
        ("libgcc_eh.a", "libgcc_s.a"),
        ("libc.a", "libc.a"),
        ("libm.a", "libm.a"),
        ("libpthread.a", "libpthread.a"),
        ("libdl.a", "libdl.a"),
        ("librt.a", "librt.a"),
        ("libutil.a", "libutil.a"),
    ] {
        let link = folder.join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(archive_of(archive)?, &link)
            .map_err(|error| format!("{}: {error}", link.display()))?;
    }
    // For the binary alone: a test that found these would be half of the one kind and half of the other.
    println!("cargo:rustc-link-arg-bins=-L{}", folder.display());
    Ok(())
}

/// Where the compiler has an archive.
fn archive_of(name: &str) -> Result<std::path::PathBuf, String> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let found = std::process::Command::new(compiler).arg(format!("-print-file-name={name}")).output();
    let path = found.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    // A compiler that has none prints the bare name.
    Some(std::path::PathBuf::from(path.trim()))
        .filter(|path| path.is_absolute())
        .ok_or(format!("no {name} is here"))
}
