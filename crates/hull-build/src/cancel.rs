//! Builds that are ended from outside: by who goes away, or by the name that a client gave one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Ends a build from outside.
#[derive(Clone, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    /// Set where somebody has ended it: the flag is set, too, where one of its steps has failed.
    asked: Arc<AtomicBool>,
    told: Arc<Notify>,
}

impl Stop {
    /// Ends it.
    pub fn stop(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.flag.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
        self.told.notify_one();
    }

    /// What is set when it ends.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// What is set when somebody ends it, and not when a step of it fails.
    pub(crate) fn asked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.asked)
    }

    /// Waits until it is ended.
    pub async fn stopped(&self) {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            // Registered before it is looked at, so that an end in between is not missed.
            told.as_mut().enable();
            if self.flag.load(Ordering::Relaxed) {
                return;
            }
            told.await;
        }
    }
}

/// Who has named a build: the socket with a policy that it came by, if one has, and the name.
type Asker = (Option<PathBuf>, String);

/// The builds that clients have named, to be cancelled by that: two may have one name.
#[derive(Clone, Default)]
pub struct Names(Arc<Mutex<Vec<(Asker, Stop)>>>);

/// A build's name, while it goes on.
pub struct Named {
    names: Names,
    stop: Stop,
}

impl Names {
    /// Notes a build under a client's name for it, as long as the value is there; `socket` is the one with a policy that it
    /// came by.
    pub fn add(&self, socket: Option<&Path>, id: &str, stop: &Stop) -> Named {
        self.builds().push(((socket.map(Path::to_owned), id.to_owned()), stop.clone()));
        Named { names: self.clone(), stop: stop.clone() }
    }

    /// Ends the builds of that name that go on: a socket with a policy its own, the daemon's own socket everybody's.
    pub fn cancel(&self, socket: Option<&Path>, id: &str) {
        let may = |(of, name): &Asker| name == id && (socket.is_none() || of.as_deref() == socket);
        self.builds().iter().filter(|(asker, _)| may(asker)).for_each(|(_, stop)| stop.stop());
    }

    fn builds(&self) -> MutexGuard<'_, Vec<(Asker, Stop)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.names.builds().retain(|(_, stop)| !Arc::ptr_eq(&stop.flag, &self.stop.flag));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_stopped(stop: &Stop) -> bool {
        stop.flag.load(Ordering::Relaxed)
    }

    #[test]
    fn a_name_is_its_sockets() {
        let names = Names::default();
        let (ours, theirs) = (Stop::default(), Stop::default());
        let socket = Some(Path::new("/a.sock"));
        let _ours = names.add(None, "x", &ours);
        let _theirs = names.add(socket, "x", &theirs);
        names.cancel(socket, "x");
        names.cancel(None, "y");
        assert_eq!((is_stopped(&ours), is_stopped(&theirs)), (false, true));
        // The daemon's own socket has everybody's.
        let more = Stop::default();
        let _more = names.add(socket, "x", &more);
        names.cancel(None, "x");
        assert!(is_stopped(&ours) && is_stopped(&more));
    }

    #[test]
    fn who_ends_takes_no_others_name() {
        let names = Names::default();
        let (first, second) = (Stop::default(), Stop::default());
        let one = names.add(None, "x", &first);
        let other = names.add(None, "x", &second);
        drop(one);
        names.cancel(None, "x");
        assert_eq!((is_stopped(&first), is_stopped(&second)), (false, true));
        drop(other);
        assert!(names.builds().is_empty());
    }

    #[test]
    fn a_step_that_fails_is_nobody_s_wish_to_cancel() {
        let stop = Stop::default();
        stop.flag().store(true, Ordering::Relaxed);
        assert!(!stop.asked().load(Ordering::Relaxed));
        stop.stop();
        assert!(stop.asked().load(Ordering::Relaxed));
    }
}
