//! Builds that clients steer: the controller is asked to solve and waits, and meanwhile the client asks the gateway to
//! run the Dockerfile frontend and says in the end which result it wants.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard_buildkit_proto::google::rpc::Status as RpcStatus;
use bollard_buildkit_proto::moby::buildkit::v1::apicaps::ApiCap;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::{
    CacheOptionsEntry as CacheImport, InputsResponse, PongResponse, Ref, RefMap, Result as BuildResult,
    ReturnRequest, ReturnResponse, SolveRequest as BridgeRequest, SolveResponse as BridgeResponse,
    WarnResponse, result,
};
use bollard_buildkit_proto::moby::buildkit::v1::{
    BuildHistoryRecord, CacheOptionsEntry, SolveRequest, SolveResponse,
};
use bollard_buildkit_proto::pb;
use futures_util::stream;
use hull_build::{Failure, Stop};
use hull_image::{Draft, Platform};
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use crate::asked::{FRONTEND, order, refuse};
use crate::control::worker;
use crate::failing::Failed;
use crate::grpc::server::{Answer, Request};
use crate::grpc::{Code, Result, Status, framed};
use crate::job::{Ended, Made, deliver};
use crate::refs;
use crate::results::definition;
use crate::trace::Trace;
use crate::{BuildKit, Guard, history};

/// How long a call waits for the build that it is about: clients begin both at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// What this gateway can, in the words by which clients ask.
const CAPABILITIES: &[&str] = &[
    "solve.base",
    "solve.inlinereturn",
    "return",
    "returnmap",
    "proto.refarray",
    "importcaches",
    "reference.output",
    "frontend.inputs",
    "frontend.caps",
    "gateway.solve.metadata",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
];

/// What builds can, in the same words.
const LLB_CAPABILITIES: &[&str] = &[
    "source.image",
    "source.local",
    "file.base",
    "exporter.image.attestations",
    "exporter.image.annotations",
    "exporter.multiple",
];

/// The builds that clients have under way, by their names and the sockets that they came by.
#[derive(Default)]
pub(crate) struct Builds {
    named: Mutex<HashMap<Key, Arc<Build>>>,
    /// What is told of those that ended before anybody asked.
    ended: Mutex<HashMap<Key, Arc<Trace>>>,
    appeared: Notify,
}

type Key = (Option<PathBuf>, String);

/// What a client says that it wants in the end, or how it failed.
type Returned = std::result::Result<Option<Box<Made>>, RpcStatus>;

/// What the gateway made, by the names that it gave.
type Results = refs::Results<Box<Made>, Draft>;

/// One of them.
struct Build {
    asked: SolveRequest,
    /// What is remembered of it.
    record: Arc<BuildHistoryRecord>,
    trace: Arc<Trace>,
    stop: Stop,
    made: Mutex<Results>,
    returned: Mutex<Option<oneshot::Sender<Returned>>>,
}

/// A build's name, while it goes on: dropped with the call that asked for it, it ends.
struct Named {
    builds: Arc<Builds>,
    key: Key,
    build: Arc<Build>,
}

