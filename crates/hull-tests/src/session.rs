//! Sessions: what is typed and what is seen, written in a test as it stands on a terminal.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::Daemon;
use crate::kernel::wait;

/// How long a whole session may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a session has besides bash and its tools: `eventually COMMAND…` tries for ten seconds, silently.
const PRELUDE: &str = "eventually() {
    local n; for n in {1..500}; do \"$@\" >/dev/null 2>&1 && return; sleep 0.02; done; return 1
}
";

/// The lines of a session as they stand in a test, for one that begins with lines of its own.
pub fn unindented(text: &str) -> String {
    text.lines().map(|line| line.strip_prefix("        ").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// One command of a session and what it is to print.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    command: String,
    expected: String,
}

/// Takes a session apart. Indentation that all lines share, and empty lines around commands, mean nothing.
fn parse(text: &str) -> Vec<Step> {
    let indent = text
        .lines()
        .filter(|l| !l.trim().is_empty())
        .map(|l| l.len() - l.trim_start().len())
        .min()
        .unwrap_or(0);
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines().map(|line| line.get(indent..).unwrap_or("").trim_end()) {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), expected: String::new() });
        } else if let Some(step) = steps.last_mut() {
            match line.strip_prefix("> ") {
                Some(more) if step.expected.is_empty() => {
                    step.command.push('\n');
                    step.command.push_str(more);
                }
                _ => {
                    step.expected.push_str(line);
                    step.expected.push('\n');
                }
            }
        } else {
            assert!(line.is_empty(), "a session begins with a command, not with {line:?}");
        }
    }
    for step in &mut steps {
        step.expected = tidy(&step.expected);
    }
    steps
}

/// Without white space at the ends of lines and of the text.
fn tidy(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

/// Plays the session and compares it whole.
#[track_caller]
pub(crate) fn play(daemon: &Daemon, text: &str) {
    let steps = parse(text);
    let results = daemon.dir().join("session");
    fs::create_dir_all(&results).expect("a folder for what the session prints");
    let mut script = String::from(PRELUDE);
    for (n, step) in steps.iter().enumerate() {
        let at = results.display();
        // The group runs in the shell itself, so that variables last for the session.
        write!(script, "{{\n{}\n}} >{at}/{n}.out 2>&1\necho $? >{at}/{n}.status\n", step.command)
            .expect("a string");
    }
    let mut child = daemon
        .command("bash")
        .arg("-c")
        .arg(&script)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("bash is there");
    let ended = wait(&mut child, PATIENCE).is_some();
    if !ended {
        kill_process_group(Pid::from_child(&child), Signal::KILL).expect("one's own children can be killed");
        child.wait().expect("and waited for");
    }
    let (mut want, mut got) = (String::new(), String::new());
    for (n, step) in steps.iter().enumerate() {
        let printed = fs::read(results.join(format!("{n}.out"))).unwrap_or_default();
        let status = fs::read_to_string(results.join(format!("{n}.status"))).unwrap_or_default();
        let mut printed = mask(&String::from_utf8_lossy(&printed), daemon);
        match status.trim() {
            "0" => {}
            "" => printed = format!("{}\n[it did not end]", printed.trim_end()),
            status => printed = format!("{}\n[{status}]", printed.trim_end()),
        }
        for (text, outcome) in [(&mut want, &step.expected), (&mut got, &tidy(&printed))] {
            writeln!(text, "$ {}", step.command.replace('\n', "\n> ")).expect("a string");
            if !outcome.is_empty() {
                writeln!(text, "{outcome}").expect("a string");
            }
        }
    }
    fs::remove_dir_all(&results).ok();
    assert!(want == got, "the session went otherwise (- wanted, + got):\n{}", difference(&want, &got));
}

/// The longest common subsequence's lines as they are, the others marked.
fn difference(want: &str, got: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (want.lines().collect(), got.lines().collect());
    let mut common = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] =
                if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, String::new());
    while i < a.len() || j < b.len() {
        let (mark, line) = if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
            (' ', a[i - 1])
        } else if i < a.len() && (j == b.len() || common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ('-', a[i - 1])
        } else {
            j += 1;
            ('+', b[j - 1])
        };
        writeln!(out, "{mark} {line}").expect("a string");
    }
    out
}

