//! A client's connection whose first request may be written as Docker takes it and HTTP does not.
//!
//! `curl -g 'http://…/containers/json?filters={"status":["running"]}'` is in many scripts and in Docker's own pages:
//! Go takes a quotation mark in an address, hyper refuses the request. Such marks of a connection's first request are
//! written here as they should have been, before HTTP looks at it.
//!
//! Attach and exec take the connection over also where the client did not ask for an upgrade: Docker answers 200 and
//! the raw stream follows, both ways. hyper lets go of a connection only for a request with `Upgrade` and an answer of
//! 101, so the first request for such an endpoint gets the former here, and its answer loses the latter.
//!
//! Nothing else is touched, and nothing behind it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest request line that is looked at, in bytes.
const LINE_MAX: usize = 16 << 10;

/// The protocol in the `Upgrade` that a request for a stream gets here.
pub(crate) const TAKE_OVER: &str = "hull-raw-stream";

/// The reason of a 101 that becomes a 200 on its way out.
pub(crate) const TAKEN_OVER: &str = "OK";

/// How the head of such an answer begins, where its status stands in it, and what it becomes.
const SWITCHING: &[u8] = b"HTTP/1.1 101 OK\r\n";
const STATUS: std::ops::Range<usize> = 9..12;
const STATUS_OK: &[u8] = b"200";

/// How an answer begins that another follows.
const CONTINUE: &[u8] = b"HTTP/1.1 100 ";

/// A connection, and what of its first line has not been handed on.
pub(crate) struct Lenient<I> {
    inner: I,
    line: Line,
    answer: Answer,
}

/// The answer to a first request that is for a stream.
enum Answer {
    /// It has not begun.
    Awaited,
    /// It is rewritten; so many bytes of it are written.
    Rewritten(usize),
    /// What is written is written as it is.
    AsItIs,
}

enum Line {
    /// It is still being read.
    Reading(Vec<u8>),
    /// It is handed on from this place on.
    Giving(Vec<u8>, usize),
    /// What comes now is handed on as it comes.
    Over,
}

impl<I> Lenient<I> {
    /// Looks at the first line of what comes.
    pub(crate) fn new(inner: I) -> Self {
        Self { inner, line: Line::Reading(Vec::new()), answer: Answer::AsItIs }
    }

    /// The connection itself, and what was read of it and not handed on.
    pub(crate) fn into_inner(self) -> (I, Vec<u8>) {
        let left = match self.line {
            Line::Reading(line) => line,
            Line::Giving(line, at) => line[at..].to_vec(),
            Line::Over => Vec::new(),
        };
        (self.inner, left)
    }
}

/// The line with its marks as an address has them; the rest stays.
fn encoded(bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    if !bytes[..end].iter().any(|byte| matches!(byte, b'"' | b'<' | b'>')) {
        return bytes;
    }
    let mut text = Vec::with_capacity(bytes.len() + 16);
    for byte in &bytes[..end] {
        match byte {
            b'"' => text.extend(b"%22"),
            b'<' => text.extend(b"%3C"),
            b'>' => text.extend(b"%3E"),
            other => text.push(*other),
        }
    }
    text.extend(&bytes[end..]);
    text
}

/// Whether this request line is for an endpoint that takes the connection over.
fn is_for_a_stream(line: &[u8]) -> bool {
    let Some(target) = line.strip_prefix(b"POST ") else { return false };
    let end =
        target.iter().position(|byte| matches!(byte, b' ' | b'?' | b'\r' | b'\n')).unwrap_or(target.len());
    let parts: Vec<&[u8]> = target[..end].rsplitn(4, |byte| *byte == b'/').collect();
    matches!(parts[..], [b"attach", _, b"containers", _] | [b"start", _, b"exec", _])
}

/// The head with the header that lets go of the connection, behind its first line.
fn with_upgrade(bytes: Vec<u8>) -> Vec<u8> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return bytes };
    let (line, rest) = bytes.split_at(end + 1);
    [line, b"Upgrade: ", TAKE_OVER.as_bytes(), b"\r\n", rest].concat()
}

