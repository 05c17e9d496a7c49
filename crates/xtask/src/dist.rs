//! `cargo xtask dist`: what is handed to others, in `dist/`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::shell::{self, find, heading, output, root, run_command, target};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Builds the static binary and gathers all that belongs to it.
pub(crate) fn run() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Err("dist is made on x86_64 only".into());
    }
    heading("a static release binary");
    run_command(
        Command::new("cargo")
            .args(["build", "--release", "--package", "hull", "--target", TRIPLE])
            .current_dir(root())
            .env("RUSTFLAGS", "-C target-feature=+crt-static"),
    )?;
    let dist = root().join("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist)?;
    }
    fs::create_dir_all(dist.join("completions"))?;
    let binary = dist.join("hull");
    fs::copy(target().join(TRIPLE).join("release/hull"), &binary)?;
    match find("strip") {
        Some(_) => run_command(Command::new("strip").arg("--strip-all").arg(&binary))?,
        None => return Err("strip is missing: apt-get install binutils".into()),
    }
    if needs_a_loader(&fs::read(&binary)?)? {
        return Err("the binary names a dynamic loader, so it is not static".into());
    }
    heading("what belongs to it");
    let (hull, pages) = (path(&binary)?, dist.join("man"));
    fs::create_dir_all(&pages)?;
    shell::run(hull, &["man-pages", path(&pages)?])?;
    for (shell, file) in [("bash", "hull.bash"), ("zsh", "_hull"), ("fish", "hull.fish")] {
        fs::write(dist.join("completions").join(file), output(hull, &["completion", shell])?)?;
    }
    for file in ["packaging/hull.service", "packaging/hull.socket", "LICENSE"] {
        let source = root().join(file);
        fs::copy(&source, dist.join(source.file_name().ok_or("no file name")?))?;
    }
    let count = fs::read_dir(&pages)?.count();
    if count == 0 {
        return Err("hull man-pages wrote no page".into());
    }
    let bytes = fs::metadata(&binary)?.len();
    println!("{}: static, stripped, {:.1} MB ({bytes} bytes)", binary.display(), bytes as f64 / 1e6);
    println!("{count} manual pages, 3 completions, hull.service, hull.socket, LICENSE");
    Ok(())
}

fn path(path: &Path) -> Result<&str> {
    Ok(path.to_str().ok_or("the repository's path is not UTF-8")?)
}

/// Whether a 64-bit little-endian ELF file has a PT_INTERP segment.
fn needs_a_loader(elf: &[u8]) -> Result<bool> {
    const PT_INTERP: u32 = 3;
    let at = |from: usize, length: usize| elf.get(from..from + length).ok_or("a cut ELF file");
    if at(0, 6)? != b"\x7fELF\x02\x01" {
        return Err("no 64-bit little-endian ELF file".into());
    }
    let number = |from: usize, length: usize| -> Result<usize> {
        Ok(at(from, length)?.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
    };
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    for n in 0..count {
        if number(table + n * size, 4)? == PT_INTERP as usize {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::needs_a_loader;

    #[test]
    fn static_and_dynamic_programs_are_told_apart() {
        let read = |path: &str| std::fs::read(path).expect("this machine has it");
        assert!(needs_a_loader(&read("/bin/bash")).expect("ELF"));
        assert!(!needs_a_loader(&read("/usr/bin/busybox")).expect("ELF"), "busybox-static");
        assert!(needs_a_loader(b"#!/bin/sh\n").is_err());
    }
}
