//! The configuration file, with Docker's keys.

use std::fs;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;
use hull_engine::{Error, Result};

use super::flags::Flags;

/// What the file says that the flags name, or else the one in the usual place, if it is there.
///
/// # Errors
/// It cannot be read, has a key that is none, or says what a flag says as well.
pub(super) fn read_file(flags: &Flags, given: &ArgMatches) -> Result<Flags> {
    let (path, asked) = match (&flags.config, flags.is_dockerd) {
        (Some(path), _) => (path.clone(), true),
        (None, true) => (PathBuf::from("/etc/docker/daemon.json"), false),
        (None, false) => (PathBuf::from("/etc/hull/daemon.json"), false),
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => return Ok(Flags::default()),
        Err(error) => {
            return Err(Error::system(format_args!("read the configuration {}", path.display()), error));
        }
    };
    let invalid = |error| Error::invalid(format!("the configuration {}: {error}", path.display()));
    let file = serde_json::from_str(&text).map_err(invalid)?;
    let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).map_err(invalid)?;
    let twice = said_twice(&keys, given);
    if !twice.is_empty() {
        return Err(Error::invalid(format!(
            "unable to configure the daemon with file {}: the following directives are specified both as a flag and in \
             the configuration file: {}",
            path.display(),
            twice.join(", ")
        )));
    }
    Ok(file)
}

/// The keys of the file that are flags on the command line as well, with both values: Docker takes neither.
fn said_twice(keys: &serde_json::Map<String, serde_json::Value>, given: &ArgMatches) -> Vec<String> {
    let on_the_command_line = |id: &str| {
        let known = given.ids().any(|known| known.as_str() == id);
        known && given.value_source(id) == Some(ValueSource::CommandLine)
    };
    keys.iter()
        .filter_map(|(key, value)| {
            // A flag that is given several times is called by one of what the key has many of.
            let many = key.replace('-', "_");
            let one = many.strip_suffix('s').unwrap_or(&many);
            let id = [many.as_str(), one].into_iter().find(|id| on_the_command_line(id))?;
            let raw = given.get_raw(id).into_iter().flatten();
            let values: Vec<String> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
            let flag = if values.is_empty() { "true".to_owned() } else { values.join(" ") };
            Some(format!("{key}: (from flag: {flag}, from file: {value})"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::command;
    use super::*;

    #[test]
    fn what_is_said_twice_is_named() {
        let given = command()
            .try_get_matches_from([
                "--debug",
                "--label",
                "x=y",
                "--default-ulimit",
                "core=1",
                "--dns",
                "192.0.2.1",
            ])
            .unwrap();
        let said = |file: &str| said_twice(&serde_json::from_str(file).unwrap(), &given);
        assert_eq!(said(r#"{"debug": false}"#), ["debug: (from flag: true, from file: false)"]);
        assert_eq!(said(r#"{"labels": ["a=b"]}"#), [r#"labels: (from flag: x=y, from file: ["a=b"])"#]);
        assert_eq!(said(r#"{"default-ulimits": {}, "dns": []}"#).len(), 2);
        assert_eq!(said(r#"{"tls": true, "dns-search": [], "log-level": "info"}"#), [] as [&str; 0]);
    }
}
