//! One connection to a bus or to systemd itself: the handshake, calls and their answers, signals.
//!
//! Source: the D-Bus specification, "Authentication Protocol" and "Message Protocol".

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::wire::{Reader, Value, pad, signature_of};
use crate::error::Context;
use crate::{Error, Result};

/// How long an answer or a signal is waited for; systemd's own clients wait 25 seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest message that is taken; the specification allows 128 MiB, systemd's answers here have some hundred bytes.
const LONGEST: usize = 1 << 20;

const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A connection, used by one thread.
#[derive(Debug)]
pub(crate) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Signals that came while an answer was waited for.
    signals: VecDeque<Message>,
}

/// A message that came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Message {
    kind: u8,
    reply_to: Option<u32>,
    pub(crate) member: String,
    error: String,
    pub(crate) body: Vec<Value>,
}

/// Where a method is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
}

/// A call that was answered by an error: its name and the words.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) name: String,
    pub(crate) words: String,
}

impl Bus {
    /// Connects and says who this is: the kernel vouches for the user's id.
    pub(crate) fn connect(socket: &Path) -> Result<Bus> {
        let doing = || format!("connect to {}", socket.display());
        let stream = UnixStream::connect(socket).context(doing)?;
        stream.set_write_timeout(Some(PATIENCE)).context(doing)?;
        let mut bus = Bus { stream, serial: 0, signals: VecDeque::new() };
        bus.authenticate().context(doing)?;
        Ok(bus)
    }

    fn authenticate(&mut self) -> io::Result<()> {
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        // All in one, before the answer: what comes right behind a BEGIN of its own, systemd reads with that and then
        // waits for more, as seen with its version 252.
        self.stream.write_all(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes())?;
        let until = Instant::now() + PATIENCE;
        let mut answer = Vec::new();
        // Byte by byte: what follows the line is not the handshake's any more.
        while !answer.ends_with(b"\r\n") && answer.len() < 512 {
            let mut byte = [0];
            self.read(&mut byte, until)?;
            answer.push(byte[0]);
        }
        if !answer.starts_with(b"OK ") {
            let said = String::from_utf8_lossy(&answer);
            return Err(io::Error::other(format!("it does not take this user: {}", said.trim())));
        }
        Ok(())
    }

    fn read(&mut self, mut buffer: &mut [u8], until: Instant) -> io::Result<()> {
        while !buffer.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::other("the connection was closed")),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Calls a method and waits for the answer.
    pub(crate) fn call(
        &mut self,
        target: Target<'_>,
        method: &str,
        body: &[Value],
    ) -> Result<std::result::Result<Vec<Value>, Refusal>> {
        let doing = || format!("call {method} of {}", target.interface);
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&call(serial, target, method, body)).context(doing)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(until).context(doing)?;
            match message.kind {
                METHOD_RETURN if message.reply_to == Some(serial) => return Ok(Ok(message.body)),
                ERROR if message.reply_to == Some(serial) => {
                    let words = message.body.first().and_then(Value::as_text).unwrap_or_default().to_owned();
                    return Ok(Err(Refusal { name: message.error, words }));
                }
                SIGNAL => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    /// Waits for a signal for which `wanted` has something.
    pub(crate) fn wait<T>(
        &mut self,
        doing: &str,
        mut wanted: impl FnMut(&Message) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            let message = match self.signals.pop_front() {
                Some(message) => message,
                None => self.receive(until).map_err(|error| match error.kind() {
                    io::ErrorKind::TimedOut => {
                        Error::refused(doing, format!("no word of it came within {} s", PATIENCE.as_secs()))
                    }
                    _ => Error::kernel(doing, error),
                })?,
            };
            if message.kind == SIGNAL
                && let Some(found) = wanted(&message)
            {
                return Ok(found);
            }
        }
    }

    fn receive(&mut self, until: Instant) -> io::Result<Message> {
        let mut head = [0; 16];
        self.read(&mut head, until)?;
        let lengths = Lengths::of(&head).ok_or_else(|| io::Error::other("what came is no message"))?;
        let mut all = head.to_vec();
        all.resize(lengths.whole(), 0);
        self.read(&mut all[16..], until)?;
        Message::parse(&all, lengths).ok_or_else(|| io::Error::other("what came is no message"))
    }
}

