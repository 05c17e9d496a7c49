//! A registry of a test's own, on a port of the loopback: it serves what it was given, and misbehaves as it is told.
//!
//! It is written by hand down to the bytes, so that it can say what no well-behaved server would.

mod upload;

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Tar;

/// How much is written at once.
const PIECE: usize = 16 << 10;

/// What the registry is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The verb.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether a blob is asked for.
    pub fn is_blob(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/")
    }

    /// From which byte on.
    fn start(&self) -> u64 {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or(0)
    }
}

/// What comes behind an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next request.
    GoOn,
    /// The line is cut.
    Cut,
    /// Nothing, for as long as the registry lives.
    Stall,
    /// The body again and again, until nobody listens.
    Endless,
    /// The line is closed, as by a server of HTTP/1.0: its end alone says how long the body is.
    Close,
}

/// What it answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers besides the length.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The length that is said, where it is not the body's.
    pub length: Option<u64>,
    /// What comes behind the body.
    pub then: Then,
}

impl Answer {
    /// A body of that type.
    pub fn of(status: u16, media_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        let headers = vec![("Content-Type".to_owned(), media_type.to_owned())];
        Answer { status, headers, body: body.into(), length: None, then: Then::GoOn }
    }

    /// A body of JSON.
    pub fn json(status: u16, value: &Value) -> Answer {
        Answer::of(status, "application/json", value.to_string())
    }

    /// The same with a header.
    pub fn with(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with only so much of its body, and then that.
    pub fn cut(mut self, at: usize, then: Then) -> Answer {
        self.length.get_or_insert(self.body.len() as u64);
        self.body.truncate(at);
        self.then = then;
        self
    }

    /// What a registry without the named thing says.
    pub fn unknown(code: &str, message: &str) -> Answer {
        Answer::json(404, &json!({ "errors": [{ "code": code, "message": message }] }))
    }
}

/// What a misbehaving registry does in the place of what it should; none: what it should.
type Whim = Box<dyn Fn(&Asked, Answer) -> Answer + Send + Sync>;

/// After how many bytes a request is cut, by its number.
type Cuts = Arc<dyn Fn(usize) -> Option<usize> + Send + Sync>;

#[derive(Default)]
struct State {
    /// By their paths behind the repository: `blobs/sha256:…`, `manifests/latest`.
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    /// Blobs that are being sent here.
    uploads: Mutex<HashMap<String, Vec<u8>>>,
    uploads_begun: AtomicU64,
    asked: Mutex<Vec<Asked>>,
    changed: Condvar,
    whim: Mutex<Option<Arc<Whim>>>,
    /// Bytes of blobs that were sent.
    sent: AtomicU64,
    lines: AtomicU64,
    ended: AtomicBool,
    /// What is sent is not read.
    deaf: AtomicBool,
    /// After how many bytes of the body the line is cut, by the number of the request that sends a part of a blob.
    cuts: Mutex<Option<Cuts>>,
    parts: AtomicUsize,
}

impl State {
    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does nothing, for as long as the registry lives.
    fn stall(&self) {
        let asked = self.lock(&self.asked);
        let ended = |_: &mut Vec<Asked>| !self.ended.load(Ordering::Relaxed);
        drop(self.changed.wait_while(asked, ended));
    }
}

/// The registry. Dropped, it answers nobody any more.
pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    state: Arc<State>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("address", &self.address).finish_non_exhaustive()
    }
}

/// `sha256:…` of these bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// OCI's manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

