//! The one table of every endpoint. What is not there yet stands in it too, and is answered with its name.

use std::future::Future;
use std::pin::Pin;

use hull_engine::{Error, Result};
use hyper::Method;

use crate::http::{Request, Response, decode};
use crate::{
    container_create, container_files, container_output, containers, exec, images, networks, swarm, system,
    volumes, websocket,
};

/// What answers a request.
pub(crate) type Handler = fn(Request) -> Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

/// One endpoint.
pub(crate) struct Route {
    method: Method,
    /// `/containers/{}/json`: a brace pair takes one segment, `{*}` any number of them.
    pattern: &'static str,
    /// What answers; none: it is known and not there yet.
    pub(crate) handler: Option<Handler>,
}

impl Route {
    /// The endpoint as the API's definition names it.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.pattern)
    }
}

/// Makes a [`Route`] with a handler out of an `async fn`.
macro_rules! route {
    ($method:ident $pattern:literal $handler:path) => {
        Route {
            method: Method::$method,
            pattern: $pattern,
            handler: Some(|request| Box::pin($handler(request))),
        }
    };
    ($method:ident $pattern:literal) => {
        Route { method: Method::$method, pattern: $pattern, handler: None }
    };
}

/// Every endpoint of the Engine API, and hull's own.
pub(crate) static ROUTES: &[Route] = &[
    // Containers. An alias of a link names one as CONTAINER/ALIAS.
    route!(GET "/containers/json" containers::list),
    route!(POST "/containers/create" container_create::create),
    route!(POST "/containers/prune" containers::prune),
    route!(GET "/containers/{*}/json" containers::inspect),
    route!(GET "/containers/{}/top" container_output::top),
    route!(GET "/containers/{}/logs" container_output::logs),
    route!(GET "/containers/{}/changes" container_files::changes),
    route!(GET "/containers/{}/export" container_files::export),
    route!(GET "/containers/{}/stats" container_output::stats),
    route!(POST "/containers/{}/resize" containers::resize),
    route!(POST "/containers/{}/start" containers::start),
    route!(POST "/containers/{}/stop" containers::stop),
    route!(POST "/containers/{}/restart" containers::restart),
    route!(POST "/containers/{}/kill" containers::kill),
    route!(POST "/containers/{}/update" containers::update),
    route!(POST "/containers/{}/rename" containers::rename),
    route!(POST "/containers/{}/pause" containers::pause),
    route!(POST "/containers/{}/unpause" containers::unpause),
    route!(POST "/containers/{}/attach" containers::attach),
    route!(GET "/containers/{}/attach/ws" websocket::attach),
    route!(POST "/containers/{}/wait" containers::wait),
    route!(DELETE "/containers/{*}" containers::remove),
    route!(HEAD "/containers/{}/archive" container_files::stat),
    route!(GET "/containers/{}/archive" container_files::get),
    route!(PUT "/containers/{}/archive" container_files::put),
    route!(POST "/commit" container_files::commit),
    // Exec.
    route!(POST "/containers/{}/exec" exec::create),
    route!(POST "/exec/{}/start" exec::start),
    route!(POST "/exec/{}/resize" exec::resize),
    route!(GET "/exec/{}/json" exec::inspect),
    // Images.
    route!(GET "/images/json" images::list),
    route!(POST "/images/create" images::create),
    route!(POST "/images/load" images::load),
    route!(POST "/images/prune" images::prune),
    route!(GET "/images/get" images::save_several),
    route!(GET "/images/search"),
    route!(GET "/images/{*}/json" images::inspect),
    route!(GET "/images/{*}/history" images::history),
    route!(GET "/images/{*}/get" images::save),
    route!(GET "/images/{*}/attestations"),
    route!(POST "/images/{*}/tag" images::tag),
    route!(POST "/images/{*}/push"),
    route!(DELETE "/images/{*}" images::remove),
    route!(POST "/hull/images/bootstrap" images::bootstrap),
    route!(GET "/distribution/{*}/json"),
    route!(POST "/auth"),
    route!(POST "/build"),
    route!(POST "/build/prune" system::prune_build_cache),
    route!(POST "/build/cancel"),
    route!(POST "/session"),
    route!(POST "/grpc"),
    // Volumes.
    route!(GET "/volumes" volumes::list),
    route!(POST "/volumes/create" volumes::create),
    route!(POST "/volumes/prune" volumes::prune),
    route!(GET "/volumes/{}" volumes::inspect),
    route!(PUT "/volumes/{}" swarm::manager),
    route!(DELETE "/volumes/{}" volumes::remove),
    // Networks.
    route!(GET "/networks" networks::list),
    route!(POST "/networks/create" networks::create),
    route!(POST "/networks/prune" networks::prune),
    route!(GET "/networks/{}" networks::inspect),
    route!(DELETE "/networks/{}" networks::remove),
    route!(POST "/networks/{}/connect" networks::connect),
    route!(POST "/networks/{}/disconnect" networks::disconnect),
    // hull's own.
    route!(POST "/networks/{}/namespace" networks::namespace),
    // System.
    route!(GET "/_ping" system::ping),
    route!(HEAD "/_ping" system::ping),
    route!(GET "/info" system::info),
    route!(GET "/version" system::version),
    route!(GET "/events" system::events),
    route!(GET "/system/df" system::disk_usage),
    // Plugins and Swarm: there are none, and none can be set up.
    route!(GET "/plugins" swarm::plugins),
    route!(GET "/plugins/privileges"),
    route!(POST "/plugins/pull"),
    route!(POST "/plugins/create"),
    route!(GET "/plugins/{*}/json" swarm::plugin),
    route!(DELETE "/plugins/{*}" swarm::plugin),
    route!(POST "/plugins/{*}/enable" swarm::plugin),
    route!(POST "/plugins/{*}/disable" swarm::plugin),
    route!(POST "/plugins/{*}/upgrade" swarm::plugin),
    route!(POST "/plugins/{*}/push" swarm::plugin),
    route!(POST "/plugins/{*}/set" swarm::plugin),
    route!(GET "/nodes" swarm::manager),
    route!(GET "/nodes/{}" swarm::manager),
    route!(DELETE "/nodes/{}" swarm::manager),
    route!(POST "/nodes/{}/update" swarm::manager),
    route!(GET "/swarm" swarm::manager),
    route!(POST "/swarm/init"),
    route!(POST "/swarm/join"),
    route!(POST "/swarm/leave" swarm::leave),
    route!(POST "/swarm/update" swarm::manager),
    route!(GET "/swarm/unlockkey" swarm::manager),
    route!(POST "/swarm/unlock" swarm::manager),
    route!(GET "/services" swarm::manager),
    route!(POST "/services/create" swarm::manager),
    route!(GET "/services/{}" swarm::manager),
    route!(DELETE "/services/{}" swarm::manager),
    route!(POST "/services/{}/update" swarm::manager),
    route!(GET "/services/{}/logs" swarm::logs),
    route!(GET "/tasks" swarm::manager),
    route!(GET "/tasks/{}" swarm::manager),
    route!(GET "/tasks/{}/logs" swarm::logs),
    route!(GET "/secrets" swarm::manager),
    route!(POST "/secrets/create" swarm::manager),
    route!(GET "/secrets/{}" swarm::manager),
    route!(DELETE "/secrets/{}" swarm::manager),
    route!(POST "/secrets/{}/update" swarm::manager),
    route!(GET "/configs" swarm::manager),
    route!(POST "/configs/create" swarm::manager),
    route!(GET "/configs/{}" swarm::manager),
    route!(DELETE "/configs/{}" swarm::manager),
    route!(POST "/configs/{}/update" swarm::manager),
];

