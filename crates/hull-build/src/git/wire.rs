//! git's lines, each behind its length, over whatever carries them.

use std::collections::HashMap;

use hull_image::registry::Reply;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::object::Oid;
use crate::failure::{Failure, Result};

/// How long a server may say nothing.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// So many bytes a server may tell of itself, its references and its work, beside the files.
const TOLD: usize = 16 << 20;

/// A line, or what stands between lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Data(Vec<u8>),
    /// The end of what was said.
    Flush,
    /// The end of a section.
    Section,
}

/// What bytes come from.
pub(super) enum Source {
    Http(Box<Reply>),
    Tcp(TcpStream),
    /// What was said before.
    Said(Vec<u8>),
}

impl Source {
    async fn more(&mut self, into: &mut Vec<u8>) -> Result<bool> {
        match self {
            Source::Http(reply) => {
                let piece = reply.chunk().await.map_err(|failure| Failure::invalid(failure.to_string()))?;
                into.extend_from_slice(piece.as_deref().unwrap_or_default());
                Ok(piece.is_some())
            }
            Source::Said(bytes) => {
                into.append(bytes);
                Ok(false)
            }
            Source::Tcp(stream) => {
                let read = tokio::time::timeout(PATIENCE, stream.read_buf(into));
                let read = read.await.map_err(|_| {
                    Failure::invalid(format!("nothing came for {} seconds", PATIENCE.as_secs()))
                })?;
                Ok(read.map_err(|error| Failure::invalid(format!("read from the server: {error}")))? > 0)
            }
        }
    }
}

/// The lines that a server sends.
pub(super) struct Lines {
    source: Source,
    /// So many bytes were told that are none of a pack.
    told: usize,
    bytes: Vec<u8>,
    at: usize,
}

impl Lines {
    pub(super) fn of(source: Source) -> Lines {
        Lines { source, told: 0, bytes: Vec::new(), at: 0 }
    }

    /// What carries them, for the next command.
    pub(super) fn into_source(self) -> Source {
        self.source
    }

    async fn has(&mut self, count: usize) -> Result<bool> {
        while self.bytes.len() - self.at < count {
            self.bytes.drain(..self.at);
            self.at = 0;
            if !self.source.more(&mut self.bytes).await? {
                return Ok(self.bytes.len() >= count);
            }
        }
        Ok(true)
    }

    /// The next line; none at the end.
    ///
    /// # Errors
    /// The line broke, what comes is none, or there come too many.
    pub(super) async fn next(&mut self) -> Result<Option<Line>> {
        let line = self.line().await?;
        if let Some(Line::Data(data)) = &line {
            self.tells(data.len())?;
        }
        Ok(line)
    }

    /// Counts what is told beside a pack.
    fn tells(&mut self, bytes: usize) -> Result<()> {
        // A line of nothing takes its length, too.
        self.told += bytes + 4;
        match self.told > TOLD {
            true => {
                Err(Failure::invalid(format!("the server tells more than {TOLD} bytes beside the files")))
            }
            false => Ok(()),
        }
    }

    async fn line(&mut self) -> Result<Option<Line>> {
        if !self.has(4).await? {
            return match self.bytes.len() == self.at {
                true => Ok(None),
                false => Err(Failure::invalid("the server's answer is cut off")),
            };
        }
        let head = &self.bytes[self.at..self.at + 4];
        let length = std::str::from_utf8(head).ok().and_then(|head| usize::from_str_radix(head, 16).ok());
        let length = length.ok_or_else(|| Failure::invalid("the server does not speak git's protocol"))?;
        self.at += 4;
        match length {
            0 => Ok(Some(Line::Flush)),
            1 | 2 => self.tells(0).map(|()| Some(Line::Section)),
            3 => Err(Failure::invalid("the server's answer is malformed")),
            length => {
                if !self.has(length - 4).await? {
                    return Err(Failure::invalid("the server's answer is cut off"));
                }
                let data = self.bytes[self.at..self.at + length - 4].to_vec();
                self.at += length - 4;
                match data.strip_prefix(b"ERR ") {
                    Some(said) => Err(Failure::invalid(format!("the server says: {}", said_by(said)))),
                    None => Ok(Some(Line::Data(data))),
                }
            }
        }
    }

    /// The next line as text, without its end; none where a section or all ends.
    ///
    /// # Errors
    /// As [`Lines::next`].
    pub(super) async fn text(&mut self) -> Result<Option<String>> {
        match self.next().await? {
            Some(Line::Data(data)) => Ok(Some(String::from_utf8_lossy(&data).trim_end().to_owned())),
            _ => Ok(None),
        }
    }
}

