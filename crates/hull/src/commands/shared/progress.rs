//! Progress: bars on a terminal for what takes over a second, and Docker's streams of JSON messages.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::client::JsonStream;
use crate::error::Error;
use crate::format::human;

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
    draw(stream, std::io::stdout()).await
}

/// The same on standard error, where standard output is a container's.
///
/// # Errors
/// As [`show`].
pub async fn show_aside(stream: &mut JsonStream) -> Result<(), Error> {
    draw(stream, std::io::stderr()).await
}

async fn draw<W: Write + IsTerminal + AsFd>(stream: &mut JsonStream, mut out: W) -> Result<(), Error> {
    let mut screen = out.is_terminal().then(|| Screen::new(out.as_fd()));
    while let Some(message) = stream.next().await? {
        if let Some(error) = error_of(&message) {
            return Err(error);
        }
        let text = match &mut screen {
            Some(screen) => screen.drawn(&message),
            None => plain_line(&message),
        };
        if let Some(text) = text {
            out.write_all(text.as_bytes())?;
            out.flush()?;
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

/// The lines that change in place: one for each id, in the order in which they came. The cursor rests below them.
struct Screen {
    ids: Vec<String>,
    rows: usize,
    columns: usize,
}

impl Screen {
    fn new(terminal: BorrowedFd<'_>) -> Self {
        let size = rustix::termios::tcgetwinsize(terminal);
        let (rows, columns) = size.map_or((0, 0), |size| (size.ws_row.into(), size.ws_col.into()));
        // A terminal that does not know its size says 0.
        let or = |known: usize, usual| if known == 0 { usual } else { known };
        Self { ids: Vec::new(), rows: or(rows, 24), columns: or(columns, 80) }
    }

    /// What to write so that the screen shows the message; none for one that says nothing.
    fn drawn(&mut self, message: &Value) -> Option<String> {
        let Some(id) = message["id"].as_str().filter(|id| !id.is_empty()) else {
            // The lines above stay as they are; what follows begins anew below this one.
            self.ids.clear();
            return match amounts(message, self.bar_width()) {
                Some(amounts) => Some(format!("\r\x1b[2K{}\r", self.cut(&amounts))),
                None => plain_line(message),
            };
        };
        let status = message["status"].as_str().unwrap_or_default();
        let line = match amounts(message, self.bar_width()) {
            Some(amounts) => format!("{id}: {status} {amounts}"),
            None => format!("{id}: {status}"),
        };
        let mut text = String::new();
        let index = self.ids.iter().position(|known| known == id).unwrap_or_else(|| {
            text.push('\n');
            self.ids.push(id.to_owned());
            self.ids.len() - 1
        });
        let up = self.ids.len() - index;
        if up >= self.rows {
            // Scrolled out of sight: nothing there can be drawn over.
            return (!text.is_empty()).then_some(text);
        }
        text.push_str(&format!("\x1b[{up}A\r\x1b[2K{}\r\x1b[{up}B", self.cut(&line)));
        Some(text)
    }

    /// A bar leaves room for the id, the status and the numbers.
    fn bar_width(&self) -> usize {
        if self.columns < 110 { 20 } else { 40 }
    }

    /// As much as fits on one line: a line that wraps could not be drawn over.
    fn cut(&self, line: &str) -> String {
        line.chars().filter(|c| !c.is_control()).take(self.columns.saturating_sub(1)).collect()
    }
}

/// How far a message's work has come, with a bar where the end is known.
fn amounts(message: &Value, width: usize) -> Option<String> {
    if !has_progress(message) {
        return None;
    }
    let detail = &message["progressDetail"];
    let number = |field: &str| detail[field].as_u64().unwrap_or(0);
    let (current, total) = (number("current"), number("total"));
    let size = |bytes: u64| human::size_in_digits(bytes as f64, 4);
    Some(match total {
        0 => size(current),
        _ => format!("{} {}/{}", bar(current, total, width), size(current), size(total)),
    })
}

fn bar(current: u64, total: u64, width: usize) -> String {
    let share = u128::from(current.min(total)) * width as u128 / u128::from(total.max(1));
    let done = usize::try_from(share).unwrap_or(width);
    let tip = if done < width { ">" } else { "" };
    format!("[{}{tip}{}]", "=".repeat(done), " ".repeat(width.saturating_sub(done + 1)))
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
    fn lines_are_drawn_over() {
        let mut screen = Screen { ids: Vec::new(), rows: 3, columns: 30 };
        let message = |id: &str, status: &str| json!({"id": id, "status": status});
        let mut draw = |message: Value| screen.drawn(&message).unwrap_or_default();
        assert_eq!(draw(message("a", "one")), "\n\x1b[1A\r\x1b[2Ka: one\r\x1b[1B");
        assert_eq!(draw(message("b", "two")), "\n\x1b[1A\r\x1b[2Kb: two\r\x1b[1B");
        assert_eq!(draw(message("a", "three")), "\x1b[2A\r\x1b[2Ka: three\r\x1b[2B");
        // The third line leaves no room for the first.
        assert_eq!(draw(message("c", "four")), "\n\x1b[1A\r\x1b[2Kc: four\r\x1b[1B");
        assert_eq!(draw(message("a", "five")), "");
        assert_eq!(draw(json!({"stream": "done\n"})), "done\n");
        assert_eq!(
            draw(message("a", "a line that is much too long for it")),
            "\n\x1b[1A\r\x1b[2Ka: a line that is much too lo\r\x1b[1B"
        );
        let progress = json!({"id": "a", "status": "x", "progressDetail": {"current": 1500}});
        assert_eq!(draw(progress), "\x1b[1A\r\x1b[2Ka: x 1.5kB\r\x1b[1B");
        // What a daemon sends does not move the cursor.
        assert_eq!(draw(message("a", "\x1b[9A")), "\x1b[1A\r\x1b[2Ka: [9A\r\x1b[1B");
    }

    #[test]
    fn bars() {
        assert_eq!(bar(0, 0, 40).len(), 42);
        assert_eq!(bar(20, 40, 40), format!("[{}>{}]", "=".repeat(20), " ".repeat(19)));
        assert_eq!(bar(50, 40, 40), format!("[{}]", "=".repeat(40)));
    }

    #[test]
    fn styles_are_understood() {
        for template in [
            "{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}",
            "{spinner} {msg} {bytes} {bytes_per_sec}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
