//! Steps that are being done: who wants the same one at the same time waits, and finds it done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hull_image::Digest;
use tokio::sync::OwnedMutexGuard;

/// The steps that somebody does or waits for, by their keys.
#[derive(Debug, Default)]
pub struct Underway(Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>);

/// It is this one's turn to do the step, until this is dropped.
pub struct Turn {
    steps: Arc<Underway>,
    key: Digest,
    _guard: OwnedMutexGuard<()>,
}

impl Underway {
    /// Waits until nobody else does the step. Whoever had it before may have failed: what was made is to be looked up
    /// again.
    pub async fn turn(self: &Arc<Underway>, key: Digest) -> Turn {
        let step = Arc::clone(self.steps().entry(key).or_default());
        let guard = step.lock_owned().await;
        Turn { steps: Arc::clone(self), key, _guard: guard }
    }

    /// The same where nobody does the step or waits for it; none else.
    pub fn try_turn(self: &Arc<Underway>, key: Digest) -> Option<Turn> {
        let step = Arc::clone(self.steps().entry(key).or_default());
        let guard = step.try_lock_owned().ok()?;
        Some(Turn { steps: Arc::clone(self), key, _guard: guard })
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut steps = self.steps.steps();
        // The map's and the guard's own: nobody waits.
        if steps.get(&self.key).is_some_and(|step| Arc::strong_count(step) <= 2) {
            steps.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_after_the_other_and_nothing_is_left() {
        let underway = Arc::new(Underway::default());
        let key = Digest::of(b"step");
        let first = underway.turn(key).await;
        assert!(underway.try_turn(key).is_none());
        let other = underway.try_turn(Digest::of(b"other")).unwrap();
        let waiting = tokio::spawn({
            let underway = Arc::clone(&underway);
            async move { underway.turn(key).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        let second = waiting.await.unwrap();
        assert_eq!(underway.steps().len(), 2);
        drop((second, other));
        assert!(underway.steps().is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_holds_up_nobody() {
        let underway = Arc::new(Underway::default());
        let key = Digest::of(b"step");
        let first = underway.turn(key).await;
        tokio::select! {
            biased;
            _ = underway.turn(key) => unreachable!("somebody has it"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        drop(underway.turn(key).await);
        assert!(underway.steps().is_empty());
    }
}
