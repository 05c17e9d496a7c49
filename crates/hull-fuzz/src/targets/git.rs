//! git: the pack that a server sends, written out as the files of its commit, and the words of addresses and `.gitmodules`.
//!
//! An input for a pack is a list of objects, which the target packs: compressed bytes with checksums of their own take no
//! mutation well. One that begins with `PACK` is taken as it is, with its last checksum put right.

use std::fs;
use std::io::Write as _;

use hull_build::git_words;
use sha1_checked::{Digest as _, Sha1};

use super::tar::Walls;
use crate::{Once, Target, as_it_is, outcome};

/// What stands for the name of an object in another: these, and its number. Together as long as a name.
const NAME: &[u8; 19] = b"@object-of-the-pack";

/// The name of what the delta makes that is among the seeds.
const MADE: &[u8] = b"\x95\xd0\x9f\x2b\x10\x15\x93\x47\xee\xce\x71\x39\x9a\x7e\x2e\x90\x7e\xa3\xdf\x4f";

pub(crate) const PACK: Target = Target {
    name: "git-pack",
    about: "packs of git's, and the files in them",
    seeds,
    words: &[
        "tree ",
        "parent ",
        "author A <a> 1 +0000\n",
        "committer C <c> 1 +0000\n",
        "100644 ",
        "100755 ",
        "120000 ",
        "40000 ",
        "160000 ",
        "../outside",
        "..",
        ".git",
        ".gitmodules",
        "\0",
        "@object-of-the-pack\u{1}",
        "PACK",
    ],
    block: 1,
    repair: as_it_is,
    prepare,
};

pub(crate) const WORDS: Target = Target {
    name: "git-words",
    about: "addresses of git's, and .gitmodules",
    seeds: || {
        [
            "https://u:p@git.example/a.git#main:sub",
            "git@git.example:a/b.git?ref=v1&subdir=x&checksum=0123456",
            "https://git.example/a.git\n[submodule \"x\"]\n\tpath = \"a b\"\n\turl = ../b.git ; c\n",
            "git://[::1]:9418/a\n[submodule \"y\"] path=y/ \n url = https://other.example/y\n",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    },
    words: &[
        "https://",
        "git://",
        "ssh://",
        "git@",
        ".git",
        "#",
        ":",
        "?ref=",
        "&subdir=",
        "%2F",
        "%00",
        "..",
        "//",
        "@",
        "[submodule \"",
        "\"]",
        "path =",
        "url =",
        "\\\"",
        "\\\n",
        ";",
        "\n",
        "\t",
    ],
    block: 1,
    repair: as_it_is,
    prepare: || Box::new(words),
};

pub(crate) const WIRE: Target = Target {
    name: "git-wire",
    about: "what servers of git's say, line by line",
    seeds: || {
        let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
        let oid = "0123456789abcdef0123456789abcdef01234567";
        let greeting = [
            line("version 2\n"),
            line("agent=git/2\n"),
            line("fetch=shallow wait-for-done\n"),
            line("object-format=sha1\n"),
        ];
        let refs = [
            line(&format!("{oid} HEAD symref-target:refs/heads/main\n")),
            line(&format!("{oid} refs/heads/main peeled:{oid}\n")),
        ];
        let pack = [
            line("shallow-info\n"),
            line(&format!("shallow {oid}\n")),
            "0001".to_owned(),
            line("packfile\n"),
        ];
        let bands = [line("\u{2}Counting\n"), line("\u{1}PACK"), line("\u{1}bytes")];
        let end = ["0000".to_owned()];
        let good = [&greeting[..], &end, &refs, &end, &pack, &bands, &end].concat().concat();
        let stops = [&greeting[..], &end, &refs, &end, &pack, &[line("\u{3}out of memory\u{1b}[2J")]]
            .concat()
            .concat();
        vec![good.into_bytes(), stops.into_bytes(), line("ERR access denied").into_bytes()]
    },
    words: &[
        "0000",
        "0001",
        "0002",
        "0003",
        "0004",
        "0005\u{1}",
        "0005\u{3}",
        "fff0",
        "ffff",
        "+001",
        "ERR ",
        "version 2\n",
        "000eversion 2\n",
        "packfile\n",
        "000dpackfile\n",
        "fetch=shallow",
        "object-format=sha256",
        "peeled:",
        "HEAD",
        "shallow-info",
        "\n",
        " ",
    ],
    block: 1,
    repair: as_it_is,
    prepare: || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Box::new(move |input| match runtime.block_on(git_words::said(input.to_vec())) {
            Ok((references, bytes)) => {
                assert!(bytes <= input.len());
                format!("{references} references, a pack: {}", bytes > 0)
            }
            Err(failure) => {
                assert!(!failure.message.contains(char::is_control), "{:?}", failure.message);
                failure.message
            }
        })
    },
};

