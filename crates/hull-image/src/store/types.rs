//! What the store is asked and answers.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ContainerConfig, Digest, Error, ImageConfig, ImageId, Result};

/// An image and its names. A value is a view of one moment: a later tag is in a later value.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The digest of the configuration.
    pub id: ImageId,
    /// The configuration.
    pub config: ImageConfig,
    /// The configuration's very bytes, which the id is the digest of.
    pub raw_config: Arc<[u8]>,
    /// The sum of its layers, in bytes.
    pub size: u64,
    /// `busybox:latest`, sorted, as people write them.
    pub repo_tags: Vec<String>,
    /// `busybox@sha256:…`, sorted.
    pub repo_digests: Vec<String>,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// The image that this one was committed from, if it is known here.
    pub parent: Option<ImageId>,
    /// When it was made, in seconds of Unix time; 0 where the configuration does not say.
    pub created: i64,
    /// When it was last tagged, in nanoseconds of Unix time; 0: never.
    pub last_tagged: i64,
    /// It is `hull/host`: always there, never removed or saved, without layers of its own.
    pub builtin: bool,
}

impl Image {
    /// Whether it is for a platform. One that names no variant is of all.
    pub fn is_for(&self, platform: &Platform) -> bool {
        let has = &self.config;
        let variant =
            platform.variant.is_empty() || has.variant.is_empty() || platform.variant == has.variant;
        platform.os == has.os && platform.architecture == has.architecture && variant
    }

    /// What a container of it runs; empty where the configuration has none.
    pub fn container_config(&self) -> ContainerConfig {
        self.config.config.clone().unwrap_or_default()
    }

    /// Whether no tag and no digest names it.
    pub fn is_dangling(&self) -> bool {
        self.repo_tags.is_empty() && self.repo_digests.is_empty()
    }
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its diff id and all that lies below it.
    pub chain_id: Digest,
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// The bytes of its files.
    pub size: u64,
}

/// A container's file system, to be mounted as an overlay, or whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folders below, uppermost first.
    pub lower: Vec<PathBuf>,
    /// The writable folder.
    pub upper: PathBuf,
    /// The overlay's working folder.
    pub work: PathBuf,
    /// Nothing is to be mounted: the writable folder is the whole file system, made of the layers below.
    pub is_whole: bool,
}

/// What happened to a path, in the numbers of Docker's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It was there and is another.
    Modified = 0,
    /// It is new.
    Added = 1,
    /// It is gone.
    Deleted = 2,
}

/// A path that differs from the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The path, from `/`.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// A step of something long: `current` of `total` bytes (0: not known).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is about: a layer's short id, or empty.
    pub id: String,
    /// `Loading layer`, `Importing`, `Extracting`, `Verifying` …
    pub status: &'static str,
    /// Bytes done.
    pub current: u64,
    /// Bytes in all; 0 where that is not known.
    pub total: u64,
}

/// Where progress is told. It is called from several threads, a few times a second for each layer.
pub type Report<'a> = &'a (dyn Fn(Progress) + Sync);

/// What an image is for: `os/architecture[/variant]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`.
    pub architecture: String,
    /// `v8`, or empty.
    pub variant: String,
}

/// The architectures that may stand alone, in Go's words.
const ARCHITECTURES: [&str; 17] = [
    "386", "amd64", "amd64p32", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc",
    "ppc64", "ppc64le", "riscv64", "s390", "s390x", "wasm",
];