/// How long the parts of a message are, from its first 16 bytes.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    fields: usize,
    body: usize,
}

impl Lengths {
    fn of(head: &[u8; 16]) -> Option<Lengths> {
        let number = |at: usize| {
            let bytes: [u8; 4] = head[at..at + 4].try_into().ok()?;
            usize::try_from(u32::from_le_bytes(bytes)).ok()
        };
        let lengths = Lengths { body: number(4)?, fields: number(12)? };
        // A peer on the same machine has the same order of bytes.
        let plain = head[0] == b'l' && head[3] == 1;
        (plain && lengths.body <= LONGEST && lengths.fields <= LONGEST).then_some(lengths)
    }

    fn body_begins(self) -> usize {
        (16 + self.fields).next_multiple_of(8)
    }

    fn whole(self) -> usize {
        self.body_begins() + self.body
    }
}

impl Message {
    fn parse(bytes: &[u8], lengths: Lengths) -> Option<Message> {
        let mut message = Message { kind: *bytes.get(1)?, ..Message::default() };
        let mut signature = String::new();
        let head = Reader::new(bytes.get(..lengths.body_begins())?).values("yyyyuua(yv)")?;
        let Some(Value::Array(_, fields)) = head.last() else { return None };
        for field in fields {
            let Value::Struct(field) = field else { return None };
            let [Value::Byte(code), Value::Variant(value)] = field.as_slice() else { return None };
            let text = value.as_text().unwrap_or_default();
            match (code, value.as_ref()) {
                (3, _) => message.member = text.to_owned(),
                (4, _) => message.error = text.to_owned(),
                (5, Value::U32(serial)) => message.reply_to = Some(*serial),
                (8, _) => signature = text.to_owned(),
                _ => {}
            }
        }
        message.body = Reader::new(bytes.get(lengths.body_begins()..)?).values(&signature)?;
        Some(message)
    }
}

/// A method call as it goes over the wire.
fn call(serial: u32, target: Target<'_>, method: &str, body: &[Value]) -> Vec<u8> {
    const METHOD_CALL: u8 = 1;
    let mut content = Vec::new();
    body.iter().for_each(|value| value.put(&mut content));
    let field = |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), Value::variant(value)]);
    let mut fields = vec![
        field(1, Value::Path(target.path.into())),
        field(2, Value::text(target.interface)),
        field(3, Value::text(method)),
        field(6, Value::text(target.destination)),
    ];
    if !body.is_empty() {
        fields.push(field(8, Value::Signature(signature_of(body))));
    }
    let mut out = Vec::new();
    let head = [
        Value::Byte(b'l'),
        Value::Byte(METHOD_CALL),
        Value::Byte(0),
        Value::Byte(1),
        Value::U32(u32::try_from(content.len()).unwrap_or(u32::MAX)),
        Value::U32(serial),
        Value::Array("(yv)".into(), fields),
    ];
    head.iter().for_each(|value| value.put(&mut out));
    pad(&mut out, 8);
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_the_message_that_it_says() {
        let target = Target { destination: "a.b", path: "/c", interface: "d.e" };
        let bytes = call(7, target, "Do", &[Value::text("x"), Value::U32(1)]);
        let lengths = Lengths::of(bytes[..16].try_into().unwrap()).unwrap();
        assert_eq!(lengths.whole(), bytes.len());
        let message = Message::parse(&bytes, lengths).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (1, "Do"));
        assert_eq!(message.body, [Value::text("x"), Value::U32(1)]);
        // Its begin, by the specification: order, kind, flags, version, the body's length, the serial.
        assert_eq!(bytes[..12], [b'l', 1, 0, 1, 12, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(bytes.len() % 8, 4, "the body begins at a multiple of eight and is twelve long");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert!(Lengths::of(b"B\x02\0\x01\0\0\0\0\0\0\0\0\0\0\0\0").is_none());
        assert!(Lengths::of(b"l\x02\0\x01\xff\xff\xff\xff\0\0\0\0\0\0\0\0").is_none());
        let bytes = b"l\x02\0\x01\x04\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0";
        let lengths = Lengths::of(bytes[..16].try_into().unwrap()).unwrap();
        // A body without a signature has no values.
        assert_eq!(Message::parse(bytes, lengths).unwrap().body, []);
    }
}
