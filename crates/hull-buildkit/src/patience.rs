//! Threads that work with a client: how many there are, and how long each waits.
//!
//! Whoever has such a thread has a place, which goes with the thread and not with whoever waits for it. It waits for as
//! long as the client is heard of and the build goes on; when others wait for places, more than that is asked of a client.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hull_build::Stop;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::grpc::{Code, Result, Status};

/// So many places there are for sockets without a policy, for each socket with one, and for all of these together.
const OWN: usize = 64;
const OF_ONE: usize = 8;
const OF_STRANGERS: usize = 64;

/// So long a client may be waited for without it moving anything, or too little while others wait; and so long a build
/// waits for a place.
const LONGEST: Duration = Duration::from_secs(120);
const FOR_A_PLACE: Duration = Duration::from_secs(600);

/// So long a client may work on what it was sent: it may load an image.
const FOR_AN_END: Duration = Duration::from_secs(1800);

/// So many bytes are not too little, at first; twice as many after each of these times that the client was waited for.
const SLOW: usize = 4 << 10;
const RISES: Duration = Duration::from_secs(120);
const RISES_TO: u32 = 10;

/// Places, and how many builds wait for one.
#[derive(Debug)]
struct Pool {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Pool {
    fn new(places: usize) -> Arc<Pool> {
        Arc::new(Pool { free: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0) })
    }

    async fn take(&self) -> Result<OwnedSemaphorePermit> {
        struct Waits<'a>(&'a AtomicUsize);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        let taken = Arc::clone(&self.free).acquire_owned().await;
        taken.map_err(|error| Status::broken("wait for a place", error))
    }
}

/// The places of all sockets.
#[derive(Debug)]
pub(crate) struct Places {
    own: Arc<Pool>,
    strangers: Arc<Pool>,
    of_one: Mutex<HashMap<PathBuf, Arc<Pool>>>,
}

impl Default for Places {
    fn default() -> Places {
        Places { own: Pool::new(OWN), strangers: Pool::new(OF_STRANGERS), of_one: Mutex::default() }
    }
}

impl Places {
    /// Those that a socket's clients may take.
    pub(crate) fn of(&self, socket: Option<&PathBuf>) -> Share {
        let Some(socket) = socket else { return Share(vec![Arc::clone(&self.own)]) };
        let mut of_one = self.of_one.lock().unwrap_or_else(PoisonError::into_inner);
        // Of sockets that nobody uses any more nothing stays.
        of_one.retain(|path, pool| path == socket || Arc::strong_count(pool) > 1);
        let one = of_one.entry(socket.clone()).or_insert_with(|| Pool::new(OF_ONE));
        Share(vec![Arc::clone(one), Arc::clone(&self.strangers)])
    }
}

/// The places that a session may take: one of each of these.
#[derive(Clone, Debug)]
pub(crate) struct Share(Vec<Arc<Pool>>);

/// A place, and a thread's patience with the client.
pub(crate) struct Patience {
    _place: Vec<OwnedSemaphorePermit>,
    share: Share,
    runtime: Handle,
    longest: Duration,
    stops: [Stop; 2],
    pace: Mutex<Pace>,
}

/// How fast a client is.
#[derive(Default)]
struct Pace {
    /// How long it was waited for in all, and since it was fast enough.
    age: Duration,
    waited: Duration,
    /// What it has moved since.
    bytes: usize,
}

impl Patience {
    /// Takes a place as soon as there is one.
    ///
    /// # Errors
    /// There is none for long, or the build is stopped.
    pub(crate) async fn take(share: &Share, stop: &Stop) -> Result<Arc<Patience>> {
        Patience::of(share, stop, LONGEST, FOR_A_PLACE).await
    }

    async fn of(share: &Share, stop: &Stop, longest: Duration, most: Duration) -> Result<Arc<Patience>> {
        let all = async {
            let mut place = Vec::new();
            for pool in &share.0 {
                place.push(pool.take().await?);
            }
            Ok(place)
        };
        let place = tokio::select! {
            biased;
            () = stop.stopped() => return Err(cancelled()),
            place = tokio::time::timeout(most, all) => place.unwrap_or_else(|_| {
                Err(Status::new(
                    Code::Unavailable,
                    "too many builds exchange files with their clients at once: try again when some have ended",
                ))
            })?,
        };
        Ok(Arc::new(Patience {
            _place: place,
            share: share.clone(),
            runtime: Handle::current(),
            longest,
            stops: [stop.clone(), Stop::default()],
            pace: Mutex::default(),
        }))
    }

    /// Nobody wants what this thread does any more.
    pub(crate) fn end(&self) {
        self.stops[1].stop();
    }

    /// Waits for a client. Blocks.
    ///
    /// # Errors
    /// It took too long, nobody wants it, or it failed.
    pub(crate) fn wait<T>(&self, what: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(self.of_client(what))
    }

    /// The same without blocking.
    ///
    /// # Errors
    /// As [`Patience::wait`].
    pub(crate) async fn of_client<T>(&self, what: impl Future<Output = Result<T>>) -> Result<T> {
        self.at_most(self.longest, what).await
    }

