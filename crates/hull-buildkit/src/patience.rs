//! What a thread waits for that a client is to send: not for ever, and not when nobody wants it any more.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::grpc::{Code, Result, Status};

/// So long a client may send nothing.
const LONGEST: Duration = Duration::from_secs(120);

/// A thread's patience.
pub(crate) struct Patience {
    runtime: Handle,
    longest: Duration,
    gone: Mutex<oneshot::Receiver<()>>,
}

/// What is waited for is wanted as long as this is there.
pub(crate) struct Wanted {
    _there: oneshot::Sender<()>,
}

impl Patience {
    pub(crate) fn new() -> (Patience, Wanted) {
        Patience::of(LONGEST)
    }

    fn of(longest: Duration) -> (Patience, Wanted) {
        let (there, gone) = oneshot::channel();
        (Patience { runtime: Handle::current(), longest, gone: Mutex::new(gone) }, Wanted { _there: there })
    }

    /// Waits for something. Blocks.
    ///
    /// # Errors
    /// It took too long, nobody wants it, or it failed.
    pub(crate) fn wait<T>(&self, what: impl Future<Output = Result<T>>) -> Result<T> {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = &mut *gone => Err(Status::new(Code::Cancelled, "nobody waits for it any more")),
                done = tokio::time::timeout(self.longest, what) => done.unwrap_or_else(|_| {
                    let seconds = self.longest.as_secs();
                    Err(Status::new(Code::Unavailable, format!("the client has sent nothing for {seconds} seconds")))
                }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn nobody_waits_for_ever_nor_for_what_nobody_wants() {
        let (patience, wanted) = Patience::of(Duration::from_millis(5));
        let waits = tokio::task::spawn_blocking(move || patience.wait(std::future::pending::<Result<()>>()));
        assert_eq!(waits.await.unwrap().unwrap_err().code, Code::Unavailable);
        drop(wanted);
        let (patience, wanted) = Patience::new();
        let waits = tokio::task::spawn_blocking(move || patience.wait(std::future::pending::<Result<()>>()));
        drop(wanted);
        assert_eq!(waits.await.unwrap().unwrap_err().code, Code::Cancelled);
    }
}
