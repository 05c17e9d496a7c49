//! Builds that clients steer: the controller is asked to solve and waits, and meanwhile the client asks the gateway to
//! run the Dockerfile frontend and says in the end which result it wants.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard_buildkit_proto::google::rpc::Status as RpcStatus;
use bollard_buildkit_proto::moby::buildkit::v1::apicaps::ApiCap;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::{
    InputsResponse, PongResponse, Ref, Result as BuildResult, ReturnRequest, ReturnResponse,
    SolveRequest as BridgeRequest, SolveResponse as BridgeResponse, WarnResponse, result,
};
use bollard_buildkit_proto::moby::buildkit::v1::{SolveRequest, SolveResponse};
use bollard_buildkit_proto::pb;
use futures_util::stream;
use hull_build::{Built, Failure, Output, Stop, output};
use hull_engine::Kind;
use serde_json::Value;
use tokio::sync::{Notify, oneshot};

use crate::control::worker;
use crate::failing::Failed;
use crate::grpc::server::{Answer, Request};
use crate::grpc::{Code, Result, Status, framed};
use crate::job::Ended;
use crate::order::{NamedPlace, Order, grant, import};
use crate::results::{definition, made_by, unwise};
use crate::trace::Trace;
use crate::{BuildKit, Guard};

/// The frontend that there is.
const FRONTEND: &str = "dockerfile.v0";

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
type Returned = std::result::Result<Option<Arc<Built>>, RpcStatus>;

/// One of them.
struct Build {
    asked: SolveRequest,
    trace: Arc<Trace>,
    stop: Stop,
    /// What the gateway made, by the names that it gave.
    made: Mutex<HashMap<String, Arc<Built>>>,
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
        stop: Stop::default(),
        made: Mutex::default(),
        returned: Mutex::new(Some(returns)),
        asked,
    });
    let socket = guard.socket();
    let _named = buildkit.builds.add(socket, Arc::clone(&build))?;
    let built = match build.asked.frontend.as_str() {
        // The client steers it.
        "" => match returned.await {
            Ok(Ok(built)) => built,
            Ok(Err(status)) => {
                return Err(Status { code: Code::Unknown, message: status.message, details: status.details });
            }
            Err(_) => return Err(Status::new(Code::Cancelled, "the build was cancelled")),
        },
        _ => {
            let attributes = build.asked.frontend_attrs.clone();
            let ended = build.run(buildkit, &*guard, &attributes, &build.asked.frontend_inputs).await;
            match ended.map_err(|failed| failed.status())? {
                Ended::Built(built) => Some(Arc::new(built)),
                Ended::Checked(..) => None,
            }
        }
    };
    build.trace.end(None);
    let told = built.iter().flat_map(|built| &built.told);
    let told = told.map(|(name, value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            // As BuildKit has what is no text.
            value => STANDARD.encode(value.to_string()),
        };
        (name.clone(), text)
    });
    Ok(Answer::one(&SolveResponse { exporter_response: told.collect() }))
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
            build.ended(result, error);
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
        llb_caps: ["source.image", "source.local", "file.base"].iter().map(capability).collect(),
        workers: vec![worker()],
    }
}

