//! How builds fail, as BuildKit's clients are told: a status, and the place in the Dockerfile beside it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard_buildkit_proto::google::protobuf::Any;
use hull_build::Failure;
use hull_build::dockerfile::Source;
use hull_engine::Kind;
use serde_json::json;

use crate::grpc::{Code, Status};

/// The type of a place in a file, as BuildKit's clients decode it.
const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";

/// A build that failed, and the Dockerfile that it was of.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Why.
    pub failure: Failure,
    /// The Dockerfile, where it had been read.
    pub source: Option<Source>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        Failed { failure, source: None }
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Failed {
        failed(status).into()
    }
}

/// What went wrong on the line, as a build's failure.
pub(crate) fn failed(status: Status) -> Failure {
    let kind = match status.code {
        Code::NotFound => Kind::NotFound,
        Code::InvalidArgument => Kind::InvalidParameter,
        Code::PermissionDenied => Kind::Forbidden,
        Code::Unauthenticated => Kind::Unauthorized,
        Code::Unimplemented => Kind::NotImplemented,
        Code::Unavailable => Kind::Unavailable,
        _ => Kind::System,
    };
    Failure::new(kind, status.message)
}

impl Failed {
    /// For a client that reads statuses.
    pub(crate) fn status(&self) -> Status {
        let code = match self.failure.kind {
            Kind::Forbidden => Code::PermissionDenied,
            Kind::Unauthorized => Code::Unauthenticated,
            Kind::NotImplemented => Code::Unimplemented,
            // Others are prefixed with their names by clients, which BuildKit's own texts are not.
            _ => Code::Unknown,
        };
        let mut status = Status::new(code, self.failure.message.clone());
        if let (Some(source), Some((at, last))) = (&self.source, self.failure.detail.place) {
            let value = json!({
                "info": {
                    "filename": source.name,
                    "data": STANDARD.encode(&source.text),
                    "language": "Dockerfile",
                },
                "ranges": [{ "start": { "line": at.line }, "end": { "line": last.max(at.line) } }],
            });
            status.details.push(Any { type_url: SOURCE.to_owned(), value: value.to_string().into_bytes() });
        }
        status
    }

    /// For a client that reads text alone.
    pub fn text(&self) -> String {
        let excerpt = &self.failure.detail.excerpt;
        match excerpt.is_empty() {
            true => format!("failed to solve: {}", self.failure.message),
            false => format!("failed to solve: {}\n{excerpt}", self.failure.message),
        }
    }
}
