//! The one table of every endpoint: what answers, and as what the policies of sockets judge it. What is not there yet
//! stands in it too, is judged as it will be, and is answered with its name.

use std::future::Future;
use std::pin::Pin;

use hull_engine::{Error, Result};
use hyper::Method;

use crate::http::{Request, Response, decode};
use crate::{
    build, build_kept, buildkit, container_create, container_files, container_output, containers, exec,
    images, networks, push, sockets, swarm, system, volumes, websocket,
};

/// What answers a request.
pub(crate) type Handler = fn(Request) -> Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

/// One endpoint.
pub(crate) struct Route {
    method: Method,
    /// `/containers/{}/json`: a brace pair takes one segment, `{*}` any number of them.
    pattern: &'static str,
    /// What it does, to a policy. A row without one does not compile.
    pub(crate) class: Class,
    /// What answers; none: it is known and not there yet.
    pub(crate) handler: Option<Handler>,
}

impl Route {
    /// The endpoint as the API's definition names it.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.pattern)
    }
}

/// What an endpoint does, as policies judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It changes nothing.
    Read(Of),
    /// It changes something, or sends something into a container.
    Write(Of),
}

/// What an endpoint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// That a daemon is there.
    Greeting,
    /// Nothing that is anybody's.
    Nothing,
    /// Figures of the daemon; what it counts is counted anew for who does not see all.
    Info,
    /// What happens, as far as it is seen.
    Events,
    /// Everything on the machine at once.
    Machine,
    /// The machine itself or the daemon: whoever may write it makes his own rules.
    Host,
    /// A list, or what is pruned: by its filters.
    Listed,
    /// What the body says is made: judged where the body has been read ([`crate::policy::Judged`]).
    Body,
    /// The container in the path, from outside.
    Container,
    /// The container in the path, from inside: its processes, streams, files and mounts.
    Inside,
    /// The exec in the path.
    Exec,
    /// The container in the query, which becomes an image.
    Commit,
    /// The image in the path.
    Image,
    /// The same, and the name that it gets.
    Tag,
    /// The image in the path with the tag in the query, or all of its repository.
    Push,
    /// The images in the query.
    Images,
    /// An image that comes from elsewhere, and whatever else asks others in the host's name and from its network: that
    /// is more than a read.
    NewImage,
    /// The volume in the path, from outside.
    Volume,
    /// The files of the volume in the path: what its options mount is the host's.
    VolumeFiles,
    /// The network in the path.
    Network,
}

use Class::{Read, Write};
use Of::{
    Body, Commit, Container, Events, Exec, Greeting, Host, Image, Images, Info, Inside, Listed, Machine,
    Network, NewImage, Nothing, Push, Tag, Volume, VolumeFiles,
};

/// Makes a [`Route`] with a handler out of an `async fn`.
macro_rules! route {
    ($method:ident $pattern:literal $class:ident($of:ident) $handler:path) => {
        Route {
            method: Method::$method,
            pattern: $pattern,
            class: $class($of),
            handler: Some(|request| Box::pin($handler(request))),
        }
    };
    ($method:ident $pattern:literal $class:ident($of:ident)) => {
        Route { method: Method::$method, pattern: $pattern, class: $class($of), handler: None }
    };
}

