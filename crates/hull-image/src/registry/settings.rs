//! Which registries there are and how they are reached: what the daemon's configuration says of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;

use super::connect::is_loopback;
use crate::reference::{DEFAULT_DOMAIN, Reference};
use crate::{Error, Result};

/// Where the images of `docker.io` are.
pub(super) const DEFAULT_REGISTRY: &str = "registry-1.docker.io";

/// What the configuration says of registries.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host that names without a registry (`docker.io`) are fetched from and sent to.
    pub default_registry: String,
    /// Mirrors of the default registry, by their addresses.
    pub mirrors: Vec<String>,
    /// Mirrors of any registry: `registry[/prefix]` to addresses, which may have a path of their own.
    pub mirrors_of: BTreeMap<String, Vec<String>>,
    /// Registries that are spoken to without TLS, or with one that is not verified: `host[:port]` or `address/bits`.
    pub insecure: Vec<String>,
    /// The folders of certificates for single registries.
    pub certificates: Vec<PathBuf>,
    /// How many layers are fetched at once.
    pub downloads: usize,
    /// How many layers are sent at once.
    pub uploads: usize,
    /// How often one layer is asked for, where nothing of it comes.
    pub attempts: usize,
    /// How long a line may stand still.
    pub patience: Duration,
    /// The proxies on the way to registries.
    pub proxies: Proxies,
}

/// Proxies, as `http_proxy`, `https_proxy` and `no_proxy` name them; empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For what is reached without TLS.
    pub http: String,
    /// For what is reached by TLS.
    pub https: String,
    /// Hosts, domains and subnets that are reached without a proxy, with commas between.
    pub no: String,
}

impl Proxies {
    /// Those of the environment; names may be written small.
    pub fn of_environment() -> Proxies {
        let variable = |name: &str| {
            let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            value(name).or_else(|| value(&name.to_ascii_lowercase()))
        };
        let all = variable("ALL_PROXY").unwrap_or_default();
        Proxies {
            http: variable("HTTP_PROXY").unwrap_or_else(|| all.clone()),
            https: variable("HTTPS_PROXY").unwrap_or(all),
            no: variable("NO_PROXY").unwrap_or_default(),
        }
    }

    pub(super) fn matcher(&self) -> Matcher {
        Matcher::builder().http(self.http.clone()).https(self.https.clone()).no(self.no.clone()).build()
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            default_registry: DEFAULT_REGISTRY.to_owned(),
            mirrors: Vec::new(),
            mirrors_of: BTreeMap::new(),
            insecure: Vec::new(),
            certificates: vec!["/etc/docker/certs.d".into(), "/etc/hull/certs.d".into()],
            downloads: 3,
            uploads: 5,
            attempts: 5,
            patience: Duration::from_secs(30),
            proxies: Proxies::of_environment(),
        }
    }
}

/// A place where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https`, `http`; none: https, and http where that is not spoken.
    pub scheme: Option<&'static str>,
    /// Host and port.
    pub host: String,
    /// The repository's path there.
    pub repository: String,
    /// It holds copies of what is elsewhere: it gets no credentials, and where it has not got something the next is
    /// asked.
    pub mirror: bool,
    /// It need not prove who it is.
    pub insecure: bool,
}

