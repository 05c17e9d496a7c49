//! Reading a container's log.
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::local;

/// Where the last whole line ends.
pub(super) fn last_newline(file: &File, size: u64) -> std::io::Result<u64> {
    let mut end = size;
    let mut chunk = vec![0; 64 * 1024];
    while end > 0 {
        let length = chunk.len().min(end as usize);
        file.read_exact_at(&mut chunk[..length], end - length as u64)?;
        if let Some(at) = chunk[..length].iter().rposition(|&byte| byte == b'\n') {
            return Ok(end - (length - at - 1) as u64);
        }
        end -= length as u64;
    }
    Ok(0)
}

/// Where the last whole record of the local format ends.
pub(super) fn whole_records(file: &File, size: u64) -> std::io::Result<u64> {
    let mut at = 0;
    loop {
        let mut length = [0; 4];
        if at + (local::HEAD + local::TAIL) as u64 > size {
            return Ok(at);
        }
        file.read_exact_at(&mut length, at)?;
        let next = at + (local::HEAD + local::TAIL) as u64 + u64::from(u32::from_le_bytes(length));
        if next > size {
            return Ok(at);
        }
        at = next;
    }
}
