//! Names of images, as anybody writes them.

use hull_image::reference::Reference;

use crate::{Target, as_it_is, outcome};

pub(crate) const TARGET: Target = Target {
    name: "reference",
    about: "names of images",
    seeds,
    words: &[
        "docker.io/",
        "index.docker.io/",
        "library/",
        "localhost",
        ":5000/",
        "sha256:",
        "@",
        ":",
        "..",
        "//",
        "__",
        "latest",
    ],
    block: 1,
    repair: as_it_is,
    prepare: || Box::new(read),
};

fn seeds() -> Vec<Vec<u8>> {
    let digest = format!("a@sha256:{}", "0123456789abcdef".repeat(4));
    let names = [
        "busybox",
        "a/b:1",
        "localhost:5000/a/b_c.d-e:v1.2",
        "[::1]:5000/a",
        "docker.io/library/x",
        "X.y/z",
        &digest,
    ];
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn read(input: &[u8]) -> String {
    let Ok(text) = str::from_utf8(input) else { return "no text".to_owned() };
    let parsed = Reference::parse(text);
    if let Ok(reference) = &parsed {
        // What was read once is read again as the same, in full and as people write it: it is the key of its row.
        for written in [reference.to_string(), reference.familiar()] {
            assert_eq!(Reference::parse(&written).as_ref(), Ok(reference), "{text:?} as {written:?}");
            // It becomes a part of addresses and of lines on a terminal.
            assert!(written.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?} as {written:?}");
            assert!(!written.split(['/', ':', '@']).any(|part| part == ".."), "{text:?} as {written:?}");
        }
    }
    outcome(&parsed)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names() {
        crate::briefly(&super::TARGET);
    }
}
