//! Progress: bars on a terminal for what takes over a second, and Docker's streams of JSON messages.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::client::JsonStream;
use crate::error::Error;
use crate::format::human;
use crate::out;

/// What is faster than this needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a bar is drawn.
const TICK: Duration = Duration::from_millis(100);

/// A bar on standard error for one transfer, drawn once it takes over a second; gone when this is dropped.
pub struct Transfer(Option<(ProgressBar, tokio::task::JoinHandle<()>)>);

impl Transfer {
    /// A bar for `total` bytes, of which `done` counts those that are over; without a total, a spinner.
    pub fn start(what: &str, total: Option<u64>, done: Arc<AtomicU64>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let (bar, look) = match total {
            Some(total) => {
                (ProgressBar::new(total), "{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}")
            }
            None => (ProgressBar::new_spinner(), "{spinner} {msg} {bytes} {bytes_per_sec}"),
        };
        bar.set_draw_target(ProgressDrawTarget::hidden());
        bar.set_style(style(look));
        bar.set_message(what.to_owned());
        let drawn = bar.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            drawn.set_draw_target(ProgressDrawTarget::stderr());
            loop {
                drawn.set_position(done.load(Ordering::Relaxed));
                drawn.tick();
                tokio::time::sleep(TICK).await;
            }
        });
        Self(Some((bar, task)))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some((bar, task)) = self.0.take() {
            task.abort();
            bar.finish_and_clear();
        }
    }
}

/// A style of ours; one that indicatif does not take would be seen by every test that draws.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// Shows a stream of JSON messages (load, import, pull, build) as Docker does: on a terminal a line for each id that
/// changes in place; elsewhere a line for each message that is no mere progress.
///
/// # Errors
/// The error that the stream itself reports, and what breaks the stream.
pub async fn show(stream: &mut JsonStream) -> Result<(), Error> {
    let mut screen = std::io::stdout().is_terminal().then(Screen::new);
    while let Some(message) = stream.next().await? {
        if let Some(error) = error_of(&message) {
            return Err(error);
        }
        match &mut screen {
            Some(screen) => screen.show(&message)?,
            None => {
                if let Some(line) = plain_line(&message) {
                    out!("{line}")?;
                }
            }
        }
    }
    Ok(())
}

/// Reads such a stream to its end and shows nothing of it but its error.
///
/// # Errors
/// As [`show`].
pub async fn drain(stream: &mut JsonStream) -> Result<(), Error> {
    while let Some(message) = stream.next().await? {
        if let Some(error) = error_of(&message) {
            return Err(error);
        }
    }
    Ok(())
}

/// The error that a message carries.
fn error_of(message: &Value) -> Option<Error> {
    let detail = message["errorDetail"]["message"].as_str().or_else(|| message["error"].as_str())?;
    Some(Error::new(detail))
}

/// What a message says where nothing can be drawn over; none for mere progress.
fn plain_line(message: &Value) -> Option<String> {
    if has_progress(message) {
        return None;
    }
    let id =
        message["id"].as_str().filter(|id| !id.is_empty()).map(|id| format!("{id}: ")).unwrap_or_default();
    if let Some(stream) = message["stream"].as_str() {
        return Some(format!("{id}{stream}"));
    }
    let status = message["status"].as_str()?;
    Some(format!("{id}{status}\n"))
}

fn has_progress(message: &Value) -> bool {
    let detail = &message["progressDetail"];
    detail["current"].as_u64().is_some_and(|n| n > 0) || detail["total"].as_u64().is_some_and(|n| n > 0)
}

/// The lines that change in place.
struct Screen {
    all: MultiProgress,
    lines: HashMap<String, ProgressBar>,
}

impl Screen {
    fn new() -> Self {
        Self { all: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()), lines: HashMap::new() }
    }

    fn show(&mut self, message: &Value) -> Result<(), Error> {
        let id = message["id"].as_str().filter(|id| !id.is_empty());
        let status = message["status"].as_str().unwrap_or_default();
        let Some(id) = id else {
            // Text may end without a newline (a build's output); it is not for the bars to break it.
            return match plain_line(message) {
                Some(text) => self.all.suspend(|| out!("{text}")),
                None => Ok(()),
            };
        };
        let line = self.lines.entry(id.to_owned()).or_insert_with(|| {
            let line = self.all.add(ProgressBar::new(0));
            line.set_style(style("{prefix}: {msg}"));
            line.set_prefix(id.to_owned());
            line
        });
        let detail = &message["progressDetail"];
        let (current, total) =
            (detail["current"].as_u64().unwrap_or(0), detail["total"].as_u64().unwrap_or(0));
        let amounts = match total {
            0 if current == 0 => None,
            0 => Some(human::size(current as f64)),
            _ => Some(format!("{}/{}", human::size(current as f64), human::size(total as f64))),
        };
        line.set_message(match amounts {
            Some(amounts) if total > 0 => format!("{status} {} {amounts}", bar(current, total)),
            Some(amounts) => format!("{status} {amounts}"),
            None => status.to_owned(),
        });
        line.tick();
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What was reached stays to be seen.
        for line in self.lines.values() {
            line.abandon();
        }
    }
}

fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 40;
    let done = (u128::from(current.min(total)) * u128::from(WIDTH) / u128::from(total.max(1))) as usize;
    format!(
        "[{}{}{}]",
        "=".repeat(done),
        if done < WIDTH as usize { ">" } else { "" },
        " ".repeat((WIDTH as usize).saturating_sub(done + 1))
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_without_a_terminal() {
        for (message, expected) in [
            (json!({"status": "sha256:abc"}), Some("sha256:abc\n")),
            (json!({"stream": "Loaded image: t:1\n"}), Some("Loaded image: t:1\n")),
            (
                json!({"status": "Pull complete", "id": "abc", "progressDetail": {}}),
                Some("abc: Pull complete\n"),
            ),
            (
                json!({"status": "Downloading", "id": "abc", "progressDetail": {"current": 1, "total": 2}}),
                None,
            ),
            (json!({"aux": {"ID": "x"}}), None),
        ] {
            assert_eq!(plain_line(&message).as_deref(), expected, "{message}");
        }
    }

    #[test]
    fn errors_are_found() {
        assert_eq!(error_of(&json!({"error": "a", "errorDetail": {"message": "b"}})).unwrap().message(), "b");
        assert_eq!(error_of(&json!({"error": "a"})).unwrap().message(), "a");
        assert!(error_of(&json!({"status": "fine"})).is_none());
    }

    #[test]
    fn bars() {
        assert_eq!(bar(0, 0).len(), 42);
        assert_eq!(bar(20, 40), format!("[{}>{}]", "=".repeat(20), " ".repeat(19)));
        assert_eq!(bar(50, 40), format!("[{}]", "=".repeat(40)));
    }

    #[test]
    fn styles_are_understood() {
        for template in [
            "{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}",
            "{spinner} {msg} {bytes} {bytes_per_sec}",
            "{prefix}: {msg}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
