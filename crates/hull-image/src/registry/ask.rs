//! What registries are asked besides images: who one is there, what a name means there, what they have.

use hyper::header::AUTHORIZATION;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};

use super::connect::basic;
use super::failure::{Answer, Failure, shown};
use super::manifest::{self, Content, Descriptor, OciPlatform};
use super::settings::DEFAULT_REGISTRY;
use super::{Ask, Call, Challenge, Credentials, Registries, Reply, Repository, encode};
use crate::reference::{DEFAULT_DOMAIN, Reference, is_domain};
use crate::{Digest, Error, ImageConfig, Kind, Result};

/// Where Docker Hub is searched; its images are elsewhere.
const HUB_INDEX: &str = "index.docker.io";
/// A configuration may not be larger.
const CONFIG_LIMIT: usize = 8 << 20;
/// Nor the answer to a search.
const SEARCH_LIMIT: usize = 4 << 20;

/// A repository that a search found, in the fields of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Found {
    /// How many users like it.
    #[serde(deserialize_with = "or_default")]
    pub star_count: u64,
    /// Docker's own.
    #[serde(deserialize_with = "or_default")]
    pub is_official: bool,
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Built by the registry; out of use.
    #[serde(deserialize_with = "or_default")]
    pub is_automated: bool,
    /// What its owner says of it.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
}

/// A `null` is the field's zero value, as in Go.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<Found>,
}

/// What a name means in its registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// A manifest or an index.
    pub descriptor: Descriptor,
    /// What it is for.
    pub platforms: Vec<OciPlatform>,
}

impl Registries {
    /// Tries credentials at the registry that they name. The token that it gives for them to be kept, where it gives one;
    /// else empty.
    ///
    /// # Errors
    /// It does not take them ([`Kind::Unauthorized`]), or does not answer.
    pub async fn login(&self, who: &Credentials) -> Result<String> {
        let settings = self.settings();
        // Whoever stands for Docker's registry by the configuration: its users' passwords are tried there and nowhere else.
        let endpoint = match who.is_dockers() {
            true => settings.of_host(DEFAULT_REGISTRY.to_owned(), String::new()),
            false => settings.own(&place(&who.serveraddress)?),
        };
        let session = self.greet(&endpoint, who, Vec::new()).await.map_err(refused)?;
        let url = session.url("/v2/").map_err(refused)?;
        let mut call = Call::new(Method::GET, url.clone());
        let mut refresh = String::new();
        if let Challenge::Bearer { realm, service, .. } = &session.challenge {
            let ask = Ask { realm, service, scopes: &[], offline: who.identitytoken.is_empty() };
            let token = self.token(&ask, who, endpoint.insecure).await.map_err(|failure| {
                let Error { kind, message } = refused(failure);
                Error::new(kind, format!("Get \"{url}\": {message}"))
            })?;
            // There are token servers that give one to whoever asks: what it is worth, the registry knows.
            call = call.header(AUTHORIZATION, &format!("Bearer {}", token.bearer));
            refresh = token.refresh.unwrap_or_default();
        }
        match session.tried(call).await {
            Ok(_) => Ok(refresh),
            Err(Failure::Refused(refusal)) => {
                let words = format!("login attempt to {url} failed with status: {}", refusal.status);
                Err(Error::new(refused(Failure::Refused(refusal)).kind, words))
            }
            Err(failure) => Err(refused(failure)),
        }
    }

    /// What a name means in its registry, and for which platforms.
    ///
    /// # Errors
    /// It is not there, or not to be had.
    pub async fn describe(&self, name: &Reference, who: &Credentials) -> Result<Described> {
        let asked = async {
            let (repository, raw) = self.named(name, who).await?;
            let platforms = match manifest::parse(&raw, &name.familiar())? {
                Content::Index(list) => list.into_iter().filter_map(|one| one.platform).collect(),
                Content::Image(image) => vec![platform(&repository, &image.config).await?],
            };
            let size = raw.bytes.len() as u64;
            let descriptor = Descriptor { media_type: raw.media_type, size, ..Descriptor::of(raw.digest) };
            Ok(Described { descriptor, platforms })
        };
        asked.await.map_err(refused)
    }

