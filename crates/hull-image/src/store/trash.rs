//! What is to be removed is renamed away at once; its bytes are removed by a thread, behind.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::layer::remove::remove_all;
use crate::{Error, Result};

/// The folder of what is to be removed, and the thread that removes it.
#[derive(Debug)]
pub(super) struct Trash {
    folder: PathBuf,
    count: AtomicU64,
    queue: Option<Sender<String>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trash {
    /// Opens the folder; what an earlier run left in it is removed too.
    pub(super) fn open(folder: &Path) -> Result<Trash> {
        std::fs::create_dir_all(folder).map_err(|error| Error::file("create", folder, error))?;
        let opened = std::fs::File::open(folder).map_err(|error| Error::file("open", folder, error))?;
        let (queue, names) = channel();
        for entry in std::fs::read_dir(folder).map_err(|error| Error::file("read", folder, error))?.flatten()
        {
            if let Ok(name) = entry.file_name().into_string() {
                let _ = queue.send(name);
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("image-trash".to_owned())
            .spawn(move || empty(&opened, &names, &stopped))
            .map_err(|error| Error::system("start the thread that removes files", error))?;
        let count = AtomicU64::new(jiff::Timestamp::now().as_microsecond().cast_unsigned());
        Ok(Trash { folder: folder.to_owned(), count, queue: Some(queue), stop, thread: Some(thread) })
    }

    /// Takes what is at `path`. Nothing there is no error: false is returned.
    pub(super) fn take(&self, path: &Path) -> Result<bool> {
        let name = self.count.fetch_add(1, Ordering::Relaxed).to_string();
        match std::fs::rename(path, self.folder.join(&name)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::file("remove", path, error)),
        }
        if let Some(queue) = &self.queue {
            // The thread ends with this value only.
            let _ = queue.send(name);
        }
        Ok(true)
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Removes what comes; what is left when it is told to stop is removed after the next open.
fn empty(folder: &std::fs::File, names: &Receiver<String>, stopped: &AtomicBool) {
    for name in names {
        if stopped.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = remove_all(folder.as_fd(), name.as_bytes()) {
            tracing::warn!(
                "remove {name} from the image store's trash: {error}; it is tried again at the next start"
            );
        }
    }
}
