//! Swarm and plugins, as an engine answers that is in no swarm and has no plugin. Neither can be set up here: that is
//! what the table of routes has no answer for.

use hull_engine::{Error, Kind, Result};
use serde_json::json;

use crate::http::{self, Request, Response};

/// What only a swarm's manager answers.
pub(crate) async fn manager(_request: Request) -> Result<Response> {
    Err(Error::new(
        Kind::Unavailable,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to \
         swarm and try again.",
    ))
}

/// Logs of services and tasks: of which streams is asked first.
pub(crate) async fn logs(request: Request) -> Result<Response> {
    if !request.query.flag("stdout") && !request.query.flag("stderr") {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    manager(request).await
}

pub(crate) async fn leave(_request: Request) -> Result<Response> {
    Err(Error::new(Kind::Unavailable, "This node is not part of a swarm"))
}

/// What dockerd answers without its experimental mode.
pub(crate) async fn experimental(_request: Request) -> Result<Response> {
    Err(Error::new(
        Kind::NotImplemented,
        "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to \
         enable it.",
    ))
}

pub(crate) async fn plugins(_request: Request) -> Result<Response> {
    http::ok(&json!([]))
}

/// Whatever is asked of one plugin.
pub(crate) async fn plugin(request: Request) -> Result<Response> {
    Err(Error::not_found(format!("plugin \"{}\" not found", request.capture(0))))
}