impl<I: AsyncRead + Unpin> AsyncRead for Lenient<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.line {
                Line::Over => return Pin::new(&mut this.inner).poll_read(context, out),
                Line::Giving(line, at) => {
                    let count = out.remaining().min(line.len() - *at);
                    out.put_slice(&line[*at..*at + count]);
                    *at += count;
                    if *at == line.len() {
                        this.line = Line::Over;
                    }
                    return Poll::Ready(Ok(()));
                }
                Line::Reading(line) => {
                    let mut piece = [0; 4096];
                    let mut piece = ReadBuf::new(&mut piece);
                    ready!(Pin::new(&mut this.inner).poll_read(context, &mut piece))?;
                    let over = piece.filled().is_empty();
                    line.extend(piece.filled());
                    if over || line.len() > LINE_MAX || line.contains(&b'\n') {
                        let mut line = encoded(std::mem::take(line));
                        if is_for_a_stream(&line) {
                            line = with_upgrade(line);
                            this.answer = Answer::Awaited;
                        }
                        this.line = if line.is_empty() { Line::Over } else { Line::Giving(line, 0) };
                        if over && matches!(this.line, Line::Over) {
                            return Poll::Ready(Ok(()));
                        }
                    }
                }
            }
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Lenient<I> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if matches!(this.answer, Answer::Awaited) && !bytes.starts_with(CONTINUE) {
            let rewritten = bytes.starts_with(SWITCHING);
            this.answer = if rewritten { Answer::Rewritten(0) } else { Answer::AsItIs };
        }
        let Answer::Rewritten(before) = this.answer else {
            return Pin::new(&mut this.inner).poll_write(context, bytes);
        };
        let mut bytes = bytes.to_vec();
        for (at, digit) in STATUS.zip(STATUS_OK) {
            if let Some(byte) = at.checked_sub(before).and_then(|at| bytes.get_mut(at)) {
                *byte = *digit;
            }
        }
        let count = ready!(Pin::new(&mut this.inner).poll_write(context, &bytes))?;
        let written = before + count;
        this.answer = if written < STATUS.end { Answer::Rewritten(written) } else { Answer::AsItIs };
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !matches!(self.answer, Answer::AsItIs) {
            let first = pieces.iter().find(|piece| !piece.is_empty()).map_or(&[][..], |piece| piece);
            return self.poll_write(context, first);
        }
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn read(text: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        Lenient::new(text).read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn marks_of_the_first_line_alone_are_encoded() {
        let got = read(b"GET /x?f={\"a\":[\"<b>\"]} HTTP/1.1\r\nX: \"y\"\r\n\r\n\"body\"").await;
        let wanted = b"GET /x?f={%22a%22:[%22%3Cb%3E%22]} HTTP/1.1\r\nX: \"y\"\r\n\r\n\"body\"";
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(wanted));
        let plain = b"GET /x HTTP/1.1\r\n\r\nPOST /y?\" HTTP/1.1\r\n\r\n";
        assert_eq!(read(plain).await, plain);
        assert_eq!(read(b"").await, b"");
        assert_eq!(read(b"no line").await, b"no line");
    }

    #[test]
    fn streams_are_those_of_attach_and_exec() {
        for stream in ["/containers/x/attach?stdin=1", "/v1.41/containers/x/attach", "/v1.41/exec/x/start"] {
            assert!(is_for_a_stream(format!("POST {stream} HTTP/1.1\r\n").as_bytes()), "{stream}");
        }
        for other in ["/containers/x/start", "/containers/x/attach/ws", "/exec/x/json", "/exec/start", "/"] {
            assert!(!is_for_a_stream(format!("POST {other} HTTP/1.1\r\n").as_bytes()), "{other}");
        }
        assert!(!is_for_a_stream(b"GET /containers/x/attach HTTP/1.1\r\n"));
    }

    /// What a client gets that asks for a stream, where the connection holds so many bytes and HTTP answers this.
    async fn answered(capacity: usize, answer: &[&str]) -> String {
        let (client, server) = tokio::io::duplex(capacity);
        let talk = tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(client);
            writer.write_all(b"POST /exec/x/start HTTP/1.1\r\n\r\n").await.unwrap();
            let mut got = String::new();
            reader.read_to_string(&mut got).await.unwrap();
            got
        });
        let mut server = Lenient::new(server);
        let wanted = b"POST /exec/x/start HTTP/1.1\r\nUpgrade: hull-raw-stream\r\n\r\n";
        let mut head = vec![0; wanted.len()];
        server.read_exact(&mut head).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&head), String::from_utf8_lossy(wanted));
        for written in answer {
            server.write_all(written.as_bytes()).await.unwrap();
        }
        server.shutdown().await.unwrap();
        drop(server);
        talk.await.unwrap()
    }

    #[tokio::test]
    async fn a_stream_is_let_go_with_101_and_answered_with_200() {
        let (go_on, switching) = ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 101 OK\r\n\r\n");
        let ok = "HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(answered(1024, &[go_on, switching, switching]).await, [go_on, ok, switching].concat());
        // The head may be cut anywhere.
        for capacity in [3, 10, 11] {
            assert_eq!(answered(capacity, &[switching, switching]).await, [ok, switching].concat());
        }
        let refused = "HTTP/1.1 404 Not Found\r\n\r\n";
        assert_eq!(answered(1024, &[refused, switching]).await, [refused, switching].concat());
    }
}
