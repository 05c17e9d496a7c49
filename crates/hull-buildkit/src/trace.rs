//! What goes on in a build, in BuildKit's words: vertices that begin and end, what they print, how far they are.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{
    StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};
use bollard_buildkit_proto::pb;
use hull_build::Prepared;
use hull_build::progress::{Event, Listener};
use hull_image::Digest;
use tokio::sync::Notify;

/// So many messages may wait for a client that reads slowly, until who prints waits too; and so many for one that has
/// not come yet.
const BACKLOG: usize = 1024;

/// What is told of a build, until somebody has read it.
pub(crate) struct Trace {
    /// The build's name, for its vertices have names of their own.
    build: String,
    state: Mutex<State>,
    /// There is something to read.
    said: Notify,
    /// Something was read.
    taken: Notify,
}

/// So many bytes of what a build told are kept behind it; what it printed beyond that is not.
const KEPT: usize = 128 << 10;

/// How many there were.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) total: i32,
    pub(crate) completed: i32,
    pub(crate) cached: i32,
    pub(crate) warnings: i32,
}

#[derive(Default)]
struct State {
    /// What was told, for whoever asks later, and its bytes.
    all: Vec<StatusResponse>,
    bytes: usize,
    counts: Counts,
    known: std::collections::BTreeSet<String>,
    waiting: VecDeque<StatusResponse>,
    /// Somebody reads, and has ever read.
    read: bool,
    seen: bool,
    ended: bool,
    /// The vertices of steps that have begun and not ended.
    open: BTreeMap<usize, Vertex>,
    /// What comes from the client, by the work that it comes for.
    transfers: BTreeMap<String, VertexStatus>,
    /// The steps that failed.
    failed: Vec<usize>,
    /// The one stage has no name, and is not told.
    single: bool,
}

/// A piece of work beside the steps: `[internal] load build context`.
pub(crate) struct Work<'a> {
    trace: &'a Trace,
    vertex: Vertex,
    done: bool,
}

fn now() -> Timestamp {
    let now = jiff::Timestamp::now();
    Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() }
}

impl Trace {
    pub(crate) fn new(build: &str) -> Arc<Trace> {
        let (state, said, taken) = (Mutex::default(), Notify::new(), Notify::new());
        Arc::new(Trace { build: build.to_owned(), state, said, taken })
    }

