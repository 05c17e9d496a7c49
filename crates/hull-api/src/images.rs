//! /images, and hull's own bootstrap.

use hull_engine::filter::Filters;
use hull_engine::images::ImageQuery;
use hull_engine::{Engine, Error, Kind, Result};
use hull_image::reference::Reference;
use hull_image::registry::{Call, Reply};
use hull_image::{Import, Loaded, Platform};
use hyper::{Method, StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;

use crate::blocking::{self, BodyReader, Talk};
use crate::ended;
use crate::http::{self, Query, Request, Response};
use crate::pull;

pub(crate) async fn list(request: Request) -> Result<Response> {
    let query = &request.query;
    let mut filters = query.filters()?;
    // Before 1.41 a name to look for had a parameter of its own.
    if let Some(name) = query.text("filter").filter(|_| request.version < 41) {
        filters.entry("reference".to_owned()).or_default().push(name.to_owned());
    }
    let query = ImageQuery {
        all: query.flag("all"),
        filters: Filters::from(filters),
        shared_size: request.version >= 42 && query.flag("shared-size"),
        // A socket with a policy does not see everybody's.
        containers: request.version >= 51 && request.guard.is_none(),
        version: request.version,
    };
    let engine = request.engine.clone();
    http::ok(&blocking::run(move || engine.image_list(&query)).await?)
}

pub(crate) async fn inspect(request: Request) -> Result<Response> {
    let platform = platform(&request.query)?;
    if platform.is_some() && request.query.flag("manifests") {
        return Err(Error::invalid("conflicting options: manifests and platform options cannot both be set"));
    }
    let mut shown = request.engine.image_inspect(request.capture(0), platform.as_ref(), request.version)?;
    if request.knows_the_end_of(ended::SHAPES_OF_OLD) {
        ended::in_image(&mut shown);
    }
    http::ok(&shown)
}

pub(crate) async fn history(request: Request) -> Result<Response> {
    let platform = platform(&request.query)?;
    http::ok(&request.engine.image_history(request.capture(0), platform.as_ref())?)
}

/// `GET /images/NAME/tree`: what each of its layers adds, changes and hides.
pub(crate) async fn tree(request: Request) -> Result<Response> {
    let (engine, name) = (request.engine.clone(), request.capture(0).to_owned());
    http::ok(&blocking::run(move || engine.image_tree(&name)).await?)
}

/// `GET /hull/images/diff?names=A&names=B`: what differs from one image to the other.
pub(crate) async fn difference(request: Request) -> Result<Response> {
    let names: Vec<String> = request.query.all("names").map(str::to_owned).collect();
    let [from, to] = &names[..] else {
        return Err(Error::invalid("two images are compared: give the query two names"));
    };
    let (engine, from, to) = (request.engine.clone(), from.clone(), to.clone());
    http::ok(&blocking::run(move || engine.image_difference(&from, &to)).await?)
}

pub(crate) async fn tag(request: Request) -> Result<Response> {
    let repository = request.query.text("repo").unwrap_or_default();
    let target = with_tag(repository, request.query.text("tag"))?;
    let (engine, source) = (request.engine.clone(), request.capture(0).to_owned());
    blocking::run(move || engine.image_tag(&source, &target)).await?;
    http::empty(StatusCode::CREATED)
}

pub(crate) async fn remove(request: Request) -> Result<Response> {
    let (force, keep_parents) = (request.query.flag("force"), request.query.flag("noprune"));
    let platforms = request.query.all("platforms").filter(|text| !text.is_empty()).map(parse_platform);
    let platforms = platforms.collect::<Result<Vec<Platform>>>()?;
    let (engine, name) = (request.engine.clone(), request.capture(0).to_owned());
    http::ok(&blocking::run(move || engine.image_remove(&name, force, !keep_parents, &platforms)).await?)
}

pub(crate) async fn prune(request: Request) -> Result<Response> {
    let filters = Filters::from(request.query.filters()?);
    let engine = request.engine.clone();
    http::ok(&blocking::run(move || engine.image_prune(&filters)).await?)
}

/// Import, or pull.
pub(crate) async fn create(request: Request) -> Result<Response> {
    match (request.query.text("fromImage"), request.query.text("fromSrc")) {
        (Some(name), _) => {
            let platform = platform(&request.query)?;
            pull::pull(&request, &with_tag(name, request.query.text("tag"))?, platform).await
        }
        (None, Some(source)) => {
            let source = source.to_owned();
            import(request, &source).await
        }
        (None, None) => {
            Err(Error::invalid("neither fromImage nor fromSrc says what the image is to be made of"))
        }
    }
}

/// A file system becomes an image: the request's body (`-`), or what an address answers.
async fn import(mut request: Request, source: &str) -> Result<Response> {
    let query = &request.query;
    let reference =
        query.text("repo").map(|repository| with_tag(repository, query.text("tag"))).transpose()?;
    let platform = platform(query)?;
    if platform.as_ref().is_some_and(|platform| platform.os != "linux") {
        return Err(Error::invalid("operating system is not supported"));
    }
    let options = Import {
        changes: query.all("changes").filter(|change| !change.is_empty()).map(str::to_owned).collect(),
        message: match query.text("message") {
            Some(message) => message.to_owned(),
            None => format!("Imported from {source}"),
        },
        platform,
        reference,
    };
    let (engine, side) = (request.engine.clone(), request.side());
    let (mut body, url) = match source {
        "-" => (BodyReader::new(std::mem::take(&mut request.body), side).await?, None),
        address => {
            crate::build::judge_fetching(&engine, request.guard.as_ref())?;
            let (reply, url) = fetched(&engine, address).await?;
            (BodyReader::of_reply(reply, side).await?, Some(url))
        }
    };
    blocking::told(Talk::Late, move |lines| {
        if let Some(url) = url {
            lines.say(&json!({ "status": format!("Downloading from {url}") }));
        }
        let image = engine.image_import(&mut body, options, &|progress| lines.progress(&progress))?;
        lines.say(&json!({ "status": image.id }));
        Ok(())
    })
    .await
}

/// What an address answers, which is http's where it does not say otherwise; and the address whole.
async fn fetched(engine: &Engine, address: &str) -> Result<(Reply, Uri)> {
    let whole = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let url: Uri = whole
        .parse()
        .ok()
        .filter(|url: &Uri| matches!(url.scheme_str(), Some("http" | "https")))
        .ok_or_else(|| {
            Error::invalid(format!("{address:?} is no address of http or https to import from"))
        })?;
    let call = Call::new(Method::GET, url.clone());
    let reply = engine
        .registries()
        .send(call, false)
        .await
        .map_err(|failure| Error::new(Kind::System, failure.to_string()))?;
    if !reply.status.is_success() {
        return Err(Error::new(Kind::System, format!("Get {url:?}: the server answered {}", reply.status)));
    }
    Ok((reply, url))
}

pub(crate) async fn load(mut request: Request) -> Result<Response> {
    let platform = platform(&request.query)?;
    let talk = if request.query.flag("quiet") { Talk::Nothing } else { Talk::All };
    let engine = request.engine.clone();
    let mut body = request.reader().await?;
    blocking::told(talk, move |lines| {
        let loaded =
            match engine.image_load(&mut body, platform.as_ref(), &|progress| lines.progress(&progress)) {
                Ok(loaded) => loaded,
                // In Docker an archive that cannot be loaded is a line of the answer, never its status.
                Err(error) => {
                    lines.fail(&error);
                    return Ok(());
                }
            };
        for one in loaded {
            let line = match one {
                Loaded::Reference(name) => format!("Loaded image: {name}\n"),
                Loaded::Id(id) => format!("Loaded image ID: {id}\n"),
                Loaded::Renamed(name, former) => format!(
                    "The image {name} already exists, renaming the old one with ID {former} to empty string\n"
                ),
            };
            lines.say(&json!({ "stream": line }));
        }
        Ok(())
    })
    .await
}

pub(crate) async fn save(request: Request) -> Result<Response> {
    let name = request.capture(0).to_owned();
    archive(&request, vec![name]).await
}

pub(crate) async fn save_several(request: Request) -> Result<Response> {
    let names: Vec<String> =
        request.query.all("names").filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Error::invalid("no names of images to save were given"));
    }
    archive(&request, names).await
}

