//! The OCI runtimes of the daemon's flags and of its configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hull_engine::{Error, Program, Result, Runtimes};
use serde::Deserialize;

use super::settle::absolute;

/// A runtime as Docker's file writes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct FileRuntime {
    path: String,
    runtime_args: Vec<String>,
    runtime_type: String,
    options: serde_json::Value,
}

/// Those of the flags (`NAME=PATH`) and of the file, and the default.
pub(super) fn all(
    flags: &[String],
    file: BTreeMap<String, FileRuntime>,
    default: Option<String>,
) -> Result<Runtimes> {
    let mut registered = BTreeMap::new();
    for text in flags {
        let (name, program) = named(text)?;
        if registered.insert(name.clone(), program).is_some() {
            return Err(Error::invalid(format!("runtime '{name}' was already defined")));
        }
    }
    for (name, runtime) in file {
        let program = of_file(&name, runtime)?;
        registered.insert(name, program);
    }
    Runtimes::new(registered, default)
}

/// `NAME=PATH`; names are lower case, as with Docker.
fn named(text: &str) -> Result<(String, Program)> {
    let invalid = || Error::invalid(format!("invalid runtime argument: {text}"));
    let (name, path) = text.split_once('=').ok_or_else(invalid)?;
    let (name, path) = (name.trim().to_lowercase(), path.trim());
    if name.is_empty() || path.is_empty() {
        return Err(invalid());
    }
    Ok((name, Program { path: program(path)?, arguments: Vec::new() }))
}

fn of_file(name: &str, runtime: FileRuntime) -> Result<Program> {
    let FileRuntime { path, runtime_args, runtime_type, options } = runtime;
    if !runtime_type.is_empty() || !options.is_null() {
        let what = if runtime_type.is_empty() { "options" } else { "runtimeType" };
        return Err(Error::invalid(format!(
            "the runtime {name}: \"{what}\" is for a shim of containerd's, and hull has a shim of its own: give the \
             program of an OCI runtime with runc's command line as \"path\", and what it is to be given as \
             \"runtimeArgs\""
        )));
    }
    if path.is_empty() {
        return Err(Error::invalid(format!(
            "the runtime {name}: \"path\" is missing: the program of an OCI runtime"
        )));
    }
    Ok(Program { path: program(&path)?, arguments: runtime_args })
}

/// A name without a folder is looked for in PATH, by who executes it.
fn program(path: &str) -> Result<PathBuf> {
    if path.contains('/') { absolute(PathBuf::from(path)) } else { Ok(Path::new(path).to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(json: &str) -> BTreeMap<String, FileRuntime> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn flags_and_file_name_programs() {
        let flags = ["Runc=/usr/sbin/runc".to_owned(), "crun=crun".to_owned()];
        let two = file(r#"{"kept": {"path": "/bin/kept", "runtimeArgs": ["--debug"]}}"#);
        let all = all(&flags, two, Some("runc".to_owned())).unwrap();
        let program = |path: &str, arguments: &[&str]| Program {
            path: path.into(),
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
        };
        let expected = [
            ("crun", program("crun", &[])),
            ("kept", program("/bin/kept", &["--debug"])),
            ("runc", program("/usr/sbin/runc", &[])),
        ];
        let expected = expected.into_iter().map(|(name, program)| (name.to_owned(), program)).collect();
        assert_eq!(all, Runtimes::new(expected, Some("runc".to_owned())).unwrap());
    }

    #[test]
    fn what_is_no_runtime_is_refused() {
        let none = BTreeMap::new;
        for text in ["runc", "=x", "runc="] {
            let error = all(&[text.to_owned()], none(), None).unwrap_err();
            assert_eq!(error.message, format!("invalid runtime argument: {text}"));
        }
        let twice = ["a=/x".to_owned(), "A=/y".to_owned()];
        assert_eq!(all(&twice, none(), None).unwrap_err().message, "runtime 'a' was already defined");
        let shim = file(r#"{"gvisor": {"runtimeType": "io.containerd.runsc.v1"}}"#);
        let error = all(&[], shim, None).unwrap_err().message;
        assert!(
            error.contains("the runtime gvisor: \"runtimeType\"") && error.contains("\"path\""),
            "{error}"
        );
        assert!(all(&[], file(r#"{"x": {}}"#), None).unwrap_err().message.contains("\"path\" is missing"));
    }
}
