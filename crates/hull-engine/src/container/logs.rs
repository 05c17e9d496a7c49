//! What a container printed: where the shim writes it, and reading it back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hull_runtime::protocol::{Log, LogFile};

use super::security::truth;
use super::{Record, log_attributes};
use crate::model::LogConfig;
use crate::{Error, Result};

/// The size at which a log file is rotated unless said otherwise, in bytes: of json-file, and of local, where it is Docker's.
const MAX_SIZE: u64 = 10 * 1000 * 1000;
const MAX_SIZE_LOCAL: u64 = 20 * 1000 * 1000;
/// How many log files there are at most unless said otherwise.
const MAX_FILE: u32 = 3;
const MAX_FILE_LOCAL: u32 = 5;
/// The most log files: each rotation renames them all, and each reader opens them all.
const FILES_MAX: u32 = 1000;
/// How much output waits for the log (`mode=non-blocking`) unless said otherwise, in bytes.
const MAX_BUFFER: u64 = 1_000_000;

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
pub(super) fn check(config: &LogConfig) -> Result<()> {
    parse(config)?;
    match too_many_files(config) {
        Some(why) => Err(invalid("max-file", why)),
        None => Ok(()),
    }
}

/// Checks the daemon's own log configuration, which was written for Docker or for hull before it had a bound on a log's
/// files: too many are a warning and become as many as a log has, so that the daemon starts.
///
/// # Errors
/// As [`check`] has them, but for the number of files.
pub fn check_default(config: &mut LogConfig) -> Result<Option<String>> {
    parse(config)?;
    let Some(why) = too_many_files(config) else { return Ok(None) };
    config.config.insert("max-file".to_owned(), FILES_MAX.to_string());
    Ok(Some(format!("the log option max-file is taken as {FILES_MAX}: {why}")))
}

/// What is to be said where more files are asked for than a log has; [`parse`] gives as many as it has.
fn too_many_files(config: &LogConfig) -> Option<String> {
    let asked: u64 = config.config.get("max-file")?.parse().ok()?;
    (config.driver != "none" && asked > u64::from(FILES_MAX)).then(|| {
        format!(
            "{asked} files are more than a log has in hull: at most {FILES_MAX}; raise max-size to keep more"
        )
    })
}

fn invalid(name: &str, why: String) -> Error {
    Error::invalid(format!("failed to initialize logging driver: {name}: {why}"))
}

struct Parsed {
    max_size: u64,
    max_file: u32,
    compress: bool,
    buffer: Option<u64>,
}

