//! What happened: a ring of the last events, and a channel for those who listen on.
//!
//! Publishing never waits for a listener. One that falls behind by more than the channel holds is told so by
//! the end of its stream, instead of a stream with holes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::Result;
use crate::filter::Filters;

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

/// The filters that events know.
const FILTERS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Refuses a filter that events do not know.
///
/// # Errors
/// Names it.
pub fn check_filters(filters: &Filters) -> Result<()> {
    filters.only(&FILTERS)
}

impl Event {
    /// Whether the filters let it through. What is named of a kind is an id or a name, or the beginning of one.
    pub fn passes(&self, filters: &Filters) -> bool {
        let action = self.action.split_once(':').map_or(self.action.as_str(), |(action, _)| action);
        let any = |name: &str, passes: &dyn Fn(&str) -> bool| {
            let values = filters.values(name);
            values.is_empty() || values.iter().any(|value| passes(value))
        };
        let called = |value: &str| {
            self.id.starts_with(value)
                || self.attributes.get("name").is_some_and(|name| name.starts_with(value))
        };
        let of_kind = |kind: Kind| move |value: &str| self.kind == kind && called(value);
        any("event", &|value| value == self.action || value == action)
            && any("type", &|value| value == self.kind.name())
            && any("scope", &|value| value == "local")
            && any("container", &of_kind(Kind::Container))
            && any("network", &of_kind(Kind::Network))
            && any("volume", &of_kind(Kind::Volume))
            && any("daemon", &of_kind(Kind::Daemon))
            && any("image", &|value| self.is_of_image(value))
            && filters.labels(&self.attributes)
            // Swarm's, of which nothing ever happens here.
            && ["config", "node", "plugin", "secret", "service"].iter().all(|name| filters.values(name).is_empty())
    }

    /// Whether it is about that image, or about a container of it; the image's tag may be left out.
    fn is_of_image(&self, value: &str) -> bool {
        let without_tag = |name: &str| match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name.to_owned(),
            _ => name.to_owned(),
        };
        let names = match self.kind {
            Kind::Image => [Some(&self.id), self.attributes.get("name")],
            Kind::Container => [self.attributes.get("image"), None],
            _ => return false,
        };
        names.into_iter().flatten().any(|name| name == value || without_tag(name) == value)
    }

    /// The event in the API's shape.
    pub fn shown(&self) -> Value {
        let mut shown = json!({});
        // The words of before 1.22. Docker leaves them out from 1.52 on; who names no version, as many clients do, still
        // looks for them.
        if matches!(self.kind, Kind::Container | Kind::Image) {
            shown["status"] = json!(self.action);
            // A prune is of nothing in particular.
            if !self.id.is_empty() {
                shown["id"] = json!(self.id);
            }
            if let Some(image) = self.attributes.get("image") {
                shown["from"] = json!(image);
            }
        }
        shown["Type"] = json!(self.kind.name());
        shown["Action"] = json!(self.action);
        shown["Actor"] = json!({ "ID": self.id, "Attributes": self.attributes });
        shown["scope"] = json!("local");
        shown["time"] = json!(self.time_ns / 1_000_000_000);
        shown["timeNano"] = json!(self.time_ns);
        shown
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn event(kind: Kind, action: &str, id: &str, list: &[(&str, &str)]) -> Event {
        Event {
            kind,
            action: action.into(),
            id: id.into(),
            attributes: attributes(list),
            time_ns: 1_500_000_000,
        }
    }

    fn passes(event: &Event, list: &[(&str, &str)]) -> bool {
        let mut filters = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in list {
            filters.entry((*name).to_owned()).or_default().push((*value).to_owned());
        }
        let filters = Filters::from(filters);
        check_filters(&filters).unwrap();
        event.passes(&filters)
    }

    #[test]
    fn filters_of_a_kind_are_or_and_of_different_kinds_and() {
        let exec = event(
            Kind::Container,
            "exec_create: ls -l",
            "c0ffee",
            &[("name", "web"), ("image", "workshop/busybox:1"), ("tier", "front")],
        );
        for list in [
            &[][..],
            &[("event", "exec_create")],
            &[("event", "exec_create: ls -l")],
            &[("event", "die"), ("event", "exec_create")],
            &[("container", "c0f")],
            &[("container", "web"), ("type", "container")],
            &[("image", "workshop/busybox")],
            &[("image", "workshop/busybox:1")],
            &[("label", "tier=front")],
            &[("scope", "local")],
        ] {
            assert!(passes(&exec, list), "{list:?}");
        }
        for list in [
            &[("event", "exec")][..],
            &[("event", "die")],
            &[("container", "db")],
            &[("container", "web"), ("type", "image")],
            &[("network", "web")],
            &[("image", "busybox")],
            &[("label", "tier=back")],
            &[("scope", "swarm")],
            &[("service", "web")],
        ] {
            assert!(!passes(&exec, list), "{list:?}");
        }
        let unknown = Filters::from(BTreeMap::from([("colour".to_owned(), vec!["red".to_owned()])]));
        assert_eq!(check_filters(&unknown).unwrap_err().message, "invalid filter 'colour'");
    }

    #[test]
    fn an_event_is_told_in_its_words_and_the_older_ones() {
        let event = event(Kind::Container, "start", "c1", &[("image", "a")]).shown();
        assert_eq!(
            (&event["Type"], &event["time"], &event["timeNano"]),
            (&json!("container"), &json!(1), &json!(1_500_000_000))
        );
        assert_eq!(
            (&event["status"], &event["id"], &event["from"]),
            (&json!("start"), &json!("c1"), &json!("a"))
        );
    }

    #[test]
    fn no_event_is_lost_between_past_and_future_and_the_slow_are_told() {
        let events = Events::new();
        events.publish(Kind::Volume, "create", "a", BTreeMap::new());
        let mut all = events.subscribe(Some(0));
        let mut future = events.subscribe(None);
        events.publish(Kind::Volume, "create", "b", BTreeMap::new());
        assert_eq!(all.past.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(all.receiver.try_recv().unwrap().id, "b");
        assert!(future.past.is_empty() && future.receiver.try_recv().unwrap().id == "b");
        for _ in 0..=BEHIND {
            events.publish(Kind::Volume, "create", "c", BTreeMap::new());
        }
        assert!(matches!(future.receiver.try_recv(), Err(broadcast::error::TryRecvError::Lagged(_))));
        assert_eq!(events.subscribe(Some(0)).past.len(), KEPT);
    }
}
