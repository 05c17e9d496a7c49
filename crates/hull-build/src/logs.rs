//! The whole log of each build, kept on the disk until there are too many: what it told, line by line, and when.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hull_engine::Kind;
use hull_image::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::progress::{Event, Listener, Sink, Tell};
use crate::request::Request;
use hull_image::reference::Reference;
use hull_image::registry::{Pulled, Step as PullStep};

/// So many logs are kept, and so many bytes of them; those of the builds that ended last.
const KEPT: usize = 100;
const BYTES: u64 = 256 << 20;
/// The longest log, in bytes: what a build prints behind that is not kept, how it ends is.
const LONGEST: u64 = 16 << 20;

/// The first line of a log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Head {
    /// The build's id.
    pub id: String,
    /// When it began, in RFC 3339.
    pub started: String,
    /// The names that the image gets.
    pub tags: Vec<String>,
    /// The Dockerfile's name.
    pub dockerfile: String,
    /// The stage that is wanted; empty: the last.
    pub target: String,
}

/// A log, as a list shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its first line.
    pub head: Head,
    /// Its last line, where the build has ended.
    pub end: Option<Value>,
    /// Its bytes.
    pub size: u64,
}

/// Where logs are.
#[derive(Clone, Debug)]
pub struct Logs(PathBuf);

fn failed(error: std::io::Error) -> Failure {
    Failure::system("look at the logs of builds", error)
}

impl Logs {
    /// Those of a folder, which is made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: PathBuf) -> Result<Logs> {
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(&folder).map_err(failed)?;
        Ok(Logs(folder))
    }

    /// Begins the log of a build: what is told goes there and on. Where the disk has no room for it the build goes on without.
    pub(crate) fn record(&self, request: &Request, dockerfile: &str, tell: Tell) -> Recording {
        let mut bytes = [0; 6];
        let drawn = getrandom::fill(&mut bytes);
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let now = jiff::Timestamp::now();
        let head = Head {
            id: id.clone(),
            started: now.to_string(),
            tags: request.tags.clone(),
            dockerfile: dockerfile.to_owned(),
            target: request.target.clone(),
        };
        // The time first: names have the order of the builds.
        let path = self.0.join(format!("{:014}-{id}.jsonl", now.as_millisecond()));
        let opened = drawn
            .map_err(|error| std::io::Error::other(error.to_string()))
            .and_then(|()| File::options().write(true).create_new(true).open(path));
        let out = opened.and_then(|file| {
            let mut out = BufWriter::new(file);
            serde_json::to_writer(&mut out, &head)?;
            out.write_all(b"\n").and_then(|()| out.flush()).map(|()| out)
        });
        let out = out.map_err(|error| tracing::warn!(%error, "the log of a build is not kept")).ok();
        let out = out.map(|file| Out { file, left: LONGEST });
        Recording { out: Mutex::new(out), begun: Instant::now(), tell }
    }

    /// The files, the oldest first.
    fn files(&self) -> Result<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let (Ok(metadata), true) =
                (entry.metadata(), entry.path().extension().is_some_and(|kind| kind == "jsonl"))
            {
                files.push((entry.path(), metadata.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// All logs, the newest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for (path, size) in self.files()?.into_iter().rev() {
            // One that is removed at this very moment, or was torn by a power cut, is not told.
            let Ok(head) = head(&path) else { continue };
            listed.push(Listed { head, end: end(&path), size });
        }
        Ok(listed)
    }

    /// The log of the build whose id begins so.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn find(&self, id: &str) -> Result<PathBuf> {
        let begins = |path: &Path| {
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.split_once('-').is_some_and(|(_, own)| !id.is_empty() && own.starts_with(id))
        };
        let found: Vec<PathBuf> =
            self.files()?.into_iter().map(|(path, _)| path).filter(|path| begins(path)).collect();
        match <[PathBuf; 1]>::try_from(found) {
            Ok([path]) => Ok(path),
            Err(found) if found.is_empty() => Err(Failure::new(
                Kind::NotFound,
                format!("no such build: {id}: `hull builder logs` lists those whose logs are kept"),
            )),
            Err(found) => {
                Err(Failure::invalid(format!("{} builds have ids that begin with {id}", found.len())))
            }
        }
    }

    /// By what the files of the command that failed are kept: of the build whose id begins so, or of the last that has some.
    ///
    /// # Errors
    /// There is no such build, or nothing of it is kept.
    pub fn kept(&self, id: Option<&str>) -> Result<Digest> {
        let of = |path: &Path| end(path)?["kept"].as_str()?.parse::<Digest>().ok();
        let found = match id {
            Some(id) => of(&self.find(id)?),
            None => self.files()?.iter().rev().find_map(|(path, _)| of(path)),
        };
        found.ok_or_else(|| {
            Failure::new(
                Kind::NotFound,
                "no files of a command that failed are kept of it: those of a RUN are, up to a gigabyte, if hull build built it",
            )
        })
    }

    /// Removes the oldest that are over the limits, of builds that have ended.
    pub(crate) fn tidy(&self) {
        self.keep(KEPT, BYTES);
    }

    /// Removes all of builds that have ended.
    pub(crate) fn clear(&self) {
        self.keep(0, 0);
    }

    fn keep(&self, count: usize, bytes: u64) {
        let Ok(files) = self.files() else { return };
        let (mut left, mut total) = (files.len(), files.iter().map(|(_, size)| size).sum::<u64>());
        for (path, size) in files {
            if left <= count && total <= bytes {
                return;
            }
            if is_open(&path) {
                continue;
            }
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, "the log of a build stays");
            }
            left -= 1;
            total = total.saturating_sub(size);
        }
    }
}

