//! What must survive a reboot: documents in SQLite, one table for each kind of thing.
//!
//! WAL mode with `synchronous = NORMAL`: a commit costs 35 µs and no fsync. A crash of the daemon loses
//! nothing; a power cut may lose the last moments, never the order. What is to last is on the disk within a moment after
//! [`Database::sync_behind`].

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// A kind of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// Containers by id.
    Containers,
    /// Networks by id.
    Networks,
    /// Volumes by name.
    Volumes,
}

impl Table {
    const ALL: [Table; 3] = [Table::Containers, Table::Networks, Table::Volumes];

    fn name(self) -> &'static str {
        match self {
            Table::Containers => "containers",
            Table::Networks => "networks",
            Table::Volumes => "volumes",
        }
    }
}

/// The engine's database.
pub(crate) struct Database {
    connection: Mutex<Connection>,
    /// Where the commits go first.
    log: PathBuf,
    /// A sync is on its way that has not begun.
    sync_waits: AtomicBool,
}

/// How long commits are gathered before they are synced: a power cut loses no more than this, and the disk is asked for no
/// more than ten syncs a second.
const GATHER: Duration = Duration::from_millis(100);

impl Database {
    /// Opens the database, or makes it.
    ///
    /// # Errors
    /// The file cannot be opened, or another daemon has it.
    pub(crate) fn open(path: &Path) -> Result<Database> {
        let failed = |error: rusqlite::Error| {
            let failure = Error::system(format_args!("open the database {}", path.display()), &error);
            match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                    let advice = "restore it from a copy, or move it away with its -wal and -shm: hull begins without containers \
                                  and networks then, and `hull system fsck --repair` makes volumes of what lies in volumes";
                    Error { message: format!("{}: {advice}", failure.message), ..failure }
                }
                _ => failure,
            }
        };
        let connection = Connection::open(path).map_err(failed)?;
        // Two daemons on one data root would undo each other's work: the first one holds the file.
        connection
            .execute_batch(
                "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
            )
            .map_err(failed)?;
        for table in Table::ALL {
            connection
                .execute_batch(&format!(
                    "CREATE TABLE IF NOT EXISTS {} (key TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID",
                    table.name()
                ))
                .map_err(failed)?;
        }
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = PathBuf::from(log);
        hull_image::disk::reserve_log(&log);
        Ok(Database { connection: Mutex::new(connection), log, sync_waits: AtomicBool::new(false) })
    }

    /// Writes a document, whether it is there or not.
    pub(crate) fn put(&self, table: Table, key: &str, document: &impl Serialize) -> Result<()> {
        crate::fault::point(table.name(), "put")?;
        let text =
            serde_json::to_string(document).map_err(|error| Error::system("write a document", error))?;
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection
            .prepare_cached(&format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2)", table.name()))?
            .execute(params![key, text])?;
        drop(connection);
        crate::fault::passed(table.name(), "put, behind");
        Ok(())
    }

    /// Brings what was put to the disk, and with it, where the file system keeps a journal, the folders that were made
    /// before. It is done behind, within [`GATHER`] and the time that the disk needs; nobody waits for it. Called within
    /// the runtime.
    pub(crate) fn sync_behind(self: &Arc<Self>) {
        if self.sync_waits.swap(true, Ordering::SeqCst) {
            return;
        }
        let database = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(GATHER).await;
            let synced = tokio::task::spawn_blocking(move || {
                database.sync_waits.store(false, Ordering::SeqCst);
                database.sync()
            });
            if let Ok(Err(error)) = synced.await {
                tracing::error!(%error, "what was written last may not outlive a power cut");
            }
        });
    }

    fn sync(&self) -> Result<()> {
        // Whole, and not its data alone: that is what makes the file system write its journal.
        std::fs::File::open(&self.log)
            .and_then(|log| log.sync_all())
            .map_err(|error| Error::system(format_args!("sync {}", self.log.display()), error))
    }

    /// Removes a document, whether it is there or not.
    pub(crate) fn delete(&self, table: Table, key: &str) -> Result<()> {
        crate::fault::point(table.name(), "delete")?;
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.prepare_cached(&format!("DELETE FROM {} WHERE key = ?1", table.name()))?.execute([key])?;
        drop(connection);
        crate::fault::passed(table.name(), "delete, behind");
        Ok(())
    }

    /// Every document of a kind.
    pub(crate) fn all<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<T>> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut statement = connection.prepare(&format!("SELECT key, document FROM {}", table.name()))?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        let mut documents = Vec::new();
        for row in rows {
            let (key, text) = row?;
            let document = serde_json::from_str(&text).map_err(|error| {
                Error::system(format_args!("read {} {key} from the database", table.name()), error)
            })?;
            documents.push(document);
        }
        Ok(documents)
    }
}

#[cfg(test)]
mod tests {
    use super::Database;

    #[test]
    fn a_database_that_is_none_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hull.db");
        std::fs::write(&path, [b'x'; 8192]).unwrap();
        let error = Database::open(&path).err().unwrap().to_string();
        assert!(
            error.contains("hull.db: file is not a database: restore it from a copy, or move it away"),
            "{error}"
        );
    }
}
