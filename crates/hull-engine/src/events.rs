//! What happened: a ring of the last events, and a channel for those who listen on.
//!
//! Publishing never waits for a listener. One that falls behind by more than the channel holds is told so by
//! the end of its stream, instead of a stream with holes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::broadcast;

/// How many past events are kept for `since`.
const KEPT: usize = 1024;
/// How far a listener may fall behind.
const BEHIND: usize = 4096;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A network.
    Network,
    /// The daemon itself.
    Daemon,
}

impl Kind {
    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::Image => "image",
            Kind::Volume => "volume",
            Kind::Network => "network",
            Kind::Daemon => "daemon",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What it is about.
    pub kind: Kind,
    /// `create`, `start`, `die` …; an exec's action carries its command behind a colon.
    pub action: String,
    /// Whose: a container's id, an image's name or id, a volume's name, a network's id.
    pub id: String,
    /// What else is known: the name, the labels, the exit status.
    pub attributes: BTreeMap<String, String>,
    /// When, in nanoseconds since 1970.
    pub time_ns: i64,
}

/// The daemon's events.
pub struct Events {
    ring: Mutex<VecDeque<Arc<Event>>>,
    sender: broadcast::Sender<Arc<Event>>,
}

/// What a listener gets: what was before it came, and what is to come; no event is in both or in neither.
pub struct Subscription {
    /// The events since the asked time, oldest first.
    pub past: Vec<Arc<Event>>,
    /// The events from now on.
    pub receiver: broadcast::Receiver<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Events {
        Events::new()
    }
}

impl Events {
    /// Nothing has happened yet.
    pub fn new() -> Events {
        let (sender, _) = broadcast::channel(BEHIND);
        Events { ring: Mutex::new(VecDeque::with_capacity(64)), sender }
    }

    /// Tells everyone who listens, and keeps the event for those who ask later.
    pub fn publish(
        &self,
        kind: Kind,
        action: impl Into<String>,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Arc::new(Event {
            kind,
            action: action.into(),
            id: id.to_owned(),
            attributes,
            time_ns: crate::container::now_ns(),
        });
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Arc::clone(&event));
        // Under the ring's lock, so that a subscriber sees the event exactly once. Nobody listening is no failure.
        let _ = self.sender.send(event);
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    /// What happened since a time (nanoseconds since 1970; none: nothing of the past), and what happens from now on.
    pub fn subscribe(&self, since_ns: Option<i64>) -> Subscription {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let past = match since_ns {
            None => Vec::new(),
            Some(since) => ring.iter().filter(|event| event.time_ns >= since).cloned().collect(),
        };
        Subscription { past, receiver: self.sender.subscribe() }
    }
}