/// Whether its build goes on: it holds a lock, which goes with whoever holds it.
fn is_open(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}

fn head(path: &Path) -> std::io::Result<Head> {
    let mut line = String::new();
    BufReader::new(File::open(path)?).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// The last line, where it is an end; one that is cut off has none.
fn end(path: &Path) -> Option<Value> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // An end is short but for what a command printed last.
    let start = length.saturating_sub(64 << 10);
    let mut bytes = vec![0; usize::try_from(length - start).ok()?];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, start).ok()?;
    let line = bytes.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()?;
    let line: Value = serde_json::from_slice(line).ok()?;
    (line["event"] == "end").then_some(line)
}

/// A log that is written.
struct Out {
    file: BufWriter<File>,
    /// So many bytes may still come.
    left: u64,
}

impl Out {
    fn line(&mut self, value: &Value) -> std::io::Result<()> {
        let (is_end, is_output) = (value["event"] == "end", value["event"] == "output");
        if self.left == 0 && !is_end {
            return Ok(());
        }
        let mut line = serde_json::to_vec(value)?;
        if line.len() as u64 >= self.left && !is_end {
            let words = format!("the log is cut off here: {LONGEST} bytes are kept of it\n");
            line = serde_json::to_vec(&json!({ "event": "cut", "at": value["at"], "text": words }))?;
            self.left = 0;
        }
        self.left = self.left.saturating_sub(line.len() as u64);
        line.push(b'\n');
        self.file.write_all(&line)?;
        if is_output { Ok(()) } else { self.file.flush() }
    }
}

/// A build whose log is written.
pub(crate) struct Recording {
    out: Mutex<Option<Out>>,
    begun: Instant,
    tell: Tell,
}

impl Recording {
    /// Holds the log's lock from now on.
    pub(crate) fn begun(self) -> Recording {
        if let Some(out) = &*self.out.lock().unwrap_or_else(PoisonError::into_inner) {
            let locked =
                rustix::fs::flock(out.file.get_ref(), rustix::fs::FlockOperation::NonBlockingLockExclusive);
            if let Err(error) = locked {
                tracing::debug!(%error, "the log of a build is not locked");
            }
        }
        self
    }

    fn line(&self, value: &mut Value) {
        value["at"] = json!((self.begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0);
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = out.as_mut() else { return };
        if let Err(error) = file.line(value) {
            tracing::warn!(%error, "the rest of a build's log is not kept");
            *out = None;
        }
    }

    /// Its last line: how the build ended.
    pub(crate) fn ended(&self, image: Result<String, &Failure>) {
        let mut line = json!({ "event": "end" });
        match image {
            Ok(id) => line["image"] = json!(id),
            Err(failure) => {
                line["error"] = json!(failure.message);
                line["excerpt"] = json!(failure.detail.excerpt);
                line["kept"] = json!(failure.detail.kept);
            }
        }
        self.line(&mut line);
    }
}

impl Listener for Recording {
    fn event(&self, event: Event) {
        if let Ok(mut line) = serde_json::to_value(&event) {
            self.line(&mut line);
        }
        self.tell.event(event);
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.tell.room()
    }

    fn pulling(&self, step: &PullStep) {
        self.tell.pulling(step);
    }

    fn pulled(&self, name: &Reference, pulled: &Pulled) {
        self.tell.pulled(name, pulled);
    }

    fn output(&self, number: usize) -> Option<Sink> {
        self.tell.output(number)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::progress::Silence;

    #[test]
    fn logs_are_kept_listed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path().join("logs")).unwrap();
        let request = Request { tags: vec!["a".to_owned()], ..Request::default() };
        let recording = logs.record(&request, "Dockerfile", Arc::new(Silence)).begun();
        recording.event(Event::Output { step: 1, text: "words\n".to_owned(), error: false });
        // It goes on: it is listed, and stays.
        logs.clear();
        let listed = logs.list().unwrap();
        assert_eq!((listed.len(), listed[0].head.tags.as_slice()), (1, &["a".to_owned()][..]));
        assert!(listed[0].end.is_none());
        recording.ended(Err(&Failure::invalid("why")));
        drop(recording);
        let listed = logs.list().unwrap();
        assert_eq!(listed[0].end.as_ref().unwrap()["error"], "why");
        let text = fs::read_to_string(logs.find(&listed[0].head.id[..4]).unwrap()).unwrap();
        assert!(text.contains("words") && text.lines().count() == 3, "{text}");
        assert!(logs.find("zz").is_err() && logs.find("").is_err());
        for _ in 0..3 {
            logs.record(&request, "D", Arc::new(Silence)).ended(Ok("sha256:00".to_owned()));
        }
        logs.keep(2, u64::MAX);
        assert_eq!(logs.list().unwrap().len(), 2);
        logs.clear();
        assert!(logs.list().unwrap().is_empty());
    }
    #[test]
    fn a_log_that_is_too_long_is_cut_off_and_has_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path().join("logs")).unwrap();
        let recording = logs.record(&Request::default(), "Dockerfile", Arc::new(Silence)).begun();
        let text = "x".repeat(1 << 20);
        for _ in 0..20 {
            recording.event(Event::Output { step: 1, text: text.clone(), error: false });
        }
        recording.ended(Ok("sha256:00".to_owned()));
        let listed = logs.list().unwrap();
        assert!(listed[0].size <= LONGEST + 4096 && listed[0].end.is_some(), "{listed:?}");
        let text = fs::read_to_string(logs.find(&listed[0].head.id).unwrap()).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("cut off")).count(), 1);
    }
}