/// A repository's name stands for all of its tags, also where none of them is `latest`.
fn all_tags(engine: &Engine, name: String) -> Vec<String> {
    let repository = Reference::parse(&name).ok().filter(|name| name.tag.is_none() && name.digest.is_none());
    let tags = repository.map(|repository| engine.images.tags_of(&repository)).unwrap_or_default();
    if tags.is_empty() { vec![name] } else { tags.into_iter().map(|(tag, _)| tag.familiar()).collect() }
}

async fn archive(request: &Request, names: Vec<String>) -> Result<Response> {
    let platform = platform(&request.query)?;
    let names: Vec<String> = names.into_iter().flat_map(|name| all_tags(&request.engine, name)).collect();
    for name in &names {
        request.engine.image_inspect(name, platform.as_ref(), request.version)?;
    }
    let engine = request.engine.clone();
    blocking::written(request.side(), "application/x-tar", move |out| engine.image_save(&names, out)).await
}

/// `POST /hull/images/bootstrap?reference=debian:bookworm`: an image from a package archive.
pub(crate) async fn bootstrap(request: Request) -> Result<Response> {
    let what = request.query.text("reference").unwrap_or_default().to_owned();
    if what.is_empty() {
        return Err(Error::invalid(
            "the query's reference does not say what to make: debian:SUITE, ubuntu:SUITE or busybox",
        ));
    }
    let engine = request.engine.clone();
    blocking::told(Talk::All, move |lines| {
        let image = engine.image_bootstrap(&what, &|progress| lines.progress(&progress))?;
        lines.say(&json!({ "status": image.id }));
        Ok(())
    })
    .await
}