/// Finds the endpoint of a path without its version, and what stood in the braces.
///
/// # Errors
/// There is no such path, or not with this method.
pub(crate) fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>)> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for route in ROUTES.iter().filter(|route| route.method == *method) {
        if let Some(captures) = captures(route.pattern, &segments) {
            return Ok((route, captures));
        }
    }
    Err(Error::not_found("page not found"))
}

/// What stood in the braces of a pattern, if the path is one of it. An image's name has slashes, so `{*}`
/// takes what is left between the segments before and behind it.
fn captures(pattern: &str, segments: &[&str]) -> Option<Vec<String>> {
    let parts: Vec<&str> = pattern.split('/').skip(1).collect();
    let mut taken = Vec::new();
    let mut rest = segments;
    for (index, part) in parts.iter().enumerate() {
        let behind = parts.len() - index - 1;
        let count =
            if *part == "{*}" { rest.len().checked_sub(behind).filter(|count| *count > 0)? } else { 1 };
        let (here, after) = rest.split_at_checked(count)?;
        let text = here.join("/");
        match *part {
            "{}" | "{*}" if text.is_empty() => return None,
            "{}" | "{*}" => taken.push(decode(&text)),
            literal if literal == text => {}
            _ => return None,
        }
        rest = after;
    }
    rest.is_empty().then_some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Option<(String, Vec<String>)> {
        find(&method, path).ok().map(|(route, captures)| (route.name(), captures))
    }

    #[test]
    fn an_image_name_may_have_slashes() {
        let (name, captures) = found(Method::GET, "/images/a.example:5000/b/c:1/json").unwrap();
        assert_eq!(name, "GET /images/{*}/json");
        assert_eq!(captures, ["a.example:5000/b/c:1"]);
        assert_eq!(found(Method::DELETE, "/images/a%2Fb").unwrap().1, ["a/b"]);
    }

    #[test]
    fn a_literal_wins_over_a_brace() {
        assert_eq!(found(Method::GET, "/images/json").unwrap().0, "GET /images/json");
        assert_eq!(found(Method::POST, "/containers/create").unwrap().0, "POST /containers/create");
    }

    #[test]
    fn what_is_no_endpoint_is_not_found() {
        assert_eq!(found(Method::GET, "/containers//json"), None);
        assert_eq!(found(Method::GET, "/containers/a/b/top"), None);
        assert_eq!(found(Method::PUT, "/containers/json"), None);
        assert_eq!(found(Method::GET, "/"), None);
    }
}
