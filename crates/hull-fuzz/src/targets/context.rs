//! What clients tell of the folders that they build: listings, and lists of what is left out.

use hull_build::ignore::Ignore;
use hull_build::listing::{Entry, Identity, Kind, Listing};

use crate::{Target, as_it_is, outcome};

pub(crate) const LISTING: Target = Target {
    name: "listing",
    about: "what is in a build's folder, as a client tells it",
    seeds: || {
        let entry = |path: &str, kind| Entry { path: path.into(), kind, mode: 0o644, modified: 1 };
        let identity = Some(Identity { device: 1, inode: 2, changed: (3, 4) });
        let entries = vec![
            entry("d", Kind::Folder),
            entry("d/f", Kind::File { size: 300, identity }),
            entry("d/n", Kind::File { size: 0, identity: None }),
            entry("l", Kind::Link(b"d".to_vec())),
            entry("p", Kind::Fifo),
        ];
        [Listing::default(), Listing { entries }].iter().map(written).collect()
    },
    words: &["..", "/", ".", "\0", "d", "f", "l", "p", "n"],
    block: 1,
    repair: as_it_is,
    prepare: || {
        Box::new(|input| {
            let read = Listing::read(&mut &*input);
            if let Ok(listing) = &read {
                let again =
                    Listing::read(&mut &written(listing)[..]).expect("what was read is written as well");
                assert_eq!(&again, listing);
                for entry in &listing.entries {
                    let path = String::from_utf8_lossy(&entry.path).into_owned();
                    assert!(
                        !path.starts_with('/')
                            && !path.split('/').any(|name| matches!(name, "" | "." | ".."))
                    );
                }
            }
            outcome(&read).split('"').step_by(2).collect()
        })
    },
};

fn written(listing: &Listing) -> Vec<u8> {
    let mut bytes = Vec::new();
    listing.write(&mut bytes).expect("memory takes everything");
    bytes
}

pub(crate) const IGNORE: Target = Target {
    name: "dockerignore",
    about: "lists of what is left out of a build's folder",
    seeds: || {
        [
            "*.log\n!keep.log\n",
            "**/node_modules\n# a comment\n/a/../b\n",
            "a/[b-d]?/**\n\\#x\n!a/**/z\n",
            "*\n!*/\n",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    },
    words: &["**", "*", "?", "[", "]", "[^", "!", "/", "..", "\\", "#", "\n", "\r\n", "\u{feff}"],
    block: 1,
    repair: as_it_is,
    prepare: || {
        Box::new(|input| {
            let read = Ignore::parse(&String::from_utf8_lossy(input));
            let Ok(ignore) = &read else { return outcome(&read).split('"').step_by(2).collect() };
            let paths = ["a", "a/b", "a/b/keep.log", "node_modules/x", "é/z"];
            let mut found = String::new();
            for path in paths {
                let excluded = ignore.excludes(path.as_bytes());
                // Whoever enters no folder that is left out, but where something beneath it may not be, misses nothing.
                for (at, _) in path.match_indices('/').filter(|_| !excluded) {
                    let above = &path.as_bytes()[..at];
                    assert!(
                        !ignore.excludes(above) || ignore.may_include_beneath(above),
                        "{path} by {:?}",
                        String::from_utf8_lossy(input)
                    );
                }
                let beneath = ignore.may_include_beneath(path.as_bytes());
                found.push_str(&format!("{}{} ", u8::from(excluded), u8::from(beneath)));
            }
            found
        })
    },
};

#[cfg(test)]
mod tests {
    #[test]
    fn listings() {
        crate::briefly(&super::LISTING);
    }

    #[test]
    fn lists_of_what_is_left_out() {
        crate::briefly(&super::IGNORE);
    }
}