impl Builds {
    fn add(self: &Arc<Builds>, socket: Option<PathBuf>, build: Arc<Build>) -> Result<Named> {
        let key = (socket, build.asked.r#ref.clone());
        let mut named = self.named();
        if named.contains_key(&key) {
            return Err(Status::new(Code::AlreadyExists, format!("the build {} goes on already", key.1)));
        }
        named.insert(key.clone(), Arc::clone(&build));
        drop(named);
        self.appeared.notify_waiters();
        Ok(Named { builds: Arc::clone(self), key, build })
    }

    /// The build of a name; one that is about to begin is waited for.
    async fn get(&self, socket: Option<PathBuf>, name: &str) -> Result<Arc<Build>> {
        let key = (socket, name.to_owned());
        self.found(name, || self.named().get(&key).cloned()).await
    }

    /// Those of a socket that go on.
    pub(crate) fn active(&self, socket: &Option<PathBuf>) -> Vec<Arc<BuildHistoryRecord>> {
        let named = self.named();
        let own = named.iter().filter(|((of, _), build)| of == socket && !build.asked.internal);
        own.map(|(_, build)| Arc::clone(&build.record)).collect()
    }

    /// Whether there is something that nobody has read of a build of this name, or it goes on.
    fn is_known(&self, socket: &Option<PathBuf>, name: &str) -> bool {
        let key = (socket.clone(), name.to_owned());
        self.named().contains_key(&key) || self.ended().contains_key(&key)
    }

    /// What a build of the same socket has made that goes on.
    pub(crate) fn made(&self, socket: Option<PathBuf>, id: &str) -> Option<Draft> {
        let builds: Vec<Arc<Build>> = {
            let named = self.named();
            named.iter().filter(|((of, _), _)| *of == socket).map(|(_, build)| Arc::clone(build)).collect()
        };
        builds.iter().find_map(|build| build.made().image(id).cloned())
    }

    /// What is told of the build of a name, also of one that has just ended.
    async fn told(&self, socket: Option<PathBuf>, name: &str) -> Result<Arc<Trace>> {
        let key = (socket, name.to_owned());
        let told = || {
            let goes_on = self.named().get(&key).map(|build| Arc::clone(&build.trace));
            goes_on.or_else(|| self.ended().remove(&key))
        };
        self.found(name, told).await
    }

    async fn found<T>(&self, name: &str, find: impl Fn() -> Option<T>) -> Result<T> {
        let found = async {
            loop {
                let appeared = self.appeared.notified();
                tokio::pin!(appeared);
                // Registered before it is looked at, so that one that begins in between is not missed.
                appeared.as_mut().enable();
                if let Some(found) = find() {
                    return found;
                }
                appeared.await;
            }
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .map_err(|_| Status::new(Code::NotFound, format!("no such job {name}")))
    }

    fn named(&self) -> MutexGuard<'_, HashMap<Key, Arc<Build>>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, HashMap<Key, Arc<Trace>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.build.stop.stop();
        self.build.trace.end(Some("context canceled"));
        // A build that is quick may be over before its client asks what goes on.
        let unread = self.build.trace.is_unread();
        if let Some(runtime) = tokio::runtime::Handle::try_current().ok().filter(|_| unread) {
            self.builds.ended().insert(self.key.clone(), Arc::clone(&self.build.trace));
            let (builds, key) = (Arc::clone(&self.builds), self.key.clone());
            runtime.spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                builds.ended().remove(&key);
            });
        }
        self.builds.named().remove(&self.key);
    }
}

/// `Control.Solve`.
pub(crate) async fn solve(
    buildkit: &Arc<BuildKit>,
    guard: Arc<dyn Guard>,
    asked: SolveRequest,
) -> Result<Answer> {
    refuse(&asked).map_err(|failure| Failed::from(failure).status())?;
    let (returns, returned) = oneshot::channel();
    let build = Arc::new(Build {
        trace: Trace::new(&asked.r#ref),
        record: Arc::new(history::begun(&asked)),
        stop: Stop::default(),
        made: Mutex::default(),
        returned: Mutex::new(Some(returns)),
        asked,
    });
    let socket = guard.socket();
    let named = buildkit.builds.add(socket.clone(), Arc::clone(&build))?;
    let solved = solved(buildkit, guard, &build, returned).await;
    build.trace.end(solved.is_err().then_some("context canceled"));
    // What did not begin is not remembered.
    if !build.asked.internal {
        let mut record = (*build.record).clone();
        match &solved {
            Ok(response) => record.exporter_response.clone_from(&response.exporter_response),
            Err(status) => record.error = Some(history::error(status)),
        }
        buildkit.history.add(socket, record, &build.trace);
    }
    drop(named);
    solved.map(|response| Answer::one(&response))
}

async fn solved(
    buildkit: &Arc<BuildKit>,
    guard: Arc<dyn Guard>,
    build: &Arc<Build>,
    returned: oneshot::Receiver<Returned>,
) -> Result<SolveResponse> {
    let made = match build.asked.frontend.as_str() {
        // The client steers it.
        "" => match returned.await {
            Ok(Ok(made)) => made,
            Ok(Err(status)) => {
                return Err(Status { code: Code::Unknown, message: status.message, details: status.details });
            }
            Err(_) => return Err(Status::new(Code::Cancelled, "the build was cancelled")),
        },
        _ => {
            let attributes = build.asked.frontend_attrs.clone();
            let inputs = build.asked.frontend_inputs.clone();
            let ended = build.run(buildkit, &*guard, &attributes, &inputs, &[]).await;
            match ended.map_err(|failed| failed.status())? {
                Ended::Made(made) => Some(made),
                Ended::Told(..) => None,
            }
        }
    };
    let built = match made {
        None => None,
        Some(made) => {
            let trace = Arc::clone(&build.trace);
            // A task of its own: where the client is gone it is stopped, and undoes what it has begun.
            let delivering = tokio::spawn(async move { deliver(&trace, *made).await });
            let delivered = delivering.await;
            let delivered =
                delivered.unwrap_or_else(|error| Err(Failure::system("deliver the image", error).into()));
            Some(delivered.map_err(|failed| failed.status())?)
        }
    };
    build.trace.end(None);
    let told = built.iter().flat_map(|built| &built.told);
    let told = told.map(|(name, value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            value if name == "cache.manifest" => value.to_string(),
            // As BuildKit has what is no text.
            value => STANDARD.encode(value.to_string()),
        };
        (name.clone(), text)
    });
    Ok(SolveResponse { exporter_response: told.collect() })
}