fn parse(config: &LogConfig) -> Result<Parsed> {
    let driver = config.driver.as_str();
    match driver {
        "json-file" | "local" => {}
        // It has no options, and Docker minds none; `idle` tells of them.
        "none" => return Ok(Parsed { max_size: 0, max_file: 1, compress: false, buffer: None }),
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
    let buffer = buffer(&config.config)?;
    let mut parsed = match driver {
        "local" => Parsed { max_size: MAX_SIZE_LOCAL, max_file: MAX_FILE_LOCAL, compress: true, buffer },
        _ => Parsed { max_size: MAX_SIZE, max_file: MAX_FILE, compress: false, buffer },
    };
    for (name, value) in &config.config {
        match (driver, name.as_str()) {
            (_, "max-size") if value == "-1" => parsed.max_size = 0,
            (_, "max-size") => {
                parsed.max_size =
                    size(value).ok_or_else(|| invalid(name, format!("invalid size: '{value}'")))?;
            }
            (_, "max-file") => {
                parsed.max_file = value
                    .parse()
                    .map_err(|_| invalid(name, not_parsed("Atoi", value, "a whole number from 1 on")))?;
                if parsed.max_file < 1 {
                    return Err(invalid(name, "max-file cannot be less than 1".to_owned()));
                }
                // A container that was made before there was a bound keeps the newest.
                parsed.max_file = parsed.max_file.min(FILES_MAX);
            }
            (_, "compress") => {
                parsed.compress = truth(value)
                    .ok_or_else(|| invalid(name, not_parsed("ParseBool", value, "true or false")))?;
            }
            (_, "mode" | "max-buffer-size") => {}
            ("json-file", "labels" | "env" | "labels-regex" | "env-regex" | "tag") => {}
            ("local", _) => {
                return Err(Error::invalid(format!("unknown log opt '{name}' for log driver {driver}")));
            }
            _ => return Err(Error::invalid(format!("unknown log opt '{name}' for {driver} log driver"))),
        }
    }
    log_attributes::check(&config.config)?;
    if parsed.max_size == 0 && config.config.get("max-file").is_some_and(|count| count != "1") {
        return Err(Error::invalid("invalid log option: max-file needs max-size"));
    }
    let rotates = parsed.max_size > 0 && parsed.max_file > 1;
    if config.config.contains_key("compress") && parsed.compress && !rotates {
        let remedy = match parsed.max_size {
            0 => "set max-size, or compress=false",
            _ => "raise max-file to 2 or more, or set compress=false",
        };
        let why = "compress cannot be true when max-file is less than 2 or max-size is not set";
        return Err(invalid("compress", format!("{why}: {remedy}")));
    }
    parsed.compress &= rotates;
    Ok(parsed)
}

/// Docker's words for a value that cannot be read, which name its own parser, and what is wanted.
fn not_parsed(parser: &str, value: &str, wanted: &str) -> String {
    format!("strconv.{parser}: parsing {value:?}: invalid syntax: {wanted} is expected")
}

/// A warning where options are given to a driver that has none: they are kept, and nothing is done by them.
pub(super) fn idle(config: &LogConfig) -> Option<String> {
    if config.driver != "none" || config.config.is_empty() {
        return None;
    }
    let names: Vec<&str> = config.config.keys().map(String::as_str).collect();
    Some(format!("The log driver none keeps no logs: the log options {} have no effect", names.join(", ")))
}

/// The most that may wait of one container's output.
const BUFFER_MAX: u64 = 1 << 30;

/// How many bytes may wait for the log; none where who prints waits for it.
fn buffer(options: &BTreeMap<String, String>) -> Result<Option<u64>> {
    let non_blocking = match options.get("mode").map_or("", String::as_str) {
        "" | "blocking" => false,
        "non-blocking" => true,
        other => return Err(Error::invalid(format!("logger: logging mode not supported: {other}"))),
    };
    let Some(text) = options.get("max-buffer-size") else { return Ok(non_blocking.then_some(MAX_BUFFER)) };
    if !non_blocking {
        return Err(Error::invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ));
    }
    // In powers of 1024, as memory is; nothing at all is the default.
    match crate::size::parse(text) {
        Some(0) => Ok(Some(MAX_BUFFER)),
        // It is the machine's memory, and no container's limit counts it.
        Some(bytes) if bytes > BUFFER_MAX => Err(Error::invalid(format!(
            "max-buffer-size: '{text}' is more than a container's log may hold back in the machine's memory: say 1g or less"
        ))),
        Some(bytes) => Ok(Some(bytes)),
        None => Err(Error::invalid(format!("error parsing option max-buffer-size: invalid size: '{text}'"))),
    }
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
    let Parsed { max_size, max_file, compress, buffer } = parse(config)?;
    let Some(path) = path(folder, &record.id, &config.driver) else { return Ok(Log::None) };
    let attributes = log_attributes::attributes(record);
    let file = LogFile { path, max_size, max_file, attributes, compress, buffer };
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
        check(&config("none", &[("max-size", "1m")])).unwrap();
        let of = |driver, options| parse(&config(driver, options)).unwrap();
        let buffered = of("local", &[("mode", "non-blocking"), ("max-buffer-size", "2k")]);
        assert_eq!((buffered.buffer, buffered.compress), (Some(2048), true));
        assert!(of("json-file", &[("compress", "T")]).compress);
        assert!(!of("local", &[("max-file", "1")]).compress, "there is nothing rotated to compress");
        for (driver, options) in [
            ("journald", &[][..]),
            ("nonsense", &[]),
            ("json-file", &[("max-file", "0")]),
            ("json-file", &[("max-file", "1001"), ("max-size", "1m")]),
            ("local", &[("max-file", "4294967295")]),
            ("json-file", &[("mode", "nonsense")]),
            ("json-file", &[("max-buffer-size", "2g"), ("mode", "non-blocking")]),
            ("json-file", &[("max-buffer-size", "1m")]),
            ("json-file", &[("compress", "true"), ("max-file", "1")]),
            ("json-file", &[("compress", "yes")]),
            ("json-file", &[("what", "x")]),
            ("local", &[("tag", "x")]),
        ] {
            let error = check(&config(driver, options)).unwrap_err();
            let named = options.first().map_or(driver, |(name, _)| name);
            assert!(error.message.contains(named), "{error}");
        }
        let told = |driver, options| check(&config(driver, options)).unwrap_err().message;
        check(&config("json-file", &[("max-file", "1000"), ("max-size", "1m")])).unwrap();
        assert!(told("local", &[("max-file", "1001")]).contains("at most 1000; raise max-size"));
        let mut old = config("local", &[("max-file", "1001")]);
        assert_eq!(
            parse(&old).unwrap().max_file,
            FILES_MAX,
            "what was made before has as many as there may be"
        );
        assert!(
            check_default(&mut old)
                .unwrap()
                .is_some_and(|warning| warning.contains("is taken as 1000: 1001"))
        );
        assert_eq!(check_default(&mut old).unwrap(), None);
        check(&config("none", &[("max-file", "1001")])).expect("it keeps none");
        assert!(told("json-file", &[("max-file", "x")]).ends_with("a whole number from 1 on is expected"));
        let compressed = told("local", &[("max-file", "1"), ("compress", "true")]);
        assert!(compressed.ends_with("raise max-file to 2 or more, or set compress=false"), "{compressed}");
    }

    #[test]
    fn options_of_no_driver_are_told_of() {
        let options = [("max-size", "1m"), ("mode", "nonsense")];
        check(&config("none", &options)).unwrap();
        assert!(idle(&config("none", &options)).is_some_and(|warning| warning.contains("max-size, mode")));
        assert_eq!([idle(&config("none", &[])), idle(&config("local", &options[..1]))], [None, None]);
    }
}