/// Every endpoint of the Engine API, and hull's own.
pub(crate) static ROUTES: &[Route] = &[
    // Containers. An alias of a link names one as CONTAINER/ALIAS.
    route!(GET "/containers/json" Read(Listed) containers::list),
    route!(POST "/containers/create" Write(Body) container_create::create),
    route!(POST "/containers/prune" Write(Listed) containers::prune),
    // Checkpoints are of Docker's experimental mode, which hull has not.
    route!(GET "/containers/{}/checkpoints" Read(Container) swarm::experimental),
    route!(POST "/containers/{}/checkpoints" Write(Inside) swarm::experimental),
    route!(DELETE "/containers/{}/checkpoints/{}" Write(Inside) swarm::experimental),
    route!(GET "/containers/{*}/json" Read(Container) containers::inspect),
    route!(GET "/containers/{}/top" Read(Container) container_output::top),
    route!(GET "/containers/{}/explain" Read(Container) containers::explain),
    route!(GET "/containers/{}/logs" Read(Container) container_output::logs),
    route!(GET "/containers/{}/changes" Read(Container) container_files::changes),
    route!(GET "/containers/{}/export" Read(Inside) container_files::export),
    route!(GET "/containers/{}/stats" Read(Container) container_output::stats),
    route!(POST "/containers/{}/resize" Write(Container) containers::resize),
    route!(POST "/containers/{}/start" Write(Inside) containers::start),
    route!(POST "/containers/{}/stop" Write(Container) containers::stop),
    route!(POST "/containers/{}/restart" Write(Inside) containers::restart),
    route!(POST "/containers/{}/kill" Write(Container) containers::kill),
    route!(POST "/containers/{}/update" Write(Container) containers::update),
    route!(POST "/containers/{}/rename" Write(Container) containers::rename),
    route!(POST "/containers/{}/pause" Write(Container) containers::pause),
    route!(POST "/containers/{}/unpause" Write(Container) containers::unpause),
    route!(POST "/containers/{}/attach" Write(Inside) containers::attach),
    route!(GET "/containers/{}/attach/ws" Write(Inside) websocket::attach),
    route!(POST "/containers/{}/wait" Read(Container) containers::wait),
    route!(DELETE "/containers/{*}" Write(Container) containers::remove),
    route!(HEAD "/containers/{}/archive" Read(Inside) container_files::stat),
    route!(GET "/containers/{}/archive" Read(Inside) container_files::get),
    route!(PUT "/containers/{}/archive" Write(Inside) container_files::put),
    route!(POST "/commit" Write(Commit) container_files::commit),
    // Exec.
    route!(POST "/containers/{}/exec" Write(Inside) exec::create),
    route!(POST "/exec/{}/start" Write(Exec) exec::start),
    route!(POST "/exec/{}/resize" Write(Exec) exec::resize),
    route!(GET "/exec/{}/json" Read(Exec) exec::inspect),
    route!(POST "/exec/{}/kill" Write(Exec) exec::kill),
    // Images.
    route!(GET "/images/json" Read(Listed) images::list),
    route!(POST "/images/create" Write(NewImage) images::create),
    route!(POST "/images/load" Write(NewImage) images::load),
    route!(POST "/images/prune" Write(Listed) images::prune),
    route!(GET "/images/get" Read(Images) images::save_several),
    route!(GET "/images/search" Write(NewImage) push::search),
    route!(GET "/images/{*}/json" Read(Image) images::inspect),
    route!(GET "/images/{*}/history" Read(Image) images::history),
    route!(GET "/images/{*}/tree" Read(Image) images::tree),
    route!(GET "/images/{*}/get" Read(Image) images::save),
    route!(GET "/images/{*}/attestations" Read(Image)),
    route!(POST "/images/{*}/tag" Write(Tag) images::tag),
    route!(POST "/images/{*}/push" Write(Push) push::push),
    route!(DELETE "/images/{*}" Write(Image) images::remove),
    route!(GET "/hull/images/diff" Read(Images) images::difference),
    route!(GET "/hull/images/referrers" Write(NewImage) push::referrers),
    route!(POST "/hull/images/verify" Write(NewImage) push::verify),
    route!(POST "/hull/images/bootstrap" Write(NewImage) images::bootstrap),
    route!(GET "/distribution/{*}/json" Write(NewImage) push::distribution),
    route!(POST "/auth" Write(NewImage) push::auth),
    // What its steps may have of the host is judged as of a container that is created.
    route!(POST "/build" Write(NewImage) build::build),
    route!(POST "/build/context" Write(NewImage) build::context),
    route!(POST "/build/prune" Write(Host) build_kept::prune),
    route!(POST "/build/cancel" Write(NewImage) build::cancel),
    // What everybody's builds have printed is more than a part of the machine.
    route!(GET "/hull/builds" Write(Host) build_kept::list),
    route!(POST "/hull/builds/shell" Write(Host) build_kept::shell),
    route!(GET "/hull/builds/{}/log" Write(Host) build_kept::log),
    // Whoever builds so may do what `/build` lets him, and what that refuses is refused there: to each build by itself.
    route!(POST "/session" Write(NewImage) buildkit::session),
    route!(POST "/grpc" Write(NewImage) buildkit::control),
    // Volumes.
    route!(GET "/volumes" Read(Listed) volumes::list),
    route!(POST "/volumes/create" Write(Body) volumes::create),
    route!(POST "/volumes/prune" Write(Listed) volumes::prune),
    route!(GET "/volumes/{}" Read(Volume) volumes::inspect),
    route!(PUT "/volumes/{}" Write(Volume) swarm::manager),
    route!(DELETE "/volumes/{}" Write(Volume) volumes::remove),
    route!(POST "/volumes/{}/clone" Write(VolumeFiles) volumes::clone),
    route!(GET "/volumes/{}/export" Read(VolumeFiles) volumes::export),
    route!(POST "/volumes/{}/import" Write(VolumeFiles) volumes::import),
    // Networks.
    route!(GET "/networks" Read(Listed) networks::list),
    route!(POST "/networks/create" Write(Body) networks::create),
    route!(POST "/networks/prune" Write(Listed) networks::prune),
    route!(GET "/networks/" Read(Listed) networks::list),
    route!(GET "/networks/{}" Read(Network) networks::inspect),
    route!(DELETE "/networks/{}" Write(Network) networks::remove),
    route!(POST "/networks/{}/connect" Write(Network) networks::connect),
    route!(POST "/networks/{}/disconnect" Write(Network) networks::disconnect),
    // hull's own.
    route!(POST "/networks/{}/namespace" Write(Host) networks::namespace),
    route!(GET "/hull/fsck" Read(Machine) system::fsck),
    route!(POST "/hull/fsck" Write(Host) system::repair),
    route!(GET "/hull/sockets" Read(Host) sockets::list),
    route!(POST "/hull/sockets" Write(Host) sockets::add),
    route!(DELETE "/hull/sockets" Write(Host) sockets::remove),
    // System.
    route!(GET "/_ping" Read(Greeting) system::ping),
    route!(HEAD "/_ping" Read(Greeting) system::ping),
    route!(GET "/info" Read(Info) system::info),
    route!(GET "/version" Read(Nothing) system::version),
    route!(GET "/events" Read(Events) system::events),
    route!(GET "/system/df" Read(Machine) system::disk_usage),
    // Plugins and Swarm: there are none, and none can be set up.
    route!(GET "/plugins" Read(Nothing) swarm::plugins),
    route!(GET "/plugins/privileges" Read(Nothing)),
    route!(POST "/plugins/pull" Write(Host)),
    route!(POST "/plugins/create" Write(Host)),
    route!(GET "/plugins/{*}/json" Read(Nothing) swarm::plugin),
    route!(DELETE "/plugins/{*}" Write(Host) swarm::plugin),
    route!(POST "/plugins/{*}/enable" Write(Host) swarm::plugin),
    route!(POST "/plugins/{*}/disable" Write(Host) swarm::plugin),
    route!(POST "/plugins/{*}/upgrade" Write(Host) swarm::plugin),
    route!(POST "/plugins/{*}/push" Write(Host) swarm::plugin),
    route!(POST "/plugins/{*}/set" Write(Host) swarm::plugin),
    route!(GET "/nodes" Read(Nothing) swarm::manager),
    route!(GET "/nodes/{}" Read(Nothing) swarm::manager),
    route!(DELETE "/nodes/{}" Write(Host) swarm::manager),
    route!(POST "/nodes/{}/update" Write(Host) swarm::manager),
    route!(GET "/swarm" Read(Nothing) swarm::manager),
    route!(POST "/swarm/init" Write(Host)),
    route!(POST "/swarm/join" Write(Host)),
    route!(POST "/swarm/leave" Write(Host) swarm::leave),
    route!(POST "/swarm/update" Write(Host) swarm::manager),
    route!(GET "/swarm/unlockkey" Read(Nothing) swarm::manager),
    route!(POST "/swarm/unlock" Write(Host) swarm::manager),
    route!(GET "/services" Read(Nothing) swarm::manager),
    route!(POST "/services/create" Write(Host) swarm::manager),
    route!(GET "/services/{}" Read(Nothing) swarm::manager),
    route!(DELETE "/services/{}" Write(Host) swarm::manager),
    route!(POST "/services/{}/update" Write(Host) swarm::manager),
    route!(GET "/services/{}/logs" Read(Nothing) swarm::logs),
    route!(GET "/tasks" Read(Nothing) swarm::manager),
    route!(GET "/tasks/{}" Read(Nothing) swarm::manager),
    route!(GET "/tasks/{}/logs" Read(Nothing) swarm::logs),
    route!(GET "/secrets" Read(Nothing) swarm::manager),
    route!(POST "/secrets/create" Write(Host) swarm::manager),
    route!(GET "/secrets/{}" Read(Nothing) swarm::manager),
    route!(DELETE "/secrets/{}" Write(Host) swarm::manager),
    route!(POST "/secrets/{}/update" Write(Host) swarm::manager),
    route!(GET "/configs" Read(Nothing) swarm::manager),
    route!(POST "/configs/create" Write(Host) swarm::manager),
    route!(GET "/configs/{}" Read(Nothing) swarm::manager),
    route!(DELETE "/configs/{}" Write(Host) swarm::manager),
    route!(POST "/configs/{}/update" Write(Host) swarm::manager),
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

    /// What looks like a read and is one, and what does not and is one all the same.
    #[test]
    fn what_changes_something_is_no_read() {
        for route in ROUTES {
            let reads = matches!(route.class, Read(_));
            let looks_it = matches!(route.method, Method::GET | Method::HEAD);
            let known = [
                "POST /containers/{}/wait",
                "GET /containers/{}/attach/ws",
                "GET /hull/images/referrers",
                "GET /hull/builds",
                "GET /hull/builds/{}/log",
                "GET /images/search",
                "GET /distribution/{*}/json",
            ];
            assert_eq!(reads, looks_it ^ known.contains(&route.name().as_str()), "{}", route.name());
        }
    }

    #[test]
    fn whatever_is_in_the_path_is_what_is_judged() {
        for route in ROUTES {
            let (Read(of) | Write(of)) = route.class;
            let parts: Vec<&str> = route.pattern.split('/').collect();
            let wanted: &[Of] = match (parts[1], parts.get(2)) {
                ("containers", Some(part)) if part.starts_with('{') => &[Container, Inside],
                ("exec", Some(_)) => &[Exec],
                ("images", Some(part)) if part.starts_with('{') => &[Image, Tag, Push],
                ("volumes", Some(part)) if part.starts_with('{') => &[Volume, VolumeFiles],
                ("networks", Some(part)) if part.starts_with('{') => &[Network, Host],
                ("containers" | "images" | "volumes" | "networks", _) => {
                    &[Listed, Body, Images, NewImage, Nothing]
                }
                _ => continue,
            };
            assert!(wanted.contains(&of), "{} is judged as {of:?}", route.name());
        }
    }

    /// Its own files are those of the host, if it is of the image `hull/host`.
    #[test]
    fn whoever_reads_a_container_s_files_reaches_inside() {
        for (method, part) in [
            (Method::GET, "export"),
            (Method::GET, "archive"),
            (Method::HEAD, "archive"),
            (Method::PUT, "archive"),
        ] {
            let (route, _) = find(&method, &format!("/containers/a/{part}")).unwrap();
            let (Read(of) | Write(of)) = route.class;
            assert_eq!(of, Inside, "{}", route.name());
        }
    }

    #[test]
    fn what_is_no_endpoint_is_not_found() {
        assert_eq!(found(Method::GET, "/containers//json"), None);
        assert_eq!(found(Method::GET, "/containers/a/b/top"), None);
        assert_eq!(found(Method::PUT, "/containers/json"), None);
        assert_eq!(found(Method::GET, "/"), None);
    }
}
