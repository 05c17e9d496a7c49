//! What the query of a build asks for.

use hull_build::{Containers, Output};
use hull_engine::model::{HostConfig, Ulimit};
use hull_engine::{Error, Result};
use hull_image::Platform;
use serde::de::DeserializeOwned;

use crate::build::refused;
use crate::http::Query;

/// What is not there, by its name.
pub(crate) fn refuse(query: &Query) -> Result<()> {
    match query.text("isolation") {
        None | Some("" | "default") => {}
        Some(other) => {
            return Err(Error::invalid(format!("Unsupported isolation: {other:?}")));
        }
    }
    if query.all("securityopt").any(|option| !option.is_empty()) {
        let message = "The daemon on this platform does not support setting security options on build";
        return Err(Error::invalid(message));
    }
    match query.text("version") {
        None | Some("" | "1" | "2") => Ok(()),
        Some(other) => Err(Error::invalid(format!("invalid version {other:?}"))),
    }
}

/// What Docker calls a field that holds JSON.
fn called(name: &str) -> &str {
    match name {
        "buildargs" => "build args",
        "ulimits" => "ulimit settings",
        name => name,
    }
}

/// JSON in a query's field.
pub(crate) fn field<T: DeserializeOwned + Default>(query: &Query, name: &str) -> Result<T> {
    let Some(text) = query.text(name) else { return Ok(T::default()) };
    let parsed: Option<T> = hull_engine::model::decode(text.as_bytes())
        .map_err(|error| Error::invalid(format!("error reading {}: {error}", called(name))))?;
    Ok(parsed.unwrap_or_default())
}

/// The outputs that a query names, as they are written.
pub(crate) fn outputs_of(query: &Query) -> Result<Vec<hull_build::output::Asked>> {
    field(query, "outputs")
}

/// Which of the steps' containers stay: Docker's classic builder removes those of steps that were done where nobody says
/// otherwise, and that of a step that failed where somebody says so. Other builds keep none.
fn containers(query: &Query) -> Containers {
    if query.text("progress") == Some("events") {
        return Containers::default();
    }
    let force = query.flag("forcerm");
    let says_no = query.text("rm").is_some_and(|rm| !rm.is_empty()) && !query.flag("rm");
    Containers { stay: says_no && !force, failed_stay: !force }
}

/// What a query asks for.
pub(crate) fn asked(query: &Query) -> Result<hull_build::Request> {
    let mut host = HostConfig {
        network_mode: query.text("networkmode").unwrap_or_default().to_owned(),
        shm_size: query.number("shmsize")?.unwrap_or(0),
        ..HostConfig::default()
    };
    // Docker's clients send a list with commas, hull's as many as there are.
    let hosts: Vec<String> = query
        .all("extrahosts")
        .flat_map(|hosts| hosts.split(','))
        .filter(|host| !host.is_empty())
        .map(str::to_owned)
        .collect();
    host.extra_hosts = (!hosts.is_empty()).then_some(hosts);
    let resources = &mut host.resources;
    resources.memory = query.number("memory")?.unwrap_or(0);
    resources.memory_swap = query.number("memswap")?.unwrap_or(0);
    resources.cpu_shares = query.number("cpushares")?.unwrap_or(0);
    resources.cpu_period = query.number("cpuperiod")?.unwrap_or(0);
    resources.cpu_quota = query.number("cpuquota")?.unwrap_or(0);
    resources.cpuset_cpus = query.text("cpusetcpus").unwrap_or_default().to_owned();
    resources.cpuset_mems = query.text("cpusetmems").unwrap_or_default().to_owned();
    resources.cgroup_parent = query.text("cgroupparent").unwrap_or_default().to_owned();
    let ulimits: Vec<Ulimit> = field(query, "ulimits")?;
    resources.ulimits = (!ulimits.is_empty()).then_some(ulimits);
    let platforms = platforms(query)?;
    let tags: Vec<String> = query.all("t").filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
    let attest = hull_build::Attest::of(&field(query, "attests")?).map_err(|failure| refused(&failure))?;
    let mut outputs = Vec::new();
    // Those of BuildKit's clients are taken over their session.
    let written = if query.text("version") == Some("2") { Vec::new() } else { outputs_of(query)? };
    for output in written {
        outputs.push(
            Output::of(output, &tags, attest.any() || platforms.len() > 1)
                .map_err(|failure| refused(&failure))?,
        );
    }
    let mut asked = hull_build::Request {
        tags,
        dockerfile: query.text("dockerfile").unwrap_or_default().to_owned(),
        target: query.text("target").unwrap_or_default().to_owned(),
        build_args: field(query, "buildargs")?,
        labels: field(query, "labels")?,
        no_cache: query.flag("nocache"),
        squash: query.flag("squash"),
        keep_failed: query.flag("keepfailed"),
        containers: containers(query),
        no_cache_filter: field(query, "nocachefilter")?,
        pull: query.flag("pull"),
        outputs,
        attest,
        cache_from: field(query, "cachefrom")?,
        cache_from_registry: field(query, "cachefromregistry")?,
        cache_mounts_from: field(query, "cachemountsfrom")?,
        host,
        ..hull_build::Request::default()
    };
    asked.build_for(platforms).map_err(|failure| crate::build::refused(&failure))?;
    Ok(asked)
}