/// An architecture and its variant in the words that images have, as Docker brings others to them: one platform is one,
/// however it is asked for.
fn folded<'a>(architecture: &'a str, variant: &'a str) -> (&'a str, &'a str) {
    match (architecture, variant) {
        ("i386", _) => ("386", ""),
        // The lowest variant stays where it was said: none means the machine's own, which may be a higher one.
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("arm64" | "aarch64", "8") => ("arm64", "v8"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "7") => ("arm", "v7"),
        ("arm", "8") => ("arm", "v8"),
        same => same,
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Platform> {
        let parts: Vec<&str> = text.split('/').collect();
        let part = |index: usize| parts.get(index).copied().unwrap_or_default().to_ascii_lowercase();
        let folded = |os: String, architecture: &str, variant: &str| {
            let (architecture, variant) = folded(architecture, variant);
            Platform { os, architecture: architecture.to_owned(), variant: variant.to_owned() }
        };
        let known = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-()".contains(&b));
        if parts.len() > 3 || parts.iter().any(|part| part.is_empty() || !known(part)) {
            return Err(Error::invalid(format!(
                "{text:?} is an invalid platform: os/architecture[/variant] is expected, as in linux/amd64"
            )));
        }
        if parts.len() == 1 {
            let (host, word) = (Platform::host(), part(0));
            if word == "linux" {
                return Ok(host);
            }
            let alone = folded(host.os, &word, "");
            if !ARCHITECTURES.contains(&alone.architecture.as_str()) {
                return Err(Error::invalid(format!(
                    "{text:?}: unknown operating system or architecture: invalid argument"
                )));
            }
            return Ok(alone);
        }
        Ok(folded(part(0), &part(1), &part(2)))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl Platform {
    /// What an image is for.
    pub fn of(config: &ImageConfig) -> Platform {
        let (os, architecture) = (config.os.clone(), config.architecture.clone());
        Platform { os, architecture, variant: config.variant.clone() }
    }

    /// As a descriptor of OCI's has it.
    pub fn oci(&self) -> serde_json::Value {
        let mut shown = serde_json::json!({ "architecture": self.architecture, "os": self.os });
        if !self.variant.is_empty() {
            shown["variant"] = serde_json::json!(self.variant);
        }
        shown
    }

    /// This machine's own.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: String::new() }
    }
}

/// How [`Store::import`] makes an image of a root file system.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Instructions as in a Dockerfile: `CMD ["sh"]`, `ENV A=b` …
    pub changes: Vec<String>,
    /// The image's comment; empty: `Imported from -`.
    pub message: String,
    /// What it is for; this machine's platform where it is not said.
    pub platform: Option<Platform>,
    /// The name it gets.
    pub reference: Option<String>,
}

/// How [`Store::commit`] makes an image of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The author.
    pub author: String,
    /// The comment.
    pub comment: String,
    /// The container's configuration, which becomes the image's.
    pub config: ContainerConfig,
    /// Instructions as in a Dockerfile, applied to it.
    pub changes: Vec<String>,
    /// The name it gets.
    pub reference: Option<String>,
    /// The command that the history shows.
    pub created_by: String,
    /// The container that it is made of, and its own configuration, as images of Docker's tell.
    pub container: String,
    /// See [`Commit::container`].
    pub container_config: Option<serde_json::Value>,
}

/// What [`Store::load`] brought in: `Loaded image: …` or `Loaded image ID: …`; and whose names it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// A reference that now names an image.
    Reference(String),
    /// An image without a name.
    Id(ImageId),
    /// A reference that names another image from now on, and the one that it named before.
    Renamed(String, ImageId),
}

/// A container that uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// The container's id.
    pub container: String,
    /// Whether it runs.
    pub running: bool,
}

/// One thing that a removal removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A reference.
    Untagged(String),
    /// An image or a layer, by its full digest.
    Deleted(String),
}

/// A line of `docker history`, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image's id, or `<missing>`.
    pub id: String,
    /// Seconds of Unix time; 0 where it is not known.
    pub created: i64,
    /// The command.
    pub created_by: String,
    /// The tags of that image.
    pub tags: Vec<String>,
    /// The bytes of the layer; 0 where it made none.
    pub size: u64,
    /// The comment.
    pub comment: String,
}

/// What the images take, for `docker system df`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// All layers, each counted once.
    pub layers_size: u64,
    /// Each image.
    pub images: Vec<ImageUsage>,
}

/// What one image takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUsage {
    /// Which.
    pub id: ImageId,
    /// The sum of its layers.
    pub size: u64,
    /// The part that other images have too.
    pub shared: u64,
    /// The part that is this image's alone.
    pub unique: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_platform_has_one_name() {
        let read =
            |text: &str| text.parse::<Platform>().map(|platform| platform.to_string()).unwrap_or_default();
        for (written, meant) in [
            ("linux/x86_64", "linux/amd64"),
            ("x86-64", "linux/amd64"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64/v1"),
            ("linux/x86_64/v3", "linux/amd64/v3"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64/v8"),
            ("linux/aarch64/v9", "linux/arm64/v9"),
            ("armhf", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm", "linux/arm"),
            ("i386", "linux/386"),
            ("linux/alpha", "linux/alpha"),
            ("what", ""),
            ("linux/", ""),
        ] {
            assert_eq!(read(written), meant, "{written}");
        }
    }
}