/// `Control.Status`.
pub(crate) async fn status(buildkit: &Arc<BuildKit>, socket: Option<PathBuf>, name: &str) -> Result<Answer> {
    /// Nobody reads behind the stream's end.
    struct Reader(Arc<Trace>);
    impl Drop for Reader {
        fn drop(&mut self) {
            self.0.unread();
        }
    }
    if !buildkit.builds.is_known(&socket, name)
        && let Some(told) = buildkit.history.told(&socket, name)
    {
        return Ok(history::again(told));
    }
    let reader = Reader(buildkit.builds.told(socket, name).await?);
    let told = stream::unfold(reader, |reader| async move {
        let told = reader.0.next().await?;
        Some((Ok(framed(&told)), reader))
    });
    Ok(Answer::Many(Box::pin(told)))
}

/// The gateway's methods, of the build that a call names.
pub(crate) async fn answer(
    buildkit: &Arc<BuildKit>,
    guard: &Arc<dyn Guard>,
    mut request: Request,
) -> Result<Answer> {
    let name = request.metadata("buildkit-controlapi-buildid").unwrap_or_default().to_owned();
    let build = buildkit.builds.get(guard.socket(), &name).await?;
    let method = request.method.rsplit('/').next().unwrap_or_default().to_owned();
    match method.as_str() {
        "Ping" => Ok(Answer::one(&pong())),
        "Solve" => {
            let asked: BridgeRequest = request.message().await?;
            build.bridged(buildkit, &**guard, asked).await
        }
        "Return" => {
            let ReturnRequest { result, error } = request.message().await?;
            build.ended(result, error)?;
            Ok(Answer::one(&ReturnResponse {}))
        }
        "Evaluate" => {
            Ok(Answer::one(&bollard_buildkit_proto::moby::buildkit::v1::frontend::EvaluateResponse {}))
        }
        "Inputs" => Ok(Answer::one(&InputsResponse { definitions: build.asked.frontend_inputs.clone() })),
        "Warn" => Ok(Answer::one(&WarnResponse {})),
        _ => {
            Err(Status::new(Code::Unimplemented, format!("the gateway's {method} is not supported by hull")))
        }
    }
}

fn pong() -> PongResponse {
    let capability = |id: &&str| ApiCap { id: (*id).to_owned(), enabled: true, ..ApiCap::default() };
    PongResponse {
        frontend_api_caps: CAPABILITIES.iter().map(capability).collect(),
        llb_caps: LLB_CAPABILITIES.iter().map(capability).collect(),
        workers: vec![worker()],
    }
}