/// The platforms of a query: to hull's own client's builds, a list with commas, too.
fn platforms(query: &Query) -> Result<Vec<Platform>> {
    let named = query.text("platform").unwrap_or_default();
    if query.text("progress") != Some("events") || !named.contains(',') || named.starts_with('{') {
        return Ok(crate::images::platform(query)?.into_iter().collect());
    }
    Ok(named.split(',').map(|platform| platform.trim().parse()).collect::<hull_image::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/build?{text}").parse().unwrap())
    }

    #[test]
    fn every_field_is_read() {
        let asked = asked(&query(
            "t=a&t=b:1&dockerfile=D&target=x&buildargs=%7B%22A%22:%221%22,%22B%22:null%7D&labels=%7B%22l%22:%22v%22%7D&nocache=1&\
             memory=1000&cpuquota=5&shmsize=7&networkmode=none&extrahosts=a:1.2.3.4,b:5.6.7.8&cachefrom=%5B%22c%22%5D&\
             ulimits=%5B%7B%22Name%22:%22nofile%22,%22Soft%22:1,%22Hard%22:2%7D%5D&cgroupparent=/p&platform=linux/arm64",
        ))
        .unwrap();
        assert_eq!(
            (asked.tags, asked.dockerfile.as_str(), asked.target.as_str()),
            (vec!["a".into(), "b:1".into()], "D", "x")
        );
        assert_eq!(asked.build_args["A"].as_deref(), Some("1"));
        assert_eq!(asked.build_args["B"], None);
        assert!(asked.no_cache && asked.labels["l"] == "v" && asked.cache_from == ["c"]);
        let host = asked.host;
        assert_eq!((host.resources.memory, host.resources.cpu_quota, host.shm_size), (1000, 5, 7));
        assert_eq!((host.network_mode.as_str(), host.resources.cgroup_parent.as_str()), ("none", "/p"));
        assert_eq!(host.extra_hosts.unwrap(), ["a:1.2.3.4", "b:5.6.7.8"]);
        assert_eq!(host.resources.ulimits.unwrap()[0].hard, 2);
        assert_eq!(asked.platform.unwrap().architecture, "arm64");
    }

    #[test]
    fn several_platforms_are_hulls_own_client_s_alone() {
        let several = asked(&query("progress=events&platform=linux/amd64,linux/arm64")).unwrap();
        assert_eq!((several.platforms.len(), several.platform), (2, None));
        assert!(asked(&query("platform=linux/amd64,linux/arm64")).is_err());
        assert!(asked(&query("progress=events&platform=linux/amd64,")).is_err());
    }

    #[test]
    fn containers_stay_as_the_classic_builder_has_them() {
        let of = |text: &str| {
            let Containers { stay, failed_stay } = containers(&query(text));
            (stay, failed_stay)
        };
        assert_eq!(of("t=a"), (false, true));
        assert_eq!(of("rm="), (false, true));
        assert_eq!(of("rm=1"), (false, true));
        assert_eq!(of("rm=0"), (true, true));
        assert_eq!(of("rm=0&forcerm=1"), (false, false));
        assert_eq!(of("rm=0&progress=events"), (false, false));
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        refuse(&query("rm=0&version=1&outputs=null&remote=&squash=0")).unwrap();
        assert_eq!(refuse(&query("version=3")).unwrap_err().message, "invalid version \"3\"");
        assert_eq!(
            refuse(&query("isolation=hyperv")).unwrap_err().message,
            "Unsupported isolation: \"hyperv\""
        );
        assert!(refuse(&query("securityopt=label%3Dx")).unwrap_err().message.contains("security options"));
        assert!(asked(&query("labels=x")).unwrap_err().message.starts_with("error reading labels: "));
        assert!(asked(&query("buildargs=x")).is_err());
        assert!(
            asked(&query("outputs=%5B%7B%22Type%22:%22what%22%7D%5D")).unwrap_err().message.contains("what")
        );
        assert!(asked(&query("t=a&outputs=%5B%7B%22Type%22:%22registry%22%7D%5D")).unwrap().outputs[0].push);
        assert!(asked(&query("memory=x")).is_err());
    }
}
