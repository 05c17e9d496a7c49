//! Why an exec failed, in words and with what to do, and the exit status that Docker gives it: 127 for what
//! is not there, 126 for what cannot be executed.

use std::ffi::{CStr, CString, OsStr};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::StatVfsMountFlags;

use crate::Error;

const NOT_THERE: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

fn failure(words: String, advice: String, exit_status: u8) -> Error {
    Error { doing: words, errno: None, advice, exit_status }
}

/// What this machine cannot execute: the errno tells it from the other failures.
fn not_a_program(doing: String, advice: String) -> Error {
    Error { doing, errno: Some(libc::ENOEXEC), advice, exit_status: NOT_EXECUTABLE }
}

fn path_of(candidate: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(candidate.to_bytes()))
}

/// None of the places where the command could be has one that the kernel would take.
pub(super) fn not_found(name: &str, candidates: &[CString]) -> Error {
    // What is there but could not be executed was missing something itself: its interpreter or loader.
    if let Some(there) = candidates.iter().find(|candidate| path_of(candidate).exists()) {
        return explain(name, there, &io::Error::from_raw_os_error(libc::ENOENT));
    }
    if name.contains('/') {
        let dangling = Path::new(name).symlink_metadata().is_ok();
        let advice = if dangling { "it is a symbolic link to what is not there" } else { "" };
        let words = format!("exec: {name:?}: stat {name}: no such file or directory");
        return failure(words, advice.into(), NOT_THERE);
    }
    failure(format!("exec: {name:?}: executable file not found in $PATH"), String::new(), NOT_THERE)
}

/// Why the kernel refused to execute `candidate`.
pub(super) fn explain(name: &str, candidate: &CStr, error: &io::Error) -> Error {
    let path = path_of(candidate);
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) if !path.exists() => not_found(name, &[]),
        Some(libc::ENOENT | libc::ENOTDIR) => missing_part(name, path),
        Some(libc::EACCES) => denied(name, path),
        Some(libc::ENOEXEC) => wrong_format(name, path),
        // A library that the kernel itself must load, or an interpreter of an interpreter.
        Some(libc::ELIBBAD) => {
            let advice = "its dynamic loader cannot be used: it is for another architecture or damaged";
            not_a_program(format!("exec: {name:?}"), advice.into())
        }
        Some(libc::ELOOP) if path.metadata().is_err() => {
            let advice = "it is a symbolic link that leads back to itself";
            failure(
                format!("exec: {name:?}: too many levels of symbolic links"),
                advice.into(),
                NOT_EXECUTABLE,
            )
        }
        Some(libc::ELOOP) => {
            let advice = "its interpreter is a script, which needs another, too many times over";
            failure(format!("exec: {name:?}: too many levels of interpreters"), advice.into(), NOT_EXECUTABLE)
        }
        Some(libc::E2BIG) => {
            let advice = "the arguments and the environment together are too long";
            failure(format!("exec: {name:?}: argument list too long"), advice.into(), NOT_EXECUTABLE)
        }
        _ => {
            let mut failed = Error::kernel(
                format!("exec: {name:?}"),
                io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)),
            );
            failed.exit_status = NOT_EXECUTABLE;
            failed
        }
    }
}

fn missing_part(name: &str, path: &Path) -> Error {
    let words = format!("exec: {name:?}: no such file or directory");
    let advice = match Program::read(path) {
        Ok(Program::Script { interpreter }) if interpreter.ends_with('\r') => {
            let interpreter = interpreter.trim_end_matches('\r');
            format!(
                "its first line ends with a carriage return, so the interpreter looked for is \
                 \"{interpreter}\\r\": save the file with Unix line ends (dos2unix)"
            )
        }
        Ok(Program::Script { interpreter }) => format!(
            "the interpreter of its first line, {interpreter}, is not in the image: install it, or name one \
             that is there"
        ),
        Ok(Program::Elf { loader: Some(loader), .. }) => format!(
            "its dynamic loader {loader} is not in the image: use an image with the C library that it was built \
             for, or link it statically"
        ),
        _ => "something that it needs to start is not there".to_owned(),
    };
    failure(words, advice, NOT_THERE)
}

fn denied(name: &str, path: &Path) -> Error {
    if path.is_dir() {
        let advice = "name a program in it".to_owned();
        return failure(format!("exec: {name:?}: is a directory"), advice, NOT_EXECUTABLE);
    }
    let words = format!("exec: {name:?}: permission denied");
    let noexec = rustix::fs::statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOEXEC));
    let advice = match path.metadata() {
        Ok(_) if noexec => {
            "it is on a mount with the option noexec: mount that with exec, or copy the file elsewhere"
        }
        Ok(metadata) if metadata.mode() & 0o111 == 0 => {
            "it has no execute permission: chmod +x it, or run it by its interpreter"
        }
        Ok(_) => {
            "the container's user may not execute it, or not its interpreter: check owner and mode of both"
        }
        Err(_) => "the container's user may not enter the folder that it is in",
    };
    failure(words, advice.into(), NOT_EXECUTABLE)
}

