//! A small HTTP/1.1 client over a unix socket: what tests and the bench need to say exactly what they mean, also what
//! no well-behaved client would send. It blocks, keeps its connection, and gives up after [`PATIENCE`].

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// How long one read or write may take before it counts as a hang.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, out of its chunks.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `Null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The message of an error in Docker's form, `{"message": "…"}`; empty where there is none.
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// A client of one socket, with at most one connection kept open.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    kept: Option<BufReader<UnixStream>>,
}

impl Client {
    /// A client of the socket; connects when first used.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), kept: None }
    }

    /// GET.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send("GET", path, "", &[])
    }

    /// POST of a JSON body.
    pub fn post(&mut self, path: &str, body: &Value) -> io::Result<Response> {
        self.send("POST", path, "application/json", body.to_string().as_bytes())
    }

    /// POST without a body.
    pub fn post_empty(&mut self, path: &str) -> io::Result<Response> {
        self.send("POST", path, "", &[])
    }

    /// DELETE.
    pub fn delete(&mut self, path: &str) -> io::Result<Response> {
        self.send("DELETE", path, "", &[])
    }

    /// Any request with a body of any type (`content_type` empty: no such header).
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> io::Result<Response> {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: hull\r\nContent-Length: {}\r\n", body.len());
        if !content_type.is_empty() {
            head.push_str(&format!("Content-Type: {content_type}\r\n"));
        }
        head.push_str("\r\n");
        let mut stream = match self.kept.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.get_mut().write_all(head.as_bytes())?;
        // A server that refuses a body early answers and closes: then the answer counts, not the broken pipe.
        let sent = stream.get_mut().write_all(body);
        let response = match read_response(&mut stream, method == "HEAD") {
            Ok(response) => response,
            Err(error) => return Err(sent.err().unwrap_or(error)),
        };
        if sent.is_ok() && response.header("connection") != Some("close") {
            self.kept = Some(stream);
        }
        Ok(response)
    }

    /// Sends these bytes, as they are, on a connection of their own, ends the sending side if asked to, and reads
    /// one answer.
    pub fn raw(&self, bytes: &[u8], end: bool) -> io::Result<Response> {
        let mut stream = self.connect()?;
        let sent = stream.get_mut().write_all(bytes);
        if end {
            stream.get_ref().shutdown(std::net::Shutdown::Write)?;
        }
        read_response(&mut stream, false).map_err(|error| sent.err().unwrap_or(error))
    }

    /// POST that asks to take the connection over (attach, exec start): the answer's head, and the stream after it.
    pub fn upgrade(&self, path: &str, body: &Value) -> io::Result<(Response, BufReader<UnixStream>)> {
        let body = body.to_string();
        let mut stream = self.connect()?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: hull\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.get_mut().write_all(head.as_bytes())?;
        let response = read_head(&mut stream)?;
        Ok((response, stream))
    }

    /// A connection of its own.
    pub fn connect(&self) -> io::Result<BufReader<UnixStream>> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(BufReader::with_capacity(64 << 10, stream))
    }
}

/// Takes apart the frames in which attach and logs carry standard output (1) and error (2) on one stream.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(8) {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let Some((payload, after)) = rest.split_at_checked(length) else { break };
        out.push((head[0], payload.to_vec()));
        bytes = after;
    }
    out
}

/// Reads a status line and headers; interim answers (1xx other than 101) are passed over.
fn read_head(stream: &mut BufReader<UnixStream>) -> io::Result<Response> {
    loop {
        let status_line = read_line(stream)?;
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| bad(format!("no status line: {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(stream)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(format!("no header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if status >= 200 || status == 101 {
            return Ok(Response { status, headers, body: Vec::new() });
        }
    }
}

fn read_response(stream: &mut BufReader<UnixStream>, head_only: bool) -> io::Result<Response> {
    let mut response = read_head(stream)?;
    if head_only || matches!(response.status, 101 | 204 | 304) {
        return Ok(response);
    }
    if response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(stream)?;
            let length = line.split(';').next().unwrap_or_default();
            let length =
                usize::from_str_radix(length, 16).map_err(|_| bad(format!("no chunk length: {line:?}")))?;
            let start = response.body.len();
            response.body.resize(start + length, 0);
            stream.read_exact(&mut response.body[start..])?;
            read_line(stream)?;
            if length == 0 {
                return Ok(response);
            }
        }
    }
    match response.header("content-length").and_then(|v| v.parse().ok()) {
        Some(length) => {
            response.body = vec![0; length];
            stream.read_exact(&mut response.body)?;
        }
        None => {
            stream.read_to_end(&mut response.body)?;
        }
    }
    Ok(response)
}

fn read_line(stream: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::frames;

    #[test]
    fn frames_are_taken_apart_and_a_cut_one_is_left() {
        let bytes = b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\x01c\x01\0\0\0\0\0\0\x09cut";
        assert_eq!(frames(bytes), [(1, b"ab".to_vec()), (2, b"c".to_vec())]);
    }
}