/// A name with its tag, or with its digest, which Docker's clients hand over in the same place. It wins over one that
/// the name has already.
pub(crate) fn with_tag(name: &str, tag: Option<&str>) -> Result<String> {
    let Some(tag) = tag else { return Ok(name.to_owned()) };
    // Alone, too, or a name that is none (64 digits, an id) would become one with its tag. Old clients leave a colon.
    Reference::parse(name.strip_suffix(':').unwrap_or(name))?;
    let (repository, _) = name.split_once('@').unwrap_or((name, ""));
    let repository = match repository.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => repository,
    };
    let is_digest =
        tag.split_once(':').is_some_and(|(algorithm, hex)| !algorithm.is_empty() && !hex.is_empty());
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_tag = tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    match (is_tag, is_digest) {
        (true, _) => Ok(format!("{repository}:{tag}")),
        (false, true) => Ok(format!("{repository}@{tag}")),
        (false, false) => Err(Error::invalid("invalid tag format")),
    }
}

/// The `platform` of a query. One image is of one platform: newer clients may name several, which nothing could be.
pub(crate) fn platform(query: &Query) -> Result<Option<Platform>> {
    let mut named = query.all("platform").filter(|text| !text.is_empty());
    match (named.next(), named.next()) {
        (Some(_), Some(_)) => Err(Error::invalid("multiple platform parameters not supported")),
        (one, _) => one.map(parse_platform).transpose(),
    }
}

/// `linux/amd64`, or the OCI platform as JSON.
fn parse_platform(text: &str) -> Result<Platform> {
    #[derive(Deserialize)]
    struct Oci {
        #[serde(default)]
        os: String,
        #[serde(default)]
        architecture: String,
        #[serde(default)]
        variant: String,
    }
    if !text.starts_with('{') {
        return Ok(text.parse()?);
    }
    let Oci { os, architecture, variant } = serde_json::from_str(text)
        .map_err(|error| Error::invalid(format!("failed to parse platform: {error}")))?;
    if os.is_empty() || architecture.is_empty() {
        return Err(Error::invalid("failed to parse platform: both OS and Architecture must be provided"));
    }
    Ok(Platform { os, architecture, variant })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_digests_join_their_name() {
        assert_eq!(with_tag("a", None).unwrap(), "a");
        assert_eq!(with_tag("r:5000/a", Some("1")).unwrap(), "r:5000/a:1");
        assert_eq!(with_tag("a", Some("sha256:00")).unwrap(), "a@sha256:00");
        assert_eq!(with_tag("r:5000/a:1", Some("2")).unwrap(), "r:5000/a:2");
        assert_eq!(with_tag(&format!("a@sha256:{}", "0".repeat(64)), Some("2")).unwrap(), "a:2");
        assert_eq!(with_tag("a:", Some("2")).unwrap(), "a:2");
        for name in ["", "a:b:c", "a@b", &"0".repeat(64)] {
            let refused = with_tag(name, Some("1")).unwrap_err().message;
            assert!(refused.starts_with("invalid re"), "{name}: {refused}");
        }
        for tag in ["a b", ":", ":::", "-x", &"x".repeat(129)] {
            assert_eq!(with_tag("a", Some(tag)).unwrap_err().message, "invalid tag format", "{tag}");
        }
    }

    #[test]
    fn platforms_come_in_two_shapes() {
        let of = |text: &str| platform(&Query::of(&format!("/?platform={text}").parse().unwrap()));
        let arm = Platform { os: "linux".into(), architecture: "arm64".into(), variant: String::new() };
        assert_eq!(of("linux/arm64").unwrap(), Some(arm.clone()));
        assert_eq!(of("%7B%22os%22:%22linux%22,%22architecture%22:%22arm64%22%7D").unwrap(), Some(arm));
        assert_eq!(of("").unwrap(), None);
        assert!(of("%7B%7D").is_err() && of("a/b/c/d").is_err());
        let several = of("linux/arm64&platform=linux/amd64").unwrap_err().message;
        assert_eq!(several, "multiple platform parameters not supported");
        assert!(of("&platform=linux/amd64").unwrap().is_some());
    }
}
