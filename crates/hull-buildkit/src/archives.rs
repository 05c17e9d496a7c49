//! Contexts that come as the body of a request of their own, beside the one that orders their build.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hull_build::Failure;
use tokio::sync::{Notify, oneshot};

/// How long one of the two requests waits for the other: clients send both at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A build's name, and the socket with a policy that it came by.
type Key = (Option<PathBuf>, String);

/// The archives that nobody has taken yet.
#[derive(Default)]
pub struct Archives {
    offered: Mutex<HashMap<Key, Offered>>,
    /// So many were offered so far.
    count: AtomicU64,
    changed: Notify,
}

/// An archive on offer.
struct Offered {
    /// Which one it is: another may get its name when it was taken.
    number: u64,
    archive: Box<dyn Read + Send>,
    /// Dropped with the archive: whoever offered it hears of that.
    _done: oneshot::Sender<()>,
}

/// One that was taken.
struct Taken(Offered);

impl Read for Taken {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.archive.read(buffer)
    }
}

/// Takes an offer back that nobody has taken.
struct Offer<'a> {
    archives: &'a Archives,
    key: Key,
    number: u64,
}

impl Offer<'_> {
    fn is_open(&self) -> bool {
        self.archives.offered().get(&self.key).is_some_and(|offered| offered.number == self.number)
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        if self.is_open() {
            self.archives.offered().remove(&self.key);
        }
    }
}

impl Archives {
    /// Offers an archive to the build of that name, and waits until that has read it.
    ///
    /// # Errors
    /// No such build takes it, or one is on offer for it already.
    pub async fn offer(
        &self,
        socket: Option<PathBuf>,
        build: &str,
        archive: Box<dyn Read + Send>,
    ) -> Result<(), Failure> {
        let key = (socket, build.to_owned());
        let (done, mut read) = oneshot::channel();
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        match self.offered().entry(key.clone()) {
            Entry::Occupied(_) => {
                return Err(Failure::invalid(format!("a context was sent for the build {build} already")));
            }
            Entry::Vacant(place) => drop(place.insert(Offered { number, archive, _done: done })),
        }
        let offer = Offer { archives: self, key, number };
        self.changed.notify_waiters();
        if tokio::time::timeout(PATIENCE, &mut read).await.is_err() {
            if offer.is_open() {
                return Err(Failure::invalid(format!(
                    "no build {build} takes the context that was sent for it"
                )));
            }
            // Taken, and still being read.
            let _ = read.await;
        }
        Ok(())
    }

    /// The archive for the build of that name; one that is about to come is waited for.
    ///
    /// # Errors
    /// None comes.
    pub async fn take(&self, socket: Option<PathBuf>, build: &str) -> Result<Box<dyn Read + Send>, Failure> {
        let key = (socket, build.to_owned());
        let found = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(offered) = self.offered().remove(&key) {
                    return Box::new(Taken(offered));
                }
                changed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(taken) => Ok(taken),
            Err(_) => Err(Failure::invalid(format!("the context of the build {build} did not come"))),
        }
    }

    fn offered(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Offered>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_archive_goes_to_its_build_whichever_comes_first() {
        let archives = Archives::default();
        let offered = archives.offer(None, "b", Box::new(&b"tar"[..]));
        let taken = async {
            let mut archive = archives.take(None, "b").await.unwrap();
            let mut text = String::new();
            archive.read_to_string(&mut text).unwrap();
            text
        };
        let (taken, offered) = tokio::join!(taken, offered);
        assert_eq!(taken, "tar");
        offered.unwrap();
        assert!(archives.offered().is_empty());
    }
}
