//! Files of the client's, over its session: it tells what there is, and sends the contents that are asked for.

mod kept;
mod send;
mod tree;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use crate::failing::failed;
use crate::grpc::Status;
use crate::grpc::client::{Call, Metadata, Receiving, Sending};
use crate::patience::Patience;
use crate::session::Session;
use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::fsutil::types::{Packet, Stat};
use hull_build::Failure;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message as _;

pub(crate) use kept::{Contexts, Name};
pub(crate) use send::send;
use tree::Tree;

/// The method that sends a folder's files.
pub(crate) const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// So many files are asked for at once: few enough that asking never waits for the client, which may be waiting for us.
const AT_ONCE: usize = 128;

/// So many files may be in a folder.
const MOST: u32 = 10_000_000;

/// So many bytes may be told of all files: a million of them come to half of it.
const LONGEST: usize = 128 << 20;

/// Which files of which folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// The name that the client knows the folder by.
    pub(crate) name: String,
    /// These, and what links among them lead to; none: all of it.
    pub(crate) followed: Vec<String>,
    /// Without what these patterns of a `.dockerignore` match.
    pub(crate) excluded: Vec<String>,
}

impl Wanted {
    /// Some files of a folder.
    pub(crate) fn files(name: &str, followed: Vec<String>) -> Wanted {
        Wanted { name: name.to_owned(), followed, excluded: Vec::new() }
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = vec![("dir-name", self.name.clone())];
        let lists = [
            ("exclude-patterns", "exclude-patterns-encoded", &self.excluded),
            ("followpaths", "followpaths-encoded", &self.followed),
        ];
        for (name, encoded, values) in lists {
            // Headers are ASCII: a list with anything else in it is escaped, and says so.
            let plain = values.iter().all(|value| value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let value = |value: &String| if plain { value.clone() } else { escaped(value) };
            metadata.extend(values.iter().map(|text| (name, value(text))));
            if !plain {
                metadata.push((encoded, "1".to_owned()));
            }
        }
        metadata
    }
}

/// What means nothing in a query stays; all else is written as its number.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Brings a folder to what the client has, by what is in it of an earlier time. `told` hears of the bytes that came.
///
/// # Errors
/// The client has no such folder, breaks off or sends what makes no sense, or the disk is full. The folder is then good
/// for nothing.
pub(crate) async fn receive(
    (session, patience): (&Session, Arc<Patience>),
    wanted: &Wanted,
    folder: &Path,
    before: HashMap<String, Stat>,
    told: impl Fn(u64) + Send + 'static,
) -> Result<Vec<Stat>, Failure> {
    let Call { send, receive } = session.call(DIFF_COPY, wanted.metadata()).map_err(failed)?;
    let folder = folder.to_owned();
    let received = tokio::task::spawn_blocking(move || {
        let tree = Tree::open(&folder, before)?;
        Transfer { send, receive, patience, tree, queue: VecDeque::new(), coming: HashMap::new() }.run(told)
    });
    received.await.unwrap_or_else(|error| Err(Failure::system("receive the build context", error)))
}

/// A transfer on its way, on a thread that may block.
struct Transfer {
    send: Sending,
    receive: Receiving,
    patience: Arc<Patience>,
    tree: Tree,
    /// Files whose contents are to be asked for.
    queue: VecDeque<(u32, Stat)>,
    /// Those that have been.
    coming: HashMap<u32, (Stat, std::fs::File, u64)>,
}

impl Transfer {
    fn run(mut self, told: impl Fn(u64)) -> Result<Vec<Stat>, Failure> {
        let (mut number, mut all_told, mut finished, mut bytes, mut listing) = (0, false, false, 0, 0);
        loop {
            let packet: Option<Packet> =
                self.patience.wait(self.receive.next()).map_err(|status| broken(&status))?;
            let Some(packet) = packet else {
                return match finished {
                    true => self.tree.finish(),
                    false => Err(invalid("the client ended the transfer early")),
                };
            };
            self.patience.moved(packet.encoded_len());
            match (packet.r#type(), packet.stat) {
                (PacketType::PacketStat, Some(mut stat)) if !all_told && number < MOST => {
                    tree::trim(&mut stat);
                    listing += stat.encoded_len();
                    if listing > LONGEST {
                        return Err(invalid(
                            "the names of the files in the build context are too many or too long",
                        ));
                    }
                    if self.tree.place(&stat)? {
                        self.queue.push_back((number, stat));
                    }
                    number += 1;
                }
                (PacketType::PacketStat, None) => all_told = true,
                (PacketType::PacketData, _) => {
                    bytes += packet.data.len() as u64;
                    self.take(packet.id, &packet.data)?;
                    told(bytes);
                }
                (PacketType::PacketFin, _) if finished => {}
                (PacketType::PacketErr, _) => {
                    return Err(invalid(&String::from_utf8_lossy(&packet.data)));
                }
                _ => return Err(invalid("the client sent what is not expected here")),
            }
            self.ask()?;
            if all_told && !finished && self.queue.is_empty() && self.coming.is_empty() {
                finished = true;
                self.say(PacketType::PacketFin, 0)?;
            }
        }
    }

    /// Asks for contents, some at a time.
    fn ask(&mut self) -> Result<(), Failure> {
        while self.coming.len() < AT_ONCE {
            let Some((number, stat)) = self.queue.pop_front() else { return Ok(()) };
            let file = self.tree.create(&stat)?;
            self.coming.insert(number, (stat, file, 0));
            self.say(PacketType::PacketReq, number)?;
        }
        Ok(())
    }

    /// Takes a piece of a file; an empty one is its end.
    fn take(&mut self, number: u32, data: &[u8]) -> Result<(), Failure> {
        use std::io::Write;
        if data.is_empty() {
            let (stat, file, came) =
                self.coming.remove(&number).ok_or_else(|| invalid("contents that nobody asked for"))?;
            self.tree.came(number as usize, came);
            return self.tree.complete(&stat, &file);
        }
        let (stat, file, came) =
            self.coming.get_mut(&number).ok_or_else(|| invalid("contents that nobody asked for"))?;
        *came += data.len() as u64;
        file.write_all(data).map_err(|error| Failure::system(format_args!("write {}", stat.path), error))
    }

    fn say(&self, kind: PacketType, id: u32) -> Result<(), Failure> {
        let packet = Packet { r#type: kind.into(), id, ..Packet::default() };
        self.patience.wait(self.send.send(&packet)).map_err(|status| broken(&status))
    }
}

fn invalid(why: &str) -> Failure {
    Failure::invalid(format!("error from sender: {why}"))
}

fn broken(status: &Status) -> Failure {
    Failure::invalid(format!("error from sender: {}", status.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_not_ascii_say_so() {
        let wanted = Wanted {
            name: "context".to_owned(),
            followed: vec!["a b".to_owned()],
            excluded: vec!["é*".to_owned(), "x".to_owned()],
        };
        let metadata = wanted.metadata();
        assert!(metadata.contains(&("followpaths", "a b".to_owned())));
        assert!(metadata.contains(&("exclude-patterns", "%C3%A9%2A".to_owned())));
        assert!(metadata.contains(&("exclude-patterns-encoded", "1".to_owned())));
        assert!(!metadata.iter().any(|(name, _)| *name == "followpaths-encoded"));
    }
}
