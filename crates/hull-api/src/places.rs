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
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });

/// A client that is waited for so long for less than [`SLOW`] bytes stands still; it is looked at so often.
const STANDS_STILL: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 30_000 });
const SLOW: usize = 4 << 10;
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 1000 });

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
    size: usize,
    places: Semaphore,
    waiting: AtomicUsize,
}

/// Everybody's places, and the part of them that clients of sockets with a policy have.
struct Places {
    everybody: Pool,
    guarded: Pool,
}

static PLACES: Places = Places::of(ALL, GUARDED);

impl Places {
    const fn of(all: usize, guarded: usize) -> Places {
        Places { everybody: Pool::of(all), guarded: Pool::of(guarded) }
    }
}

/// Counts who waits for a place, also one who goes away meanwhile.
struct Waiting(&'static Pool);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    const fn of(places: usize) -> Pool {
        Pool { size: places, places: Semaphore::const_new(places), waiting: AtomicUsize::new(0) }
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
    places: &'static Places,
    handle: Handle,
    begun: Instant,
    /// For how long the client has been waited for while less came or went than it takes: these bytes.
    waited: Duration,
    bytes: usize,
}

impl Place {
    /// Takes a place as soon as there is one.
    ///
    /// # Errors
    /// There was none for long.
    pub(crate) async fn take(side: Side) -> Result<Place> {
        Place::take_of(&PLACES, side).await
    }

    async fn take_of(places: &'static Places, side: Side) -> Result<Place> {
        let both = async {
            let guarded = match side {
                Side::Owner => None,
                Side::Guarded => Some(places.guarded.take().await),
            };
            (guarded, places.everybody.take().await)
        };
        let (guarded, permit) = tokio::time::timeout(PATIENCE, both).await.map_err(|_| {
            let pool = if side == Side::Guarded { &places.guarded } else { &places.everybody };
            let message = format!(
                "{} requests wait for clients that send or take files, and none of them has ended for {} seconds: \
                 try again when some have",
                pool.size,
                PATIENCE.as_secs()
            );
            Error::new(Kind::Unavailable, message)
        })?;
        let (handle, begun) = (Handle::current(), Instant::now());
        Ok(Place { _permit: permit, guarded, places, handle, begun, waited: Duration::ZERO, bytes: 0 })
    }

    /// Waits for a client. All the waiting counts until enough has come: who sends a byte now and then stands still, too.
    ///
    /// # Errors
    /// It has stood still for long, and others wait for the place.
    pub(crate) fn wait<T>(&mut self, what: &str, client: impl Future<Output = T>) -> io::Result<T> {
        let handle = self.handle.clone();
        handle.block_on(async {
            let mut client = std::pin::pin!(client);
            loop {
                self.bear(what)?;
                let begun = Instant::now();
                let done = tokio::time::timeout(LOOK, &mut client).await;
                self.waited += begun.elapsed();
                if let Ok(done) = done {
                    return Ok(done);
                }
            }
        })
    }

    /// Goes on with a client that moves, or whose place nobody wants.
    fn bear(&self, what: &str) -> io::Result<()> {
        if self.waited < STANDS_STILL || !self.is_wanted() {
            return Ok(());
        }
        let (seconds, enough) = (self.waited.as_secs(), enough(self.begun.elapsed()));
        let told =
            format!("{what} less than {enough} bytes in {seconds} seconds, and others wait for its place");
        Err(io::Error::new(io::ErrorKind::TimedOut, told))
    }

    /// Whether somebody waits who could have it.
    fn is_wanted(&self) -> bool {
        let Places { everybody, guarded } = self.places;
        everybody.is_waited_for() || (self.guarded.is_some() && guarded.is_waited_for())
    }

    /// So many bytes came or went.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= enough(self.begun.elapsed()) {
            (self.bytes, self.waited) = (0, Duration::ZERO);
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

    /// Places that are a test's own.
    fn places(all: usize, guarded: usize) -> &'static Places {
        Box::leak(Box::new(Places::of(all, guarded)))
    }

    /// Waits for a client that never does anything, on a thread that may block.
    async fn stands_still(places: &'static Places) -> tokio::task::JoinHandle<io::Result<()>> {
        let mut place = Place::take_of(places, Side::Owner).await.unwrap();
        tokio::task::spawn_blocking(move || place.wait("the client sends", std::future::pending()))
    }

    #[tokio::test]
    async fn who_stands_still_keeps_its_place_until_others_wait_for_it() {
        let places = places(1, 1);
        let mut stands = stands_still(places).await;
        let patience = tokio::time::timeout(3 * STANDS_STILL, &mut stands).await;
        assert!(patience.is_err(), "nobody waits: {patience:?}");
        let next = tokio::spawn(stands_still(places));
        let told = stands.await.unwrap().unwrap_err();
        assert!(told.to_string().contains("and others wait for its place"), "{told}");
        let last = Place::take_of(places, Side::Owner);
        let next = next.await.unwrap();
        assert!(last.await.is_ok(), "the next one stands still as well");
        assert!(next.await.unwrap().is_err());
    }

    /// Takes a client's bytes one by one, each of which comes long before it is looked at again, until it is told to end.
    fn drips(
        mut place: Place,
        at_once: usize,
    ) -> (tokio::task::AbortHandle, tokio::task::JoinHandle<io::Result<()>>) {
        let (sender, mut bytes) = tokio::sync::mpsc::channel(1);
        let client = tokio::spawn(async move {
            while sender.send(()).await.is_ok() {
                tokio::time::sleep(LOOK / 5).await;
            }
        });
        let taking = tokio::task::spawn_blocking(move || {
            while place.wait("the client sends", bytes.recv())?.is_some() {
                place.moved(at_once);
            }
            Ok(())
        });
        (client.abort_handle(), taking)
    }

    #[tokio::test]
    async fn who_drips_stands_still_and_who_moves_enough_does_not() {
        let places = places(2, 1);
        let (_, dripping) = drips(Place::take_of(places, Side::Owner).await.unwrap(), 1);
        let (client, moving) = drips(Place::take_of(places, Side::Owner).await.unwrap(), SLOW);
        let next = Place::take_of(places, Side::Owner).await;
        client.abort();
        let next = next.expect("a byte now and then keeps no place");
        let told = dripping.await.unwrap().unwrap_err();
        assert!(told.to_string().contains(&format!("less than {SLOW} bytes")), "{told}");
        assert!(moving.await.unwrap().is_ok(), "it moves");
        drop(next);
    }

    #[tokio::test]
    async fn those_with_a_policy_leave_places_to_others() {
        let places = places(4, 1);
        let theirs = Place::take_of(places, Side::Guarded).await.unwrap();
        let error = Place::take_of(places, Side::Guarded).await.err().expect("no place");
        assert!(error.message.starts_with("1 requests") && error.message.contains("try again"), "{error}");
        assert!(Place::take_of(places, Side::Owner).await.is_ok());
        drop(theirs);
        assert!(Place::take_of(places, Side::Guarded).await.is_ok());
    }

    #[test]
    fn it_takes_more_the_longer_it_takes() {
        let after = |minutes: u64| enough(Duration::from_secs(60 * minutes));
        assert_eq!((after(0), after(1), after(5)), (SLOW, 2 * SLOW, 32 * SLOW));
        assert_eq!(after(100_000), 1024 * SLOW);
    }
}
