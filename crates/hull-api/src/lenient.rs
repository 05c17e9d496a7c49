//! A client's connection whose first request line may hold what an address should not.
//!
//! `curl -g 'http://…/containers/json?filters={"status":["running"]}'` is in many scripts and in Docker's own pages:
//! Go takes a quotation mark in an address, hyper refuses the request. Such marks of a connection's first request are
//! written here as they should have been, before HTTP looks at it. Nothing else is touched, and nothing behind it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest request line that is looked at, in bytes.
const LINE_MAX: usize = 16 << 10;

/// A connection, and what of its first line has not been handed on.
pub(crate) struct Lenient<I> {
    inner: I,
    line: Line,
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
        Self { inner, line: Line::Reading(Vec::new()) }
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
                        let line = encoded(std::mem::take(line));
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
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
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
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

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
}
