//! The builds that were, and what they told: the last ones, as long as the daemon runs.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, Exporter,
    SolveRequest, StatusResponse, UpdateBuildHistoryRequest,
};
use futures_util::{StreamExt, stream};
use prost::Message;

use crate::grpc::server::Answer;
use crate::grpc::{Code, Result, Status, framed};
use crate::trace::Trace;

/// So many builds of each socket are remembered, of so many bytes together.
const KEPT: usize = 50;
const BYTES: usize = 8 << 20;

/// So many bytes of what was asked, and of why it failed, are remembered of each.
const ASKED: usize = 64 << 10;

/// The builds that were, the oldest first; of each socket with a policy, and of those without.
#[derive(Default)]
pub(crate) struct History(Mutex<HashMap<Option<PathBuf>, Builds>>);

/// The builds of a socket: they are no others', and drive out no others'.
#[derive(Default)]
struct Builds {
    past: VecDeque<Past>,
    bytes: usize,
}

struct Past {
    record: Arc<BuildHistoryRecord>,
    told: Arc<[StatusResponse]>,
    bytes: usize,
}

impl Builds {
    fn add(&mut self, past: Past) {
        self.bytes += past.bytes;
        self.past.push_back(past);
        while self.past.len() > KEPT || self.bytes > BYTES {
            let Some(oldest) = self.past.pop_front() else { return };
            self.bytes -= oldest.bytes;
        }
    }
}

/// Now.
pub(crate) fn now() -> Timestamp {
    let now = jiff::Timestamp::now();
    Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() }
}

