//! A container, or a process in one, in the foreground: its streams, its terminal's size, signals to it.

use std::io::IsTerminal as _;

use tokio::signal::unix::{SignalKind, signal};

use super::signals::Signals;
use crate::client::{Hijacked, Query};
use crate::context::Context;
use crate::errln;
use crate::error::Error;
use crate::stream::{self, End, Pump};
use crate::terminal::{self, Raw};

/// What stands in the foreground.
pub struct Foreground<'a> {
    /// The path that takes its terminal's size: `/containers/ID` or `/exec/ID`.
    pub path: String,
    /// Its process has a terminal.
    pub tty: bool,
    /// Our input goes to it.
    pub stdin: bool,
    /// The keys that leave it.
    pub detach_keys: Vec<u8>,
    /// Where signals go, and whether they do; `None` where there is no way to pass one on (exec).
    pub signals: Option<(Signals, &'a str, bool)>,
}

/// Pumps its streams until it has said all, or the user left it.
pub async fn stay(context: &Context, io: Hijacked, what: Foreground<'_>) -> Result<End, Error> {
    // Entered last before the bytes flow and left first after: what is printed meanwhile is the container's alone.
    let raw = if what.tty && what.stdin { Raw::enter()? } else { None };
    let pump = Pump {
        stdin: what.stdin,
        multiplexed: io.multiplexed.unwrap_or(!what.tty),
        detach_keys: if what.tty { what.detach_keys } else { Vec::new() },
    };
    let resizing = async {
        if what.tty {
            keep_size(context, &what.path).await;
        }
        std::future::pending::<()>().await;
    };
    let signals = async {
        match what.signals {
            Some((signals, container, pass_on)) => signals.handle(context, container, pass_on).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        end = stream::pump(io.io, pump) => end,
        () = resizing => Ok(End::Closed),
        ended = signals => Err(ended),
    };
    drop(raw);
    if matches!(result, Ok(End::Detached)) {
        errln!("\nread escape sequence");
    }
    result
}

/// Tells the terminal's size, now and whenever it changes.
async fn keep_size(context: &Context, path: &str) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Some((height, width)) = terminal::size() {
            let path = Query::new(format!("{path}/resize"))
                .with("h", height.to_string())
                .with("w", width.to_string());
            // A process that has ended meanwhile has no terminal any more, which is no failure of ours.
            let _ = context.client.post_empty(&path).await;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Refuses a terminal for the container where our own input is none.
pub fn check_tty(stdin: bool, tty: bool) -> Result<(), Error> {
    if stdin && tty && !std::io::stdin().is_terminal() {
        return Err(Error::new("the input device is not a TTY"));
    }
    Ok(())
}

/// The keys that detach: the flag's, the configuration's, or the default ones. Given too: the text for the daemon.
pub fn detach_keys(context: &Context, flag: Option<&str>) -> Result<(Vec<u8>, Option<String>), Error> {
    let text = match flag.filter(|keys| !keys.is_empty()) {
        Some(keys) => Some(keys.to_owned()),
        None => context.config_value("detachKeys").and_then(|keys| keys.as_str().map(str::to_owned)),
    };
    match text {
        Some(text) => Ok((terminal::detach_keys(&text)?, Some(text))),
        None => Ok((terminal::DEFAULT_DETACH_KEYS.to_vec(), None)),
    }
}
