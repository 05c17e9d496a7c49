//! Layers as they are compressed: the frames of gzip, zstd, xz and bzip2, several behind each other, cut off, and with
//! what is skipped.

use std::io::Write as _;

use hull_image::{Import, Store};

use super::tar::{Walls, archive, is_empty, member};
use crate::{Once, Target, as_it_is, outcome};

pub(crate) const TARGET: Target = Target {
    name: "compressed",
    about: "gzip, zstd, xz and bzip2 around a layer",
    seeds,
    words: &["\x1f", "\x08", "(", "/", "7zXZ", "BZh9", "\0\0\0\0", "\0\0"],
    block: 1,
    repair: as_it_is,
    prepare,
};

fn seeds() -> Vec<Vec<u8>> {
    let plain = archive(&[member("file", b"contents"), member("other", &[7; 3000])]);
    let (first, second) = plain.split_at(700);
    let gzip = |bytes: &[u8]| {
        let named = flate2::GzBuilder::new().filename("layer").comment("of a test").extra([1, 2, 3]);
        let mut encoder = named.write(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory takes all");
        encoder.finish().expect("memory takes all")
    };
    let zstd = |bytes: &[u8], long: bool| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
        encoder.include_checksum(true).expect("it can");
        encoder.window_log(if long { 27 } else { 17 }).expect("it can");
        encoder.write_all(bytes).expect("memory takes all");
        encoder.finish().expect("memory takes all")
    };
    let xz = |bytes: &[u8]| {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(bytes).expect("memory takes all");
        encoder.finish().expect("memory takes all")
    };
    // A frame that is skipped: its number, how long it is, and that.
    let skipped = [&0x184d_2a50_u32.to_le_bytes()[..], &4u32.to_le_bytes(), b"skip"].concat();
    vec![
        [gzip(first), gzip(second)].concat(),
        [gzip(&plain), vec![0; 100]].concat(),
        [skipped.clone(), zstd(first, false), skipped, zstd(second, true)].concat(),
        [xz(first), xz(second)].concat(),
        // Zeros without end in few bytes.
        gzip(&vec![0; 1 << 20]),
        zstd(&vec![0; 1 << 20], false),
        gzip(&zstd(&plain, false)),
    ]
}

fn prepare() -> Once {
    let walls = Walls::new();
    let store = Store::open(&walls.inner, &[]).expect("a store");
    Box::new(move |input| {
        let options = Import { reference: Some("fuzz:1".to_owned()), ..Import::default() };
        let imported = store.import(&mut &input[..], options, &|_| {});
        if imported.is_ok() {
            store.remove("fuzz:1", true, true, &|_| None).expect("what was imported can be removed");
        }
        is_empty(&walls, &store);
        outcome(&imported)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn frames() {
        // What is well-formed is read to its end.
        let mut once = (super::TARGET.prepare)();
        let said: Vec<String> = (super::TARGET.seeds)().iter().map(|seed| once(seed)).collect();
        assert_eq!((said[0].as_str(), said[2].as_str()), ("done", "done"));
        // As in Go's reader, what is behind the last frame is one, too.
        assert!(said[1].contains("invalid gzip header"), "{}", said[1]);
        crate::briefly(&super::TARGET);
    }
}