impl Registry {
    /// Starts it on a free port, in the network namespace of the thread that asks.
    ///
    /// # Panics
    /// There is no loopback.
    pub fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
        let address = listener.local_addr().expect("its address").to_string();
        let state = Arc::new(State::default());
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for line in listener.incoming().flatten() {
                if serving.ended.load(Ordering::Relaxed) {
                    return;
                }
                serving.lines.fetch_add(1, Ordering::Relaxed);
                let state = Arc::clone(&serving);
                std::thread::spawn(move || serve(&state, line));
            }
        });
        Registry { address, state }
    }

    /// Has it do something else than it should from now on; it gets what it would have answered.
    pub fn misbehave(&self, whim: impl Fn(&Asked, Answer) -> Answer + Send + Sync + 'static) {
        *self.state.lock(&self.state.whim) = Some(Arc::new(Box::new(whim)));
    }

    /// Has it read nothing any more of the blobs that it is sent.
    pub fn be_deaf(&self) {
        self.state.deaf.store(true, Ordering::Relaxed);
    }

    /// Has it cut the line amid what it is sent of blobs: `after` so many bytes, by the request's number. It keeps what has
    /// come, and tells how much that is.
    pub fn cut_uploads(&self, after: impl Fn(usize) -> Option<usize> + Send + Sync + 'static) {
        *self.state.lock(&self.state.cuts) = Some(Arc::new(after));
    }

    /// Has it do what it should.
    pub fn behave(&self) {
        *self.state.lock(&self.state.whim) = None;
    }

    /// Puts something in, by its path behind the repository.
    pub fn put(&self, path: &str, media_type: &str, bytes: impl Into<Vec<u8>>) {
        self.state.lock(&self.state.content).insert(path.to_owned(), (media_type.to_owned(), bytes.into()));
    }

    /// Puts a blob in, and gives back its digest.
    pub fn blob(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.put(&format!("blobs/{digest}"), "application/octet-stream", bytes);
        digest
    }

    /// Puts a manifest or an index in, by its digest and a tag, and gives back its digest.
    pub fn manifest(&self, tag: &str, media_type: &str, value: &Value) -> String {
        let bytes = value.to_string();
        let digest = digest(bytes.as_bytes());
        self.put(&format!("manifests/{digest}"), media_type, bytes.clone());
        self.put(&format!("manifests/{tag}"), media_type, bytes);
        digest
    }

    /// Puts in an image for this machine: the busybox root file system, and above it a layer for each of `sizes`, with
    /// one file `/N` of so many bytes that do not compress. Its manifest is given back.
    pub fn image(&self, tag: &str, sizes: &[usize]) -> Value {
        let mut layers = vec![crate::busybox_rootfs().finish()];
        layers.extend(sizes.iter().enumerate().map(|(number, &size)| {
            Tar::new().file(&number.to_string(), &noise(number as u64 + 1, size)).finish()
        }));
        self.image_of(tag, &layers)
    }

    /// Puts in an image of these layers.
    pub fn image_of(&self, tag: &str, layers: &[Vec<u8>]) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "os": "linux",
            "architecture": architecture,
            "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
        .to_string();
        let config_digest = self.blob(config.as_bytes());
        let descriptors: Vec<Value> = layers
            .iter()
            .map(|layer| json!({ "mediaType": LAYER, "digest": self.blob(layer), "size": layer.len() }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": config_digest, "size": config.len() },
            "layers": descriptors,
        });
        self.manifest(tag, MANIFEST, &manifest);
        manifest
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock(&self.state.asked).clone()
    }

    /// Waits until it has been asked something.
    ///
    /// # Panics
    /// It was not within a minute.
    pub fn wait_for(&self, what: impl Fn(&Asked) -> bool) {
        let asked = self.state.lock(&self.state.asked);
        let wait = self
            .state
            .changed
            .wait_timeout_while(asked, Duration::from_secs(60), |all| !all.iter().any(&what));
        let (asked, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
        drop(asked);
        assert!(!timeout.timed_out(), "the registry was not asked what it should be");
    }

    /// How many bytes of blobs it has sent.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// How many lines it has been called on.
    pub fn lines(&self) -> u64 {
        self.state.lines.load(Ordering::Relaxed)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.state.changed.notify_all();
        // Wakes the one who listens.
        TcpStream::connect(&self.address).ok();
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn serve(state: &State, line: TcpStream) {
    line.set_nodelay(true).ok();
    let mut reader = BufReader::new(line.try_clone().expect("one's own socket can be cloned"));
    let mut line = line;
    while let Some(asked) = read(state, &mut reader) {
        let mut answer = proper(state, &asked);
        let whim = state.lock(&state.whim).clone();
        if let Some(whim) = whim {
            answer = whim(&asked, answer);
        }
        {
            let mut all = state.lock(&state.asked);
            all.push(asked.clone());
            state.changed.notify_all();
        }
        if write(state, &mut line, &asked, &answer).is_none() {
            break;
        }
    }
    line.shutdown(Shutdown::Both).ok();
}

/// Reads a request; none where what comes is none.
fn read(state: &State, reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut first = Vec::new();
    reader.by_ref_until(b'\n', &mut first)?;
    let first = String::from_utf8(first).ok()?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if method == "PATCH" && state.deaf.load(Ordering::Relaxed) {
        state.stall();
        return None;
    }
    let limit = if method == "PATCH" { upload::cut(state) } else { None };
    let (body, whole) = upload::body(&headers, reader, limit.unwrap_or(usize::MAX))?;
    let asked = Asked { method, path, headers, body };
    if whole {
        return Some(asked);
    }
    upload::proper(state, &asked);
    state.lock(&state.asked).push(asked);
    state.changed.notify_all();
    None
}

/// Reading up to a byte, of something that may be no text at all.
trait Until {
    fn by_ref_until(&mut self, end: u8, into: &mut Vec<u8>) -> Option<usize>;
}

impl Until for BufReader<TcpStream> {
    fn by_ref_until(&mut self, end: u8, into: &mut Vec<u8>) -> Option<usize> {
        self.read_until(end, into).ok().filter(|&count| count > 0)
    }
}

/// What a registry should answer.
fn proper(state: &State, asked: &Asked) -> Answer {
    if let Some(answer) = upload::proper(state, asked) {
        return answer;
    }
    let path = asked.path.split('?').next().unwrap_or_default();
    if path == "/v2/" {
        return Answer::json(200, &json!({}));
    }
    let parts: Vec<&str> = path.split('/').collect();
    let name = parts[parts.len().saturating_sub(2)..].join("/");
    if name == "tags/list" {
        let content = state.lock(&state.content);
        let tags = content.keys().filter_map(|key| key.strip_prefix("manifests/"));
        let mut tags: Vec<&str> = tags.filter(|tag| !tag.contains(':')).collect();
        tags.sort_unstable();
        return Answer::json(200, &json!({ "name": "a", "tags": tags }));
    }
    let found = state.lock(&state.content).get(&name).cloned();
    let Some((media_type, bytes)) = found else {
        return match name.starts_with("blobs/") {
            true => Answer::unknown("BLOB_UNKNOWN", "blob unknown to registry"),
            false => Answer::unknown("MANIFEST_UNKNOWN", "manifest unknown"),
        };
    };
    let start = usize::try_from(asked.start()).unwrap_or(usize::MAX);
    let whole = bytes.len();
    let answer = match start {
        0 => Answer::of(200, &media_type, bytes),
        start if start >= whole => Answer::of(416, "text/plain", ""),
        start => Answer::of(206, &media_type, &bytes[start..])
            .with("Content-Range", &format!("bytes {start}-{}/{whole}", whole - 1)),
    };
    match name.strip_prefix("manifests/") {
        Some(_) => {
            let digest = digest(&answer.body);
            answer.with("Docker-Content-Digest", &digest)
        }
        None => answer,
    }
}

/// Writes an answer; none where the line ends with it.
fn write(state: &State, line: &mut TcpStream, asked: &Asked, answer: &Answer) -> Option<()> {
    let version = if answer.then == Then::Close { "1.0" } else { "1.1" };
    let mut head = format!("HTTP/{version} {} -\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match answer.then {
        // Without a length the body goes on until the line is closed.
        Then::Endless | Then::Close => head.push_str("Connection: close\r\n"),
        _ => {
            let length = answer.length.unwrap_or(answer.body.len() as u64);
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
    }
    head.push_str("\r\n");
    line.write_all(head.as_bytes()).ok()?;
    if asked.method == "HEAD" {
        return (answer.then != Then::Close).then_some(());
    }
    loop {
        for piece in answer.body.chunks(PIECE) {
            line.write_all(piece).ok()?;
            if asked.is_blob() {
                state.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        }
        match answer.then {
            Then::GoOn => return Some(()),
            Then::Cut | Then::Close => return None,
            Then::Endless if answer.body.is_empty() => return None,
            Then::Endless => {}
            Then::Stall => {
                state.stall();
                return None;
            }
        }
    }
}
