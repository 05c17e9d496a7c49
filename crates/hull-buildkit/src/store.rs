//! A content store of the client's, over its session: caches and OCI layouts in folders are read and written there, by
//! containerd's protocol.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;

use hull_image::registry::manifest::{Descriptor, OCI_INDEX, OCI_MANIFEST, choose};
use hull_image::{Digest, Platform};
use prost::Message;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::grpc::client::{Call, Metadata, Receiving};
use crate::grpc::{Code, Result, Status};
use crate::patience::Patience;
use crate::session::Session;

const WRITE: &str = "/containerd.services.content.v1.Content/Write";
const READ: &str = "/containerd.services.content.v1.Content/Read";

/// How much of a blob goes at a time.
const PIECE: usize = 512 << 10;

/// The longest manifest or index that is read, in bytes.
const MANIFEST_LIMIT: usize = 4 << 20;

/// So many manifests may be in an index.
const MANIFESTS: usize = 64;

/// So many blobs may an image be made of, of so many bytes together.
const PARTS: usize = 1024;
const BYTES: u64 = 1 << 40;

#[derive(Clone, PartialEq, Message)]
struct ReadRequest {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(int64, tag = "2")]
    offset: i64,
    #[prost(int64, tag = "3")]
    size: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ReadResponse {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    /// 0 asks for the state, 1 writes, 2 commits.
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(int64, tag = "3")]
    total: i64,
    #[prost(string, tag = "4")]
    expected: String,
    #[prost(int64, tag = "5")]
    offset: i64,
    #[prost(bytes = "vec", tag = "6")]
    data: Vec<u8>,
    #[prost(map = "string, string", tag = "7")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct WriteResponse {
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(int64, tag = "4")]
    offset: i64,
    #[prost(int64, tag = "5")]
    total: i64,
    #[prost(string, tag = "6")]
    digest: String,
}

const WRITES: i32 = 1;
const COMMITS: i32 = 2;

/// The store of a name.
#[derive(Clone)]
pub(crate) struct Blobs {
    session: Arc<Session>,
    name: String,
    patience: Arc<Patience>,
}

fn other(status: Status) -> io::Error {
    io::Error::other(status.message)
}

fn malformed(what: &str) -> Status {
    Status::new(Code::InvalidArgument, format!("the client's store: {what}"))
}

impl Blobs {
    pub(crate) fn new(session: Arc<Session>, name: String, patience: Arc<Patience>) -> Blobs {
        Blobs { session, name, patience }
    }

    fn metadata(&self) -> Metadata {
        vec![("buildkit-attachable-store-id", self.name.clone())]
    }