    /// Waits until a client has done what it does with all that it was sent, which may take it longer. Blocks.
    ///
    /// # Errors
    /// As [`Patience::wait`].
    pub(crate) fn wait_for_end<T>(&self, what: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(self.at_most(FOR_AN_END, what))
    }

    async fn at_most<T>(&self, longest: Duration, what: impl Future<Output = Result<T>>) -> Result<T> {
        self.judge()?;
        let begun = Instant::now();
        let done = tokio::select! {
            biased;
            () = self.stops[0].stopped() => return Err(cancelled()),
            () = self.stops[1].stopped() => return Err(cancelled()),
            done = tokio::time::timeout(longest, what) => done,
        };
        let mut pace = self.pace();
        pace.age += begun.elapsed();
        pace.waited += begun.elapsed();
        done.unwrap_or_else(|_| {
            let seconds = longest.as_secs();
            let what = format!("the client has sent and taken nothing for {seconds} seconds");
            Err(Status::new(Code::Unavailable, what))
        })
    }

    /// So many bytes came or went.
    pub(crate) fn moved(&self, bytes: usize) {
        let mut pace = self.pace();
        pace.bytes += bytes;
        if pace.bytes >= enough(pace.age) {
            (pace.bytes, pace.waited) = (0, Duration::ZERO);
        }
    }

    /// Whether the client may be waited for once more.
    fn judge(&self) -> Result<()> {
        let pace = self.pace();
        let is_wanted = || self.share.0.iter().any(|pool| pool.waiting.load(Ordering::Relaxed) > 0);
        let is_silent = pace.bytes == 0 && pace.waited >= 2 * self.longest;
        if pace.waited < self.longest || !(is_silent || is_wanted()) {
            return Ok(());
        }
        let (bytes, enough, seconds) = (pace.bytes, enough(pace.age), pace.waited.as_secs());
        let what = format!(
            "the client has moved {bytes} bytes in {seconds} seconds, and {enough} are wanted where others wait"
        );
        Err(Status::new(Code::Unavailable, what))
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cancelled() -> Status {
    Status::new(Code::Cancelled, "nobody waits for it any more")
}

/// How many bytes it takes not to be slow, after so long.
fn enough(age: Duration) -> usize {
    let times = u32::try_from(age.as_secs() / RISES.as_secs()).unwrap_or(u32::MAX);
    SLOW << times.min(RISES_TO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(5);

    fn silent(patience: &Arc<Patience>) -> tokio::task::JoinHandle<Result<()>> {
        let patience = Arc::clone(patience);
        tokio::task::spawn_blocking(move || patience.wait(std::future::pending::<Result<()>>()))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn nobody_waits_for_ever_nor_for_what_nobody_wants() {
        let share = Places::default().of(None);
        let patience = Patience::of(&share, &Stop::default(), SHORT, LONGEST).await.unwrap();
        assert_eq!(silent(&patience).await.unwrap().unwrap_err().code, Code::Unavailable);
        let stop = Stop::default();
        let patience = Patience::take(&share, &stop).await.unwrap();
        let (one, other) = (silent(&patience), silent(&patience));
        stop.stop();
        for waits in [one, other] {
            assert_eq!(waits.await.unwrap().unwrap_err().code, Code::Cancelled);
        }
        let patience = Patience::take(&share, &Stop::default()).await.unwrap();
        let waits = silent(&patience);
        patience.end();
        assert_eq!(waits.await.unwrap().unwrap_err().code, Code::Cancelled);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_place_is_the_thread_s_and_a_socket_takes_no_other_s() {
        let places = Places::default();
        let (hostile, other) = (PathBuf::from("/a"), PathBuf::from("/b"));
        let stop = Stop::default();
        let mut threads = Vec::new();
        for _ in 0..OF_ONE {
            // Who asked for it is gone at once: the thread has it yet.
            threads.push(silent(&Patience::take(&places.of(Some(&hostile)), &stop).await.unwrap()));
        }
        let share = places.of(Some(&hostile));
        let none = Patience::of(&share, &stop, LONGEST, SHORT).await;
        assert_eq!(none.err().map(|status| status.code), Some(Code::Unavailable));
        for socket in [Some(&other), None] {
            Patience::of(&places.of(socket), &stop, LONGEST, SHORT).await.unwrap();
        }
        stop.stop();
        for thread in threads {
            thread.await.unwrap().unwrap_err();
        }
        Patience::of(&share, &Stop::default(), LONGEST, LONGEST).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_client_that_drips_gives_way_to_others() {
        let share = Share(vec![Pool::new(1)]);
        let patience = Patience::of(&share, &Stop::default(), SHORT, LONGEST).await.unwrap();
        patience.pace().waited = SHORT;
        patience.moved(1);
        patience.of_client(std::future::ready(Ok(()))).await.expect("nobody else waits");
        share.0[0].waiting.fetch_add(1, Ordering::Relaxed);
        assert!(patience.of_client(std::future::ready(Ok(()))).await.is_err());
        patience.moved(SLOW);
        patience.of_client(std::future::ready(Ok(()))).await.expect("it was fast enough");
        assert_eq!(enough(RISES * 3), SLOW << 3);
    }
}
