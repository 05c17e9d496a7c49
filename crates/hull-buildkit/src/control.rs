//! The services that a client of the builder calls: the controller's. The gateway's are its neighbour's.

use std::sync::Arc;

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::health::{HealthCheckResponse, health_check_response::ServingStatus};
use bollard_buildkit_proto::moby::buildkit::v1::types::{BuildkitVersion, WorkerRecord};
use bollard_buildkit_proto::moby::buildkit::v1::{
    DiskUsageResponse, InfoResponse, ListWorkersResponse, PruneRequest, StatusRequest,
    UpdateBuildHistoryResponse, UsageRecord,
};
use bollard_buildkit_proto::pb;
use futures_util::stream;
use hull_build::Prune;
use hull_image::Platform;

use crate::failing::Failed;
use crate::grpc::server::{Answer, Request};
use crate::grpc::{Code, Result, Status, framed};
use crate::job::blocking;
use crate::{BuildKit, Guard, gateway};

/// The version of BuildKit's protocol that is spoken.
const VERSION: &str = "v0.13.0";

/// Answers a call.
pub(crate) async fn answer(
    buildkit: Arc<BuildKit>,
    guard: Arc<dyn Guard>,
    mut request: Request,
) -> Result<Answer> {
    match request.method.as_str() {
        "/grpc.health.v1.Health/Check" => {
            Ok(Answer::one(&HealthCheckResponse { status: ServingStatus::Serving.into() }))
        }
        "/moby.buildkit.v1.Control/ListWorkers" => {
            Ok(Answer::one(&ListWorkersResponse { record: vec![worker()] }))
        }
        "/moby.buildkit.v1.Control/Info" => {
            Ok(Answer::one(&InfoResponse { buildkit_version: Some(version()) }))
        }
        "/moby.buildkit.v1.Control/Solve" => {
            let order = request.message().await?;
            gateway::solve(&buildkit, guard, order).await
        }
        "/moby.buildkit.v1.Control/Status" => {
            let StatusRequest { r#ref } = request.message().await?;
            gateway::status(&buildkit, guard.socket(), &r#ref).await
        }
        "/moby.buildkit.v1.Control/ListenBuildHistory" => {
            let asked = request.message().await?;
            let active = buildkit.builds.active(&guard.socket());
            buildkit.history.listen(&guard.socket(), &asked, active)
        }
        "/moby.buildkit.v1.Control/UpdateBuildHistory" => {
            buildkit.history.update(&guard.socket(), &request.message().await?)?;
            Ok(Answer::one(&UpdateBuildHistoryResponse {}))
        }
        "/moby.buildkit.v1.Control/Session" => crate::hijack::session(&buildkit, guard.socket(), request),
        "/moby.buildkit.v1.Control/DiskUsage" => usage(buildkit).await,
        "/moby.buildkit.v1.Control/Prune" if guard.socket().is_some() => Err(Status::new(
            Code::PermissionDenied,
            "this socket has a policy, and what builds have kept is not its own",
        )),
        "/moby.buildkit.v1.Control/Prune" => prune(buildkit, request.message().await?).await,
        method if method.starts_with("/moby.buildkit.v1.frontend.LLBBridge/") => {
            gateway::answer(&buildkit, &guard, request).await
        }
        method => Err(Status::new(Code::Unimplemented, format!("unknown method {method}"))),
    }
}

fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "hull".to_owned(),
        version: VERSION.to_owned(),
        revision: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The one worker: the engine itself.
pub(crate) fn worker() -> WorkerRecord {
    let host = Platform::host();
    WorkerRecord {
        id: "hull".to_owned(),
        // By the name of a snapshotter clients see that images go wherever they are asked for.
        labels: ["executor", "snapshotter"]
            .into_iter()
            .map(|name| (format!("org.mobyproject.buildkit.worker.{name}"), "hull".to_owned()))
            .collect(),
        platforms: vec![pb::Platform {
            architecture: host.architecture,
            os: host.os,
            variant: host.variant,
            ..pb::Platform::default()
        }],
        buildkit_version: Some(version()),
        ..WorkerRecord::default()
    }
}

async fn usage(buildkit: Arc<BuildKit>) -> Result<Answer> {
    let engine = Arc::clone(&buildkit.engine);
    let steps = blocking("look at what was built", move || Ok(engine.images.steps()?)).await;
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let record =
        steps.map_err(|failure| Failed::from(failure).status())?.into_iter().map(|step| UsageRecord {
            id: step.key.hex(),
            size: i64::try_from(step.size).unwrap_or(i64::MAX),
            created_at: time(step.created),
            last_used_at: time(step.used),
            description: step.description,
            record_type: "regular".to_owned(),
            shared: step.shared,
            ..UsageRecord::default()
        });
    Ok(Answer::one(&DiskUsageResponse { record: record.collect() }))
}

async fn prune(buildkit: Arc<BuildKit>, asked: PruneRequest) -> Result<Answer> {
    let until = (asked.keep_duration > 0).then(|| {
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        now.saturating_sub(asked.keep_duration)
    });
    let mut prune = Prune {
        all: asked.all,
        keep: u64::try_from(asked.reserved_space.max(asked.max_used_space)).unwrap_or(0),
        until,
        ids: Vec::new(),
    };
    if asked.min_free_space > 0 {
        return Err(Status::new(
            Code::Unimplemented,
            "pruning until so much space is free is not supported by hull",
        ));
    }
    for filter in asked.filter.iter().filter(|filter| !filter.is_empty()) {
        match filter.strip_prefix("id==").or_else(|| filter.strip_prefix("id~=")) {
            Some(id) => prune.ids.push(id.trim_matches(['"', '^', '$']).to_owned()),
            None => {
                return Err(Status::new(
                    Code::Unimplemented,
                    format!("the filter {filter} is not supported by hull"),
                ));
            }
        }
    }
    let builder = Arc::clone(&buildkit.builder);
    let pruned = blocking("remove what was built", move || builder.prune(&prune)).await;
    let (removed, reclaimed) = pruned.map_err(|failure| Failed::from(failure).status())?;
    // What the whole gave back is told with the first: it is counted together.
    let sizes = std::iter::once(reclaimed).chain(std::iter::repeat(0));
    let records: Vec<Result<_>> = removed
        .into_iter()
        .zip(sizes)
        .map(|(id, size)| {
            let size = i64::try_from(size).unwrap_or(i64::MAX);
            Ok(framed(&UsageRecord { id, size, record_type: "regular".to_owned(), ..UsageRecord::default() }))
        })
        .collect();
    Ok(Answer::Many(Box::pin(stream::iter(records))))
}