    /// Writes the blobs of an OCI layout that comes as an archive. Blocks.
    pub(crate) fn take_layout(&self, archive: impl Read) -> io::Result<()> {
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().into_owned();
            let Some(hex) = path.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) else {
                continue;
            };
            let (digest, size) = (format!("sha256:{hex}"), entry.size());
            self.write(&digest, size, &mut entry)?;
        }
        // What pads the archive is read too: its writer waits for that.
        io::copy(&mut archive.into_inner(), &mut io::sink())?;
        Ok(())
    }

    fn write(&self, digest: &str, size: u64, data: &mut impl Read) -> io::Result<()> {
        let Call { send, mut receive } = self.session.call(WRITE, self.metadata()).map_err(other)?;
        let total = i64::try_from(size).unwrap_or(i64::MAX);
        let mut offset = 0;
        let mut buffer = vec![0; PIECE];
        loop {
            let count = data.read(&mut buffer)?;
            let action = if count == 0 { COMMITS } else { WRITES };
            let request = WriteRequest {
                action,
                name: digest.to_owned(),
                total,
                expected: digest.to_owned(),
                offset,
                data: buffer[..count].to_vec(),
                labels: HashMap::new(),
            };
            offset += i64::try_from(count).unwrap_or_default();
            let sent = self.patience.wait(send.send(&request));
            match self.patience.wait(receive.next::<WriteResponse>()) {
                Ok(Some(_)) => {
                    sent.map_err(other)?;
                    self.patience.moved(count);
                }
                // It has this one.
                Err(status) if status.code == Code::AlreadyExists => return Ok(()),
                Err(status) => return Err(other(status)),
                Ok(None) => return Err(io::Error::other("the client's store ended early")),
            }
            if count == 0 {
                return Ok(());
            }
        }
    }

    /// A blob, piece by piece, which is compared with its digest as it comes.
    fn read(&self, digest: &str) -> Result<Reading> {
        let wanted = digest.parse().map_err(|_| malformed(&format!("{digest:?} is no digest")))?;
        let Call { send, receive } = self.session.call(READ, self.metadata())?;
        let request = ReadRequest { digest: digest.to_owned(), ..ReadRequest::default() };
        let patience = Arc::clone(&self.patience);
        Ok(Reading { send: Some((send, request)), receive, patience, wanted, hash: Default::default() })
    }

    /// A short blob.
    async fn document(&self, digest: &str) -> Result<Vec<u8>> {
        let mut reading = self.read(digest)?;
        let mut bytes = Vec::new();
        while let Some(piece) = reading.next().await? {
            bytes.extend(piece);
            if bytes.len() > MANIFEST_LIMIT {
                return Err(malformed(&format!("{digest} is too long for a manifest")));
            }
        }
        Ok(bytes)
    }

    /// What an image in the store is made of, of several that for a platform: digests with sizes, those that are named
    /// before those that name them, and what names it.
    pub(crate) async fn image(&self, digest: &str, platform: Option<&Platform>) -> Result<Stored> {
        let mut stored = Stored::default();
        let (mut digest, mut bytes) = (digest.to_owned(), self.document(digest).await?);
        let stages = hull_image::dress::stages(&bytes).map_err(|error| malformed(&error.message))?;
        if let Some(stages) = stages {
            return self.stages(&stages).await;
        }
        if let Some(manifests) = parsed(&bytes)?.get("manifests") {
            digest = chosen(manifests, platform, &digest)?;
            bytes = self.document(&digest).await?;
        }
        let manifest = parsed(&bytes)?;
        let media_type = manifest["mediaType"].as_str().unwrap_or(OCI_MANIFEST);
        stored.index = json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [{ "mediaType": media_type, "digest": digest, "size": bytes.len() }],
        });
        stored.parts(&manifest)?;
        stored.add(digest, bytes.len() as u64)?;
        Ok(stored)
    }

    /// What the images of a build's stages are made of, all of which give their steps.
    async fn stages(&self, digests: &[Digest]) -> Result<Stored> {
        let mut stored = Stored::default();
        let mut manifests = Vec::new();
        for digest in digests {
            let digest = digest.to_string();
            let bytes = self.document(&digest).await?;
            let manifest = parsed(&bytes)?;
            let media_type = manifest["mediaType"].as_str().unwrap_or(OCI_MANIFEST);
            manifests.push(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }));
            stored.parts(&manifest)?;
            stored.add(digest, bytes.len() as u64)?;
        }
        stored.index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        Ok(stored)
    }

    /// Writes an image of the store as an archive that is an OCI layout. Blocks.
    pub(crate) fn send_layout(&self, stored: &Stored, out: impl io::Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(out);
        let header = |size| {
            let mut header = tar::Header::new_ustar();
            header.set_size(size);
            header.set_mode(0o644);
            header
        };
        let mut file =
            |name: &str, bytes: &[u8]| archive.append_data(&mut header(bytes.len() as u64), name, bytes);
        file("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }).to_string().as_bytes())?;
        file("index.json", stored.index.to_string().as_bytes())?;
        for (digest, size) in &stored.blobs {
            let reading = self.read(digest).map_err(other)?;
            let mut blob = Blob { reading, piece: Vec::new(), at: 0 };
            let name = format!("blobs/{}", digest.replacen(':', "/", 1));
            archive.append_data(&mut header(*size), name, blob.by_ref().take(*size))?;
            // At its end it is compared with its digest.
            if blob.read(&mut [0])? != 0 {
                return Err(io::Error::other(format!(
                    "the client's store: {digest} is longer than it is said to be"
                )));
            }
        }
        archive.finish()
    }
}

/// An image of a store.
#[derive(Default)]
pub(crate) struct Stored {
    blobs: Vec<(String, u64)>,
    /// Their digests.
    known: HashSet<String>,
    bytes: u64,
    index: Value,
}

impl Stored {
    /// Configuration and layers.
    fn parts(&mut self, manifest: &Value) -> Result<()> {
        let layers = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        for part in [&manifest["config"]].into_iter().chain(layers) {
            let (digest, size) = described(part)?;
            self.add(digest, size)?;
        }
        Ok(())
    }

    /// A blob, unless it is there already.
    fn add(&mut self, digest: String, size: u64) -> Result<()> {
        if !self.known.insert(digest.clone()) {
            return Ok(());
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.known.len() > PARTS || self.bytes > BYTES {
            return Err(malformed("an image has more layers, or more bytes, than any that can be used"));
        }
        self.blobs.push((digest, size));
        Ok(())
    }
}

fn parsed(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| malformed(&format!("a malformed manifest: {error}")))
}

/// The digest of that of an index's images which is for a platform, this machine's where none is said; one that is alone is
/// the one.
fn chosen(manifests: &Value, platform: Option<&Platform>, name: &str) -> Result<String> {
    let of_index = Vec::<Descriptor>::deserialize(manifests);
    let index = of_index.map_err(|error| malformed(&format!("a malformed index: {error}")))?;
    if index.len() > MANIFESTS {
        return Err(malformed(&format!("an index of {} images: {MANIFESTS} are allowed", index.len())));
    }
    if let [one] = &index[..] {
        return Ok(one.digest.to_string());
    }
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    match choose(&index, &wanted, name) {
        Ok(one) => Ok(one.digest.to_string()),
        Err(error) => Err(malformed(&error.message)),
    }
}

