//! Something that answers like systemd on a bus of its own: it takes what a client asks for, writes it down, and puts
//! processes into the cgroups of the units. It speaks as much of D-Bus as that takes, by itself.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::cleanup::{self, cgroups_of};

/// What is asked for and what comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// All that it is asked for.
    All,
    /// Its jobs fail.
    Fails,
    /// It says that all is done, and moves nothing.
    Lies,
    /// The first unit of a name is there already, as one that failed.
    HasAnOldOne,
}

/// A call: the method and what came with it, variants as what is in them.
pub type Call = (String, Value);

/// A running one; dropped, the cgroups of its slice are removed.
#[derive(Debug)]
pub struct FakeSystemd {
    socket: PathBuf,
    slice: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl FakeSystemd {
    /// Listens in `dir`; its units are in `slice`, the cgroup of which is in the root.
    ///
    /// # Panics
    /// Where it cannot listen there.
    pub fn start(dir: &Path, slice: &str, does: Does) -> Self {
        let socket = dir.join("bus.sock");
        let listener = UnixListener::bind(&socket).expect("the bus's socket");
        let calls = Arc::new(Mutex::new(Vec::new()));
        let peer = Peer { slice: slice.to_owned(), does, calls: Arc::clone(&calls) };
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let peer = peer.clone();
                std::thread::spawn(move || peer.serve(stream));
            }
        });
        Self { socket, slice: slice.to_owned(), calls }
    }

    /// What clients have in `DBUS_SYSTEM_BUS_ADDRESS`.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket.display())
    }

    /// The calls of a method, in their order.
    pub fn calls(&self, method: &str) -> Vec<Value> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|(name, _)| name == method).map(|(_, body)| body.clone()).collect()
    }
}

impl Drop for FakeSystemd {
    fn drop(&mut self) {
        cgroups_of(&self.slice).iter().for_each(|folder| cleanup::remove_cgroup(folder));
    }
}

#[derive(Clone, Debug)]
struct Peer {
    slice: String,
    does: Does,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Peer {
    fn serve(&self, mut stream: UnixStream) -> Option<()> {
        let greeting = line(&mut stream)?;
        let user: String = rustix::process::geteuid().as_raw().to_string().bytes().map(hex).collect();
        if greeting != format!("\0AUTH EXTERNAL {user}") {
            return stream.write_all(b"REJECTED EXTERNAL\r\n").ok();
        }
        stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").ok()?;
        (line(&mut stream)? == "BEGIN").then_some(())?;
        loop {
            let (serial, method, body) = message(&mut stream)?;
            let again = {
                let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
                calls.push((method.clone(), body.clone()));
                calls.iter().filter(|(name, _)| *name == method).count() > 1
            };
            self.answer(&mut stream, serial, &method, &body, again)?;
        }
    }

    fn answer(
        &self,
        stream: &mut UnixStream,
        serial: u32,
        method: &str,
        body: &Value,
        again: bool,
    ) -> Option<()> {
        const NO_SUCH: &str = "org.freedesktop.systemd1.NoSuchUnit";
        const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
        let unit = body[0].as_str().unwrap_or_default();
        match method {
            "StartTransientUnit" if self.does == Does::HasAnOldOne && !again => {
                stream.write_all(&answer(3, serial, Some(EXISTS), "s", &text("it was already loaded"))).ok()
            }
            "StartTransientUnit" => {
                let moves = !matches!(self.does, Does::Lies | Does::Fails);
                if moves {
                    self.place(unit, property(&body[2], "PIDs"));
                }
                self.job(stream, serial, unit)
            }
            "StopUnit" => {
                self.own_folders(unit).for_each(|folder| cleanup::remove_cgroup(&folder));
                self.job(stream, serial, unit)
            }
            "ResetFailedUnit" => {
                stream.write_all(&answer(3, serial, Some(NO_SUCH), "s", &text("not loaded"))).ok()
            }
            "Hello" => stream.write_all(&answer(2, serial, None, "s", &text(":1.7"))).ok(),
            _ => stream.write_all(&answer(2, serial, None, "", &[])).ok(),
        }
    }

    /// Answers with a job, and tells of its end; before it, of another's.
    fn job(&self, stream: &mut UnixStream, serial: u32, unit: &str) -> Option<()> {
        let result = if self.does == Does::Fails { "failed" } else { "done" };
        stream.write_all(&removed("/job/1", "other.scope", "failed")).ok()?;
        stream.write_all(&answer(2, serial, None, "o", &text("/job/2"))).ok()?;
        stream.write_all(&removed("/job/2", unit, result)).ok()
    }

    /// Where systemd has a unit's processes by itself: on v2 the unit's cgroup, on v1 that of its own hierarchy.
    fn own_folders(&self, unit: &str) -> impl Iterator<Item = PathBuf> {
        let below = Path::new(&self.slice).join(unit);
        let own = |root: &PathBuf| root.join("cgroup.controllers").exists() || root.ends_with("systemd");
        cgroups_of("").into_iter().filter(own).map(move |root| root.join(&below))
    }

    fn place(&self, unit: &str, pids: &Value) {
        for folder in self.own_folders(unit) {
            fs::create_dir_all(&folder).expect("a cgroup can be made");
            for pid in pids.as_array().into_iter().flatten() {
                fs::write(folder.join("cgroup.procs"), pid.to_string()).expect("a process is moved");
            }
        }
    }
}

/// A property among those that a call came with; null where there is none.
pub fn property<'a>(properties: &'a Value, name: &str) -> &'a Value {
    let mut all = properties.as_array().into_iter().flatten();
    all.find(|pair| pair[0] == name).map_or(&Value::Null, |pair| &pair[1])
}

