//! The words that engines say, read without the whole command line: putting that together and searching it takes 300 µs,
//! a fifteenth of a short container's life. What is said otherwise, or wrongly, is for the whole one, which alone has
//! help, defaults and words of errors; the test holds that both read the same.

use std::ffi::OsString;

use super::container::{DeleteArguments, OfContainer, RunArguments};
use super::log::Format;
use super::{CommandLine, Globals, Verb};

/// Reads a command line (without the program's name) of few, whole words; none where there is another one.
pub(super) fn read(words: &[OsString]) -> Option<CommandLine> {
    let mut words = words.iter().map(|word| word.to_str()).collect::<Option<Vec<_>>>()?.into_iter();
    let mut globals = Globals::default();
    let verb = loop {
        match words.next()? {
            "--root" => globals.root = Some(value(words.next())?.into()),
            "--log" => globals.log = Some(super::log::place(value(words.next())?).ok()?),
            "--log-format" => {
                globals.log_format = match words.next()? {
                    "json" => Format::Json,
                    "text" => Format::Text,
                    _ => return None,
                }
            }
            "--systemd-cgroup" => globals.systemd_cgroup = true,
            verb => break verb,
        }
    };
    let verb = match verb {
        "run" => Verb::Run(run(words)?),
        "create" => {
            // What only `run` has is no flag of this one.
            let run = run(words)?;
            if run.detach {
                return None;
            }
            Verb::Create(run.create)
        }
        "start" => Verb::Start(OfContainer { id: only(words)? }),
        "state" => Verb::State(OfContainer { id: only(words)? }),
        "delete" => {
            let rest: Vec<&str> = words.collect();
            let force = matches!(rest.first(), Some(&("--force" | "-f")));
            let id = only(rest.into_iter().skip(usize::from(force)))?;
            Verb::Delete(DeleteArguments { force, id })
        }
        _ => return None,
    };
    Some(CommandLine { globals, verb: Some(verb) })
}

fn run<'w>(mut words: impl Iterator<Item = &'w str>) -> Option<RunArguments> {
    let mut run = RunArguments::of(".");
    loop {
        match words.next()? {
            "--bundle" | "-b" => run.create.bundle = value(words.next())?.into(),
            "--pid-file" => run.create.pid_file = Some(value(words.next())?.into()),
            "--console-socket" => run.create.console_socket = Some(value(words.next())?.into()),
            "--detach" | "-d" => run.detach = true,
            id => {
                run.create.id = only(std::iter::once(id).chain(words))?;
                return Some(run);
            }
        }
    }
}

/// A flag's value: one that looks like a flag is for the whole command line to judge.
fn value(word: Option<&str>) -> Option<&str> {
    word.filter(|word| !word.is_empty() && !word.starts_with('-'))
}

/// The last word, an id.
fn only<'w>(mut words: impl Iterator<Item = &'w str>) -> Option<String> {
    let id = value(words.next())?.to_owned();
    words.next().is_none().then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn both_read_the_same() {
        for line in [
            "run c",
            "run --bundle /b c",
            "--root /r run -b /b --pid-file /p -d c",
            "--root /r --log /l --log-format json --systemd-cgroup create --bundle /b --console-socket /s c",
            "--log file:/l --log-format text run --detach c",
            "--root /r start c",
            "state c",
            "delete c",
            "delete --force c",
            "delete -f c",
        ] {
            let whole = super::super::parse_whole([words("hull"), words(line)].concat()).unwrap();
            let plain = read(&words(line)).unwrap_or_else(|| panic!("{line} is not read"));
            assert_eq!(format!("{plain:?}"), format!("{whole:?}"), "{line}");
        }
    }

    #[test]
    fn all_else_is_for_the_whole_one() {
        for line in [
            "",
            "run",
            "run --help",
            "run c d",
            "run --bundle",
            "run --bundle=/b c",
            "run -- c",
            "run --keep c",
            "run -b -d c",
            "create -d c",
            "delete",
            "delete --force",
            "state -h",
            "--version",
            "--debug run c",
            "--root run c",
            "list",
            "exec c true",
            "--log journald:x state c",
            "--log-format xml state c",
        ] {
            assert!(read(&words(line)).is_none(), "{line}");
        }
    }
}
