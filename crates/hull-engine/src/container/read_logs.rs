//! Reading back what a container printed, to its end or as it comes.
//!
//! A follower is woken by the kernel (inotify on the log's folder), by the container's end and by the time it
//! was given, never by a clock that ticks. The watch is there before the first file is opened, so nothing that
//! is written behind the reader's back is missed; and the container's end is told when its log is complete, so
//! one last look has all of it. A second watch opens each file as it comes, also while the client is slow: what
//! is open, no rotation takes away.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hull_runtime::protocol::LogPlace;
use hull_runtime::shim::log::Stream;
use hull_runtime::shim::log::read::{Entry, Keeper, Query, Reader};
use rustix::fs::inotify;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Container, Lifetime, LogOptions, Status, log_attributes, logs, now_ns};
use crate::watched::watched;
use crate::{Engine, Error, Kind, Result};

/// So much is read before it is handed on, in bytes.
const BATCH: usize = 64 << 10;

/// What a container printed, ready to be sent.
pub struct Logs {
    /// None: all has been read, or a thread reads just now.
    reader: Option<Reader>,
    style: Style,
    /// What a follower waits for; none: the end of the files is the end.
    follow: Option<Follow>,
    /// Holds the sender of `follow.lifetime`.
    _container: Arc<Container>,
}

/// How an entry is shown.
#[derive(Clone, Debug, Default)]
struct Style {
    stdout: bool,
    stderr: bool,
    timestamps: bool,
    /// What stands before each line with `details`.
    details: Option<String>,
    framed: bool,
}

struct Follow {
    changes: AsyncFd<OwnedFd>,
    /// Opens files as they come.
    keeper: Option<AbortHandle>,
    lifetime: watch::Receiver<Lifetime>,
    /// How often the container had ended when this began.
    ends: u64,
    until_ns: Option<i64>,
    /// There will be no more: what is there is read to its end.
    last_look: bool,
}

impl Engine {
    /// Opens a container's log. With `framed` each entry is a frame of Docker's; a terminal's output never is.
    ///
    /// # Errors
    /// No stream is chosen, the container keeps no log, or it is about to be removed.
    pub fn logs(&self, container: &Arc<Container>, options: &LogOptions, framed: bool) -> Result<Logs> {
        if !options.stdout && !options.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        let record = container.record().clone();
        if matches!(record.state.status, Status::Removing | Status::Dead) {
            return Err(Error::conflict(
                "can not get logs from container which is dead or marked for removal",
            ));
        }
        let unreadable =
            || Error::new(Kind::NotImplemented, "configured logging driver does not support reading");
        let folder = self.container_dir(&record.id);
        if record.host_config.log_config.driver == "none" {
            return Err(unreadable());
        }
        // One that does not run prints no more. Looked at behind the count of its ends: an end in between is seen.
        let follow =
            if options.follow { Some(Follow::begin(container, &folder, options.until_ns)?) } else { None };
        let mut follow = follow.filter(|_| container.record().is_running());
        let query = Query {
            tail: options.tail.map(|tail| tail as u64),
            since_ns: options.since_ns.map(|since| u64::try_from(since).unwrap_or(0)),
            until_ns: options.until_ns.map(|until| u64::try_from(until).unwrap_or(0)),
            follow: follow.is_some(),
        };
        let log = logs::to_shim(&record, &folder)?;
        let reader = Reader::open(&log, query)?.ok_or_else(unreadable)?;
        if let Some(follow) = &mut follow {
            follow.keep_files(&folder, reader.keeper())?;
        }
        let style = Style {
            stdout: options.stdout,
            stderr: options.stderr,
            timestamps: options.timestamps,
            details: options.details.then(|| details(&log_attributes::attributes(&record))),
            framed: framed && !record.config.tty,
        };
        Ok(Logs { reader: Some(reader), style, follow, _container: Arc::clone(container) })
    }
}

impl Container {
    /// Whether its output is a terminal's.
    pub fn has_terminal(&self) -> bool {
        self.record().config.tty
    }
}

impl Logs {
    /// The next bytes to be sent; none: that was all.
    ///
    /// # Errors
    /// The files cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let following = self.follow.is_some();
            let batch = self.read(following).await?;
            let goes_on = match &mut self.follow {
                // Nothing now: what comes wakes the follower.
                Some(follow) if !batch.over && !follow.last_look => {
                    if batch.bytes.is_empty() {
                        follow.wait().await?;
                        continue;
                    }
                    true
                }
                _ => batch.more && !batch.over,
            };
            if !goes_on {
                self.reader = None;
            }
            return Ok(if batch.bytes.is_empty() { None } else { Some(batch.bytes) });
        }
    }

    /// Reads no further than to this place; none: to the end.
    pub(super) fn end_at(&mut self, place: Option<LogPlace>) {
        if let Some(reader) = &mut self.reader {
            reader.end_at(place);
        }
    }

    /// Reads no further than to where the log ends at this moment.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub(super) fn end_here(&mut self) -> Result<()> {
        let place = self.reader.as_ref().map(Reader::place_of_end).transpose()?;
        self.end_at(place.flatten());
        Ok(())
    }

    /// Whether the container ran when this was opened, and it is read to the container's end.
    pub(super) fn follows(&self) -> bool {
        self.follow.is_some()
    }

    /// What there is at this moment; none: nothing more.
    ///
    /// # Errors
    /// The files cannot be read.
    pub(super) async fn now(&mut self) -> Result<Option<Vec<u8>>> {
        let batch = self.read(true).await?;
        Ok(if batch.bytes.is_empty() { None } else { Some(batch.bytes) })
    }

    async fn read(&mut self, following: bool) -> Result<Batch> {
        let Some(mut reader) = self.reader.take() else { return Ok(Batch::default()) };
        let style = self.style.clone();
        let read = tokio::task::spawn_blocking(move || {
            let batch = batch(&mut reader, &style, following);
            (reader, batch)
        });
        let (reader, batch) = read.await.map_err(|error| Error::system("read a container's log", error))?;
        self.reader = Some(reader);
        batch
    }
}

