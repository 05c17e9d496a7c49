//! The places of those requests whose threads wait for a client, which may take its time.
//!
//! There are fewer than threads, so that the daemon answers others. A client keeps its place as long as nobody else wants
//! one; when others wait it must have moved enough of late, and the more the longer it has the place. Clients of sockets
//! with a policy have a quarter of the places between them, so that they are in each other's way and not in the owner's.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hull_engine::{Error, Kind, Result};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many there are, and how many of them are for clients of sockets with a policy.
const ALL: usize = 128;
const GUARDED: usize = 32;

/// How long a client waits for a place before it is told so.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 4 } else { 60 });

/// A client that sends or takes less than [`SLOW`] bytes for so long stands still; it is looked at so often.
const STANDS_STILL: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });
const SLOW: usize = 4 << 10;
const LOOK: Duration = Duration::from_secs(1);

/// After each of these times it takes twice as much to be no client that stands still, up to a thousand times.
const RISES: Duration = Duration::from_secs(60);
const RISES_TO: u32 = 10;

/// Whose places a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It came by a socket without a policy.
    Owner,
    /// It came by one that has a policy.
    Guarded,
}

/// Places, and how many wait for one.
struct Pool {
    places: Semaphore,
    waiting: AtomicUsize,
}

static EVERYBODY: Pool = Pool::of(ALL);
static THE_GUARDED: Pool = Pool::of(GUARDED);

/// Counts who waits for a place, also one who goes away meanwhile.
struct Waiting(&'static Pool);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    const fn of(places: usize) -> Pool {
        Pool { places: Semaphore::const_new(places), waiting: AtomicUsize::new(0) }
    }

    async fn take(&'static self) -> SemaphorePermit<'static> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(self);
        loop {
            // It is closed by nobody.
            if let Ok(permit) = self.places.acquire().await {
                return permit;
            }
        }
    }

    fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// A place.
pub(crate) struct Place {
    // Given back in this order.
    _permit: SemaphorePermit<'static>,
    guarded: Option<SemaphorePermit<'static>>,
    handle: Handle,
    begun: Instant,
    /// Since when less came or went than it takes.
    since: Instant,
    bytes: usize,
}

impl Place {
    /// Takes a place as soon as there is one.
    ///
    /// # Errors
    /// There was none for long.
    pub(crate) async fn take(side: Side) -> Result<Place> {
        let both = async {
            let guarded = match side {
                Side::Owner => None,
                Side::Guarded => Some(THE_GUARDED.take().await),
            };
            (guarded, EVERYBODY.take().await)
        };
        let (guarded, permit) = tokio::time::timeout(PATIENCE, both).await.map_err(|_| {
            let places = if side == Side::Guarded { GUARDED } else { ALL };
            let message = format!(
                "{places} requests wait for clients that send or take files, and none of them has ended for {} seconds: \
                 try again when some have",
                PATIENCE.as_secs()
            );
            Error::new(Kind::Unavailable, message)
        })?;
        let now = Instant::now();
        Ok(Place { _permit: permit, guarded, handle: Handle::current(), begun: now, since: now, bytes: 0 })
    }

    /// Waits for a client.
    ///
    /// # Errors
    /// It has stood still for long, and others wait for the place.
    pub(crate) fn wait<T>(&self, what: &str, client: impl Future<Output = T>) -> io::Result<T> {
        self.handle.block_on(async {
            let mut client = std::pin::pin!(client);
            loop {
                if let Ok(done) = tokio::time::timeout(LOOK, &mut client).await {
                    return Ok(done);
                }
                let stands = self.since.elapsed();
                if stands >= STANDS_STILL && self.is_wanted() {
                    let (seconds, enough) = (stands.as_secs(), enough(self.begun.elapsed()));
                    let told = format!(
                        "{what} less than {enough} bytes in {seconds} seconds, and others wait for its place"
                    );
                    return Err(io::Error::new(io::ErrorKind::TimedOut, told));
                }
            }
        })
    }

    /// Whether somebody waits who could have it.
    fn is_wanted(&self) -> bool {
        EVERYBODY.is_waited_for() || (self.guarded.is_some() && THE_GUARDED.is_waited_for())
    }

    /// So many bytes came or went.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= enough(self.begun.elapsed()) {
            (self.bytes, self.since) = (0, Instant::now());
        }
    }
}

/// How many bytes it takes not to stand still, after having the place for so long.
fn enough(age: Duration) -> usize {
    let times = u32::try_from(age.as_secs() / RISES.as_secs()).unwrap_or(u32::MAX);
    SLOW << times.min(RISES_TO)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for a client that never does anything, on a thread that may block.
    async fn stands_still(side: Side) -> tokio::task::JoinHandle<io::Result<()>> {
        let place = Place::take(side).await.unwrap();
        tokio::task::spawn_blocking(move || place.wait("the client sends", std::future::pending()))
    }

    /// One test, for the places are the process's.
    #[tokio::test]
    async fn who_stands_still_keeps_its_place_until_others_wait_for_it() {
        let others = EVERYBODY.places.acquire_many(ALL as u32 - 1).await.unwrap();
        let mut stands = stands_still(Side::Owner).await;
        let patience = tokio::time::timeout(3 * STANDS_STILL, &mut stands).await;
        assert!(patience.is_err(), "nobody waits: {patience:?}");
        let next = tokio::spawn(stands_still(Side::Owner));
        let told = stands.await.unwrap().unwrap_err();
        assert!(told.to_string().contains("and others wait for its place"), "{told}");
        let last = Place::take(Side::Owner);
        let next = next.await.unwrap();
        assert!(last.await.is_ok(), "the next one stands still as well");
        assert!(next.await.unwrap().is_err());
        let all = EVERYBODY.places.acquire_many(1).await.unwrap();
        let error = Place::take(Side::Owner).await.err().expect("no place");
        assert!(error.kind == Kind::Unavailable && error.message.contains("try again"), "{error}");
        drop((others, all));

        // Those with a policy leave places for others, and do not push them away.
        let theirs = THE_GUARDED.places.acquire_many(GUARDED as u32).await.unwrap();
        let error = Place::take(Side::Guarded).await.err().expect("no place");
        assert!(error.message.starts_with(&format!("{GUARDED} requests")), "{error}");
        assert!(Place::take(Side::Owner).await.is_ok());
        drop(theirs);
        assert!(Place::take(Side::Guarded).await.is_ok());
    }

    #[test]
    fn it_takes_more_the_longer_it_takes() {
        let after = |minutes: u64| enough(Duration::from_secs(60 * minutes));
        assert_eq!((after(0), after(1), after(5)), (SLOW, 2 * SLOW, 32 * SLOW));
        assert_eq!(after(100_000), 1024 * SLOW);
    }
}
