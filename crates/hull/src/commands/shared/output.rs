//! Where `-o` writes: a file is replaced when what comes is complete, a device or a pipe is written as it comes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::NamedTempFile;

use super::progress::Transfer;
use super::upload;
use crate::client::Response;
use crate::error::Error;

/// The place that `-o` names.
pub enum Output {
    /// A file beside the place, which takes its name in the end: what fails leaves what was there before.
    Beside(NamedTempFile, PathBuf),
    /// A device (`/dev/null`) or a pipe: never replaced.
    Direct(File, PathBuf),
}

/// Writes what comes into a place, or to standard output; on a terminal, how far it is.
pub async fn save(mut response: Response, mut file: Option<Output>, doing: &str) -> Result<(), Error> {
    let written = Arc::new(AtomicU64::new(0));
    let transfer = Transfer::start(doing, None, written.clone());
    let mut stdout = std::io::stdout();
    while let Some(piece) = response.chunk().await? {
        match &mut file {
            Some(file) => file.write(&piece)?,
            None => stdout.write_all(&piece)?,
        }
        written.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    stdout.flush()?;
    drop(transfer);
    file.map_or(Ok(()), Output::finish)
}

impl Output {
    /// Opens the place.
    pub fn open(path: impl AsRef<Path>) -> Result<Output, Error> {
        let path = path.as_ref();
        let wrong =
            |e: &std::io::Error| Error::new(format!("cannot write {}: {}", path.display(), upload::plain(e)));
        match path.metadata() {
            Ok(meta) if meta.is_dir() => {
                return Err(Error::new(format!("invalid output path {path:?}: it is a folder")));
            }
            Ok(meta) if !meta.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(|e| wrong(&e))?;
                return Ok(Output::Direct(file, path.to_owned()));
            }
            _ => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            let folder = folder.display();
            return Err(Error::new(format!("invalid output path: directory \"{folder}\" does not exist")));
        }
        let file = NamedTempFile::new_in(folder).map_err(|e| wrong(&e))?;
        Ok(Output::Beside(file, path.to_owned()))
    }

    /// Writes the next piece.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        let (written, path) = match self {
            Output::Beside(file, path) => (file.as_file_mut().write_all(piece), path),
            Output::Direct(file, path) => (file.write_all(piece), path),
        };
        written.map_err(|e| Error::new(format!("cannot write {}: {}", path.display(), upload::plain(&e))))
    }

    /// All has come: the file takes its name.
    pub fn finish(self) -> Result<(), Error> {
        match self {
            Output::Direct(..) => Ok(()),
            Output::Beside(file, path) => match file.persist(&path) {
                Ok(_) => Ok(()),
                Err(e) => {
                    Err(Error::new(format!("cannot write {}: {}", path.display(), upload::plain(&e.error))))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt;

    #[test]
    fn a_device_is_written_and_not_replaced() {
        let mut output = Output::open("/dev/null").unwrap();
        output.write(b"x").unwrap();
        output.finish().unwrap();
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_file_is_there_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut output = Output::open(&path).unwrap();
        output.write(b"x").unwrap();
        assert!(!path.exists());
        output.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        assert!(Output::open(folder.path()).is_err());
    }
}
