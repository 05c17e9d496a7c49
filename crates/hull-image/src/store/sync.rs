//! Brings what was entered to the disk, behind: first the layers' files, then the rows that say so.
//!
//! Nobody waits for it, and it begins at once: what the disk has not taken when the power fails is lost, whole. A
//! layer's row says
//! that its files are there only once they are, and that word is synced too, or the next daemon would believe it lost.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::database::Database;
use crate::{Error, Result};

/// How long rows without layers (a name, an image of layers that were here) are gathered before they are synced.
const GATHER: Duration = Duration::from_millis(100);

/// What syncs, and what waits for it.
#[derive(Debug)]
pub(super) struct Syncing {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The folder of the layers.
    layers: PathBuf,
    /// Where the database's commits go first.
    log: PathBuf,
    database: Weak<Mutex<Database>>,
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    layers: Vec<u64>,
    rows: bool,
    /// There is a thread that takes them.
    is_taken: bool,
}

impl Syncing {
    pub(super) fn new(layers: PathBuf, log: PathBuf, database: &Arc<Mutex<Database>>) -> Syncing {
        let (database, waiting) = (Arc::downgrade(database), Mutex::default());
        Syncing { shared: Arc::new(Shared { layers, log, database, waiting, came: Condvar::new() }) }
    }

    /// Layers of these numbers, whose rows were written, are to be on the disk.
    pub(super) fn layers(&self, numbers: impl IntoIterator<Item = u64>) {
        self.shared.waiting().layers.extend(numbers);
        self.begin();
    }

    /// Rows that were written are to be on the disk.
    pub(super) fn rows(&self) {
        self.begin();
    }

    fn begin(&self) {
        {
            let mut waiting = self.shared.waiting();
            waiting.rows = true;
            if waiting.is_taken {
                self.shared.came.notify_one();
                return;
            }
            waiting.is_taken = true;
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("image-sync".to_owned());
        if let Err(error) = thread.spawn(move || while shared.sync_next() {}) {
            self.shared.waiting().is_taken = false;
            tracing::warn!("start the thread that syncs images: {error}");
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs what waits; false where nothing did.
    fn sync_next(&self) -> bool {
        let layers = {
            let mut waiting = self.waiting();
            if !waiting.rows {
                waiting.is_taken = false;
                return false;
            }
            if waiting.layers.is_empty() {
                let gathered =
                    self.came.wait_timeout_while(waiting, GATHER, |waiting| waiting.layers.is_empty());
                waiting = gathered.unwrap_or_else(PoisonError::into_inner).0;
            }
            waiting.rows = false;
            std::mem::take(&mut waiting.layers)
        };
        if let Err(error) = self.sync(&layers) {
            tracing::warn!("{error}; images of the last moments are lost should the machine go down now");
        }
        true
    }

    fn sync(&self, layers: &[u64]) -> Result<()> {
        // A store that was closed meanwhile syncs them when it opens again.
        if !layers.is_empty()
            && let Some(database) = self.database.upgrade()
        {
            let folder = std::fs::File::open(&self.layers)
                .map_err(|error| Error::file("sync", &self.layers, error))?;
            rustix::fs::syncfs(&folder).map_err(|errno| Error::file("sync", &self.layers, errno))?;
            let database = database.lock().unwrap_or_else(PoisonError::into_inner);
            database.transaction(|database| {
                layers.iter().try_for_each(|number| database.layer_synced(*number))
            })?;
        }
        match std::fs::File::open(&self.log).and_then(|log| log.sync_all()) {
            // The database was closed, and has written it all.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            synced => synced.map_err(|error| Error::file("sync", &self.log, error)),
        }
    }
}