fn wrong_format(name: &str, path: &Path) -> Error {
    let own = std::env::consts::ARCH;
    let advice = match Program::read(path) {
        Ok(Program::Elf { machine, .. }) if machine != own => format!(
            "it is a program for {machine}, and this machine is {own}: use an image for this platform"
        ),
        Ok(Program::Elf { .. }) => "it is a damaged program".to_owned(),
        Ok(Program::Empty) => format!("{name:?} is an empty file"),
        Ok(Program::Script { .. } | Program::Other) => {
            "it is neither a program nor a script with an interpreter in its first line: begin it with \
             #!/bin/sh or the like"
                .to_owned()
        }
        Err(_) => String::new(),
    };
    not_a_program(format!("exec {}", path.display()), advice)
}

/// What an executable file is, by its first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Program {
    Empty,
    Script { interpreter: String },
    Elf { machine: String, loader: Option<String> },
    Other,
}

impl Program {
    fn read(path: &Path) -> io::Result<Program> {
        let file = std::fs::File::open(path)?;
        let mut head = Vec::new();
        (&file).take(256).read_to_end(&mut head)?;
        Ok(Program::of(&head, |offset, bytes| file.read_exact_at(bytes, offset).is_ok()))
    }

    /// `read_at` fills bytes from an offset of the file.
    fn of(head: &[u8], read_at: impl Fn(u64, &mut [u8]) -> bool) -> Program {
        if head.is_empty() {
            return Program::Empty;
        }
        if let Some(line) = head.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_start();
            let word = line.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default();
            return Program::Script { interpreter: String::from_utf8_lossy(word).into_owned() };
        }
        let (Some(b"\x7fELF"), Some(&class), Some(&order)) = (head.get(..4), head.get(4), head.get(5)) else {
            return Program::Other;
        };
        let elf = Elf { wide: class == 2, big: order == 2 };
        let Some(machine) = elf.number(head, 18, 2) else { return Program::Other };
        Program::Elf { machine: machine_name(machine), loader: elf.loader(head, read_at) }
    }
}

/// How numbers are laid out in an ELF file.
struct Elf {
    wide: bool,
    big: bool,
}

impl Elf {
    fn number(&self, bytes: &[u8], offset: usize, length: usize) -> Option<u64> {
        let bytes = bytes.get(offset..offset.checked_add(length)?)?;
        let add = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Some(if self.big { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
    }

    /// The path in `PT_INTERP`.
    fn loader(&self, head: &[u8], read_at: impl Fn(u64, &mut [u8]) -> bool) -> Option<String> {
        const PT_INTERP: u64 = 3;
        const LOADER_MAX: u64 = 4096;
        const HEADERS_MAX: u64 = 128;
        let (word, table, size, count) = if self.wide { (8, 32, 54, 56) } else { (4, 28, 42, 44) };
        let (file_offset, file_size) = if self.wide { (8, 32) } else { (4, 16) };
        let table = self.number(head, table, word)?;
        let size = self.number(head, size, 2)?;
        for index in 0..self.number(head, count, 2)?.min(HEADERS_MAX) {
            let mut header = vec![0; usize::try_from(size).ok()?];
            if !read_at(table.checked_add(index * size)?, &mut header) {
                return None;
            }
            if self.number(&header, 0, 4)? != PT_INTERP {
                continue;
            }
            let (offset, length) =
                (self.number(&header, file_offset, word)?, self.number(&header, file_size, word)?);
            let mut path = vec![0; usize::try_from(length.min(LOADER_MAX)).ok()?];
            if !read_at(offset, &mut path) {
                return None;
            }
            let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(path).into_owned());
        }
        None
    }
}

/// An ELF machine by the name that Rust (and mostly everyone) gives it.
fn machine_name(machine: u64) -> String {
    match machine {
        3 => "x86".into(),
        8 => "mips".into(),
        20 => "powerpc".into(),
        21 => "powerpc64".into(),
        22 => "s390x".into(),
        40 => "arm".into(),
        62 => "x86_64".into(),
        183 => "aarch64".into(),
        243 => "riscv64".into(),
        258 => "loongarch64".into(),
        other => format!("machine {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(bytes: &[u8]) -> Program {
        Program::of(&bytes[..bytes.len().min(256)], |offset, target| {
            let from = offset as usize;
            match bytes.get(from..from + target.len()) {
                Some(found) => {
                    target.copy_from_slice(found);
                    true
                }
                None => false,
            }
        })
    }

    #[test]
    fn scripts() {
        let script = |interpreter: &str| Program::Script { interpreter: interpreter.into() };
        assert_eq!(program(b"#!/bin/bash\necho"), script("/bin/bash"));
        assert_eq!(program(b"#! /usr/bin/env python\n"), script("/usr/bin/env"));
        assert_eq!(program(b"#!/bin/sh\r\necho"), script("/bin/sh\r"));
        assert_eq!(program(b"echo"), Program::Other);
        assert_eq!(program(b""), Program::Empty);
    }

    #[test]
    fn elf_files() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let Program::Elf { machine, .. } = program(&own) else { panic!("the test is an ELF file") };
        assert_eq!(machine, std::env::consts::ARCH);
        let mut foreign = own[..256].to_vec();
        foreign[18..20]
            .copy_from_slice(&if cfg!(target_arch = "aarch64") { 62u16 } else { 183 }.to_le_bytes());
        let Program::Elf { machine, loader } = program(&foreign) else { panic!("still an ELF file") };
        assert_ne!(machine, std::env::consts::ARCH);
        // Cut after the first bytes: the loader's name is not there to be read, and nothing breaks.
        assert_eq!(loader, None);
    }
}
