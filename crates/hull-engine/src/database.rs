//! What must survive a reboot: documents in SQLite, one table for each kind of thing.
//!
//! WAL mode with `synchronous = NORMAL`: a commit costs 35 µs and no fsync. A crash of the daemon loses
//! nothing; a power cut may lose the last moments, never the order. What is to last is on the disk within a moment after
//! [`Database::sync_behind`].

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

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
    /// A sync that is on its way and has not begun.
    gathering: Mutex<Option<Synced>>,
}

/// A sync that is on its way; see [`Database::sync_behind`].
#[derive(Clone)]
pub(crate) struct Synced(watch::Receiver<Option<bool>>);

impl Synced {
    /// Waits for its end: whether the disk has taken what was put.
    pub(crate) async fn wait(mut self) -> bool {
        // Nobody tells any more: the daemon ends.
        self.0.wait_for(Option::is_some).await.is_ok_and(|synced| *synced == Some(true))
    }
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
        Ok(Database { connection: Mutex::new(connection), log, gathering: Mutex::default() })
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
    pub(crate) fn sync_behind(self: &Arc<Self>) -> Synced {
        let mut gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(synced) = &*gathering {
            return synced.clone();
        }
        let (done, synced) = watch::channel(None);
        let synced = Synced(synced);
        *gathering = Some(synced.clone());
        drop(gathering);
        let database = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(GATHER).await;
            let synced = tokio::task::spawn_blocking(move || {
                // Before it begins: what is put from here on is the next one's.
                *database.gathering.lock().unwrap_or_else(PoisonError::into_inner) = None;
                database.sync()
            });
            let synced = synced.await.unwrap_or_else(|error| Err(Error::system("sync the database", error)));
            if let Err(error) = &synced {
                tracing::error!(%error, "what was written last may not outlive a power cut");
            }
            done.send_replace(Some(synced.is_ok()));
        });
        synced
    }

    /// Brings what was put to the disk; blocks as long as that takes.
    ///
    /// # Errors
    /// The disk does not take it.
    pub(crate) fn sync(&self) -> Result<()> {
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
    use std::sync::Arc;

    use super::{Database, Table};

    #[tokio::test]
    async fn who_waits_is_told_whether_the_disk_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&folder.path().join("hull.db")).unwrap());
        database.put(Table::Volumes, "x", &1).unwrap();
        let (one, other) = (database.sync_behind(), database.sync_behind());
        assert!(one.0.same_channel(&other.0), "gathered");
        assert!(one.wait().await && other.clone().wait().await);
        let next = database.sync_behind();
        assert!(!next.0.same_channel(&other.0), "what is put later is not on the disk by an earlier sync");
        std::fs::remove_file(&database.log).unwrap();
        assert!(!next.wait().await, "its log is gone");
    }

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