fn words(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let (address, modules) = text.split_once('\n').unwrap_or((&text, ""));
    let told = git_words::address(address);
    if let Some(Ok(url)) = &told {
        // What is told to others has no password.
        let server = url.split_once("://").and_then(|(_, rest)| rest.split('/').next());
        assert!(!server.is_some_and(|server| server.contains('@')), "{url:?}");
    }
    let from = if matches!(told, Some(Ok(_))) { address } else { "https://git.example/a/b.git" };
    let modules = git_words::submodules(modules, from);
    let kinds = modules.as_ref().map(|modules| {
        let good = modules.values().filter(|url| url.is_ok()).count();
        format!("{} {good}", modules.len())
    });
    let told = told.map(|told| outcome(&told));
    format!("{told:?} {kinds:?}").split('"').step_by(2).collect()
}

/// An object of an input: its kind as git numbers it, its length, its bytes. A delta's begin with how many objects ahead
/// of it the one is that it is of.
fn object(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind], &(bytes.len() as u16).to_le_bytes()[..], bytes].concat()
}

fn name(number: u8) -> Vec<u8> {
    [&NAME[..], &[number]].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let entry =
        |mode: &str, file: &str, number| [format!("{mode} {file}\0").as_bytes(), &name(number)].concat();
    let commit = |tree: &str| {
        object(1, format!("tree {tree}\nauthor A <a> 1 +0000\ncommitter C <c> 1 +0000\n\nx\n").as_bytes())
    };
    let delta = [&[1][..], &[6, 11, 0x90, 5, 6, b' ', b'w', b'o', b'r', b'l', b'd']].concat();
    let blob = object(3, b"hello\n");
    let hex = "@object-of-the-pack-in-words-of-it-all!\u{2}";
    let tree = [entry("100644", "a", 0), entry("40000", "d", 1), entry("120000", "l", 0)].concat();
    let modules = object(3, b"[submodule \"s\"]\n\tpath = s\n\turl = ../s.git\n");
    let others =
        [entry("100644", ".gitmodules", 1), entry("160000", "s", 0), entry("100755", "x", 0)].concat();
    let mut raw = [b"PACK".as_slice(), &2u32.to_be_bytes(), &0u32.to_be_bytes()].concat();
    raw.extend_from_slice(&[0; 20]);
    vec![
        [blob.clone(), object(2, &entry("100644", "b", 0)), object(2, &tree), commit(hex)].concat(),
        [blob.clone(), modules, object(2, &others), commit(hex)].concat(),
        [blob.clone(), object(6, &delta), object(2, &[b"100644 a\0", MADE].concat()), commit(hex)].concat(),
        // A folder that has itself many times over.
        [blob, object(2, &entry("40000", "a", 1)), object(2, &entry("40000", "a", 1)), commit(hex)].concat(),
        raw,
    ]
}

