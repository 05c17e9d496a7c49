//! Dockerfiles: read or refused with a place, linted, and the same when what was read is written down and read again.

use hull_build::dockerfile::lint::{Around, Check, lint};
use hull_build::dockerfile::{Dockerfile, Instruction, Kind, Source, parse, parse_trigger};

use crate::{Target, as_it_is};

pub(crate) const TARGET: Target = Target {
    name: "dockerfile",
    about: "Dockerfiles",
    seeds: || {
        [
            "# syntax=docker/dockerfile:1\nARG V=1\nFROM --platform=$BUILDPLATFORM a:${V:-2} AS b\nRUN x \\\n  # c\n  y\n",
            "FROM scratch\nCOPY --from=b --chown=1:2 --link a b /c/\nADD --checksum=sha256:0 https://e/x /\nENTRYPOINT [\"a\", \"b\"]\n",
            "FROM a\nRUN <<A <<-'B' cat\none\nA\n\ttwo\nB\nCOPY <<f <<g /d/\nx$y\nf\ng\n",
            "FROM a\nRUN --mount=type=cache,target=/x,sharing=locked --mount=type=secret,id=s,env=S --network=none make\n",
            "# escape=`\nFROM a\nENV a=b c='d e' f=\"g\\\"h\"\nENV old way of it\nLABEL x=y\\\n z=w\nHEALTHCHECK --interval=1s CMD true\n",
            "FROM a\nONBUILD RUN <<E\nz\nE\nSHELL [\"sh\"]\nVOLUME /a /b\nEXPOSE 80/tcp 1-2\nUSER u:g\nWORKDIR /w\nSTOPSIGNAL 9\n",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect()
    },
    words: &[
        "FROM ",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "CMD ",
        "# escape=`\n",
        "# check=skip=all\n",
        "# syntax=",
        " AS ",
        "--from=",
        "--mount=type=",
        "--chmod=",
        "<<E",
        "<<-\"E\"",
        "\nE\n",
        "\\\n",
        "`\n",
        "\"",
        "'",
        "${a:-b}",
        "${a//b/c}",
        "${a##*}",
        "[\"",
        "\"]",
        "\r\n",
        "\u{feff}",
        "\0",
        "é",
        "=",
        "#",
        "\t",
    ],
    block: 1,
    repair: as_it_is,
    prepare: || Box::new(read),
};

fn read(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input).into_owned();
    match parse(&text) {
        Err(mistake) => {
            let source = Source { name: "Dockerfile".to_owned(), text };
            let shown = mistake.shown(&source);
            assert!(!shown.is_empty(), "a mistake that is not told");
            // The words that differ from file to file are not another outcome.
            shown
                .split('"')
                .step_by(2)
                .collect::<String>()
                .chars()
                .filter(|c| !c.is_ascii_digit())
                .take(60)
                .collect()
        }
        Ok(file) => {
            let around = Around {
                inherited: &|_| Some(vec!["PATH".to_owned()]),
                ignored: &|path| path.starts_with('a'),
            };
            let check = Check::of(&file, &Default::default());
            let rules = check.map(|check| lint(&file, &check, &around));
            again(&file);
            let kinds = file.stages.iter().flat_map(|stage| &stage.instructions);
            let kinds: Vec<String> = kinds.map(|one| one.keyword.to_ascii_uppercase()).collect();
            let rules: Vec<&str> = rules.iter().flatten().map(|warning| warning.rule).collect();
            format!("{kinds:?} {rules:?}")
        }
    }
}

/// What was read, written down in its shortest form and read again, is the same.
fn again(file: &Dockerfile) {
    let printed = printed(file);
    let other = parse(&printed).unwrap_or_else(|mistake| {
        panic!("what was read cannot be read again: {}\n{printed:?}", mistake.message);
    });
    let all = |file: &Dockerfile| -> Vec<(String, Kind)> {
        let stages =
            file.stages.iter().flat_map(|stage| std::iter::once(&stage.from).chain(&stage.instructions));
        file.arguments.iter().chain(stages).map(|one| (one.text.clone(), one.kind.clone())).collect()
    };
    assert_eq!(all(file), all(&other), "{printed:?}");
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        if let Kind::Onbuild(text) = &instruction.kind {
            parse_trigger(text).unwrap_or_else(|mistake| {
                panic!("a trigger that was looked through is none: {}\n{text:?}", mistake.message);
            });
        }
    }
}

/// A Dockerfile that says the same: its directives, each instruction on one line, its documents behind it.
fn printed(file: &Dockerfile) -> String {
    let mut out = format!("# escape={}\n", file.directives.escape);
    for stage in std::iter::once(None).chain(file.stages.iter().map(Some)) {
        let instructions: Vec<&Instruction> = match stage {
            None => file.arguments.iter().collect(),
            Some(stage) => std::iter::once(&stage.from).chain(&stage.instructions).collect(),
        };
        for instruction in instructions {
            out.push_str(&instruction.text);
            out.push('\n');
            let documents = match &instruction.kind {
                Kind::Run(run) => &run.heredocs[..],
                Kind::Copy(copy) => &copy.documents[..],
                Kind::Add(add) => &add.copy.documents[..],
                // Its documents are in its own text.
                Kind::Onbuild(text) => {
                    let documents = text.split_once('\n').map(|(_, documents)| documents);
                    documents.into_iter().for_each(|documents| {
                        out.push_str(documents);
                        out.push('\n');
                    });
                    &[]
                }
                _ => &[],
            };
            for document in documents {
                out.push_str(&document.content);
                out.push_str(&document.name);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn dockerfiles() {
        crate::briefly(&super::TARGET);
    }

    #[test]
    fn what_people_write_is_the_same_when_it_is_written_down_again() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../hull-tests/corpus");
        let mut read = 0;
        for entry in std::fs::read_dir(corpus).expect("the corpus") {
            let path = entry.expect("a folder").path().join("Dockerfile");
            let Ok(text) = std::fs::read(&path) else { continue };
            let outcome = super::read(&text);
            assert!(outcome.starts_with('['), "{}: {outcome}", path.display());
            read += 1;
        }
        assert!(read >= 30, "{read}");
    }
}