/// What a solve asks for that there is not.
fn refuse(asked: &SolveRequest) -> std::result::Result<(), Failure> {
    let unsupported =
        |what: String| Err(Failure::new(Kind::NotImplemented, format!("{what} is not supported by hull")));
    match asked.frontend.as_str() {
        "" | FRONTEND | "gateway.v0" => {}
        other => return unsupported(format!("the frontend {other}")),
    }
    if asked.definition.as_ref().is_some_and(|definition| !definition.def.is_empty()) {
        return unsupported("a build that is described in LLB, and not in a Dockerfile,".to_owned());
    }
    if asked.source_policy.as_ref().is_some_and(|policy| !policy.rules.is_empty()) {
        return unsupported("a policy of sources".to_owned());
    }
    let cache = asked.cache.clone().unwrap_or_default();
    if let Some(export) = cache.exports.iter().find(|export| export.r#type != "inline") {
        return unsupported(format!("--cache-to type={} over BuildKit's protocol", export.r#type));
    }
    if !cache.export_ref_deprecated.is_empty() {
        return unsupported("--cache-to type=registry over BuildKit's protocol".to_owned());
    }
    Ok(())
}

/// Where the result goes: kinds with their attributes.
fn exporters(asked: &SolveRequest) -> Vec<(&str, &HashMap<String, String>)> {
    let listed = asked.exporters.iter().map(|exporter| (exporter.r#type.as_str(), &exporter.attrs));
    let old = (asked.exporter_deprecated.as_str(), &asked.exporter_attrs_deprecated);
    let old = Some(old).filter(|_| asked.exporters.is_empty());
    listed.chain(old).filter(|(kind, _)| !kind.is_empty()).collect()
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
        let mut attributes = asked.frontend_opt;
        for import in &asked.cache_imports {
            let image = import_of(&import.r#type, &import.attrs)?;
            let list = attributes.entry("cache-from".to_owned()).or_default();
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(&image);
        }
        let ended = self.run(buildkit, guard, &attributes, &asked.frontend_inputs).await;
        let mut result = BuildResult::default();
        match ended.map_err(|failed| failed.status())? {
            Ended::Checked(warnings, source) => result.metadata = unwise(&warnings, &source),
            Ended::Built(built) => {
                let id = built.image.id.to_string();
                result.metadata.insert("containerimage.config".to_owned(), built.image.raw_config.to_vec());
                let def = Some(definition(&id));
                self.made().insert(id.clone(), Arc::new(built));
                result.result = Some(result::Result::Ref(Ref { id, def }));
            }
        }
        Ok(Answer::one(&BridgeResponse { result: Some(result), ..Default::default() }))
    }

    /// `LLBBridge.Return`: the client knows what it wants.
    fn ended(&self, result: Option<BuildResult>, error: Option<RpcStatus>) {
        let wanted = match error.filter(|error| error.code != 0) {
            Some(error) => Err(error),
            None => {
                let name = match result.and_then(|result| result.result) {
                    Some(result::Result::Ref(Ref { id, .. }) | result::Result::RefDeprecated(id)) => Some(id),
                    Some(result::Result::Refs(refs)) => refs.refs.into_values().next().map(|one| one.id),
                    _ => None,
                };
                Ok(name.and_then(|name| self.made().get(&name).cloned()))
            }
        };
        let returned = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Said twice, the first counts; and who asked may be gone.
        let _ = returned.map(|returned| returned.send(wanted));
    }

    /// Runs the frontend with these attributes.
    async fn run(
        &self,
        buildkit: &Arc<BuildKit>,
        guard: &dyn Guard,
        attributes: &HashMap<String, String>,
        inputs: &HashMap<String, pb::Definition>,
    ) -> std::result::Result<Ended, Failed> {
        let order = self.order(guard, attributes, inputs)?;
        let job = buildkit
            .job(&self.asked.session, guard.socket(), Arc::clone(&self.trace), self.stop.clone())
            .await?;
        // A task of its own: where the client is gone it is stopped, and undoes what it has begun.
        let running = tokio::spawn(async move { job.run(order, None).await });
        running.await.unwrap_or_else(|error| Err(Failure::system("build", error).into()))
    }

    /// What the attributes and the solve itself ask, judged.
    fn order(
        &self,
        guard: &dyn Guard,
        attributes: &HashMap<String, String>,
        inputs: &HashMap<String, pb::Definition>,
    ) -> std::result::Result<Order, Failure> {
        let mut order = Order::of(attributes)?;
        for (name, value) in attributes {
            let (Some(name), Some(input)) = (name.strip_prefix("context:"), value.strip_prefix("input:"))
            else {
                continue;
            };
            let made = inputs.get(input).and_then(made_by).ok_or_else(|| {
                let what = "is not what another build has made, which is all that hull takes as an input";
                Failure::new(Kind::NotImplemented, format!("the context {name} {what}"))
            })?;
            order.named.insert(name.to_owned(), NamedPlace::Made(made));
        }
        let request = &mut order.request;
        for (kind, attributes) in exporters(&self.asked) {
            // Docker's clients call the image in its own store by another name.
            let kind = if kind == "moby" { "image" } else { kind }.to_owned();
            // The image is in Docker's store in any case, which is what this asks for.
            let wanted = |(name, value): &(&String, &String)| !(*name == "load" && *value == "true");
            let attrs = attributes.iter().filter(wanted);
            let attrs = attrs.map(|(name, value)| (name.clone(), value.clone())).collect();
            request.outputs.push(Output::of(output::Asked { kind, attrs }, &[], false)?);
        }
        for import_ in self.asked.cache.iter().flat_map(|cache| &cache.imports) {
            let reference = import_.attrs.get("ref").map(String::as_str);
            request.cache_from.push(import(&import_.r#type, reference)?);
        }
        refuse_archives(request)?;
        grant(request, &self.asked.entitlements)?;
        guard.judge(request).map_err(Failure::from)?;
        request.socket = guard.socket();
        Ok(order)
    }

    fn made(&self) -> MutexGuard<'_, HashMap<String, Arc<Built>>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Archives would have to be sent over the session.
fn refuse_archives(request: &hull_build::Request) -> std::result::Result<(), Failure> {
    match request.outputs.iter().any(|output| output.archive.is_some()) {
        true => Err(Failure::new(
            Kind::NotImplemented,
            "an output that is sent to the client (local, tar, oci, docker) is not supported by hull over BuildKit's protocol: \
             use hull build",
        )),
        false => Ok(()),
    }
}

fn import_of(kind: &str, attributes: &HashMap<String, String>) -> Result<String> {
    let reference = attributes.get("ref").map(String::as_str);
    import(kind, reference).map_err(|failure| Failed::from(failure).status())
}
