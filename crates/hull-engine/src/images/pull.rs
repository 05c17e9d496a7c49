//! Pulls: each runs once, however many wait for it, and ends when nobody does any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use hull_image::reference::Reference;
use hull_image::registry::{Credentials, Keep, Pulled, Puller, Registries, Settings, Step, Tell, Wanted};
use tokio::sync::watch;

use crate::engine::Engine;
use crate::events::Kind as About;
use crate::{Error, Kind, Result};

/// What one pull is, to whoever else asks for it: the same image, for the same platform, by the same user.
type Key = (Wanted, Credentials);

/// The pulls that run.
#[derive(Debug)]
pub(crate) struct Pulls {
    puller: Arc<Puller>,
    running: Mutex<HashMap<Key, watch::Sender<Board>>>,
}

/// What is known of a pull: its steps, of which one that only moves on is there once, and how it ended.
#[derive(Clone, Debug, Default)]
struct Board {
    /// Each with the number of its last change.
    steps: Vec<(u64, Step)>,
    changes: u64,
    end: Option<Result<Pulled>>,
}

impl Board {
    fn say(&mut self, step: Step) {
        self.changes += 1;
        let same = |(_, known): &&mut (u64, Step)| {
            known.id == step.id
                && known.status == step.status
                && known.progress.is_some()
                && step.progress.is_some()
        };
        match self.steps.iter_mut().rev().find(same) {
            Some(known) => *known = (self.changes, step),
            None => self.steps.push((self.changes, step)),
        }
    }

    /// What changed behind a number, in its order.
    fn since(&self, seen: u64) -> Vec<Step> {
        let mut news: Vec<&(u64, Step)> = self.steps.iter().filter(|(change, _)| *change > seen).collect();
        news.sort_by_key(|(change, _)| *change);
        news.into_iter().map(|(_, step)| step.clone()).collect()
    }
}

/// One who waits for a pull. Dropped, it does not any more; a pull that nobody waits for ends.
#[derive(Debug)]
pub struct Watch {
    board: watch::Receiver<Board>,
    seen: u64,
}

/// What became of a pull.
#[derive(Debug)]
pub enum News {
    /// It came further.
    Steps(Vec<Step>),
    /// It has ended.
    End(Result<Pulled>),
}

impl Watch {
    /// Waits for news. A slow one misses how far things were in between, and nothing else.
    pub async fn next(&mut self) -> News {
        loop {
            {
                let board = self.board.borrow_and_update();
                let steps = board.since(self.seen);
                if !steps.is_empty() {
                    self.seen = board.changes;
                    return News::Steps(steps);
                }
                if let Some(end) = &board.end {
                    return News::End(end.clone());
                }
            }
            if self.board.changed().await.is_err() {
                return News::End(Err(Error::new(Kind::System, "the pull was given up")));
            }
        }
    }
}

impl Pulls {
    pub(crate) fn new(puller: Puller) -> Pulls {
        Pulls { puller: Arc::new(puller), running: Mutex::default() }
    }
}

impl Engine {
    /// The registries, as this daemon reaches them.
    pub fn registries(&self) -> &Registries {
        self.pulls.puller.registries()
    }

    /// What the configuration says of registries from now on.
    pub(crate) fn reconfigure_registries(&self, settings: Settings) {
        let (former, uploads) = (self.registries().settings().uploads, settings.uploads);
        self.pulls.puller.reconfigure(settings);
        self.pusher.resize(former, uploads);
    }

    /// Pulls an image, or joins one who does already.
    pub fn image_pull(self: &Arc<Self>, wanted: Wanted, who: Credentials) -> Watch {
        let key = (wanted, who);
        let mut running = self.pulls.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(board) = running.get(&key) {
            // Where the last who waited has just gone it is about to end; where it has ended it is about to say so.
            let joins = board.receiver_count() > 0 && board.borrow().end.is_none();
            if joins {
                return Watch { board: board.subscribe(), seen: 0 };
            }
        }
        let (sender, board) = watch::channel(Board::default());
        running.insert(key.clone(), sender.clone());
        drop(running);
        tokio::spawn(Arc::clone(self).run_pull(key, sender));
        Watch { board, seen: 0 }
    }

    async fn run_pull(self: Arc<Self>, key: Key, board: watch::Sender<Board>) {
        let said = board.clone();
        let tell: Tell = Arc::new(move |step| said.send_modify(|board| board.say(step)));
        let pull = self.pulls.puller.pull(&key.0, &key.1, &tell);
        let end = tokio::select! {
            end = pull => Some(end),
            () = board.closed() => None,
        };
        // Of what gets no name, nothing is pulled that anybody could ask for.
        if key.0.keep == Keep::Named
            && let Some(Ok(_)) = &end
        {
            self.tell_pull(&key.0.reference);
        }
        let mut running = self.pulls.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.get(&key).is_some_and(|known| known.same_channel(&board)) {
            running.remove(&key);
        }
        drop(running);
        // What many threads had on their way is freed, and would stay the daemon's otherwise.
        tokio::task::spawn_blocking(hull_runtime::shim::trim_heap);
        if let Some(end) = end {
            board.send_modify(|board| board.end = Some(end.map_err(Error::from)));
        }
    }

    /// The tags of a repository in its registry.
    ///
    /// # Errors
    /// It is not there, or not to be had.
    pub async fn image_remote_tags(&self, repository: &Reference, who: &Credentials) -> Result<Vec<String>> {
        Ok(self.pulls.puller.tags(repository, who).await?)
    }

    fn tell_pull(&self, reference: &Reference) {
        let shown = reference.familiar();
        let image = self.images.resolve(&shown);
        let mut attributes =
            image.map(|image| image.container_config().labels).unwrap_or_else(|_| BTreeMap::new());
        attributes.insert("name".to_owned(), reference.familiar_name());
        self.events.publish(About::Image, "pull", &shown, attributes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(id: &str, status: &str, progress: Option<(u64, u64)>) -> Step {
        Step { id: id.into(), status: status.into(), progress }
    }

    #[test]
    fn who_comes_late_or_is_slow_misses_no_step() {
        let mut board = Board::default();
        board.say(step("a", "Pulling fs layer", None));
        board.say(step("a", "Downloading", Some((1, 9))));
        board.say(step("b", "Pulling fs layer", None));
        let seen = board.changes;
        board.say(step("a", "Downloading", Some((5, 9))));
        board.say(step("a", "Download complete", None));
        assert_eq!(
            board.since(0),
            [
                step("a", "Pulling fs layer", None),
                step("b", "Pulling fs layer", None),
                step("a", "Downloading", Some((5, 9))),
                step("a", "Download complete", None),
            ]
        );
        assert_eq!(board.since(seen).len(), 2);
        assert!(board.since(board.changes).is_empty());
    }
}
