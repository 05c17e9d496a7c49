//! Where the runtime's words go: standard error, and the log that callers such as containerd read errors from. Without a
//! file, what is to be logged as JSON goes to standard error as such.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use hull_runtime::error::Context;
use hull_runtime::{Error, Result};

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// A log's place. crun names what kind of one it is before it; hull writes to files alone.
pub(super) fn place(text: &str) -> std::result::Result<PathBuf, String> {
    match text.split_once(':') {
        Some(("file", path)) => Ok(path.into()),
        Some((kind @ ("journald" | "syslog"), _)) => {
            Err(format!("hull oci writes no {kind}: name a file, or take what is on standard error"))
        }
        _ => Ok(text.into()),
    }
}

/// The log of one run.
pub(super) struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

impl Log {
    pub(super) fn open(path: Option<&Path>, format: Format, debug: bool) -> Result<Log> {
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.context(|| format!("open the log {}", path.display()))
        };
        Ok(Log { file: path.map(open).transpose()?, format, debug })
    }

    /// What ended the run.
    pub(super) fn error(&self, text: &str) {
        if self.file.is_some() || self.format == Format::Text {
            eprintln!("hull oci: {text}");
        }
        self.write("error", text);
    }

    /// What it goes on without.
    pub(super) fn warn(&self, text: &str) {
        if self.file.is_none() && self.format == Format::Text {
            eprintln!("hull oci: warning: {text}");
        }
        self.write("warning", text);
    }

    /// What helps to understand it, with `--debug`; put into words for that alone.
    pub(super) fn debug(&self, text: impl FnOnce() -> String) {
        if !self.debug {
            return;
        }
        let text = text();
        if self.file.is_none() && self.format == Format::Text {
            eprintln!("hull oci: {text}");
        }
        self.write("debug", &text);
    }

    fn write(&self, level: &str, text: &str) {
        if self.file.is_none() && self.format == Format::Text {
            return;
        }
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let line = match self.format {
            Format::Json => {
                serde_json::json!({ "level": level, "msg": text, "time": time.to_string() }).to_string()
            }
            Format::Text => format!("time=\"{time}\" level={level} msg={text:?}"),
        };
        // A log that cannot be written is told nowhere else: the error itself has been, or this was where.
        let _ = match self.file.as_ref() {
            Some(mut file) => file.write_all(format!("{line}\n").as_bytes()),
            None => writeln!(std::io::stderr(), "{line}"),
        };
    }
}

/// A refusal in this command line's name.
pub(super) fn refused(doing: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::refused(doing, reason)
}