/// Some attributes of a build: as many as there is room for.
fn some(attributes: &HashMap<String, String>, room: &mut usize) -> HashMap<String, String> {
    let fit = attributes.iter().filter(|(name, value)| take(room, name.len() + value.len()));
    fit.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Takes of the room that there is, if it is enough.
fn take(room: &mut usize, wanted: usize) -> bool {
    let left = room.checked_sub(wanted);
    *room = left.unwrap_or(*room);
    left.is_some()
}

/// What is known of a build when it begins. What is longer than anybody writes is left out.
pub(crate) fn begun(asked: &SolveRequest) -> BuildHistoryRecord {
    let mut room = ASKED;
    let mut exporters = Vec::new();
    for one in &asked.exporters {
        if take(&mut room, one.r#type.len() + 16) {
            exporters.push(Exporter { r#type: one.r#type.clone(), attrs: some(&one.attrs, &mut room) });
        }
    }
    BuildHistoryRecord {
        r#ref: asked.r#ref.clone(),
        frontend: asked.frontend.clone(),
        frontend_attrs: some(&asked.frontend_attrs, &mut room),
        exporters,
        created_at: Some(now()),
        ..BuildHistoryRecord::default()
    }
}

impl History {
    /// Notes a build that has ended.
    pub(crate) fn add(&self, socket: Option<PathBuf>, mut record: BuildHistoryRecord, trace: &Trace) {
        let (told, counts) = trace.all_told();
        record.num_total_steps = counts.total;
        record.num_completed_steps = counts.completed;
        record.num_cached_steps = counts.cached;
        record.num_warnings = counts.warnings;
        record.completed_at = Some(now());
        let bytes = record.encoded_len() + told.iter().map(Message::encoded_len).sum::<usize>();
        let past = Past { record: Arc::new(record), told: told.into(), bytes };
        self.builds().entry(socket).or_default().add(past);
    }

    /// What a build told that was.
    pub(crate) fn told(&self, socket: &Option<PathBuf>, name: &str) -> Option<Arc<[StatusResponse]>> {
        let builds = self.builds();
        let found = builds.get(socket)?.past.iter().rev().find(|past| past.record.r#ref == name);
        found.map(|past| Arc::clone(&past.told))
    }

    /// `Control.ListenBuildHistory`: those that are, and where it is wanted those that come.
    pub(crate) fn listen(
        &self,
        socket: &Option<PathBuf>,
        asked: &BuildHistoryRequest,
        active: Vec<Arc<BuildHistoryRecord>>,
    ) -> Result<Answer> {
        if let Some(filter) = asked.filter.iter().find(|filter| !filter.is_empty()) {
            let what = format!("the filter {filter} of builds is not supported by hull");
            return Err(Status::new(Code::Unimplemented, what));
        }
        let active = active.into_iter().map(|record| (BuildHistoryEventType::Started, record));
        let mut events: Vec<_> = active.collect();
        if !asked.active_only {
            let builds = self.builds();
            let past = builds.get(socket).into_iter().flat_map(|own| own.past.iter().rev());
            events.extend(past.map(|past| (BuildHistoryEventType::Complete, Arc::clone(&past.record))));
        }
        events.retain(|(_, record)| asked.r#ref.is_empty() || record.r#ref == asked.r#ref);
        if let Some(limit) = usize::try_from(asked.limit).ok().filter(|limit| *limit > 0) {
            events.truncate(limit);
        }
        // Each is written when it is its turn: whoever does not read keeps nothing.
        let events = stream::iter(events).map(|(kind, record)| {
            Ok(framed(&BuildHistoryEvent { r#type: kind.into(), record: Some((*record).clone()) }))
        });
        Ok(Answer::Many(match asked.early_exit {
            true => Box::pin(events),
            // Whoever listens on hears of no more, until he goes.
            false => Box::pin(events.chain(stream::pending())),
        }))
    }

    /// `Control.UpdateBuildHistory`.
    pub(crate) fn update(&self, socket: &Option<PathBuf>, asked: &UpdateBuildHistoryRequest) -> Result<()> {
        let unsupported =
            |what: &str| Err(Status::new(Code::Unimplemented, format!("{what} is not supported by hull")));
        match (asked.delete, asked.pinned, asked.finalize) {
            (true, ..) => {}
            (_, true, _) => return unsupported("a build that is kept for good (pinned)"),
            (_, _, true) => return unsupported("a trace of a build"),
            _ => return Ok(()),
        }
        let mut builds = self.builds();
        let removed = builds.get_mut(socket).is_some_and(|own| {
            let before = own.past.len();
            own.past.retain(|past| past.record.r#ref != asked.r#ref);
            own.bytes = own.past.iter().map(|past| past.bytes).sum();
            own.past.len() < before
        });
        match removed {
            true => Ok(()),
            false => Err(Status::new(Code::NotFound, format!("no build {}", asked.r#ref))),
        }
    }

    fn builds(&self) -> std::sync::MutexGuard<'_, HashMap<Option<PathBuf>, Builds>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was told is told again.
pub(crate) fn again(told: Arc<[StatusResponse]>) -> Answer {
    let all = 0..told.len();
    Answer::Many(Box::pin(stream::iter(all).map(move |at| Ok(framed(&told[at])))))
}

/// How a build failed, in a record.
pub(crate) fn error(status: &Status) -> bollard_buildkit_proto::google::rpc::Status {
    let mut message = status.message.clone();
    message.truncate(message.floor_char_boundary(ASKED));
    bollard_buildkit_proto::google::rpc::Status { code: status.code as i32, message, details: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_has_its_own_and_the_oldest_go() {
        let history = History::default();
        let own = Some(PathBuf::from("/s"));
        for number in 0..KEPT + 2 {
            let record = BuildHistoryRecord { r#ref: number.to_string(), ..BuildHistoryRecord::default() };
            history.add(None, record, &Trace::new("b"));
        }
        assert!(history.told(&None, "1").is_none() && history.told(&None, "2").is_some());
        assert!(history.told(&own, "2").is_none());
        let delete = UpdateBuildHistoryRequest { r#ref: "2".to_owned(), delete: true, ..Default::default() };
        assert_eq!(history.update(&own, &delete).unwrap_err().code, Code::NotFound);
        history.update(&None, &delete).unwrap();
        assert!(history.told(&None, "2").is_none());
    }

    #[test]
    fn nobody_drives_out_others_builds_nor_has_much_kept() {
        let history = History::default();
        let named = |name: &str| BuildHistoryRecord { r#ref: name.to_owned(), ..Default::default() };
        history.add(None, named("owner"), &Trace::new("owner"));
        let stranger = Some(PathBuf::from("/s"));
        for number in 0..3 * KEPT {
            history.add(stranger.clone(), named(&number.to_string()), &Trace::new("b"));
        }
        assert!(history.told(&None, "owner").is_some());
        // What is asked is cut, and so is what all of it comes to.
        let long = "x".repeat(2 * ASKED);
        let attributes = HashMap::from([("filename".to_owned(), "f".to_owned()), ("long".to_owned(), long)]);
        let asked = SolveRequest {
            frontend_attrs: attributes.clone(),
            exporters: vec![Exporter { r#type: "image".to_owned(), attrs: attributes }],
            ..SolveRequest::default()
        };
        let record = begun(&asked);
        assert!(record.encoded_len() < ASKED && record.frontend_attrs["filename"] == "f");
        assert_eq!(record.exporters[0].attrs.len(), 1);
        for number in 0..10 {
            let mut large = named(&format!("large {number}"));
            large.exporter_response.insert("k".to_owned(), "v".repeat(BYTES / 4));
            history.add(stranger.clone(), large, &Trace::new("b"));
        }
        let builds = history.builds();
        let own = &builds[&stranger];
        assert!(own.past.len() == 3 && own.bytes <= BYTES, "{} of {} bytes", own.past.len(), own.bytes);
    }
}