impl Settings {
    /// Looks the configuration through.
    ///
    /// # Errors
    /// An address is none, in Docker's words where Docker has them.
    pub fn check(&self) -> Result<()> {
        for mirror in &self.mirrors {
            let (_, rest) = address(mirror)?;
            if rest.trim_end_matches('/').contains('/') {
                return Err(Error::invalid(format!(
                    "invalid mirror: path, query, or fragment at end of the URI {mirror:?}: a mirror with a path is \
                     named by the configuration's key \"mirrors\""
                )));
            }
        }
        for prefix in self.mirrors_of.keys() {
            let within = format!("{prefix}/");
            if !Reference::parse(&format!("{within}x")).is_ok_and(|name| name.name().starts_with(&within)) {
                return Err(Error::invalid(format!(
                    "mirrors: {prefix:?} is no beginning of an image's name, as quay.io and quay.io/team are"
                )));
            }
        }
        self.mirrors_of.values().flatten().try_for_each(|mirror| address(mirror).map(drop))?;
        for registry in &self.insecure {
            if registry.contains("://") {
                return Err(Error::invalid(format!("insecure registry {registry} should not contain '://'")));
            }
            if let Some((address, bits)) = registry.split_once('/')
                && cidr(address, bits).is_none()
            {
                return Err(Error::invalid(format!(
                    "insecure registry {registry} is not valid: invalid host {registry:?}"
                )));
            }
        }
        for (what, count) in
            [("downloads", self.downloads), ("uploads", self.uploads), ("download attempts", self.attempts)]
        {
            if count == 0 {
                return Err(Error::invalid(format!(
                    "invalid max concurrent {what}: 0: at least one is needed"
                )));
            }
        }
        Ok(())
    }

    /// Where a repository is looked for, one after the other: its mirrors, then its own registry.
    pub fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        // Of the prefixes of one name the longer ones sort behind: what says more of it is asked first.
        for (prefix, mirrors) in self.mirrors_of.iter().rev() {
            let name = reference.name();
            let Some(rest) = name.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('/'))
            else {
                continue;
            };
            endpoints.extend(mirrors.iter().filter_map(|mirror| self.mirror(mirror, rest)));
        }
        if reference.domain == DEFAULT_DOMAIN {
            endpoints.extend(self.mirrors.iter().filter_map(|mirror| self.mirror(mirror, &reference.path)));
        }
        endpoints.push(self.own(reference));
        endpoints
    }

    /// The registry that a repository belongs to.
    pub fn own(&self, reference: &Reference) -> Endpoint {
        self.of_host(self.host_of(&reference.domain), reference.path.clone())
    }

    /// A registry by its host.
    pub(super) fn of_host(&self, host: String, repository: String) -> Endpoint {
        let insecure = self.is_insecure(&host);
        Endpoint { scheme: (!insecure).then_some("https"), host, repository, mirror: false, insecure }
    }

    /// The host that serves a reference's domain.
    pub fn host_of(&self, domain: &str) -> String {
        match domain {
            DEFAULT_DOMAIN | "index.docker.io" => self.default_registry.clone(),
            other => other.to_owned(),
        }
    }

    fn mirror(&self, mirror: &str, repository: &str) -> Option<Endpoint> {
        let (scheme, rest) = address(mirror).ok()?;
        let rest = rest.trim_end_matches('/');
        let (host, repository) = match rest.split_once('/') {
            Some((host, path)) => (host, format!("{path}/{repository}")),
            None => (rest, repository.to_owned()),
        };
        let insecure = self.is_insecure(host) || scheme == "http";
        Some(Endpoint { scheme: Some(scheme), host: host.to_owned(), repository, mirror: true, insecure })
    }

    /// Whether a registry need not prove who it is: it is on this machine, or the configuration says so.
    pub fn is_insecure(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let address: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        is_loopback(name)
            || self.insecure.iter().any(|entry| match entry.split_once('/') {
                Some((network, bits)) => address
                    .is_some_and(|address| cidr(network, bits).is_some_and(|net| net.contains(address))),
                None => entry == host || entry == name,
            })
    }
}

/// An address's scheme and the rest.
fn address(text: &str) -> Result<(&'static str, &str)> {
    let wrong = || Error::invalid(format!("invalid mirror: {text:?} is no http:// or https:// address"));
    let (scheme, rest) = match text.split_once("://") {
        Some(("https", rest)) => ("https", rest),
        Some(("http", rest)) => ("http", rest),
        _ => return Err(wrong()),
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return Err(Error::invalid(
            "invalid mirror: username/password not allowed in its address: hull login keeps them",
        ));
    }
    match host.is_empty() || rest.contains(['?', '#', ' ']) {
        true => Err(wrong()),
        false => Ok((scheme, rest)),
    }
}

