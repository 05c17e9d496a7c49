//! What a command that failed has to say: its log's last error, or what it printed.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use crate::Error;

/// How much of a log is read, in bytes: its end.
const LOG_MAX: u64 = 64 * 1024;

/// The longest text that is passed on, in characters.
const TEXT_MAX: usize = 1000;

/// One line of a log.
#[derive(Deserialize)]
struct Entry {
    level: String,
    msg: String,
}

/// The failure in the runtime's own words, with the exit status that Docker gives for them; where it has none, `otherwise`.
pub(super) fn error(log: &Path, printed: &[u8], otherwise: impl FnOnce() -> Error) -> Error {
    let said = logged(&read_end(log)).or_else(|| last_line(printed));
    match said {
        Some(text) => {
            let exit_status = exit_status(&text);
            Error { doing: text, errno: None, advice: String::new(), exit_status }
        }
        None => otherwise(),
    }
}

/// The end of a file; empty where there is none. It is the runtime's: a pipe in its place is not waited for.
fn read_end(path: &Path) -> Vec<u8> {
    use rustix::fs::{Mode, OFlags, open};
    use std::io::{Seek, SeekFrom};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(file) = open(path, flags, Mode::empty()) else { return Vec::new() };
    let mut file = std::fs::File::from(file);
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let mut text = Vec::new();
    let read = file
        .seek(SeekFrom::Start(length.saturating_sub(LOG_MAX)))
        .and_then(|_| file.take(LOG_MAX).read_to_end(&mut text));
    if read.is_err() {
        text.clear();
    }
    text
}

/// The last error of a log; a line that is none is passed over.
fn logged(log: &[u8]) -> Option<String> {
    let entries = log.split(|byte| *byte == b'\n').rev().filter_map(|line| serde_json::from_slice(line).ok());
    let mut errors =
        entries.filter(|entry: &Entry| matches!(entry.level.as_str(), "error" | "fatal" | "panic"));
    errors.next().map(|entry| tidy(&entry.msg)).filter(|text| !text.is_empty())
}

fn last_line(printed: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(printed);
    text.lines().rev().map(tidy).find(|line| !line.is_empty())
}

/// On one line, without what a terminal would obey, and of a length that can be read. The kernel's reasons begin as
/// Docker's clients know them, who look for them: in lower case, which the C library's do not.
fn tidy(text: &str) -> String {
    const REASONS: [&str; 4] =
        ["No such file or directory", "Permission denied", "Is a directory", "Not a directory"];
    let plain = text.trim().chars().map(|char| if char.is_control() { ' ' } else { char });
    let text: String = plain.take(TEXT_MAX).collect();
    REASONS.iter().fold(text, |text, reason| {
        text.replace(&format!(": {reason}"), &format!(": {}", reason.to_ascii_lowercase()))
    })
}

/// Docker's: the command is not there, it may not be executed, or the engine has failed.
fn exit_status(text: &str) -> u8 {
    let text = text.to_ascii_lowercase();
    let says = |words: &str| text.contains(words);
    if says("executable file not found") || says("no such file or directory") {
        127
    } else if says("permission denied") || says("is a directory") {
        126
    } else if says("not a directory") {
        127
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = br#"{"level":"warning","msg":"no","time":"t"}
{"level":"error","msg":"first","time":"t"}
{"level":"error","msg":"runc create failed: exec: \"x\": executable file not found in $PATH","time":"t"}
{"level":"debug","msg":"after","time":"t"}
nonsense
"#;

    #[test]
    fn the_last_error_of_the_log_counts() {
        let text = logged(LOG).unwrap();
        assert_eq!(text, "runc create failed: exec: \"x\": executable file not found in $PATH");
        assert_eq!(exit_status(&text), 127);
        assert_eq!(logged(b"nonsense\n{\"level\":\"error\"}\n"), None);
    }

    #[test]
    fn without_a_log_it_is_what_was_printed() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("none");
        let none = || Error::refused("create", "nothing");
        assert_eq!(error(&log, b"usage\n\nno such\x1b[1m verb\n\n", none).doing, "no such [1m verb");
        assert_eq!(error(&log, b"\n", none).doing, "create");
    }

    #[test]
    fn reasons_are_in_lower_case() {
        let text = tidy("executable file `x` not found in $PATH: No such file or directory");
        assert_eq!(text, "executable file `x` not found in $PATH: no such file or directory");
        assert_eq!(
            tidy("open `No such file`: Permission denied: x"),
            "open `No such file`: permission denied: x"
        );
    }

    #[test]
    fn statuses_are_docker_s() {
        for (text, status) in [
            ("exec: \"/etc/passwd\": permission denied", 126),
            ("exec: \"/etc\": is a directory", 126),
            ("stat /nothing: no such file or directory", 127),
            ("error mounting \"x\": not a directory", 127),
            ("cgroups: cannot", 125),
        ] {
            assert_eq!(exit_status(text), status, "{text}");
        }
    }
}