    /// Work of a name begins.
    pub(crate) fn begin(&self, name: &str) -> Work<'_> {
        let vertex = Vertex {
            digest: self.digest(name),
            name: name.to_owned(),
            started: Some(now()),
            ..Vertex::default()
        };
        self.vertex(&vertex);
        Work { trace: self, vertex, done: false }
    }

    /// What the names of steps look like, and what is unwise about the Dockerfile.
    pub(crate) fn prepared(&self, prepared: &Prepared) {
        let plan = prepared.plan();
        self.state().single = plan.stages.len() == 1 && plan.stages[0].name == "stage-0";
        let source = prepared.source();
        let info = pb::SourceInfo {
            filename: source.name.clone(),
            data: source.text.clone().into_bytes(),
            definition: None,
            language: "Dockerfile".to_owned(),
        };
        let vertex = self.digest(&definition(&source.name));
        let warnings = prepared.warnings.iter().map(|warning| VertexWarning {
            vertex: vertex.clone(),
            level: 1,
            short: format!("{}: {} (line {})", warning.rule, warning.message, warning.at.line).into_bytes(),
            detail: vec![warning.description.as_bytes().to_vec()],
            url: warning.url(),
            info: Some(info.clone()),
            ranges: vec![range(warning.at.line, warning.at.line)],
        });
        let warnings: Vec<VertexWarning> = warnings.collect();
        if !warnings.is_empty() {
            self.say(StatusResponse { warnings, ..StatusResponse::default() });
        }
    }

    /// The build is over: what has begun ends with it.
    pub(crate) fn end(&self, error: Option<&str>) {
        let (open, failed) = {
            let mut state = self.state();
            (std::mem::take(&mut state.open), std::mem::take(&mut state.failed))
        };
        for (step, mut vertex) in open {
            vertex.completed = Some(now());
            if let Some(error) = error {
                // What others interrupted is told as BuildKit's clients know it.
                let own = failed.contains(&step);
                vertex.error = if own { error.to_owned() } else { "context canceled".to_owned() };
            }
            self.vertex(&vertex);
        }
        self.state().ended = true;
        self.said.notify_waiters();
    }

    /// The next message; none behind the last. One reads at a time: what one has read no other sees.
    pub(crate) async fn next(&self) -> Option<StatusResponse> {
        loop {
            let said = self.said.notified();
            tokio::pin!(said);
            // Registered before it is looked at, so that what is said in between is not missed.
            said.as_mut().enable();
            {
                let mut state = self.state();
                (state.read, state.seen) = (true, true);
                if let Some(first) = state.waiting.pop_front() {
                    self.taken.notify_waiters();
                    return Some(merged(first, &mut state.waiting));
                }
                if state.ended {
                    return None;
                }
            }
            said.await;
        }
    }

    /// How many bytes the work of that digest has transferred.
    pub(crate) fn transferred(&self, digest: &str, id: &str, bytes: u64) {
        let current = i64::try_from(bytes).unwrap_or(i64::MAX);
        let status = VertexStatus {
            id: id.to_owned(),
            vertex: digest.to_owned(),
            name: id.to_owned(),
            current,
            timestamp: Some(now()),
            started: Some(now()),
            ..VertexStatus::default()
        };
        let mut state = self.state();
        state.transfers.insert(digest.to_owned(), status.clone());
        // One after the other says the same of later: it takes the place of one that nobody has read yet.
        let last = state.waiting.back_mut().filter(|last| last.logs.is_empty() && last.vertexes.is_empty());
        let same = last
            .and_then(|last| last.statuses.iter_mut().find(|last| last.id == id && last.vertex == digest));
        match same {
            Some(same) => {
                same.current = current;
                same.timestamp = status.timestamp;
            }
            None => state
                .waiting
                .push_back(StatusResponse { statuses: vec![status], ..StatusResponse::default() }),
        }
        drop(state);
        self.said.notify_waiters();
    }

    /// Nobody has read anything yet.
    pub(crate) fn is_unread(&self) -> bool {
        !self.state().seen
    }

    /// Nobody reads any more.
    pub(crate) fn unread(&self) {
        self.state().read = false;
        self.taken.notify_waiters();
    }

    /// What was told so far, as far as it is kept.
    pub(crate) fn all_told(&self) -> (Vec<StatusResponse>, Counts) {
        let mut state = self.state();
        (std::mem::take(&mut state.all), state.counts)
    }

    fn say(&self, message: StatusResponse) {
        let mut state = self.state();
        state.note(&message);
        if !state.read && state.waiting.len() >= BACKLOG {
            // Nobody has come to read: what was printed first gives way, not what has happened.
            let printed = state.waiting.iter().position(|message| !message.logs.is_empty());
            printed.map(|at| state.waiting.remove(at));
        }
        state.waiting.push_back(message);
        drop(state);
        self.said.notify_waiters();
    }

    fn vertex(&self, vertex: &Vertex) {
        self.say(StatusResponse { vertexes: vec![vertex.clone()], ..StatusResponse::default() });
    }

    fn digest(&self, name: &str) -> String {
        Digest::of(format!("{}\0{name}", self.build).as_bytes()).to_string()
    }

    fn step_digest(&self, step: usize) -> String {
        self.digest(&format!("step {step}"))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts and keeps a message for later.
    fn note(&mut self, message: &StatusResponse) {
        for vertex in &message.vertexes {
            if self.known.insert(vertex.digest.clone()) {
                self.counts.total += 1;
            }
            if vertex.completed.is_some() {
                self.counts.completed += 1;
                self.counts.cached += i32::from(vertex.cached);
            }
        }
        self.counts.warnings += i32::try_from(message.warnings.len()).unwrap_or_default();
        let length = prost::Message::encoded_len(message);
        if self.bytes + length <= KEPT {
            self.bytes += length;
            self.all.push(message.clone());
        }
    }
}

/// The name of the work that reads a Dockerfile.
pub(crate) fn definition(name: &str) -> String {
    format!("[internal] load build definition from {name}")
}

