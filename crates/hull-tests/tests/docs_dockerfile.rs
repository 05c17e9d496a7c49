//! `docs/dockerfile.md` names a test for every rule: each of them is there.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The names of all tests of the workspace.
fn tests(folder: &Path, found: &mut HashSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace") {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_dir() {
            tests(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            for (at, _) in text.match_indices("#[test]") {
                let rest = &text[at..];
                let name = rest.find("fn ").map(|start| &rest[start + 3..]);
                let name = name.and_then(|rest| rest.split('(').next());
                found.extend(name.map(str::to_owned));
            }
        }
    }
}

#[test]
fn every_rule_has_its_test() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut there = HashSet::new();
    tests(&crates, &mut there);
    let text = fs::read_to_string(crates.join("../docs/dockerfile.md")).expect("the table");
    let mut rules = 0;
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| **")).skip(1) {
        let held = line.trim_end_matches(" |").rsplit(" | ").next().expect("a row has its last column");
        let mut named = 0;
        for part in held.split(", ") {
            named += 1;
            match part.strip_prefix("corpus: ") {
                Some(folder) => {
                    let file = crates.join("hull-tests/corpus").join(folder).join("Dockerfile");
                    assert!(file.exists(), "{folder} is not in the corpus: {line}");
                }
                None => assert!(there.contains(part.trim_matches('`')), "there is no test {part}: {line}"),
            }
        }
        assert!(named > 0, "{line}");
        rules += 1;
    }
    assert!(rules > 40, "{rules} rules");
}