/// What was read in one go.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// It was enough for now, and there may be more.
    more: bool,
    /// What comes is later than wanted.
    over: bool,
}

/// Reads entries until there are enough, or none any more.
fn batch(reader: &mut Reader, style: &Style, following: bool) -> Result<Batch> {
    let mut bytes = Vec::new();
    while bytes.len() < BATCH {
        match reader.next_entry()? {
            Some(entry) => style.show(&entry, &mut bytes),
            // A rotation may have come in between.
            None if following && reader.poll_more()? => {}
            None => return Ok(Batch { bytes, more: false, over: reader.is_over() }),
        }
    }
    Ok(Batch { bytes, more: true, over: false })
}

impl Style {
    fn show(&self, entry: &Entry, out: &mut Vec<u8>) {
        let wanted = match entry.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        if !wanted {
            return;
        }
        let start = out.len();
        if self.framed {
            out.extend_from_slice(&[entry.stream as u8, 0, 0, 0, 0, 0, 0, 0]);
        }
        let text = out.len();
        if self.timestamps {
            out.extend_from_slice(moment(entry.time_ns).as_bytes());
            out.push(b' ');
        }
        if let Some(details) = &self.details {
            out.extend_from_slice(details.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(&entry.bytes);
        if self.framed {
            // An entry has 16 KiB at most.
            let length = (out.len() - text) as u32;
            out[start + 4..text].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// RFC 3339 with all nine digits of the fraction, so that lines stand in columns.
fn moment(time_ns: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// Attributes as Docker shows them: escaped as in a query, sorted, with commas between.
fn details<'a>(attributes: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let pairs = attributes.into_iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// As Go's `url.QueryEscape`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            b' ' => escaped.push('+'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

impl Follow {
    fn begin(container: &Container, folder: &Path, until_ns: Option<i64>) -> Result<Follow> {
        let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        let changes = watch_folder(folder, what)?;
        let lifetime = container.lifetime.subscribe();
        let ends = lifetime.borrow().ends;
        Ok(Follow { changes, keeper: None, lifetime, ends, until_ns, last_look: false })
    }

    fn keep_files(&mut self, folder: &Path, files: Keeper) -> Result<()> {
        let created = watch_folder(folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
        let keeper = tokio::spawn(async move {
            loop {
                let kept = match files.take_up_newer() {
                    Ok(()) => next_change(&created).await,
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = kept {
                    tracing::warn!(%error, "a container's log is followed without a hold on its next files");
                    return;
                }
            }
        });
        self.keeper = Some(keeper.abort_handle());
        Ok(())
    }

    /// Waits until there may be more, or there will be no more.
    async fn wait(&mut self) -> Result<()> {
        let ends = self.ends;
        let ended = self.lifetime.wait_for(|now| now.ends > ends || now.removed);
        let until = self.until_ns.map(|until| until.saturating_sub(now_ns()));
        let time_is_up = async {
            match until {
                Some(left) => {
                    tokio::time::sleep(Duration::from_nanos(u64::try_from(left).unwrap_or(0))).await
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = next_change(&self.changes) => changed?,
            _ = ended => self.last_look = true,
            () = time_is_up => self.last_look = true,
        }
        Ok(())
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

/// Begins to be told of changes in a folder.
fn watch_folder(folder: &Path, what: inotify::WatchFlags) -> Result<AsyncFd<OwnedFd>> {
    let failed = |error: std::io::Error| {
        Error::system(format_args!("watch the log folder {}", folder.display()), error)
    };
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let watch = inotify::init(flags).map_err(|error| failed(error.into()))?;
    inotify::add_watch(&watch, folder, what).map_err(|error| failed(error.into()))?;
    watched(watch, Interest::READABLE).map_err(failed)
}

/// Waits for a change. What it is is of no interest, only that there is one.
async fn next_change(watch: &AsyncFd<OwnedFd>) -> Result<()> {
    let failed = |error: std::io::Error| Error::system("watch a container's log", error);
    let mut ready = watch.readable().await.map_err(failed)?;
    let mut events = [0; 4096];
    loop {
        match rustix::io::read(watch.get_ref(), &mut events) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    ready.clear_ready();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn shown(style: &Style, stream: Stream) -> String {
        let entry =
            Entry { time_ns: 1_700_000_000_120_000_000, stream, bytes: b"text\n".to_vec(), partial: false };
        let mut out = Vec::new();
        style.show(&entry, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn entries_are_shown_as_docker_does() {
        let both = Style { stdout: true, stderr: true, ..Style::default() };
        assert_eq!(shown(&both, Stream::Stdout), "text\n");
        let framed = Style { framed: true, ..both.clone() };
        assert_eq!(shown(&framed, Stream::Stderr), "\u{2}\0\0\0\0\0\0\u{5}text\n");
        let timed = Style { timestamps: true, details: Some("a=b".to_owned()), ..both.clone() };
        assert_eq!(shown(&timed, Stream::Stdout), "2023-11-14T22:13:20.120000000Z a=b text\n");
        let one = Style { stderr: false, ..both };
        assert_eq!(shown(&one, Stream::Stderr), "");
    }

    #[test]
    fn details_are_escaped_and_sorted() {
        let attributes =
            BTreeMap::from([("b", "x y"), ("a", "1,2=ä")].map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert_eq!(details(&attributes), "a=1%2C2%3D%C3%A4,b=x+y");
        assert_eq!(details(&BTreeMap::new()), "");
    }
}
