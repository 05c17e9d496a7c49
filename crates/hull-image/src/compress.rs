//! How the layers of what goes out are compressed.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

/// How hard is compressed with gzip, where nothing else is said. Half the processor time of the usual 6, which is what a
/// push takes; layers are larger by 7 percent. Another number gives every layer another digest.
const GZIP_LEVEL: u32 = 2;
/// The same with zstd.
const ZSTD_LEVEL: i32 = 3;

/// What a layer is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Nothing.
    Uncompressed,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compress {
    /// With what; none: as it is usual where they go.
    pub algorithm: Option<Algorithm>,
    /// How hard, in the algorithm's own numbers.
    pub level: Option<i32>,
    /// Also layers that are there in another form.
    pub force: bool,
}

impl Algorithm {
    /// What such a layer is in a manifest: of OCI's, or of Docker's.
    pub fn media_type(self, docker: bool) -> &'static str {
        match (self, docker) {
            (Algorithm::Uncompressed, false) => "application/vnd.oci.image.layer.v1.tar",
            (Algorithm::Gzip, false) => crate::registry::manifest::OCI_LAYER_GZIP,
            (Algorithm::Zstd, false) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Algorithm::Uncompressed, true) => "application/vnd.docker.image.rootfs.diff.tar",
            (Algorithm::Gzip, true) => crate::registry::manifest::DOCKER_LAYER,
            (Algorithm::Zstd, true) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        }
    }

    /// What a layer of that media type is compressed with, where this is known here.
    pub fn of_media_type(media_type: &str) -> Option<Algorithm> {
        let all = [Algorithm::Uncompressed, Algorithm::Gzip, Algorithm::Zstd];
        all.into_iter().find(|one| [true, false].iter().any(|docker| one.media_type(*docker) == media_type))
    }

    /// The levels that there are.
    pub fn levels(self) -> std::ops::RangeInclusive<i32> {
        match self {
            Algorithm::Uncompressed => 0..=0,
            Algorithm::Gzip => 0..=9,
            Algorithm::Zstd => 0..=22,
        }
    }

    /// What compresses into `out`; always to the same bytes.
    pub(crate) fn encoder<W: Write>(self, level: Option<i32>, out: W) -> io::Result<Encoder<W>> {
        Ok(match self {
            Algorithm::Uncompressed => Encoder::Uncompressed(out),
            Algorithm::Gzip => {
                let level = level.and_then(|level| u32::try_from(level).ok()).unwrap_or(GZIP_LEVEL);
                Encoder::Gzip(GzEncoder::new(out, flate2::Compression::new(level.min(9))))
            }
            Algorithm::Zstd => {
                Encoder::Zstd(zstd::stream::write::Encoder::new(out, level.unwrap_or(ZSTD_LEVEL))?)
            }
        })
    }
}

/// Something that compresses.
pub(crate) enum Encoder<W: Write> {
    Uncompressed(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Ends what is written, and gives back where it went.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Uncompressed(out) => Ok(out),
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Uncompressed(out) => out.write(bytes),
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Uncompressed(out) => out.flush(),
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::layer::stream::Compression;

    #[test]
    fn what_is_compressed_is_known_by_its_first_bytes() {
        for algorithm in [Algorithm::Uncompressed, Algorithm::Gzip, Algorithm::Zstd] {
            let text = b"the same again and again ".repeat(100);
            let mut encoder = algorithm.encoder(Some(1), Vec::new()).unwrap();
            encoder.write_all(&text).unwrap();
            let bytes = encoder.finish().unwrap();
            assert_eq!(bytes.len() < text.len(), algorithm != Algorithm::Uncompressed);
            let mut read = Vec::new();
            Compression::sniff(&bytes).unwrap().decoder(&bytes[..]).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, text);
            for docker in [true, false] {
                assert_eq!(Algorithm::of_media_type(algorithm.media_type(docker)), Some(algorithm));
            }
        }
        assert_eq!(Algorithm::of_media_type("text/plain"), None);
    }
}
