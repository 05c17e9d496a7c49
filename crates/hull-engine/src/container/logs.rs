//! What a container printed: where the shim writes it, and reading it back.

use std::path::{Path, PathBuf};

use hull_runtime::protocol::{Log, LogFile};

use super::{Record, log_attributes};
use crate::model::LogConfig;
use crate::{Error, Result};

/// The size at which a log file is rotated unless said otherwise, in bytes.
const MAX_SIZE: u64 = 10 * 1000 * 1000;
/// How many log files there are at most unless said otherwise.
const MAX_FILE: u32 = 3;

/// Which part of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Goes on with what is yet to come.
    pub follow: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// From that moment on, in nanoseconds since 1970.
    pub since_ns: Option<i64>,
    /// Up to that moment.
    pub until_ns: Option<i64>,
    /// Only so many of the last lines.
    pub tail: Option<usize>,
    /// Each line begins with its moment.
    pub timestamps: bool,
    /// Each line begins with its attributes.
    pub details: bool,
}

/// Checks a log configuration.
///
/// # Errors
/// The driver or an option is unknown or not supported; the sentence names it.
pub fn check(config: &LogConfig) -> Result<()> {
    parse(config).map(drop)
}

struct Parsed {
    max_size: u64,
    max_file: u32,
}

fn parse(config: &LogConfig) -> Result<Parsed> {
    match config.driver.as_str() {
        "json-file" | "local" | "none" => {}
        other @ ("syslog" | "journald" | "gelf" | "fluentd" | "awslogs" | "splunk" | "gcplogs"
        | "logentries" | "etwlogs") => {
            return Err(Error::unsupported(format_args!(
                "the log driver {other}: use json-file, local or none; that driver"
            )));
        }
        other => {
            return Err(Error::invalid(format!(
                "error looking up logging plugin {other}: plugin \"{other}\" not found"
            )));
        }
    }
    let mut parsed = Parsed { max_size: MAX_SIZE, max_file: MAX_FILE };
    let non_blocking = config.config.get("mode").is_some_and(|mode| mode == "non-blocking");
    for (name, value) in &config.config {
        let invalid = || Error::invalid(format!("invalid value {value:?} of the log option {name}"));
        match (config.driver.as_str(), name.as_str()) {
            ("none", _) => {
                return Err(Error::invalid(format!("unknown log opt '{name}' for none log driver")));
            }
            (_, "max-size") => {
                parsed.max_size = if value == "-1" { 0 } else { size(value).ok_or_else(invalid)? }
            }
            (_, "max-file") => {
                parsed.max_file = value.parse().ok().filter(|count| *count >= 1).ok_or_else(invalid)?
            }
            (_, "mode") if value == "blocking" => {}
            (_, "mode") if value != "non-blocking" => {
                return Err(Error::invalid(format!("logger: logging mode not supported: {value}")));
            }
            (_, "max-buffer-size") if !non_blocking => {
                return Err(Error::invalid(
                    "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
                ));
            }
            (_, "compress") if value == "false" => {}
            ("json-file", "labels" | "env" | "labels-regex" | "env-regex" | "tag") => {}
            (driver, "mode" | "compress" | "max-buffer-size") => {
                return Err(Error::unsupported(format_args!(
                    "the option {name}={value} of the log driver {driver}"
                )));
            }
            (driver, _) => {
                return Err(Error::invalid(format!("unknown log opt '{name}' for {driver} log driver")));
            }
        }
    }
    log_attributes::check(&config.config)?;
    if parsed.max_size == 0 && config.config.get("max-file").is_some_and(|count| count != "1") {
        return Err(Error::invalid("invalid log option: max-file needs max-size"));
    }
    Ok(parsed)
}

/// `10m`, `1g`, `512k`, in powers of 1000 as Docker's log options are.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        _ => return None,
    };
    let number: f64 = digits.parse().ok()?;
    let bytes = number * factor as f64;
    (1.0..1e18).contains(&bytes).then_some(bytes as u64)
}

/// The current log file.
pub(super) fn path(folder: &Path, id: &str, driver: &str) -> Option<PathBuf> {
    match driver {
        "json-file" => Some(folder.join(format!("{id}-json.log"))),
        "local" => Some(folder.join("container.log")),
        _ => None,
    }
}

/// What the shim is told.
pub(super) fn to_shim(record: &Record, folder: &Path) -> Result<Log> {
    let config = &record.host_config.log_config;
    let Parsed { max_size, max_file } = parse(config)?;
    let Some(path) = path(folder, &record.id, &config.driver) else { return Ok(Log::None) };
    let file =
        LogFile { path, max_size, max_file, attributes: log_attributes::attributes(record), compress: false };
    Ok(if config.driver == "local" { Log::Local(file) } else { Log::JsonFile(file) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(driver: &str, options: &[(&str, &str)]) -> LogConfig {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        LogConfig { driver: driver.to_owned(), config: options }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!([size("10m"), size("1.5k"), size("7")], [Some(10_000_000), Some(1_500), Some(7)]);
        assert_eq!([size(""), size("x"), size("1t"), size("-1m")], [None; 4]);
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        check(&config("json-file", &[("max-size", "1m"), ("max-file", "2")])).unwrap();
        for (driver, options) in [
            ("journald", &[][..]),
            ("nonsense", &[]),
            ("json-file", &[("max-file", "0")]),
            ("json-file", &[("mode", "non-blocking")]),
            ("json-file", &[("what", "x")]),
            ("none", &[("max-size", "1m")]),
        ] {
            let error = check(&config(driver, options)).unwrap_err();
            let named = options.first().map_or(driver, |(name, _)| name);
            assert!(error.message.contains(named), "{error}");
        }
    }
}