impl Build {
    /// `LLBBridge.Solve`: the frontend is run.
    async fn bridged(
        self: &Arc<Build>,
        buildkit: &Arc<BuildKit>,
        guard: &dyn Guard,
        asked: BridgeRequest,
    ) -> Result<Answer> {
        if asked.frontend.is_empty() {
            if asked.definition.as_ref().is_some_and(|definition| !definition.def.is_empty()) {
                return Err(Status::new(
                    Code::Unimplemented,
                    "LLB is not supported by hull: builds are Dockerfiles",
                ));
            }
            return Ok(Answer::one(&BridgeResponse {
                result: Some(BuildResult::default()),
                ..Default::default()
            }));
        }
        if asked.frontend != FRONTEND && asked.frontend != "gateway.v0" {
            let message = format!("the frontend {} is not supported by hull", asked.frontend);
            return Err(Status::new(Code::Unimplemented, message));
        }
        let import = |entry: CacheImport| CacheOptionsEntry { r#type: entry.r#type, attrs: entry.attrs };
        let imports: Vec<_> = asked.cache_imports.into_iter().map(import).collect();
        let ended = self.run(buildkit, guard, &asked.frontend_opt, &asked.frontend_inputs, &imports).await;
        let mut result = BuildResult::default();
        match ended.map_err(|failed| failed.status())? {
            Ended::Told(told) => result.metadata = told,
            Ended::Made(made) => self.told(made, &mut result)?,
        }
        Ok(Answer::one(&BridgeResponse { result: Some(result), ..Default::default() }))
    }

    /// Names what was made, and says what it is.
    fn told(&self, made: Box<Made>, result: &mut BuildResult) -> Result<()> {
        let (drafts, is_indexed) = (made.drafts(), made.is_indexed());
        let images = drafts.iter().map(|draft| (draft.image.id.to_string(), draft.clone())).collect();
        let names = self.made().add(made, images)?;
        let mut refs = BTreeMap::new();
        for (draft, id) in drafts.into_iter().zip(names) {
            let config = draft.image.raw_config.to_vec();
            let platform = Platform::of(&draft.image.config);
            let made = Ref { def: Some(definition(&id)), id };
            if !is_indexed {
                result.metadata.insert("containerimage.config".to_owned(), config);
                result.result = Some(result::Result::Ref(made));
                return Ok(());
            }
            result.metadata.insert(format!("containerimage.config/{platform}"), config);
            refs.insert(platform.to_string(), (platform, made));
        }
        let shown = refs.iter().map(|(id, (platform, _))| json!({ "ID": id, "Platform": platform.oci() }));
        let platforms = json!({ "Platforms": shown.collect::<Vec<_>>() });
        result.metadata.insert("refs.platforms".to_owned(), platforms.to_string().into_bytes());
        let refs = refs.into_iter().map(|(id, (_, made))| (id, made)).collect();
        result.result = Some(result::Result::Refs(RefMap { refs }));
        Ok(())
    }

    /// `LLBBridge.Return`: the client knows what it wants.
    fn ended(&self, result: Option<BuildResult>, error: Option<RpcStatus>) -> Result<()> {
        // Said twice, the first counts.
        let returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(returned) = returned else { return Ok(()) };
        // What makes no sense ends the build, and is told to who says it and to who waits.
        let (wanted, answer) = match error.filter(|error| error.code != 0) {
            Some(error) => (Err(error), Ok(())),
            None => match self.wanted(result) {
                Ok(made) => (Ok(made), Ok(())),
                Err(status) => (Err(history::error(&status)), Err(status)),
            },
        };
        // Who asked may be gone.
        let _ = returned.send(wanted);
        answer
    }

    /// The result that a client names; none: it wants none.
    fn wanted(&self, result: Option<BuildResult>) -> Result<Option<Box<Made>>> {
        let names: Vec<String> = match result.and_then(|result| result.result) {
            Some(result::Result::Ref(Ref { id, .. }) | result::Result::RefDeprecated(id)) => vec![id],
            Some(result::Result::Refs(refs)) => refs.refs.into_values().map(|one| one.id).collect(),
            Some(result::Result::RefsDeprecated(refs)) => refs.refs.into_values().collect(),
            None => Vec::new(),
        };
        let names: BTreeSet<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
        if names.is_empty() { Ok(None) } else { self.made().take(&names).map(Some) }
    }

    /// Runs the frontend with these attributes.
    async fn run(
        &self,
        buildkit: &Arc<BuildKit>,
        guard: &dyn Guard,
        attributes: &HashMap<String, String>,
        inputs: &HashMap<String, pb::Definition>,
        imports: &[CacheOptionsEntry],
    ) -> std::result::Result<Ended, Failed> {
        let order = order(buildkit, guard, &self.asked, (attributes, inputs, imports))?;
        let job = buildkit
            .job(&self.asked.session, guard.socket(), Arc::clone(&self.trace), self.stop.clone())
            .await?;
        // A task of its own: where the client is gone it is stopped, and undoes what it has begun.
        let running = tokio::spawn(async move { job.run(order, None).await });
        running.await.unwrap_or_else(|error| Err(Failure::system("build", error).into()))
    }

    fn made(&self) -> MutexGuard<'_, Results> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(asked: SolveRequest) -> (Build, oneshot::Receiver<Returned>) {
        let (returns, returned) = oneshot::channel();
        let build = Build {
            record: Arc::new(history::begun(&asked)),
            trace: Trace::new(&asked.r#ref),
            stop: Stop::default(),
            made: Mutex::default(),
            returned: Mutex::new(Some(returns)),
            asked,
        };
        (build, returned)
    }

    #[test]
    fn what_was_never_made_is_no_result() {
        let named = |id: &str| Ref { id: id.to_owned(), ..Ref::default() };
        let result = |result| Some(BuildResult { result: Some(result), ..BuildResult::default() });
        let (one, mut returned) = build(SolveRequest::default());
        let error = one.ended(result(result::Result::Ref(named("x"))), None).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (Code::InvalidArgument, "invalid reference x"));
        assert!(returned.try_recv().unwrap().is_err(), "who waits hears of it too");
        let refs = ["a", "b"].map(|name| (name.to_owned(), named(name)));
        let several = result(result::Result::Refs(RefMap { refs: refs.into() }));
        let (two, _returned) = build(SolveRequest::default());
        assert_eq!(two.ended(several, None).unwrap_err().code, Code::InvalidArgument);
        let (none, mut returned) = build(SolveRequest::default());
        none.ended(Some(BuildResult::default()), None).unwrap();
        assert!(matches!(returned.try_recv(), Ok(Ok(None))));
    }
}