/// Lines of a file.
pub(crate) fn range(first: u32, last: u32) -> pb::Range {
    let position =
        |line: u32| Some(pb::Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
    pb::Range { start: position(first), end: position(last) }
}

/// Messages that wait together go together.
fn merged(mut first: StatusResponse, waiting: &mut VecDeque<StatusResponse>) -> StatusResponse {
    const TOGETHER: usize = 64;
    for _ in 0..TOGETHER {
        let Some(next) = waiting.pop_front() else { break };
        first.vertexes.extend(next.vertexes);
        first.statuses.extend(next.statuses);
        first.logs.extend(next.logs);
        first.warnings.extend(next.warnings);
    }
    first
}

impl Work<'_> {
    /// By what it is known.
    pub(crate) fn digest(&self) -> &str {
        &self.vertex.digest
    }

    /// How many bytes of something have come.
    pub(crate) fn transferred(&self, id: &str, bytes: u64) {
        self.trace.transferred(&self.vertex.digest, id, bytes);
    }

    /// A part of it that is done.
    pub(crate) fn part(&self, id: &str) {
        let status = VertexStatus {
            id: id.to_owned(),
            vertex: self.vertex.digest.clone(),
            name: id.to_owned(),
            timestamp: Some(now()),
            started: self.vertex.started,
            completed: Some(now()),
            ..VertexStatus::default()
        };
        self.trace.say(StatusResponse { statuses: vec![status], ..StatusResponse::default() });
    }

    /// It has come to its end.
    pub(crate) fn done(mut self) {
        self.ended("");
    }

    /// The same, or how it failed.
    pub(crate) fn ended(&mut self, error: &str) {
        self.done = true;
        self.vertex.completed = Some(now());
        let transfer = self.trace.state().transfers.remove(&self.vertex.digest);
        if let Some(transfer) = transfer {
            let status = VertexStatus { completed: self.vertex.completed, ..transfer };
            self.trace.say(StatusResponse { statuses: vec![status], ..StatusResponse::default() });
        }
        error.clone_into(&mut self.vertex.error);
        self.trace.vertex(&self.vertex);
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.ended("context canceled");
        }
    }
}

impl Listener for Trace {
    fn event(&self, event: Event) {
        match event {
            Event::Step { step, name, text, .. } => {
                let mut state = self.state();
                // Behind the platform, where there may be several.
                let name = if state.single { name.replacen("stage-0 ", "", 1) } else { name };
                let vertex = Vertex {
                    digest: self.step_digest(step),
                    name: format!("[{name}] {text}"),
                    started: Some(now()),
                    ..Vertex::default()
                };
                state.open.insert(step, vertex.clone());
                drop(state);
                self.vertex(&vertex);
            }
            Event::Output { step, text, error } => {
                let log = VertexLog {
                    vertex: self.step_digest(step),
                    timestamp: Some(now()),
                    stream: if error { 2 } else { 1 },
                    msg: text.into_bytes(),
                };
                self.say(StatusResponse { logs: vec![log], ..StatusResponse::default() });
            }
            Event::Done { step, cached, .. } => {
                let Some(mut vertex) = self.state().open.remove(&step) else { return };
                vertex.cached = cached;
                vertex.completed = Some(now());
                self.vertex(&vertex);
            }
            // Why, the build's end says.
            Event::Failed { step } => self.state().failed.push(step),
            _ => {}
        }
    }

    fn room(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            loop {
                let taken = self.taken.notified();
                tokio::pin!(taken);
                taken.as_mut().enable();
                {
                    let state = self.state();
                    if state.waiting.len() < BACKLOG || !state.read {
                        return;
                    }
                }
                taken.await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: usize) -> Event {
        Event::Step { step, total: 2, stage: 0, name: format!("stage-0 {step}/2"), text: "RUN x".to_owned() }
    }

    #[tokio::test]
    async fn a_step_that_fails_is_told_with_why_and_others_as_interrupted() {
        let trace = Trace::new("b");
        trace.state().single = true;
        for number in [1, 2] {
            trace.event(step(number));
        }
        trace.event(Event::Output { step: 2, text: "no\n".to_owned(), error: true });
        trace.event(Event::Failed { step: 2 });
        trace.end(Some("exit code: 9"));
        let told = trace.next().await.unwrap();
        let of = |name: &str| told.vertexes.iter().rfind(|vertex| vertex.name == name).unwrap();
        assert_eq!(of("[1/2] RUN x").error, "context canceled");
        assert_eq!(of("[2/2] RUN x").error, "exit code: 9");
        assert_eq!(
            (told.logs[0].vertex.as_str(), told.logs[0].stream),
            (of("[2/2] RUN x").digest.as_str(), 2)
        );
        assert!(trace.next().await.is_none());
    }

    #[tokio::test]
    async fn what_is_printed_without_a_reader_has_an_end() {
        let trace = Trace::new("b");
        trace.event(step(1));
        for _ in 0..3 * BACKLOG {
            trace.event(Event::Output { step: 1, text: "line\n".to_owned(), error: false });
            trace.room().await;
        }
        let waiting = trace.state().waiting.len();
        assert!(waiting <= BACKLOG, "{waiting}");
        assert_eq!(trace.next().await.unwrap().vertexes.len(), 1, "what happened is told all the same");
    }
}
