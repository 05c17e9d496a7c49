//! Docker's `config.json`: read as it is, changed in one place, and written whole or not at all.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize as _;
use serde_json::{Map, Value};

use crate::commands::shared::upload::plain;
use crate::error::Error;

/// The file's content. What is not understood in it stays as it is.
pub type Content = Map<String, Value>;

/// The file in its folder.
pub struct ConfigFile {
    folder: PathBuf,
    path: PathBuf,
}

impl ConfigFile {
    /// The file of this folder; neither need be there.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), path: folder.join("config.json") }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says; nothing where it is not there, or empty.
    ///
    /// # Errors
    /// It cannot be read, or is no JSON object. The words name a place in it and nothing of what stands there.
    pub fn read(&self) -> Result<Content, Error> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::new()),
            Err(error) => return Err(self.wrong("read", &error)),
        };
        if text.trim_ascii().is_empty() {
            return Ok(Content::new());
        }
        match serde_json::from_slice(&text) {
            Ok(Value::Object(content)) => Ok(content),
            Ok(_) => Err(Error::new(format!("{}: it is not a JSON object", self.path.display()))),
            Err(error) => Err(Error::new(format!(
                "{}: it is not valid JSON (line {}, column {}); repair it, or move it away",
                self.path.display(),
                error.line(),
                error.column()
            ))),
        }
    }

    /// Changes it, where `edit` changes anything.
    ///
    /// # Errors
    /// As [`ConfigFile::read`], and what `edit` says; or it cannot be written. Then it is what it was before.
    pub fn change(&self, edit: impl FnOnce(&mut Content) -> Result<(), Error>) -> Result<(), Error> {
        let write = |error: &io::Error| self.wrong("write", error);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(|e| write(&e))?;
        // Two commands at once take turns, or one's change would be lost. A file system that knows no locks (some
        // network ones) leaves it at that, as Docker's client does everywhere.
        let folder = File::open(&self.folder).map_err(|e| write(&e))?;
        let _ = flock(&folder, FlockOperation::LockExclusive);
        let before = self.read()?;
        let mut content = before.clone();
        edit(&mut content)?;
        if content == before {
            return Ok(());
        }
        self.replace(&content).map_err(|e| write(&e))
    }

    /// Puts a new file into its place: complete, on the disk, and for its owner's eyes alone.
    fn replace(&self, content: &Content) -> io::Result<()> {
        // Where the file is a link, as those who keep their settings elsewhere have it, what it points to is replaced.
        let target = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let folder = target.parent().unwrap_or(&self.folder);
        // Made with mode 0600, and removed again if it does not come to its name.
        let mut file = tempfile::Builder::new().prefix(".config.json-").tempfile_in(folder)?;
        file.write_all(&text(content)?)?;
        if let Ok(before) = target.metadata()
            && rustix::process::geteuid().is_root()
            && before.uid() != 0
        {
            // With sudo in a user's home, the file stays the user's.
            std::os::unix::fs::fchown(file.as_file(), Some(before.uid()), Some(before.gid()))?;
        }
        file.as_file().sync_all()?;
        file.persist(&target).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    }

    fn wrong(&self, doing: &str, error: &io::Error) -> Error {
        Error::new(format!("cannot {doing} {}: {}", self.path.display(), plain(error)))
    }
}

/// The file's text, indented as Docker's client does.
fn text(content: &Content) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    content.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    fn write(file: &ConfigFile, text: &str) {
        fs::write(file.path(), text).unwrap();
    }

    fn set(content: &mut Content) -> Result<(), Error> {
        content.insert("set".to_owned(), json!(true));
        Ok(())
    }

    #[test]
    fn what_is_not_understood_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = ConfigFile::of(folder.path());
        write(&file, r#"{"z":{"b":1,"a":[2]},"psFormat":"x","detachKeys":"ctrl-a"}"#);
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        file.change(set).unwrap();
        assert_eq!(
            fs::read_to_string(file.path()).unwrap(),
            "{\n\t\"z\": {\n\t\t\"b\": 1,\n\t\t\"a\": [\n\t\t\t2\n\t\t]\n\t},\n\t\"psFormat\": \"x\",\n\t\"detachKeys\": \"ctrl-a\",\n\t\"set\": true\n}"
        );
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = ConfigFile::of(&folder.path().join("a/b"));
        assert!(file.read().unwrap().is_empty());
        file.change(|_| Ok(())).unwrap();
        assert!(!file.path().exists());
        file.change(set).unwrap();
        assert_eq!(file.read().unwrap()["set"], true);
        assert_eq!(fs::metadata(folder.path().join("a/b")).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_cannot_be_read_is_left_alone_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let file = ConfigFile::of(folder.path());
        for wrong in [r#"{"auths": {"a": {"auth": "secret""#, r#"["secret"]"#] {
            write(&file, wrong);
            let error = file.change(set).unwrap_err().to_string();
            assert!(error.contains("config.json") && !error.contains("secret"), "{error}");
            assert_eq!(fs::read_to_string(file.path()).unwrap(), wrong);
        }
    }

    #[test]
    fn a_link_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = ConfigFile::of(folder.path());
        fs::write(folder.path().join("real"), "{}").unwrap();
        std::os::unix::fs::symlink("real", file.path()).unwrap();
        file.change(set).unwrap();
        assert!(fs::symlink_metadata(file.path()).unwrap().is_symlink());
        assert!(fs::read_to_string(folder.path().join("real")).unwrap().contains("set"));
    }
}
