//! The services that a client of the builder calls: the controller's. The gateway's are its neighbour's.

use std::path::Path;
use std::sync::Arc;

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::health::{HealthCheckResponse, health_check_response::ServingStatus};
use bollard_buildkit_proto::moby::buildkit::v1::types::{BuildkitVersion, WorkerRecord};
use bollard_buildkit_proto::moby::buildkit::v1::{
    DiskUsageRequest, DiskUsageResponse, InfoResponse, ListWorkersResponse, PruneRequest, StatusRequest,
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
    admit(&request.method, guard.socket().as_deref())?;
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
        "/moby.buildkit.v1.Control/DiskUsage" => usage(buildkit, request.message().await?).await,
        "/moby.buildkit.v1.Control/Prune" => prune(buildkit, request.message().await?).await,
        method if method.starts_with("/moby.buildkit.v1.frontend.LLBBridge/") => {
            gateway::answer(&buildkit, &guard, request).await
        }
        method => Err(Status::new(Code::Unimplemented, format!("unknown method {method}"))),
    }
}

/// What was kept is everybody's, and says what everybody's builds did: the commands, with the values of their arguments.
fn admit(method: &str, socket: Option<&Path>) -> Result<()> {
    match method {
        "/moby.buildkit.v1.Control/DiskUsage" | "/moby.buildkit.v1.Control/Prune" if socket.is_some() => {
            Err(Status::new(
                Code::PermissionDenied,
                "this socket has a policy, and what builds have kept is not its own",
            ))
        }
        _ => Ok(()),
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
        // Those whose programs run here. Builds that run none may be for others.
        platforms: std::iter::once(host)
            .chain(hull_build::foreign::platforms())
            .map(|platform| pb::Platform {
                architecture: platform.architecture,
                os: platform.os,
                variant: platform.variant,
                ..pb::Platform::default()
            })
            .collect(),
        buildkit_version: Some(version()),
        ..WorkerRecord::default()
    }
}

async fn usage(buildkit: Arc<BuildKit>, asked: DiskUsageRequest) -> Result<Answer> {
    let wanted = asked.filter.iter().filter(|filter| !filter.is_empty());
    let wanted = wanted.map(|filter| Filter::of(filter)).collect::<Result<Vec<_>>>()?;
    let (engine, builder) = (Arc::clone(&buildkit.engine), Arc::clone(&buildkit.builder));
    let looked = blocking("look at what was built", move || Ok((engine.images.steps()?, builder.caches()?)));
    let (steps, caches) = looked.await.map_err(|failure| Failed::from(failure).status())?;
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let size = |size| i64::try_from(size).unwrap_or(i64::MAX);
    let steps = steps.into_iter().map(|step| UsageRecord {
        id: step.key.hex(),
        size: size(step.size),
        created_at: time(step.created),
        last_used_at: time(step.used),
        description: step.description,
        record_type: "regular".to_owned(),
        shared: step.shared,
        ..UsageRecord::default()
    });
    let caches = caches.into_iter().map(|cache| UsageRecord {
        id: cache.name,
        mutable: true,
        in_use: cache.in_use,
        size: size(cache.size),
        created_at: time(cache.created),
        last_used_at: time(cache.used),
        description: cache.description,
        record_type: cache.kind.to_owned(),
        ..UsageRecord::default()
    });
    let record = steps.chain(caches).filter(|record| wanted.iter().all(|filter| filter.takes(record)));
    Ok(Answer::one(&DiskUsageResponse { record: record.collect() }))
}

/// What of it is wanted: a field and its value.
struct Filter {
    field: Field,
    value: String,
    is: bool,
}

#[derive(Clone, Copy)]
enum Field {
    Id,
    Type,
    Description,
    InUse,
    Mutable,
    Shared,
}

impl Filter {
    /// `type==exec.cachemount`, `inuse`, `shared!=true`.
    fn of(text: &str) -> Result<Filter> {
        let (name, value, is) = match (text.split_once("!="), text.split_once("==")) {
            (Some((name, value)), _) => (name, value, false),
            (None, Some((name, value))) => (name, value, true),
            (None, None) => (text, "true", true),
        };
        let field = match name {
            "id" => Field::Id,
            "type" => Field::Type,
            "description" => Field::Description,
            "inuse" => Field::InUse,
            "mutable" => Field::Mutable,
            "shared" => Field::Shared,
            _ => {
                let what = format!("the filter {text} is not supported by hull");
                return Err(Status::new(Code::Unimplemented, what));
            }
        };
        Ok(Filter { field, value: value.trim_matches('"').to_owned(), is })
    }

    fn takes(&self, record: &UsageRecord) -> bool {
        let truth = |value: bool| if value { "true" } else { "false" };
        let found = match self.field {
            Field::Id => &record.id,
            Field::Type => &record.record_type,
            Field::Description => &record.description,
            Field::InUse => truth(record.in_use),
            Field::Mutable => truth(record.mutable),
            Field::Shared => truth(record.shared),
        };
        (found == self.value) == self.is
    }
}

async fn prune(buildkit: Arc<BuildKit>, asked: PruneRequest) -> Result<Answer> {
    let until = (asked.keep_duration > 0).then(|| {
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        now.saturating_sub(asked.keep_duration)
    });
    let mut prune = Prune {
        all: asked.all,
        keep: u64::try_from(asked.reserved_space).unwrap_or(0),
        max_used: u64::try_from(asked.max_used_space).unwrap_or(0),
        min_free: u64::try_from(asked.min_free_space).unwrap_or(0),
        until,
        ..Prune::default()
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_with_a_policy_are_told_nothing_of_what_is_kept() {
        for method in ["DiskUsage", "Prune"] {
            let method = format!("/moby.buildkit.v1.Control/{method}");
            let refused = admit(&method, Some(Path::new("/s"))).unwrap_err();
            assert_eq!(refused.code, Code::PermissionDenied, "{method}");
            admit(&method, None).unwrap();
        }
        admit("/moby.buildkit.v1.Control/Solve", Some(Path::new("/s"))).unwrap();
    }

    #[test]
    fn what_is_kept_is_filtered_by_its_fields() {
        let record = UsageRecord {
            record_type: "exec.cachemount".to_owned(),
            mutable: true,
            ..UsageRecord::default()
        };
        let takes = |filter: &str| Filter::of(filter).unwrap().takes(&record);
        assert!(takes("type==exec.cachemount") && takes("mutable") && takes("inuse!=true"));
        assert!(!takes("type==regular") && !takes("shared") && !takes("mutable!=true"));
        assert_eq!(Filter::of("size==1").err().map(|status| status.code), Some(Code::Unimplemented));
    }
}
