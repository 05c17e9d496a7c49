//! The builds that were, and what they told: the last ones, as long as the daemon runs.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord, BuildHistoryRequest, Exporter,
    SolveRequest, StatusResponse, UpdateBuildHistoryRequest,
};
use futures_util::{StreamExt, stream};

use crate::grpc::server::Answer;
use crate::grpc::{Code, Result, Status, framed};
use crate::trace::Trace;

/// So many builds are remembered.
const KEPT: usize = 50;

/// The builds that were, the oldest first.
#[derive(Default)]
pub(crate) struct History(Mutex<VecDeque<Past>>);

struct Past {
    /// The socket with a policy that it came by: it is no others'.
    socket: Option<PathBuf>,
    record: BuildHistoryRecord,
    told: Arc<[StatusResponse]>,
}

/// Now.
pub(crate) fn now() -> Timestamp {
    let now = jiff::Timestamp::now();
    Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() }
}

/// What is known of a build when it begins.
pub(crate) fn begun(asked: &SolveRequest) -> BuildHistoryRecord {
    let exporters = asked.exporters.iter();
    BuildHistoryRecord {
        r#ref: asked.r#ref.clone(),
        frontend: asked.frontend.clone(),
        frontend_attrs: asked.frontend_attrs.clone(),
        exporters: exporters
            .map(|one| Exporter { r#type: one.r#type.clone(), attrs: one.attrs.clone() })
            .collect(),
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
        let mut builds = self.builds();
        builds.push_back(Past { socket, record, told: told.into() });
        while builds.len() > KEPT {
            builds.pop_front();
        }
    }

    /// What a build told that was.
    pub(crate) fn told(&self, socket: &Option<PathBuf>, name: &str) -> Option<Arc<[StatusResponse]>> {
        let builds = self.builds();
        let found = builds.iter().rev().find(|past| past.socket == *socket && past.record.r#ref == name);
        found.map(|past| Arc::clone(&past.told))
    }

    /// `Control.ListenBuildHistory`: those that are, and where it is wanted those that come.
    pub(crate) fn listen(
        &self,
        socket: &Option<PathBuf>,
        asked: &BuildHistoryRequest,
        active: Vec<BuildHistoryRecord>,
    ) -> Result<Answer> {
        if let Some(filter) = asked.filter.iter().find(|filter| !filter.is_empty()) {
            let what = format!("the filter {filter} of builds is not supported by hull");
            return Err(Status::new(Code::Unimplemented, what));
        }
        let event = |kind: BuildHistoryEventType, record| BuildHistoryEvent {
            r#type: kind.into(),
            record: Some(record),
        };
        let mut events: Vec<BuildHistoryEvent> =
            active.into_iter().map(|record| event(BuildHistoryEventType::Started, record)).collect();
        if !asked.active_only {
            let builds = self.builds();
            let past = builds.iter().rev().filter(|past| past.socket == *socket);
            events.extend(past.map(|past| event(BuildHistoryEventType::Complete, past.record.clone())));
        }
        events.retain(|event| {
            let name = event.record.as_ref().map(|record| record.r#ref.as_str());
            asked.r#ref.is_empty() || name == Some(asked.r#ref.as_str())
        });
        if let Some(limit) = usize::try_from(asked.limit).ok().filter(|limit| *limit > 0) {
            events.truncate(limit);
        }
        let events: Vec<_> = events.iter().map(|event| Ok(framed(event))).collect();
        let events = stream::iter(events);
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
        let before = builds.len();
        builds.retain(|past| past.socket != *socket || past.record.r#ref != asked.r#ref);
        match builds.len() < before {
            true => Ok(()),
            false => Err(Status::new(Code::NotFound, format!("no build {}", asked.r#ref))),
        }
    }

    fn builds(&self) -> std::sync::MutexGuard<'_, VecDeque<Past>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was told is told again.
pub(crate) fn again(told: &[StatusResponse]) -> Answer {
    let told: Vec<_> = told.iter().map(|one| Ok(framed(one))).collect();
    Answer::Many(Box::pin(stream::iter(told)))
}

/// How a build failed, in a record.
pub(crate) fn error(status: &Status) -> bollard_buildkit_proto::google::rpc::Status {
    bollard_buildkit_proto::google::rpc::Status {
        code: status.code as i32,
        message: status.message.clone(),
        details: Vec::new(),
    }
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
}
