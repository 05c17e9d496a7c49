//! The rules of the Dockerfile reference, one after the other.

use super::lint::{Around, Check, Warning, lint};
use super::mount::MountKind;
use super::*;

fn one(text: &str) -> Kind {
    let file = parse(&format!("FROM x\n{text}\n")).unwrap_or_else(|mistake| panic!("{text}: {mistake}"));
    file.stages[0].instructions[0].kind.clone()
}

fn refused(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn copy_of(text: &str) -> Copy {
    match one(text) {
        Kind::Copy(copy) => copy,
        other => panic!("{other:?}"),
    }
}

fn run_of(text: &str) -> Run {
    match one(text) {
        Kind::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn format_comments_and_case() {
    let file =
        parse("# a comment\n  # indented\nfrom x\n   run echo hello # not one\n\n#x\nCmd [\"a\"]\n").unwrap();
    let stage = &file.stages[0];
    assert_eq!(stage.base, "x");
    let Kind::Run(run) = &stage.instructions[0].kind else { panic!("no RUN") };
    assert_eq!(run.command, Command::Shell("echo hello # not one".to_owned()));
    assert_eq!((stage.instructions[0].at.line, stage.instructions[0].at.column), (4, 4));
    assert_eq!(stage.instructions[1].kind, Kind::Cmd(Command::Exec(words(&["a"]))));
}

#[test]
fn lines_go_on() {
    let line = |text: &str| run_of(text).command;
    let shell = |text: &str| Command::Shell(text.to_owned());
    assert_eq!(
        line("RUN echo \\\n# a comment is taken out\nhello \\  \n  world"),
        shell("echo hello   world")
    );
    assert_eq!(line("RUN a \\\n\n   \\\n b"), shell("a     b"), "empty lines amid one are passed over");
    assert_eq!(line("RUN echo a\\\\\nRUN b"), shell("echo a\\\\"), "an escaped escape escapes nothing");
    assert_eq!(line("RUN echo \\\r\n hello\r\n"), shell("echo  hello"));
    let file = parse("FROM x\nRUN a \\\n  b \\\n\n  c\nCMD d").unwrap();
    assert_eq!((file.stages[0].instructions[0].at.line, file.stages[0].instructions[0].last_line), (2, 5));
    assert_eq!(file.stages[0].instructions[1].at.line, 6);
    assert_eq!(file.empty_continuations, [4]);
}

#[test]
fn directives() {
    let file = parse("# escape=`\n# syntax=docker/dockerfile:1.7\n#check=skip=all\nFROM x\nRUN a `\n b\\\n")
        .unwrap();
    assert_eq!(file.directives.escape, '`');
    assert_eq!(file.directives.syntax.unwrap().0, "docker/dockerfile:1.7");
    let Kind::Run(run) = &file.stages[0].instructions[0].kind else { panic!("no RUN") };
    assert_eq!(run.command, Command::Shell("a  b\\".to_owned()));
    // Behind a comment, an empty line or an instruction they are comments.
    for text in [
        "# x\n# escape=`\nFROM x",
        "\n# escape=`\nFROM x",
        "# unknown=y\n# escape=`\nFROM x",
        "FROM x\n# escape=`\n",
    ] {
        assert_eq!(parse(text).unwrap().directives.escape, '\\', "{text}");
    }
    assert_eq!(
        refused("# escape=`\n# escape=`\nFROM x"),
        "dockerfile parse error on line 2: only one escape parser directive can be used"
    );
    assert!(refused("# escape=x\nFROM x").contains("invalid escape token"));
    assert!(
        refused("# syntax=example.com/other:1\nFROM x")
            .contains("the frontend example.com/other:1 is not supported")
    );
    parse("# syntax = docker.io/docker/dockerfile@sha256:00\nFROM x").unwrap();
}

#[test]
fn from_and_stages() {
    let file = parse("ARG A=1\nFROM --platform=$P x:$A AS One\nFROM one\nRUN b\n").unwrap();
    assert_eq!(file.arguments.len(), 1);
    assert_eq!(
        (file.stages[0].name.as_deref(), file.stages[0].platform.as_deref()),
        (Some("one"), Some("$P"))
    );
    assert_eq!(file.stages[1].base, "one");
    for (text, want) in [
        ("", "file with no instructions"),
        ("# only\n", "file with no instructions"),
        ("ARG A=1\n", "dockerfile contains no stages to build"),
        ("RUN true\n", "dockerfile parse error on line 1: no build stage in current context"),
        ("FROM\n", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a b\n", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a IS b\n", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        (
            "FROM --plattform=a b\n",
            "dockerfile parse error on line 1: unknown flag: --plattform (did you mean platform?)",
        ),
        (
            "FROM x AS 1a\n",
            "dockerfile parse error on line 1: invalid name for build stage: \"1a\", name can't start with a number or contain symbols",
        ),
        (
            "FROM x\nFORM y\n",
            "dockerfile parse error on line 2: unknown instruction: FORM (did you mean FROM?)",
        ),
        (
            "FROM x\nRUNN true\n",
            "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
        ),
        ("FROM x\n  ZZZ\n", "dockerfile parse error on line 2: unknown instruction: ZZZ"),
    ] {
        assert_eq!(refused(text), want, "{text}");
    }
}

#[test]
fn arg_env_label() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(one("ARG A"), Kind::Arg(vec![("A".to_owned(), None)]));
    assert_eq!(
        one("ARG A=1 B=\"x y\" C"),
        Kind::Arg(vec![
            ("A".to_owned(), Some("1".to_owned())),
            ("B".to_owned(), Some("\"x y\"".to_owned())),
            ("C".to_owned(), None)
        ])
    );
    let Kind::Env(pairs) = one("ENV A=1 B=\"two words\" C=d\\ e F='g h'") else { panic!() };
    assert_eq!(
        pairs.pairs,
        [pair("A", "1"), pair("B", "\"two words\""), pair("C", "d\\ e"), pair("F", "'g h'")]
    );
    let Kind::Env(pairs) = one("ENV ONE TWO= THREE=world") else { panic!() };
    assert_eq!((pairs.pairs, pairs.legacy), (vec![pair("ONE", "TWO= THREE=world")], true));
    let Kind::Label(pairs) = one("LABEL \"com.example.vendor\"=\"ACME\" multi=\"line one \\\nline two\"")
    else {
        panic!()
    };
    assert_eq!(pairs.pairs[1], pair("multi", "\"line one line two\""));
    for (text, want) in [
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=1 B", "Syntax error - can't find = in \"B\". Must be of the form: name=value"),
        ("ENV =1", "ENV names can not be blank"),
        ("ARG", "ARG requires at least one argument"),
        ("ARG =1", "ARG names can not be blank"),
        ("LABEL", "LABEL requires at least one argument"),
        ("ENV --x=1 A=2", "unknown flag: --x"),
    ] {
        assert_eq!(
            refused(&format!("FROM x\n{text}\n")),
            format!("dockerfile parse error on line 2: {want}"),
            "{text}"
        );
    }
    assert!(refused("FROM x\nENV A=\"b\n").contains("matching double-quote"));
    assert!(refused("FROM x\nENV A=${b\n").contains("missing '}'"));
}

#[test]
fn run_forms_and_flags() {
    assert_eq!(run_of("RUN [\"a\", \"b c\"]").command, Command::Exec(words(&["a", "b c"])));
    assert_eq!(run_of("RUN ['a', 'b']").command, Command::Shell("['a', 'b']".to_owned()), "that is no JSON");
    assert_eq!(run_of("RUN [ -e /x ] && y").command, Command::Shell("[ -e /x ] && y".to_owned()));
    let run = run_of(
        "RUN --mount=type=cache,target=/c --mount=target=/x --network=none --security=sandbox echo --y=1",
    );
    assert_eq!((run.mounts[0].kind, run.mounts[1].kind), (MountKind::Cache, MountKind::Bind));
    assert_eq!(run.network.as_deref(), Some("none"));
    assert_eq!(run.command, Command::Shell("echo --y=1".to_owned()));
    assert_eq!(run_of("RUN -- --x").command, Command::Shell("--x".to_owned()));
    for (text, want) in [
        ("RUN", "RUN requires at least one argument"),
        ("RUN [\"a\", 1]", "When using JSON array syntax, arrays must be comprised of strings only."),
        ("RUN --mont=x y", "unknown flag: --mont (did you mean mount?)"),
        (
            "RUN --network=nnone y",
            "network value \"nnone\" is not one of default, none, host (did you mean none?)",
        ),
        ("RUN --network y", "missing a value on flag: network"),
        ("RUN --network=none --network=host y", "duplicate flag specified: network"),
        ("RUN --mount=type=cahce,target=/x y", "unsupported mount type \"cahce\" (did you mean cache?)"),
    ] {
        assert_eq!(
            refused(&format!("FROM x\n{text}\n")),
            format!("dockerfile parse error on line 2: {want}"),
            "{text}"
        );
    }
}

#[test]
fn heredocs() {
    let run = run_of("RUN <<EOT\nset -e\n  echo $x\nEOT");
    assert_eq!(run.script().unwrap().content, "set -e\n  echo $x\n");
    let run = run_of("RUN python3 - <<-'A' 3<<B >out\n\tone\n\tA\ntwo\nB");
    assert!(run.script().is_none());
    assert_eq!((run.heredocs.len(), run.heredocs[0].expand, run.heredocs[0].chomp), (2, false, true));
    assert_eq!(run.line().unwrap(), "python3 - <<-'A' 3<<B >out\none\nA\ntwo\nB");
    let copy = copy_of("COPY a <<one <<\"two\" /d/\n1 $x\none\n2\ntwo");
    assert_eq!((copy.sources, copy.documents.len(), copy.destination.as_str()), (words(&["a"]), 2, "/d/"));
    assert_eq!((copy.documents[0].expand, copy.documents[1].expand), (true, false));
    assert_eq!((copy.documents[0].name.as_str(), copy.documents[0].content.as_str()), ("one", "1 $x\n"));
    let file = parse("FROM x\nRUN <<E\n# no comment\nFROM y\n\\\nE\nCMD z").unwrap();
    assert_eq!((file.stages.len(), file.stages[0].instructions.len()), (1, 2));
    assert!(refused("FROM x\nRUN <<EOT\nno end\n").contains("unterminated heredoc"));
    assert_eq!(run_of("RUN echo $((1<<2))").heredocs, []);
    assert_eq!(run_of("RUN cat <<<x").heredocs, []);
    assert_eq!(one("ONBUILD RUN <<E\necho 1\nE"), Kind::Onbuild("RUN <<E\necho 1\nE".to_owned()));
    assert!(
        matches!(parse_trigger("RUN <<E\necho 1\nE").unwrap().kind, Kind::Run(run) if run.script().is_some())
    );
    assert_eq!(
        one("CMD a <<E"),
        Kind::Cmd(Command::Shell("a <<E".to_owned())),
        "only what runs or writes takes them"
    );
}

#[test]
fn copy_and_add() {
    let copy =
        copy_of("COPY --from=0 --chown=a:b --chmod=0755 --link --parents --exclude=*.md --exclude=x a b /c/");
    assert_eq!(
        (copy.from.as_deref(), copy.chown.as_deref(), copy.chmod.as_deref()),
        (Some("0"), Some("a:b"), Some("0755"))
    );
    assert!(copy.link && copy.parents);
    assert_eq!((copy.exclude, copy.sources), (words(&["*.md", "x"]), words(&["a", "b"])));
    assert_eq!(copy_of("COPY [\"a b\", \"c d\"]").sources, ["a b"]);
    assert!(!copy_of("COPY --link=false a b").link);
    let Kind::Add(add) = one("ADD --keep-git-dir=true --checksum=sha256:00 --unpack=false https://e/x /")
    else {
        panic!()
    };
    assert_eq!(
        (add.keep_git_dir, add.checksum.as_deref(), add.unpack),
        (true, Some("sha256:00"), Some(false))
    );
    for (text, want) in [
        (
            "COPY",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        (
            "COPY a",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        ("ADD --from=x a b", "unknown flag: --from"),
        ("COPY --chwon=1 a b", "unknown flag: --chwon (did you mean chown?)"),
        ("COPY --link=perhaps a b", "expecting boolean value for flag link, not: perhaps"),
    ] {
        assert_eq!(
            refused(&format!("FROM x\n{text}\n")),
            format!("dockerfile parse error on line 2: {want}"),
            "{text}"
        );
    }
}

#[test]
fn the_rest() {
    assert_eq!(one("WORKDIR /a b"), Kind::Workdir("/a b".to_owned()));
    assert_eq!(one("USER 1:2"), Kind::User("1:2".to_owned()));
    assert_eq!(one("EXPOSE 80 53/udp"), Kind::Expose(words(&["80", "53/udp"])));
    assert_eq!(one("VOLUME /a /b"), Kind::Volume(words(&["/a", "/b"])));
    assert_eq!(one("VOLUME [\"/a b\"]"), Kind::Volume(words(&["/a b"])));
    assert_eq!(one("ENTRYPOINT exec x"), Kind::Entrypoint(Command::Shell("exec x".to_owned())));
    assert_eq!(one("CMD []"), Kind::Cmd(Command::Exec(Vec::new())));
    assert_eq!(one("SHELL [\"/bin/bash\", \"-c\"]"), Kind::Shell(words(&["/bin/bash", "-c"])));
    assert_eq!(one("STOPSIGNAL 9"), Kind::Stopsignal("9".to_owned()));
    assert_eq!(one("MAINTAINER me <a@b>"), Kind::Maintainer("me <a@b>".to_owned()));
    assert_eq!(
        one("HEALTHCHECK --interval=5s CMD true"),
        Kind::Healthcheck("--interval=5s CMD true".to_owned())
    );
    assert_eq!(one("ONBUILD COPY . /x"), Kind::Onbuild("COPY . /x".to_owned()));
    for (text, want) in [
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("USER", "USER requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("SHELL /bin/sh", "SHELL requires the arguments to be in JSON form"),
        ("VOLUME [\"\"]", "VOLUME specified can not be an empty string"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD maintainer x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
        ("ONBUILD RUNN x", "unknown instruction: RUNN (did you mean RUN?)"),
        ("HEALTHCHECK --intervall=1s CMD x", "Unknown flag: intervall"),
        ("HEALTHCHECK x", "Unknown type \"X\" in HEALTHCHECK (try CMD)"),
    ] {
        assert_eq!(
            refused(&format!("FROM x\n{text}\n")),
            format!("dockerfile parse error on line 2: {want}"),
            "{text}"
        );
    }
}

#[test]
fn mistakes_show_their_lines() {
    let text = "FROM x\nENV A=1 \\\n    B\nRUN y\n";
    let mistake = parse(text).unwrap_err();
    let source = Source { name: "Dockerfile".to_owned(), text: text.to_owned() };
    let shown = mistake.shown(&source);
    assert!(
        shown.starts_with("dockerfile parse error on line 2: Syntax error - can't find = in \"B\""),
        "{shown}"
    );
    for line in ["   1 |     FROM x", "   2 | >>> ENV A=1 \\", "   3 | >>>     B", "   4 |     RUN y"] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    let text = "FROM x\n  COPY --chwon=1 a b\n";
    let source = Source { name: "Other".to_owned(), text: text.to_owned() };
    let shown = parse(text).unwrap_err().shown(&source);
    assert!(shown.contains("Other:2:8\n"), "{shown}");
    assert!(shown.contains("   2 | >>>   COPY --chwon=1 a b\n     |            ^\n"), "{shown}");
}

#[test]
fn whatever_comes_is_read_or_refused() {
    let parts = [
        "FROM x\n", "RUN ", "COPY ", "<<E", "\n", "\\\n", "\"", "${", "--mount=", "[", "]", "é", "\0", "#",
        " ", "ENV a=", "ONBUILD ",
    ];
    // A fixed sequence, so that what fails fails again.
    let mut seed = 1u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..(seed >> 60) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(parts[(seed >> 33) as usize % parts.len()]);
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let source = Source { name: "D".to_owned(), text: text.clone() };
        match parse(&text) {
            Ok(file) => drop(lint(&file, &Check::default(), &AROUND)),
            Err(mistake) => drop(mistake.shown(&source)),
        }
    }
}

const AROUND: Around<'static> = Around {
    inherited: &|_| Some(vec!["PATH".to_owned(), "BASE_VAR".to_owned()]),
    ignored: &|path| path.starts_with("ignored"),
};

fn linted(file: &Dockerfile) -> Vec<Warning> {
    lint(file, &Check::of(file, &Default::default()).unwrap(), &AROUND)
}

fn rules(text: &str) -> Vec<(&'static str, u32)> {
    let file = parse(text).unwrap();
    let found = linted(&file);
    found.into_iter().map(|warning| (warning.rule, warning.at.line)).collect()
}

#[test]
fn every_rule_of_the_check() {
    let cases: &[(&str, &[(&str, u32)])] = &[
        ("FROM x\nrun y\n", &[("ConsistentInstructionCasing", 2)]),
        ("from x\nrun y\n", &[]),
        ("FROM x as y\n", &[("FromAsCasing", 1)]),
        ("FROM x AS Y\n", &[("StageNameCasing", 1)]),
        ("FROM x AS a\nFROM y AS a\n", &[("DuplicateStageName", 2)]),
        ("FROM x AS scratch\n", &[("ReservedStageName", 1)]),
        ("FROM x\nCMD a\n", &[("JSONArgsRecommended", 2)]),
        ("FROM x\nSHELL [\"sh\"]\nCMD a\n", &[]),
        ("FROM x\nCMD [\"a\"]\nCMD [\"b\"]\n", &[("MultipleInstructionsDisallowed", 2)]),
        ("FROM x\nMAINTAINER me\n", &[("MaintainerDeprecated", 2)]),
        ("FROM x\nENV a b\n", &[("LegacyKeyValueFormat", 2)]),
        ("FROM x\nWORKDIR a\n", &[("WorkdirRelativePath", 2)]),
        ("FROM x\nWORKDIR /a\nWORKDIR b\n", &[]),
        (
            "FROM x\nARG DB_PASSWORD\nENV API_TOKEN=x\n",
            &[("SecretsUsedInArgOrEnv", 2), ("SecretsUsedInArgOrEnv", 3)],
        ),
        ("FROM x\nENV PUBLIC_KEY=x\n", &[]),
        ("FROM x\nCOPY $foo /\n", &[("UndefinedVar", 2)]),
        ("FROM x\nARG foo\nCOPY $foo $BASE_VAR $TARGETARCH ${no:-else} /\n", &[]),
        ("FROM x:$v\n", &[("UndefinedArgInFrom", 1)]),
        ("ARG v\nFROM x:$v\n", &[("InvalidDefaultArgInFrom", 2)]),
        ("ARG v=1\nFROM x:$v\n", &[]),
        ("FROM --platform=linux/amd64 x\n", &[("FromPlatformFlagConstDisallowed", 1)]),
        ("FROM --platform=$TARGETPLATFORM x\n", &[("RedundantTargetPlatform", 1)]),
        ("FROM x\nRUN a \\\n\n b\n", &[("NoEmptyContinuation", 3)]),
        ("FROM x\nEXPOSE 80/TCP\n", &[("ExposeProtoCasing", 2)]),
        ("FROM x\nEXPOSE 127.0.0.1:80:80\nEXPOSE 5432\n", &[("ExposeInvalidFormat", 2)]),
        ("ARG a\narg b\nFROM x\nRUN y\n", &[]),
        ("FROM --platform=linux/arm64 x AS build-arm64\n", &[]),
        ("FROM x AS a\nSHELL [\"sh\"]\nFROM a\nCMD b\n", &[]),
        ("FROM x\nCMD b\nSHELL [\"sh\"]\n", &[("JSONArgsRecommended", 2)]),
        ("FROM x AS a\nFROM a\nWORKDIR b\n", &[("WorkdirRelativePath", 3)]),
        ("FROM x AS a\nWORKDIR /c\nFROM a\nWORKDIR b\n", &[]),
        ("FROM x\n# what it is\nARG a\nCOPY ignored /\n", &[]),
        (
            "# check=experimental=all\nFROM x AS s\n# what it is\nARG a\n# b what it is\nARG b\nCOPY ./ignored other /\n",
            &[
                ("InvalidDefinitionDescription", 2),
                ("InvalidDefinitionDescription", 4),
                ("CopyIgnoredFile", 7),
            ],
        ),
        ("# check=experimental=CopyIgnoredFile\n\nFROM x\nADD ignored/f /\n", &[("CopyIgnoredFile", 4)]),
        ("# check=skip=StageNameCasing\nFROM x AS Y\nCMD a\n", &[("JSONArgsRecommended", 3)]),
        ("# check=skip=all\nFROM x AS Y\n", &[]),
    ];
    for (text, want) in cases {
        assert_eq!(rules(text), *want, "{text}");
    }
    let wrong = Check::parse("skpi=all").unwrap_err();
    assert!(wrong.contains("did you mean skip?"));
    let file = parse("FROM x\nCMD a\n").unwrap();
    let url = linted(&file)[0].url();
    assert_eq!(url, "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/");
    // The build argument goes before the directive.
    let arguments = [("BUILDKIT_DOCKERFILE_CHECK".to_owned(), Some("skip=all;error=true".to_owned()))];
    let check = Check::of(&file, &arguments.into()).unwrap();
    assert!(check.error && lint(&file, &check, &AROUND).is_empty());
}
