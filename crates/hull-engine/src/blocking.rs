//! Work that may never return. A path of a user's choosing can lie on a file system whose server is gone, and the
//! kernel then holds whoever looks at it. Such work has threads of its own: neither the asynchronous workers nor the
//! pool that copies bytes for others are used up by it. And work that must not stop half-way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use crate::{Error, Kind, Result};

/// So many threads may be held at once. One costs a few pages.
const MOST: usize = 1024;
const STACK: usize = 512 << 10;

/// How many threads are held.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Counts a thread as long as it lives.
struct Counted;

impl Counted {
    fn one() -> Option<Counted> {
        let more = |held| (held < MOST).then_some(held + 1);
        HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Does work on a thread of its own, which is left behind when nobody waits any more.
///
/// # Errors
/// The work's own, it panicked, or a thousand others hang already.
pub(crate) async fn may_hang<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let Some(counted) = Counted::one() else {
        return Err(Error::new(
            Kind::System,
            format!("{MOST} requests wait for file systems that do not answer: look after those first"),
        ));
    };
    let (sender, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("hull-patient".to_owned()).stack_size(STACK);
    let spawned = thread.spawn(move || {
        let result = work();
        drop(counted);
        // Whoever asked may have gone.
        let _ = sender.send(result);
    });
    spawned.map_err(|error| Error::system("start a thread", error))?;
    result.await.unwrap_or_else(|_| Err(Error::system("answer the request", "its thread panicked")))
}

/// [`may_hang`] where it may, and at once where it cannot: on the way of a container that has nothing of the host's
/// no thread is paid for.
///
/// # Errors
/// As [`may_hang`].
pub(crate) async fn may_hang_if<O: Send + Sync + 'static, T: Send + 'static>(
    it_may: bool,
    on: &Arc<O>,
    work: impl FnOnce(&Arc<O>) -> Result<T> + Send + 'static,
) -> Result<T> {
    if !it_may {
        return work(on);
    }
    let on = Arc::clone(on);
    may_hang(move || work(&on)).await
}

/// Does what must not stop half-way when its client goes away: as a task of its own.
pub(crate) async fn see_through<T: Send + 'static>(
    doing: &str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Error::system(doing, error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_and_panics_are_errors() {
        assert_eq!(may_hang(|| Ok(1)).await.unwrap(), 1);
        let panicked = may_hang::<()>(|| panic!("on purpose")).await;
        assert!(panicked.unwrap_err().message.contains("panicked"));
        assert_eq!(may_hang_if(true, &Arc::new(2), |two| Ok(**two)).await.unwrap(), 2);
        assert_eq!(may_hang_if(false, &Arc::new(3), |three| Ok(**three)).await.unwrap(), 3);
    }
}