fn hex(byte: u8) -> String {
    format!("{byte:02x}")
}

fn line(stream: &mut UnixStream) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        line.push(byte[0]);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).ok()
}

/// The next method call: its serial, the method, and the body.
fn message(stream: &mut UnixStream) -> Option<(u32, String, Value)> {
    let mut all = vec![0; 16];
    stream.read_exact(&mut all).ok()?;
    let number = |at: usize| u32::from_le_bytes(all[at..at + 4].try_into().unwrap_or_default());
    let (body, serial, fields) = (number(4) as usize, number(8), number(12) as usize);
    let begin = (16 + fields).next_multiple_of(8);
    all.resize(begin + body, 0);
    stream.read_exact(&mut all[16..]).ok()?;
    let mut head = Bytes { all: &all, at: 12 };
    let (mut method, mut signature) = (String::new(), String::new());
    for field in head.value("a(yv)")?.as_array()? {
        match field[0].as_u64() {
            Some(3) => method = field[1].as_str()?.to_owned(),
            Some(8) => signature = field[1].as_str()?.to_owned(),
            _ => {}
        }
    }
    let mut reader = Bytes { all: &all[begin..], at: 0 };
    Some((serial, method, reader.values(&signature)?))
}

struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    fn number(&mut self, size: usize) -> Option<u64> {
        self.at = self.at.next_multiple_of(size);
        let mut number = [0; 8];
        number[..size].copy_from_slice(self.all.get(self.at..self.at + size)?);
        self.at += size;
        Some(u64::from_le_bytes(number))
    }

    fn text(&mut self, size: usize) -> Option<String> {
        let length = self.number(size)? as usize;
        let text = String::from_utf8(self.all.get(self.at..self.at + length)?.to_vec()).ok()?;
        self.at += length + 1;
        Some(text)
    }

    fn values(&mut self, mut signature: &str) -> Option<Value> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (one, rest) = signature.split_at(one(signature));
            values.push(self.value(one)?);
            signature = rest;
        }
        Some(Value::Array(values))
    }

    fn value(&mut self, signature: &str) -> Option<Value> {
        Some(match signature.as_bytes().first()? {
            b'y' => json!(self.number(1)?),
            b'b' => json!(self.number(4)? == 1),
            b'i' | b'u' => json!(self.number(4)?),
            b'x' | b't' => json!(self.number(8)?),
            b's' | b'o' => json!(self.text(4)?),
            b'g' => json!(self.text(1)?),
            b'v' => {
                let inner = self.text(1)?;
                self.value(&inner)?
            }
            b'a' => {
                let length = self.number(4)? as usize;
                let element = &signature[1..];
                let wide = element.starts_with(['(', 't', 'x', 'd']);
                self.at = self.at.next_multiple_of(if wide { 8 } else { 1 });
                let (end, mut values) = (self.at + length, Vec::new());
                while self.at < end {
                    values.push(self.value(element)?);
                }
                Value::Array(values)
            }
            b'(' => {
                self.at = self.at.next_multiple_of(8);
                self.values(&signature[1..signature.len() - 1])?
            }
            other => panic!("a type that no one sends: {}", *other as char),
        })
    }
}

/// The length of a signature's first type.
fn one(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'a') => 1 + one(&signature[1..]),
        Some(b'(') => {
            let mut depth = 0;
            let end = signature.bytes().position(|letter| {
                depth += i32::from(letter == b'(') - i32::from(letter == b')');
                depth == 0
            });
            end.map_or(signature.len(), |end| end + 1)
        }
        _ => 1,
    }
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// A text or a path.
fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_le_bytes()[..], text.as_bytes(), &[0]].concat()
}

fn answer(kind: u8, serial: u32, error: Option<&str>, signature: &str, body: &[u8]) -> Vec<u8> {
    let mut fields = vec![field(5, "u", &serial.to_le_bytes())];
    fields.extend(error.map(|error| field(4, "s", &text(error))));
    whole(kind, fields, signature, body)
}

fn removed(job: &str, unit: &str, result: &str) -> Vec<u8> {
    let mut body = 1_u32.to_le_bytes().to_vec();
    for part in [job, unit, result] {
        align(&mut body, 4);
        body.extend(text(part));
    }
    let fields = vec![
        field(1, "o", &text("/org/freedesktop/systemd1")),
        field(2, "s", &text("org.freedesktop.systemd1.Manager")),
        field(3, "s", &text("JobRemoved")),
    ];
    whole(4, fields, "uoss", &body)
}

/// One field of a head; what it holds is aligned to four behind its code and signature.
fn field(code: u8, kind: &str, value: &[u8]) -> Vec<u8> {
    [&[code, 1, kind.as_bytes()[0], 0][..], value].concat()
}

fn whole(kind: u8, mut fields: Vec<Vec<u8>>, signature: &str, body: &[u8]) -> Vec<u8> {
    if !signature.is_empty() {
        let inner = [&[signature.len() as u8][..], signature.as_bytes(), &[0]].concat();
        fields.push(field(8, "g", &inner));
    }
    let mut array = Vec::new();
    for field in fields {
        align(&mut array, 8);
        array.extend(field);
    }
    let mut out = vec![b'l', kind, 0, 1];
    for number in [body.len() as u32, 1, array.len() as u32] {
        out.extend(number.to_le_bytes());
    }
    out.extend(array);
    align(&mut out, 8);
    out.extend(body);
    out
}