    /// Searches a registry for at most `limit` repositories: `TERM`, or `HOST/TERM`. Only the first version of the
    /// registries' interface knows of this, which Docker Hub has kept.
    ///
    /// # Errors
    /// The registry has no search, or does not answer.
    pub async fn search(&self, term: &str, limit: u32, who: &Credentials) -> Result<Vec<Found>> {
        let (host, term) = searched(term);
        let host = match host {
            Some(host) => place(host)?.domain,
            // As names without a registry: by the configuration.
            None => match self.settings().default_registry.as_str() {
                DEFAULT_REGISTRY => HUB_INDEX.to_owned(),
                other => other.to_owned(),
            },
        };
        let path = format!("/v1/search?q={}&n={limit}", encode(term));
        let reply = self.search_at(&host, &path, who).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Err(Error::not_found(format!(
                "{host} has no search: it answers 404 to /v1/search, which few registries besides Docker Hub know"
            )));
        }
        if !reply.status.is_success() {
            return Err(refused(reply.refusal().await));
        }
        let body = reply.bytes(SEARCH_LIMIT, "the answer to the search").await.map_err(refused)?;
        let results: Results = serde_json::from_slice(&body).map_err(|_| {
            Error::new(Kind::System, format!("what {host} answers is no list of repositories"))
        })?;
        // A registry need not have understood how many are wanted.
        Ok(results.results.into_iter().take(limit as usize).collect())
    }

    async fn search_at(&self, host: &str, path: &str, who: &Credentials) -> Result<Reply> {
        let insecure = self.settings().is_insecure(host);
        let schemes: &[&str] = if insecure { &["https", "http"] } else { &["https"] };
        let mut answer: Answer<Reply> = Err(Failure::Line(format!("{host} does not answer")));
        for scheme in schemes {
            let url = format!("{scheme}://{host}{path}");
            let url = url.parse().map_err(|_| no_address(host))?;
            let mut call = Call::new(Method::GET, url);
            if !who.username.is_empty() && who.is_dockers() == (host == HUB_INDEX) {
                call = call.header(AUTHORIZATION, &basic(&who.username, &who.password));
            }
            answer = self.send(call, insecure).await;
            if answer.is_ok() {
                break;
            }
        }
        answer.map_err(refused)
    }
}

/// What an image's configuration says that it is for.
async fn platform(repository: &Repository, config: &Descriptor) -> Answer<OciPlatform> {
    let bytes = repository.small_blob(config, CONFIG_LIMIT).await?;
    let parsed: ImageConfig = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::Wrong(format!("invalid image configuration {}: {error}", Digest::of(&bytes)))
    })?;
    Ok(OciPlatform {
        os: parsed.os,
        architecture: parsed.architecture,
        variant: parsed.variant,
        ..OciPlatform::default()
    })
}

/// The registry of an address as `login` is given it: a host, or a URL; nothing is Docker Hub.
fn place(address: &str) -> Result<Reference> {
    let rest = ["https://", "http://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    let domain = match rest.unwrap_or(address).split('/').next().unwrap_or_default() {
        "" | HUB_INDEX | "registry-1.docker.io" => DEFAULT_DOMAIN,
        host if is_domain(host) => host,
        _ => return Err(no_address(address)),
    };
    Ok(Reference { domain: domain.to_owned(), path: String::new(), tag: None, digest: None })
}

fn no_address(text: &str) -> Error {
    Error::invalid(format!("{:?} is no registry's address: HOST[:PORT] is one", shown(text, 200)))
}

/// The part of a search term that names a registry, and the rest.
fn searched(term: &str) -> (Option<&str>, &str) {
    match term.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => match first {
            "docker.io" | HUB_INDEX => (None, rest),
            host => (Some(host), rest),
        },
        _ => (None, term),
    }
}

/// A failure of what was asked, as whoever asked has to know it.
pub(super) fn refused(failure: Failure) -> Error {
    let kind = match &failure {
        Failure::Refused(refusal) if refusal.is_denied() => Kind::Unauthorized,
        Failure::Refused(refusal) if refusal.is_unknown() => Kind::NotFound,
        Failure::Here(error) => return error.clone(),
        Failure::Wrong(message) if message.ends_with("no basic auth credentials") => Kind::Unauthorized,
        _ => Kind::System,
    };
    Error::new(kind, failure.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_log_in_to() {
        for (address, domain) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://r.example:5000/v2/", "r.example:5000"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("word", "word"),
        ] {
            assert_eq!(place(address).unwrap().domain, domain, "{address}");
        }
        for wrong in ["a b", "ftp://r", "user@host", "r:port", "-x"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn terms_may_name_a_registry() {
        assert_eq!(searched("user/name"), (None, "user/name"));
        assert_eq!(searched("r:5000/a/b"), (Some("r:5000"), "a/b"));
        assert_eq!(searched("docker.io/a"), (None, "a"));
    }
}
