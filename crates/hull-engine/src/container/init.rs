//! `--init` where another runtime makes the container: hull's own program, bound into it, is process 1.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use crate::{Error, Result};

/// Where it is inside, and how it knows what it is to be; Docker's place.
const PLACE: &str = "/sbin/docker-init";

/// Puts the init in front of the command.
///
/// # Errors
/// hull's program would need the image's libraries.
pub(super) fn stand_in_front(spec: &mut Spec) -> Result<()> {
    let program = std::env::current_exe().map_err(|error| Error::system("find hull's own program", error))?;
    if !is_whole(&program).map_err(|error| Error::system("look at hull's own program", error))? {
        return Err(Error::unsupported(
            "--init by another runtime: this hull was linked with shared libraries, which the image may not have; that",
        ));
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(bind(program));
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        let command = process.args().clone().unwrap_or_default();
        let words = [PLACE.to_owned(), "--".to_owned()];
        process.set_args(Some(words.into_iter().chain(command).collect()));
    }
    Ok(())
}

/// Read-only: what runs as process 1 can be reached by its container, and is the host's.
fn bind(program: PathBuf) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(PLACE.into());
    mount.set_typ(Some("bind".to_owned()));
    mount.set_source(Some(program));
    mount.set_options(Some(["bind", "rprivate", "ro", "nosuid", "nodev"].map(str::to_owned).to_vec()));
    mount
}

/// Whether a program needs no loader: none of its 64-bit ELF's program headers names one.
fn is_whole(program: &Path) -> std::io::Result<bool> {
    const INTERPRETER: u32 = 3;
    let mut file = File::open(program)?;
    let mut head = [0; 64];
    file.read_exact(&mut head)?;
    let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let mut table = [0; 8];
    table.copy_from_slice(&head[32..40]);
    let (table, size, count) = (u64::from_le_bytes(table), u64::from(short(54)), u64::from(short(56)));
    for index in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, table + index * size)?;
        if u32::from_le_bytes(kind) == INTERPRETER {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_told_from_one_without() {
        // The tests themselves are linked with the C library's shared objects.
        assert!(!is_whole(&std::env::current_exe().unwrap()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole");
        let mut head = [0_u8; 64 + 56];
        head[..4].copy_from_slice(b"\x7fELF");
        (head[32], head[54], head[56], head[64]) = (64, 56, 1, 1);
        std::fs::write(&whole, head).unwrap();
        assert!(is_whole(&whole).unwrap());
        assert!(is_whole(Path::new("/dev/null")).is_err());
    }
}
