//! What a person sees of a build: its steps with their times, the last lines of what runs, and why it failed.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::frames::Answer;
use crate::errln;
use crate::error::Error;

/// How a build is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// Lines, one behind the other.
    Plain,
    /// On a terminal: what runs is at its end and changes in place.
    Terminal,
    /// Nothing.
    Quiet,
    /// Every event as it comes.
    RawJson,
}

impl Show {
    /// Of the flags.
    pub(super) fn of(progress: &str, quiet: bool) -> Result<Show, Error> {
        match progress {
            _ if quiet => Ok(Show::Quiet),
            "auto" | "" if std::io::stderr().is_terminal() => Ok(Show::Terminal),
            "auto" | "" | "plain" => Ok(Show::Plain),
            "tty" if std::io::stderr().is_terminal() => Ok(Show::Terminal),
            "tty" => Err(Error::new("--progress tty: standard error is no terminal")),
            "quiet" | "none" => Ok(Show::Quiet),
            "rawjson" => Ok(Show::RawJson),
            other => Err(Error::flag(format!(
                "invalid progress {other:?}: it is one of auto, plain, tty, quiet and rawjson"
            ))),
        }
    }
}

/// What was told of a build.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The image.
    pub(super) id: Option<String>,
    /// What is known of it, under BuildKit's names.
    pub(super) result: Value,
    /// How many rules the Dockerfile breaks.
    pub(super) warnings: usize,
}

/// A step that is not over.
struct Running {
    name: String,
    text: String,
    begun: Instant,
    /// What it printed and has not ended with a line yet.
    partial: String,
    bar: Option<ProgressBar>,
}

struct Screen {
    show: Show,
    bars: MultiProgress,
    running: BTreeMap<u64, Running>,
    /// What was said about the Dockerfile, shown at the end.
    warnings: Vec<(String, String)>,
}

/// So much of an instruction is shown where lines are short.
const WIDTH: usize = 100;

/// Follows a build to its end.
///
/// # Errors
/// It failed: what a person needs to know of that has been shown but for the last line.
pub(super) async fn follow(stream: &mut Answer, show: Show, check: bool) -> Result<Told, Error> {
    let target =
        if show == Show::Terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let mut screen = Screen {
        show,
        bars: MultiProgress::with_draw_target(target),
        running: BTreeMap::new(),
        warnings: Vec::new(),
    };
    let mut told = Told::default();
    while let Some(line) = stream.next().await? {
        if show == Show::RawJson {
            errln!("{line}");
        }
        if line["id"] == "hull.build" {
            screen.event(&line["aux"]);
        } else if line["id"] == "hull.build.result" {
            told.result = line["aux"].clone();
        } else if let Some(id) = line["aux"]["ID"].as_str() {
            told.id = Some(id.to_owned());
        } else if let Some(text) = line["stream"].as_str() {
            screen.line(text.trim_end());
        } else if line.get("error").is_some() {
            return Err(screen.failed(&line));
        }
    }
    told.warnings = screen.warnings.len();
    screen.finish(check, &told);
    Ok(told)
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.1}s")
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// One line of an instruction, for where there is one.
fn in_one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

impl Screen {
    fn line(&self, text: &str) {
        match self.show {
            Show::Plain => errln!("{text}"),
            Show::Terminal => drop(self.bars.println(text)),
            Show::Quiet | Show::RawJson => {}
        }
    }

    fn event(&mut self, event: &Value) {
        let step = event["step"].as_u64().unwrap_or_default();
        match text_of(&event["event"]) {
            "step" => self.step(step, event),
            "output" => self.output(step, text_of(&event["text"])),
            "done" => self.done(step, event),
            "failed" => self.over(step, |step, _| format!("#{step} ERROR")),
            "warning" => {
                self.warnings
                    .push((text_of(&event["text"]).to_owned(), text_of(&event["excerpt"]).to_owned()));
            }
            _ => {}
        }
    }

