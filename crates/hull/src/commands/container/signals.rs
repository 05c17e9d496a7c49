//! Signals that this process gets, for a container in the foreground.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::{Query, segment};
use crate::context::Context;
use crate::error::Error;

/// The signals that are passed on, by the name under which the API takes them.
const PASSED: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("TERM", libc::SIGTERM),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("ALRM", libc::SIGALRM),
];

/// The signals since this was made; none is lost between then and the first `next`.
pub struct Signals(Vec<(&'static str, i32, Signal)>);

impl Signals {
    /// Catches them from now on.
    pub fn catch() -> Result<Self, Error> {
        let caught: Result<Vec<_>, std::io::Error> = PASSED
            .iter()
            .map(|&(name, number)| Ok((name, number, signal(SignalKind::from_raw(number))?)))
            .collect();
        Ok(Self(caught.map_err(|e| Error::from(e).context("cannot catch signals"))?))
    }

    /// The next one: its name and number.
    pub async fn next(&mut self) -> (&'static str, i32) {
        std::future::poll_fn(|cx| {
            for (name, number, signal) in &mut self.0 {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready((*name, *number));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Passes each on to the container, for ever; or, where that is not wanted, ends with the first.
    pub async fn handle(mut self, context: &Context, container: &str, pass_on: bool) -> Error {
        loop {
            let (name, number) = self.next().await;
            if !pass_on {
                return Error::silent(u8::try_from(128 + number).unwrap_or(1));
            }
            let path = Query::new(format!("/containers/{}/kill", segment(container))).with("signal", name);
            // A container that has just ended takes no signal any more; its status is on its way.
            let _ = context.client.post_empty(&path).await;
        }
    }
}