fn described(part: &Value) -> Result<(String, u64)> {
    let digest = part["digest"].as_str().filter(|text| text.parse::<Digest>().is_ok());
    match (digest, part["size"].as_u64()) {
        (Some(digest), Some(size)) => Ok((digest.to_owned(), size)),
        _ => Err(malformed("a manifest without digests and sizes")),
    }
}

/// A blob that comes.
struct Reading {
    send: Option<(crate::grpc::client::Sending, ReadRequest)>,
    receive: Receiving,
    patience: Arc<Patience>,
    wanted: Digest,
    hash: sha2::Sha256,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        use sha2::Digest as _;
        if let Some((send, request)) = self.send.take() {
            self.patience.of_client(send.send(&request)).await?;
        }
        match self.patience.of_client(self.receive.next::<ReadResponse>()).await? {
            Some(ReadResponse { data, .. }) => {
                self.patience.moved(data.len());
                self.hash.update(&data);
                Ok(Some(data))
            }
            None => {
                let found = std::mem::take(&mut self.hash).finalize();
                let hex: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
                match hex == self.wanted.hex() {
                    true => Ok(None),
                    false => Err(malformed(&format!("{} is not what its digest says", self.wanted))),
                }
            }
        }
    }
}

/// The same, to be read by a thread that may block.
struct Blob {
    reading: Reading,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match Handle::current().block_on(self.reading.next()).map_err(other)? {
                Some(piece) => (self.piece, self.at) = (piece, 0),
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(layers: impl Iterator<Item = usize>) -> Value {
        let part = |number: usize| json!({ "digest": Digest::of(number.to_string().as_bytes()).to_string(), "size": 1 });
        json!({ "config": part(usize::MAX), "layers": layers.map(part).collect::<Vec<_>>() })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_goes_silent_keeps_no_thread() {
        let session = crate::session::tests::silent(&[READ, WRITE, "/moby.upload.v1.Upload/Pull"]).await;
        let stop = hull_build::Stop::default();
        let patience = || async { Patience::take(&session.places, &stop).await.unwrap() };
        let blobs = Blobs::new(Arc::clone(&session), "s".to_owned(), patience().await);
        let writer = Blobs::new(Arc::clone(&session), "s".to_owned(), patience().await);
        let mut upload = crate::upload::Upload::open(&session, "/x", patience().await).unwrap();
        let digest = Digest::of(b"x").to_string();
        let stored = Stored { blobs: vec![(digest.clone(), 1)], ..Stored::default() };
        let threads = [
            tokio::task::spawn_blocking(move || blobs.send_layout(&stored, io::sink())),
            tokio::task::spawn_blocking(move || writer.write(&digest, 1, &mut &b"x"[..])),
            tokio::task::spawn_blocking(move || upload.read(&mut [0]).map(drop)),
        ];
        // They wait, until the build is stopped.
        tokio::task::yield_now().await;
        assert!(threads.iter().all(|thread| !thread.is_finished()));
        stop.stop();
        for thread in threads {
            let error = thread.await.unwrap().unwrap_err();
            assert!(error.to_string().contains("nobody waits for it any more"), "{error}");
        }
    }

    #[test]
    fn of_an_index_one_image_is_taken() {
        let of = |number: usize, architecture: &str| {
            let platform = json!({ "os": "linux", "architecture": architecture });
            let digest = Digest::of(number.to_string().as_bytes()).to_string();
            json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1, "platform": platform })
        };
        let wanted: Platform = "linux/arm64".parse().unwrap();
        let index = json!([of(0, "amd64"), of(1, "arm64"), of(2, "unknown")]);
        assert_eq!(chosen(&index, Some(&wanted), "x").unwrap(), Digest::of(b"1").to_string());
        assert!(chosen(&json!([of(0, "amd64"), of(2, "s390x")]), Some(&wanted), "x").is_err());
        assert_eq!(
            chosen(&json!([of(0, "amd64")]), Some(&wanted), "x").unwrap(),
            Digest::of(b"0").to_string()
        );
        let many: Value = (0..=MANIFESTS).map(|number| of(number, "arm64")).collect();
        assert!(chosen(&many, Some(&wanted), "x").unwrap_err().message.contains("an index of 65 images"));
    }

    #[test]
    fn a_manifest_without_an_end_is_refused_at_once() {
        let mut stored = Stored::default();
        // The same again and again is one.
        stored.parts(&manifest((0..50_000).map(|number| number % 3))).unwrap();
        assert_eq!(stored.blobs.len(), 4);
        let error = stored.parts(&manifest(0..45_000)).unwrap_err();
        assert!(error.message.contains("more layers"), "{error:?}");
        let huge = json!({ "config": { "digest": Digest::of(b"").to_string(), "size": BYTES + 1 } });
        assert!(Stored::default().parts(&huge).is_err());
    }
}