    fn step(&mut self, step: u64, event: &Value) {
        let (name, text) = (text_of(&event["name"]).to_owned(), text_of(&event["text"]).to_owned());
        let bar = (self.show == Show::Terminal).then(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template(" {spinner} {prefix} {elapsed}{msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_prefix(format!("[{name}] {}", in_one_line(&text)));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if self.show == Show::Plain {
            errln!("#{step} [{name}] {}", in_one_line(&text));
        }
        self.running.insert(step, Running { name, text, begun: Instant::now(), partial: String::new(), bar });
    }

    fn output(&mut self, step: u64, text: &str) {
        let Some(running) = self.running.get_mut(&step) else { return };
        running.partial.push_str(text);
        let elapsed = running.begun.elapsed().as_secs_f64();
        while let Some(end) = running.partial.find('\n') {
            let line: String = running.partial.drain(..=end).collect();
            let line = shown(&line);
            match (self.show, &running.bar) {
                (Show::Plain, _) => errln!("#{step} {elapsed:.3} {line}"),
                (Show::Terminal, Some(bar)) => bar.set_message(format!("\n     {}", in_one_line(&line))),
                _ => {}
            }
        }
    }

    fn done(&mut self, step: u64, event: &Value) {
        let cached = event["cached"].as_bool().unwrap_or(false);
        let took = seconds(event["seconds"].as_f64().unwrap_or_default());
        if self.show == Show::Terminal
            && let Some(running) = self.running.remove(&step)
        {
            if let Some(bar) = &running.bar {
                bar.finish_and_clear();
            }
            let mark = if cached { "CACHED " } else { "" };
            self.line(&format!(" => {mark}[{}] {}  {took}", running.name, in_one_line(&running.text)));
            return;
        }
        self.over(
            step,
            |step, _| if cached { format!("#{step} CACHED") } else { format!("#{step} DONE {took}") },
        );
    }

    /// A step is over: what it printed without the end of a line, and its last word.
    fn over(&mut self, step: u64, last: impl FnOnce(u64, &Running) -> String) {
        let Some(running) = self.running.get_mut(&step) else { return };
        let partial = std::mem::take(&mut running.partial);
        let elapsed = running.begun.elapsed().as_secs_f64();
        if self.show == Show::Plain {
            if !partial.is_empty() {
                errln!("#{step} {elapsed:.3} {}", shown(&partial));
            }
            errln!("{}\n", last(step, running));
        }
        if let Some(bar) = &running.bar {
            bar.finish_and_clear();
        }
    }

    /// Shows why a build failed; the last line of it is the error's.
    fn failed(&mut self, line: &Value) -> Error {
        for running in self.running.values() {
            if let Some(bar) = &running.bar {
                bar.finish_and_clear();
            }
        }
        let detail = &line["errorDetail"];
        let (output, excerpt) = (text_of(&detail["output"]), text_of(&detail["excerpt"]));
        // Plain lines have shown it all already.
        if !output.is_empty() && self.show != Show::Plain {
            errln!("------\n{}\n------", output.lines().map(shown).collect::<Vec<_>>().join("\n"));
        }
        if !excerpt.is_empty() {
            errln!("{excerpt}");
        }
        Error::new(format!("failed to build: {}", text_of(&line["error"])))
    }

    fn finish(&self, check: bool, told: &Told) {
        if self.show == Show::Quiet || self.show == Show::RawJson {
            return;
        }
        let count = self.warnings.len();
        let s = if count == 1 { "" } else { "s" };
        if check {
            for (text, excerpt) in &self.warnings {
                errln!("WARNING: {text}\n{excerpt}\n");
            }
            match count {
                0 => errln!("Check complete, no warnings found."),
                _ => errln!("Check complete, {count} warning{s} found."),
            }
            return;
        }
        if let Some(id) = &told.id {
            errln!("Built {id}");
        }
        if count > 0 {
            errln!("\n {count} warning{s} found (use --check to expand):");
            for (text, _) in &self.warnings {
                errln!(" - {text}");
            }
        }
    }
}

/// A line of a program's output, without what would move the cursor.
pub(super) fn shown(line: &str) -> String {
    let line = line.trim_end_matches(['\n', '\r']);
    // What a program drew in place is shown as it was last.
    let line = line.rsplit('\r').next().unwrap_or(line);
    line.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_move_no_cursor() {
        assert_eq!(shown("10%\r50%\r100%\n"), "100%");
        assert_eq!(shown("a\u{1b}[2Jb\tc\r\n"), "a[2Jb\tc");
        assert_eq!(in_one_line("RUN a \\\n   b"), "RUN a \\ b");
        assert_eq!(in_one_line(&"x".repeat(200)).chars().count(), WIDTH + 1);
    }

    #[test]
    fn ways_to_show() {
        assert_eq!(Show::of("tty", true).unwrap(), Show::Quiet);
        assert_eq!(Show::of("plain", false).unwrap(), Show::Plain);
        assert!(Show::of("fancy", false).is_err());
    }
}