/// A range of addresses.
struct Network {
    first: IpAddr,
    bits: u32,
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let (a, b, width) = match (self.first, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
            _ => return false,
        };
        // All bits shifted out leave nothing to compare.
        let shift = width - self.bits;
        shift >= 128 || a >> shift == b >> shift
    }
}

fn cidr(address: &str, bits: &str) -> Option<Network> {
    let first: IpAddr = address.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    (bits <= if first.is_ipv4() { 32 } else { 128 }).then_some(Network { first, bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(settings: &Settings, name: &str) -> Vec<(String, String)> {
        let endpoints = settings.endpoints(&Reference::parse(name).unwrap());
        endpoints.into_iter().map(|endpoint| (endpoint.host, endpoint.repository)).collect()
    }

    #[test]
    fn names_without_a_registry_are_the_default_ones() {
        let settings = Settings { mirrors: vec!["https://m.example".into()], ..Settings::default() };
        assert_eq!(
            hosts(&settings, "busybox"),
            [
                ("m.example".into(), "library/busybox".into()),
                (DEFAULT_REGISTRY.into(), "library/busybox".into())
            ]
        );
        assert_eq!(hosts(&settings, "r.example/a/b"), [("r.example".into(), "a/b".into())]);
        let settings = Settings { default_registry: "r.example:5000".into(), ..Settings::default() };
        assert_eq!(hosts(&settings, "u/a"), [("r.example:5000".into(), "u/a".into())]);
    }

    #[test]
    fn mirrors_have_prefixes() {
        let of = BTreeMap::from([
            ("quay.example/team".to_owned(), vec!["http://m.example:5000/quay/".to_owned()]),
            ("docker.io".to_owned(), vec!["https://n.example/hub".to_owned()]),
        ]);
        let settings = Settings { mirrors_of: of, ..Settings::default() };
        assert_eq!(
            hosts(&settings, "quay.example/team/a"),
            [("m.example:5000".into(), "quay/a".into()), ("quay.example".into(), "team/a".into())]
        );
        assert_eq!(hosts(&settings, "quay.example/teams/a"), [("quay.example".into(), "teams/a".into())]);
        assert_eq!(hosts(&settings, "a")[0], ("n.example".into(), "hub/library/a".into()));
    }

    #[test]
    fn only_this_machine_and_what_is_named_is_insecure() {
        let settings = Settings {
            insecure: vec!["r.example:5000".into(), "s.example".into(), "10.0.0.0/8".into()],
            ..Settings::default()
        };
        for host in [
            "127.0.0.1:5000",
            "127.9.9.9",
            "localhost:1",
            "[::1]:5000",
            "r.example:5000",
            "s.example:1",
            "10.1.2.3",
        ] {
            assert!(settings.is_insecure(host), "{host}");
        }
        for host in
            ["r.example", "r.example:1", "11.0.0.1", "localhost.example", "127.0.0.1.example", "[fe80::1]"]
        {
            assert!(!settings.is_insecure(host), "{host}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let mirrors = |mirror: &str| Settings { mirrors: vec![mirror.into()], ..Settings::default() }.check();
        assert!(mirrors("https://m.example/").is_ok());
        for wrong in ["m.example", "ftp://m", "https://", "https://m/path", "https://u:p@m", "https://m?x"] {
            assert!(mirrors(wrong).is_err(), "{wrong}");
        }
        let insecure = |entry: &str| Settings { insecure: vec![entry.into()], ..Settings::default() }.check();
        assert!(insecure("10.0.0.0/8").is_ok() && insecure("r:5000").is_ok());
        assert!(insecure("http://r").is_err() && insecure("10.0.0.0/33").is_err());
        assert!(Settings { downloads: 0, ..Settings::default() }.check().is_err());
    }
}
