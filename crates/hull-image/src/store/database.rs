//! What is known of images, layers and names, on disk. All of it is read once, when the store opens.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::receive::LayerBlob;
use super::steps::StepRow;
use crate::registry::manifest::Raw;
use crate::{Digest, Error, ImageId, Kind, Result};

/// The version of the tables below.
const VERSION: i64 = 1;

/// A layer as it is stored.
#[derive(Clone, Debug)]
pub(super) struct LayerRow {
    /// The name of its folder, in base 36.
    pub(super) number: u64,
    pub(super) chain_id: Digest,
    pub(super) diff_id: Digest,
    /// The chain id of the layer below.
    pub(super) parent: Option<Digest>,
    /// The bytes of its files, and of its archive.
    pub(super) size: u64,
    pub(super) archive_size: u64,
    /// The boot during which it was written, until it is known to be on the disk.
    pub(super) unsynced: Option<String>,
}

/// An image as it is stored.
pub(super) struct ImageRow {
    pub(super) id: ImageId,
    pub(super) config: Vec<u8>,
    pub(super) parent: Option<ImageId>,
    pub(super) last_tagged: i64,
}

/// The database. One connection; the caller serialises.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Database> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version > VERSION {
            return Err(Error::new(
                Kind::System,
                format!(
                    "{} was written by a newer hull (version {version}; {VERSION} is known)",
                    path.display()
                ),
            ));
        }
        connection.execute_batch(&format!(
            "BEGIN;
             CREATE TABLE IF NOT EXISTS layers (
                 number INTEGER PRIMARY KEY AUTOINCREMENT, chain_id TEXT NOT NULL UNIQUE, diff_id TEXT NOT NULL,
                 parent TEXT, size INTEGER NOT NULL, archive_size INTEGER NOT NULL, unsynced TEXT);
             CREATE TABLE IF NOT EXISTS images (
                 id TEXT PRIMARY KEY, config BLOB NOT NULL, parent TEXT, last_tagged INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS steps (
                 key TEXT PRIMARY KEY, top TEXT, config BLOB NOT NULL, description TEXT NOT NULL, size INTEGER NOT NULL,
                 created INTEGER NOT NULL, used INTEGER NOT NULL, uses INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS step_images (key TEXT PRIMARY KEY, image TEXT NOT NULL);
             CREATE INDEX IF NOT EXISTS step_images_of ON step_images (image);
             CREATE TABLE IF NOT EXISTS names (reference TEXT PRIMARY KEY, image TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS blobs (
                 diff_id TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, media_type TEXT NOT NULL,
                 repository TEXT NOT NULL, PRIMARY KEY (diff_id, digest, repository));
             CREATE TABLE IF NOT EXISTS manifests (
                 digest TEXT NOT NULL, image TEXT NOT NULL, media_type TEXT NOT NULL, content BLOB NOT NULL,
                 PRIMARY KEY (digest, image));
             CREATE TABLE IF NOT EXISTS unnamed (image TEXT PRIMARY KEY, since INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS led (
                 reference TEXT NOT NULL, image TEXT NOT NULL, manifest TEXT NOT NULL, PRIMARY KEY (reference, image));
             DELETE FROM led WHERE image NOT IN (SELECT id FROM images);
             DELETE FROM step_images WHERE image NOT IN (SELECT id FROM images);
             DELETE FROM manifests WHERE image NOT IN (SELECT id FROM images);
             DELETE FROM blobs WHERE diff_id NOT IN (SELECT diff_id FROM layers);
             PRAGMA user_version = {VERSION};
             COMMIT;"
        ))?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        crate::disk::reserve_log(Path::new(&log));
        Ok(Database { connection })
    }

    /// Runs `work` as one transaction, which is undone where it fails.
    pub(super) fn transaction<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let transaction = self.connection.unchecked_transaction()?;
        let value = work(self)?;
        transaction.commit()?;
        Ok(value)
    }

    pub(super) fn layers(&self) -> Result<Vec<LayerRow>> {
        let mut statement = self.connection.prepare(
            "SELECT number, chain_id, diff_id, parent, size, archive_size, unsynced FROM layers ORDER BY number",
        )?;
        let rows = statement.query_map([], |row| {
            Ok(LayerRow {
                number: row.get::<_, i64>(0)?.cast_unsigned(),
                chain_id: digest(row, 1)?,
                diff_id: digest(row, 2)?,
                parent: optional_digest(row, 3)?,
                size: row.get::<_, i64>(4)?.cast_unsigned(),
                archive_size: row.get::<_, i64>(5)?.cast_unsigned(),
                unsynced: row.get(6)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(super) fn images(&self) -> Result<Vec<ImageRow>> {
        let mut statement = self.connection.prepare("SELECT id, config, parent, last_tagged FROM images")?;
        let rows = statement.query_map([], |row| {
            Ok(ImageRow {
                id: digest(row, 0)?,
                config: row.get(1)?,
                parent: optional_digest(row, 2)?,
                last_tagged: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(super) fn names(&self) -> Result<Vec<(String, ImageId)>> {
        let mut statement = self.connection.prepare("SELECT reference, image FROM names")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, digest(row, 1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(super) fn steps(&self) -> Result<Vec<StepRow>> {
        let query = "SELECT key, top, config, description, size, created, used, uses FROM steps ORDER BY created, key";
        let mut statement = self.connection.prepare_cached(query)?;
        let rows = statement.query_map([], |row| {
            Ok(StepRow {
                key: digest(row, 0)?,
                top: optional_digest(row, 1)?,
                config: row.get(2)?,
                description: row.get(3)?,
                size: row.get::<_, i64>(4)?.cast_unsigned(),
                created: row.get(5)?,
                used: row.get(6)?,
                uses: row.get::<_, i64>(7)?.cast_unsigned(),
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(super) fn step_config(&self, key: &Digest) -> Result<Option<Vec<u8>>> {
        let mut statement = self.connection.prepare_cached("SELECT config FROM steps WHERE key = ?")?;
        Ok(statement.query_row([key.to_string()], |row| row.get(0)).optional()?)
    }

    pub(super) fn step_used(&self, key: &Digest, time: i64) -> Result<()> {
        let mut statement =
            self.connection.prepare_cached("UPDATE steps SET used = ?, uses = uses + 1 WHERE key = ?")?;
        statement.execute(params![time, key.to_string()])?;
        Ok(())
    }

    pub(super) fn put_step(&self, step: &StepRow) -> Result<()> {
        let mut statement = self.connection.prepare_cached(
            "INSERT OR REPLACE INTO steps (key, top, config, description, size, created, used, uses)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        statement.execute(params![
            step.key.to_string(),
            step.top.map(|top| top.to_string()),
            step.config,
            step.description,
            step.size.cast_signed(),
            step.created,
            step.used,
            step.uses.cast_signed(),
        ])?;
        Ok(())
    }

    pub(super) fn remove_step(&self, key: &Digest) -> Result<()> {
        self.connection.execute("DELETE FROM steps WHERE key = ?", [key.to_string()])?;
        Ok(())
    }

    /// What steps of classic builds made: the key of each, and its image.
    pub(super) fn step_images(&self) -> Result<Vec<(Digest, ImageId)>> {
        let mut statement = self.connection.prepare("SELECT key, image FROM step_images")?;
        let rows = statement.query_map([], |row| Ok((digest(row, 0)?, digest(row, 1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(super) fn put_step_image(&self, key: &Digest, image: &ImageId) -> Result<()> {
        let mut statement = self
            .connection
            .prepare_cached("INSERT OR REPLACE INTO step_images (key, image) VALUES (?, ?)")?;
        statement.execute([key.to_string(), image.to_string()])?;
        Ok(())
    }

    /// The highest number that a layer ever had.
    pub(super) fn last_number(&self) -> Result<u64> {
        let query = "SELECT seq FROM sqlite_sequence WHERE name = 'layers'";
        let last: Option<i64> = self.connection.query_row(query, [], |row| row.get(0)).optional()?;
        Ok(last.unwrap_or_default().cast_unsigned())
    }

    pub(super) fn put_layer(&self, layer: &LayerRow) -> Result<()> {
        self.connection.execute(
            "INSERT INTO layers (number, chain_id, diff_id, parent, size, archive_size, unsynced)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                layer.number.cast_signed(),
                layer.chain_id.to_string(),
                layer.diff_id.to_string(),
                layer.parent.map(|parent| parent.to_string()),
                layer.size.cast_signed(),
                layer.archive_size.cast_signed(),
                layer.unsynced,
            ],
        )?;
        Ok(())
    }

    pub(super) fn layer_synced(&self, number: u64) -> Result<()> {
        self.connection
            .execute("UPDATE layers SET unsynced = NULL WHERE number = ?", [number.cast_signed()])?;
        Ok(())
    }

    pub(super) fn remove_layer(&self, number: u64) -> Result<()> {
        // What it is in registries is known as long as one layer of its archive is here.
        self.connection.execute(
            "DELETE FROM blobs WHERE diff_id IN (SELECT diff_id FROM layers WHERE number = ?1)
             AND diff_id NOT IN (SELECT diff_id FROM layers WHERE number != ?1)",
            [number.cast_signed()],
        )?;
        self.connection.execute("DELETE FROM layers WHERE number = ?", [number.cast_signed()])?;
        Ok(())
    }

    /// What a layer is in a registry; nothing is written where the layer has gone meanwhile.
    pub(super) fn put_blob(&self, diff_id: &Digest, blob: &LayerBlob) -> Result<()> {
        self.connection.execute(
            "INSERT OR REPLACE INTO blobs (diff_id, digest, size, media_type, repository)
             SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM layers WHERE diff_id = ?1)",
            params![
                diff_id.to_string(),
                blob.digest.to_string(),
                blob.size.cast_signed(),
                blob.media_type,
                blob.repository,
            ],
        )?;
        Ok(())
    }

    pub(super) fn blobs(&self, diff_id: &Digest) -> Result<Vec<LayerBlob>> {
        let mut statement = self.connection.prepare(
            "SELECT digest, size, media_type, repository FROM blobs WHERE diff_id = ? ORDER BY rowid DESC",
        )?;
        let rows = statement.query_map([diff_id.to_string()], |row| {
            Ok(LayerBlob {
                digest: digest(row, 0)?,
                size: row.get::<_, i64>(1)?.cast_unsigned(),
                media_type: row.get(2)?,
                repository: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// What an image came with; nothing is written where the image has gone meanwhile.
    pub(super) fn put_manifest(&self, raw: &Raw, image: &ImageId) -> Result<()> {
        self.connection.execute(
            "INSERT OR REPLACE INTO manifests (digest, image, media_type, content)
             SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM images WHERE id = ?2)",
            params![raw.digest.to_string(), image.to_string(), raw.media_type, &raw.bytes[..]],
        )?;
        Ok(())
    }

    pub(super) fn manifest(&self, of: &Digest) -> Result<Option<Raw>> {
        let query = "SELECT media_type, content FROM manifests WHERE digest = ? LIMIT 1";
        let raw = self.connection.query_row(query, [of.to_string()], |row| {
            Ok(Raw { media_type: row.get(0)?, digest: *of, bytes: row.get::<_, Vec<u8>>(1)?.into() })
        });
        Ok(raw.optional()?)
    }

    pub(super) fn manifests_of_image(&self, image: &ImageId) -> Result<Vec<Raw>> {
        let query = "SELECT digest, media_type, content FROM manifests WHERE image = ? ORDER BY rowid DESC";
        let mut statement = self.connection.prepare(query)?;
        let rows = statement.query_map([image.to_string()], |row| {
            let bytes: Vec<u8> = row.get(2)?;
            Ok(Raw { digest: digest(row, 0)?, media_type: row.get(1)?, bytes: bytes.into() })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(super) fn images_of_manifest(&self, of: &Digest) -> Result<Vec<ImageId>> {
        let mut statement = self.connection.prepare("SELECT image FROM manifests WHERE digest = ?")?;
        let rows = statement.query_map([of.to_string()], |row| digest(row, 0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// What a name led to that is no image's name here; nothing is written where the image has gone meanwhile.
    pub(super) fn put_led(&self, reference: &str, image: &ImageId, manifest: &Digest) -> Result<()> {
        self.connection.execute(
            "INSERT OR REPLACE INTO led (reference, image, manifest)
             SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM images WHERE id = ?2)",
            [reference, &image.to_string(), &manifest.to_string()],
        )?;
        // Names cost whoever asks nothing: an image keeps the latest that led to it.
        self.connection.execute(
            "DELETE FROM led WHERE image = ?1
             AND rowid NOT IN (SELECT rowid FROM led WHERE image = ?1 ORDER BY rowid DESC LIMIT 16)",
            [&image.to_string()],
        )?;
        Ok(())
    }

    /// What a name led to, the latest first: images, each with the manifest or the index that the name was then.
    pub(super) fn led(&self, reference: &str) -> Result<Vec<(ImageId, Digest)>> {
        let query = "SELECT image, manifest FROM led WHERE reference = ? ORDER BY rowid DESC";
        let mut statement = self.connection.prepare(query)?;
        let rows = statement.query_map([reference], |row| Ok((digest(row, 0)?, digest(row, 1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(super) fn put_image(&self, id: &ImageId, config: &[u8], parent: Option<&ImageId>) -> Result<()> {
        self.connection.execute(
            "INSERT INTO images (id, config, parent, last_tagged) VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING",
            params![id.to_string(), config, parent.map(|parent| parent.to_string())],
        )?;
        Ok(())
    }

    pub(super) fn set_last_tagged(&self, id: &ImageId, time: i64) -> Result<()> {
        self.connection
            .execute("UPDATE images SET last_tagged = ? WHERE id = ?", params![time, id.to_string()])?;
        Ok(())
    }

    pub(super) fn remove_image(&self, id: &ImageId) -> Result<()> {
        self.connection.execute("DELETE FROM names WHERE image = ?", [id.to_string()])?;
        self.connection.execute("UPDATE images SET parent = NULL WHERE parent = ?", [id.to_string()])?;
        self.connection.execute("DELETE FROM manifests WHERE image = ?", [id.to_string()])?;
        self.connection.execute("DELETE FROM step_images WHERE image = ?", [id.to_string()])?;
        self.connection.execute("DELETE FROM led WHERE image = ?", [id.to_string()])?;
        self.connection.execute("DELETE FROM images WHERE id = ?", [id.to_string()])?;
        Ok(())
    }

    /// The images that were without a name and a container when it was looked last, and since when: in seconds of Unix time.
    pub(super) fn unnamed(&self) -> Result<Vec<(ImageId, i64)>> {
        let mut statement = self.connection.prepare("SELECT image, since FROM unnamed")?;
        let rows = statement.query_map([], |row| Ok((digest(row, 0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(super) fn set_unnamed(&self, unnamed: &[(ImageId, i64)]) -> Result<()> {
        self.connection.execute("DELETE FROM unnamed", [])?;
        for (image, since) in unnamed {
            self.connection.execute(
                "INSERT INTO unnamed (image, since) VALUES (?, ?)",
                params![image.to_string(), since],
            )?;
        }
        Ok(())
    }

    pub(super) fn put_name(&self, reference: &str, image: &ImageId) -> Result<()> {
        self.connection.execute(
            "INSERT OR REPLACE INTO names (reference, image) VALUES (?, ?)",
            [reference, &image.to_string()],
        )?;
        Ok(())
    }

    pub(super) fn remove_name(&self, reference: &str) -> Result<()> {
        self.connection.execute("DELETE FROM names WHERE reference = ?", [reference])?;
        Ok(())
    }
}

fn digest(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(index)?;
    text.parse().map_err(|error: Error| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn optional_digest(row: &rusqlite::Row<'_>, index: usize) -> rusqlite::Result<Option<Digest>> {
    match row.get_ref(index)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => digest(row, index).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_nothing_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.db");
        let (gone, here) = (Digest::of(b"gone"), Digest::of(b"here"));
        let raw = Raw { media_type: "m".into(), digest: Digest::of(b"raw"), bytes: "raw".into() };
        let blob =
            LayerBlob { digest: raw.digest, size: 3, media_type: "b".into(), repository: "r/a".into() };
        let layer = LayerRow {
            number: 1,
            chain_id: here,
            diff_id: here,
            parent: None,
            size: 0,
            archive_size: 0,
            unsynced: None,
        };
        let count = |database: &Database| {
            let of = |table: &str| -> i64 {
                let query = format!("SELECT count(*) FROM {table}");
                database.connection.query_row(&query, [], |row| row.get(0)).unwrap()
            };
            (of("blobs"), of("manifests"), of("led"))
        };
        let database = Database::open(&path).unwrap();
        database.put_image(&here, b"{}", None).unwrap();
        database.put_layer(&layer).unwrap();
        for digest in [gone, here] {
            database.put_blob(&digest, &blob).unwrap();
            database.put_manifest(&raw, &digest).unwrap();
            database.put_led("r/a:1", &digest, &raw.digest).unwrap();
        }
        assert_eq!(count(&database), (1, 1, 1));
        // As a daemon left them that did not look.
        database.connection.execute_batch("DELETE FROM images; DELETE FROM layers;").unwrap();
        assert_eq!(count(&database), (1, 1, 1));
        drop(database);
        assert_eq!(count(&Database::open(&path).unwrap()), (0, 0, 0));
    }

    #[test]
    fn what_a_name_led_to_is_told_latest_first_and_goes_with_its_image() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("image.db")).unwrap();
        let [one, other, index] = [&b"one"[..], b"other", b"index"].map(Digest::of);
        for image in [one, other, one] {
            database.put_image(&image, b"{}", None).unwrap();
            database.put_led("r/a:1", &image, &index).unwrap();
        }
        assert_eq!(database.led("r/a:1").unwrap(), [(one, index), (other, index)]);
        assert_eq!(database.led("r/a:2").unwrap(), []);
        database.remove_image(&one).unwrap();
        assert_eq!(database.led("r/a:1").unwrap(), [(other, index)]);
    }
}