/// Reads what a server can, from its first line on.
///
/// # Errors
/// That is not enough.
pub(super) async fn abilities(first: Option<String>, lines: &mut Lines) -> Result<()> {
    if first.as_deref() != Some("version 2") {
        return Err(Failure::invalid(
            "the server does not speak version 2 of git's protocol (git 2.18 and later do); clone it and build the folder",
        ));
    }
    let (mut shallow, mut sha1) = (false, true);
    while let Some(line) = lines.text().await? {
        shallow |= line.strip_prefix("fetch=").is_some_and(|can| can.split(' ').any(|can| can == "shallow"));
        sha1 &= line.strip_prefix("object-format=").is_none_or(|format| format == "sha1");
    }
    if !sha1 {
        return Err(Failure::invalid("its objects are named by SHA-256, which is not supported yet"));
    }
    if !shallow {
        return Err(Failure::invalid("the server gives no single commits (shallow)"));
    }
    Ok(())
}

/// Reads which commits these references are of: peeled, where they are of tags.
///
/// # Errors
/// The line broke, or what comes are none.
pub(super) async fn references(lines: &mut Lines, names: &[String]) -> Result<HashMap<String, Oid>> {
    let mut found = HashMap::new();
    while let Some(line) = lines.text().await? {
        let mut words = line.split(' ');
        let (Some(oid), Some(name)) = (words.next(), words.next()) else { continue };
        let peeled = words.find_map(|word| word.strip_prefix("peeled:"));
        if names.iter().any(|wanted| wanted == name) {
            found.insert(name.to_owned(), peeled.unwrap_or(oid).parse()?);
        }
    }
    Ok(found)
}

/// Reads up to where the pack begins.
///
/// # Errors
/// There comes none.
pub(super) async fn until_pack(lines: &mut Lines) -> Result<()> {
    loop {
        match lines.next().await? {
            Some(Line::Data(data)) if data.trim_ascii_end() == b"packfile" => return Ok(()),
            // What it says of the depth is what was asked for.
            Some(Line::Data(_) | Line::Section) => {}
            Some(Line::Flush) | None => return Err(Failure::invalid("the server sent no pack")),
        }
    }
}

/// The next bytes of the pack, behind a number that says so; none at its end. What the server tells beside it is left out.
///
/// # Errors
/// The line broke, or the server says why there come no more.
pub(super) async fn pack_bytes(lines: &mut Lines) -> Result<Option<Vec<u8>>> {
    while let Some(Line::Data(mut data)) = lines.line().await? {
        match data.first() {
            Some(1) => {
                data.drain(..1);
                return Ok(Some(data));
            }
            Some(3) => {
                return Err(Failure::invalid(format!("the server says: {}", said_by(&data[1..]))));
            }
            _ => lines.tells(data.len())?,
        }
    }
    Ok(None)
}

/// What somebody else's server says, fit to be shown.
pub(super) fn said_by(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A command with its arguments, as it is sent.
pub(super) fn command(name: &str, arguments: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    line(&format!("command={name}\n"), &mut bytes);
    line(concat!("agent=hull/", env!("CARGO_PKG_VERSION"), "\n"), &mut bytes);
    line("object-format=sha1\n", &mut bytes);
    bytes.extend_from_slice(b"0001");
    arguments.iter().for_each(|argument| line(&format!("{argument}\n"), &mut bytes));
    bytes.extend_from_slice(b"0000");
    bytes
}

/// Adds a line.
pub(super) fn line(text: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(format!("{:04x}", text.len() + 4).as_bytes());
    to.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_told_without_end_has_one() {
        let endless = |line: &[u8]| {
            let one = [format!("{:04x}", line.len() + 4).as_bytes(), line].concat();
            Lines::of(Source::Said(one.repeat(TOLD / one.len() + 1)))
        };
        let told = |failure: Failure| assert!(failure.message.contains("beside the files"), "{failure}");
        told(references(&mut endless(&[b'x'; 1000]), &[]).await.unwrap_err());
        told(until_pack(&mut endless(b"shallow 1")).await.unwrap_err());
        // What is told beside a pack counts, the pack itself does not.
        told(pack_bytes(&mut endless(&[[2; 1000].as_slice(), b"counting"].concat())).await.unwrap_err());
        let mut pack = endless(&[1; 60_000]);
        let mut bytes = 0;
        while let Some(piece) = pack_bytes(&mut pack).await.unwrap() {
            bytes += piece.len();
        }
        assert!(bytes > TOLD - 60_000);
    }

    #[test]
    fn commands_are_lines_behind_their_lengths() {
        let sent = command("ls-refs", &["peel".to_owned()]);
        let text = String::from_utf8(sent).unwrap();
        assert!(text.starts_with("0014command=ls-refs\n") && text.ends_with("00010009peel\n0000"), "{text}");
    }
}