/// Replaces what differs from run to run: ids and digests (`<id>` for 64 hexadecimal digits, `<short id>` for 12),
/// times (`<time>`, `<ago>`), and the daemon's own folder (`<dir>`).
pub fn mask(text: &str, daemon: &Daemon) -> String {
    mask_with(text, &daemon.dir().display().to_string())
}

fn mask_with(text: &str, dir: &str) -> String {
    let text = text.replace(dir, "<dir>");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let at_word = out.chars().next_back().is_none_or(|c| !c.is_ascii_alphanumeric());
        let taken = if at_word { masked(rest) } else { None };
        match taken {
            Some((length, name)) => {
                out.push_str(name);
                rest = &rest[length..];
            }
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

/// If the text begins with something that is masked: how long it is, and what stands for it.
fn masked(text: &str) -> Option<(usize, &'static str)> {
    let word = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let is_hex = text[..word].bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match word {
        64 if is_hex => return Some((64, "<id>")),
        12 if is_hex => return Some((12, "<short id>")),
        _ => {}
    }
    timestamp(text).or_else(|| ago(text))
}

/// RFC 3339, with any number of digits after the second.
fn timestamp(text: &str) -> Option<(usize, &'static str)> {
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let bytes = text.as_bytes();
    let fits = bytes.len() > shape.len()
        && shape.iter().zip(bytes).all(|(s, b)| if *s == b'd' { b.is_ascii_digit() } else { s == b });
    if !fits {
        return None;
    }
    let mut at = shape.len();
    if bytes[at] == b'.' {
        at += 1 + bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
    }
    match bytes.get(at) {
        Some(b'Z') => Some((at + 1, "<time>")),
        Some(b'+' | b'-') if bytes.len() >= at + 6 => Some((at + 6, "<time>")),
        _ => None,
    }
}

/// Docker's words for spans of time: `Less than a second`, `About a minute`, `3 hours`.
fn ago(text: &str) -> Option<(usize, &'static str)> {
    for words in ["Less than a second", "About a minute", "About an hour"] {
        if text.starts_with(words) {
            return Some((words.len(), "<ago>"));
        }
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return None;
    }
    let unit = text[digits..].strip_prefix(' ')?;
    let unit_length = ["seconds", "second", "minutes", "minute", "hours", "hour", "days"]
        .into_iter()
        .find(|name| unit.starts_with(name))?
        .len();
    Some((digits + 1 + unit_length, "<ago>"))
}

#[cfg(test)]
mod tests {
    use super::{Step, difference, mask_with, parse};

    #[test]
    fn a_session_is_taken_apart() {
        let steps = parse("\n    $ one \\\n    > more\n    printed\n\n    $ two\n    [3]\n    ");
        let want = [("one \\\nmore", "printed"), ("two", "[3]")]
            .map(|(command, expected)| Step { command: command.to_owned(), expected: expected.to_owned() });
        assert_eq!(steps, want);
    }

    #[test]
    fn what_differs_from_run_to_run_is_masked() {
        let id = "0123456789ab".repeat(6)[..64].to_owned();
        let text =
            format!("{id} sha256:{id} 0123456789ab x0123456789ab Up 3 seconds 2024-01-02T03:04:05.6Z /d/f");
        let want = "<id> sha256:<id> <short id> x0123456789ab Up <ago> <time> <dir>/f";
        assert_eq!(mask_with(&text, "/d"), want);
    }

    #[test]
    fn a_difference_marks_lines() {
        assert_eq!(difference("a\nb\nc", "a\nx\nc"), "  a\n- b\n+ x\n  c\n");
    }
}