/// The pack of an input.
fn pack(input: &[u8]) -> Vec<u8> {
    if input.starts_with(b"PACK") {
        let end = input.len().saturating_sub(20).max(4);
        return finished(input[..end].to_vec());
    }
    let (mut packed, mut names, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = input;
    while let [kind, low, high, more @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        let (bytes, behind) = more.split_at(length);
        rest = behind;
        let bytes = named(bytes, &names);
        let offset = packed.len() + 12;
        let (bytes, of) = match (kind % 8, bytes.split_first()) {
            (6, Some((back, delta))) => (delta.to_vec(), distance(&offsets, usize::from(*back), offset)),
            (7, _) if bytes.len() >= 20 => (bytes[20..].to_vec(), bytes[..20].to_vec()),
            _ => (bytes, Vec::new()),
        };
        names.push(hash(kind % 8, &bytes));
        offsets.push(offset);
        let mut size = bytes.len() >> 4;
        let mut byte = (kind % 8) << 4 | (bytes.len() & 15) as u8;
        while size > 0 {
            packed.push(byte | 0x80);
            byte = (size & 0x7f) as u8;
            size >>= 7;
        }
        packed.push(byte);
        packed.extend_from_slice(&of);
        let mut encoder = flate2::write::ZlibEncoder::new(packed, flate2::Compression::fast());
        encoder.write_all(&bytes).expect("memory takes all");
        packed = encoder.finish().expect("memory takes all");
    }
    let count = (offsets.len() as u32).to_be_bytes();
    finished([b"PACK".as_slice(), &2u32.to_be_bytes(), &count, &packed].concat())
}

/// With the checksum at its end.
fn finished(mut pack: Vec<u8>) -> Vec<u8> {
    let checksum = Sha1::digest(&pack);
    pack.extend_from_slice(&checksum);
    pack
}

/// The name of an object.
fn hash(kind: u8, bytes: &[u8]) -> [u8; 20] {
    let kind = ["", "commit", "tree", "blob", "tag", "", "blob", "blob"][usize::from(kind)];
    let mut hash = Sha1::new();
    hash.update(format!("{kind} {}\0", bytes.len()));
    hash.update(bytes);
    hash.finalize().into()
}

/// How far back the object begins that a delta is of, as a pack has it.
fn distance(offsets: &[usize], back: usize, at: usize) -> Vec<u8> {
    let of =
        offsets.len().checked_sub(back).and_then(|index| offsets.get(index)).copied().unwrap_or_default();
    let mut left = at - of;
    let mut bytes = vec![(left & 0x7f) as u8];
    while left >= 128 {
        left = (left >> 7) - 1;
        bytes.insert(0, 0x80 | (left & 0x7f) as u8);
    }
    bytes
}

/// With the names of objects where they are stood for: as bytes, and in a commit in words.
fn named(bytes: &[u8], names: &[[u8; 20]]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while at + 20 <= bytes.len() {
        if bytes[at..].starts_with(b"@object-of-the-pack-in-words-of-it-all!") && at + 40 <= bytes.len() {
            if let Some(name) = names.get(usize::from(bytes[at + 39])) {
                let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
                bytes[at..at + 40].copy_from_slice(hex.as_bytes());
            }
        } else if bytes[at..].starts_with(NAME)
            && let Some(name) = names.get(usize::from(bytes[at + 19]))
        {
            bytes[at..at + 20].copy_from_slice(name);
        }
        at += 1;
    }
    bytes
}

fn prepare() -> Once {
    let walls = Walls::new();
    let scratch = super::tar::scratch();
    Box::new(move |input| {
        let file = scratch.path().join("pack");
        fs::write(&file, pack(input)).expect("a file");
        let to = walls.empty();
        let unpacked = git_words::unpack(&file, to, 2000, input.len() % 2 == 0);
        walls.hold();
        match unpacked {
            Ok((objects, submodules)) => format!("{} objects, {submodules} submodules", objects.min(9)),
            Err(failure) => failure.message,
        }
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn packs() {
        // What is well-formed is written out.
        let mut once = (super::PACK.prepare)();
        let seeds = (super::PACK.seeds)();
        let said: Vec<String> = seeds.iter().map(|seed| once(seed)).collect();
        assert_eq!(
            said[..3],
            ["4 objects, 0 submodules", "4 objects, 1 submodules", "4 objects, 0 submodules"]
        );
        crate::briefly(&super::PACK);
    }

    #[test]
    fn lines() {
        let mut once = (super::WIRE.prepare)();
        let said: Vec<String> = (super::WIRE.seeds)().iter().map(|seed| once(seed)).collect();
        assert_eq!(said[0], "2 references, a pack: true");
        assert_eq!(said[1..], ["the server says: out of memory [2J", "the server says: access denied"]);
        crate::briefly(&super::WIRE);
    }

    #[test]
    fn words() {
        crate::briefly(&super::WORDS);
    }
}
