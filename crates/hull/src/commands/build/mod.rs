//! `hull build`: a folder, an archive or a Dockerfile is sent, an image is what comes of it.

mod agents;
mod caches;
mod contexts;
mod frames;
mod keys;
pub mod logs;
mod outputs;
mod pack;
mod shell;
mod show;
mod tell;
mod walk;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use clap::Args;
use hull_api::is_elsewhere;
use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Query, Response};
use crate::commands::Entry;
use crate::commands::container::options::limits::ulimits;
use crate::commands::container::options::units;
use crate::commands::shared::pairs;
use crate::context::Context;
use crate::credentials::registry_config;
use crate::error::{Error, ExitStatus, words};
use crate::outln;

use self::caches::Caches;
use self::frames::Answer;
use self::outputs::Outputs;
use self::pack::Packed;
use self::show::{Show, Told};

/// The command at the root.
pub const ROOT: &[Entry] = &[entry!(
    "build",
    [],
    Common,
    "Build an image from a Dockerfile",
    "[OPTIONS] PATH | URL | -",
    BuildArgs,
    build
)];

/// `build`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull build -t mine .
  hull build -f Other --target test --build-arg VERSION=2 .
  tar -c . | hull build -t mine -
  hull build --secret id=token,src=token.txt .      in the Dockerfile: RUN --mount=type=secret,id=token …
  hull build --check .
  hull build logs [BUILD]                           what builds told (as hull builder logs)
  hull build shell [BUILD]                          a shell in what the RUN that failed has left")]
pub struct BuildArgs {
    /// Add a custom host-to-IP mapping (format: "host:ip")
    #[arg(long, value_name = "strings")]
    add_host: Vec<String>,
    /// Additional build contexts (e.g., name=path): a folder, docker-image://IMAGE or oci-layout://FOLDER[:TAG|@DIGEST], or an address
    #[arg(long, value_name = "stringArray")]
    build_context: Vec<String>,
    /// Set build-time variables; one without a value has that of the environment, and so has SOURCE_DATE_EPOCH where it
    /// is not named
    #[arg(long, value_name = "stringArray")]
    build_arg: Vec<String>,
    /// Add annotation to the image (format: "[manifest:|index:|manifest-descriptor:]KEY=VALUE"); it goes where the image is pushed
    #[arg(long, value_name = "stringArray")]
    annotation: Vec<String>,
    /// Attestations beside an image that is pushed or an OCI layout (format: "type=sbom", "type=provenance,mode=max")
    #[arg(long, value_name = "stringArray")]
    attest: Vec<String>,
    /// Images whose steps are used where they are the same (NAME, type=registry,ref=NAME, type=local,src=FOLDER)
    #[arg(long, value_name = "stringArray")]
    cache_from: Vec<String>,
    /// Where the files of cache mounts are that are not here (NAME, type=registry,ref=NAME, type=local,src=FOLDER)
    #[arg(long, value_name = "stringArray")]
    cache_mounts_from: Vec<String>,
    /// Where the files of the cache mounts that the build uses are kept (type=registry,ref=NAME, type=local,dest=FOLDER[,compression=zstd|gzip|uncompressed])
    #[arg(long, value_name = "stringArray")]
    cache_mounts_to: Vec<String>,
    /// Where steps are kept for later builds (type=inline, type=registry,ref=NAME[,mode=max], type=local,dest=FOLDER[,mode=max])
    #[arg(long, value_name = "stringArray")]
    cache_to: Vec<String>,
    /// Set the parent cgroup for the RUN instructions during build
    #[arg(long, value_name = "string")]
    cgroup_parent: Option<String>,
    /// Tell what is unwise about the Dockerfile, and build nothing
    #[arg(long)]
    check: bool,
    /// Limit the CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int")]
    cpu_period: Option<i64>,
    /// Limit the CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int")]
    cpu_quota: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "int")]
    cpu_shares: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Name of the Dockerfile (default: "PATH/Dockerfile"); "-" is standard input
    #[arg(short, long, value_name = "string")]
    file: Option<String>,
    /// Always remove intermediate containers, which hull does in any case
    #[arg(long, hide = true)]
    force_rm: bool,
    /// Write the image ID to a file
    #[arg(long, value_name = "string")]
    iidfile: Option<PathBuf>,
    /// Set metadata for an image
    #[arg(long, value_name = "stringArray")]
    label: Vec<String>,
    /// The image stays in the daemon, also where --output says something else
    #[arg(long)]
    load: bool,
    /// Memory limit of a step
    #[arg(short, long, value_name = "bytes", value_parser = units::bytes)]
    memory: Option<i64>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = units::bytes_or_unlimited, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Write build result metadata to a file
    #[arg(long, value_name = "string")]
    metadata_file: Option<PathBuf>,
    /// Set the networking mode for the RUN instructions during build
    #[arg(long, value_name = "string")]
    network: Option<String>,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Do not cache specified stages
    #[arg(long, value_name = "stringArray", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Where the build goes: a folder, - (an archive of the files), or type=local|tar|oci|docker|image|registry[,dest=PATH]…
    #[arg(short, long, value_name = "stringArray")]
    output: Vec<String>,
    /// Set target platforms for build: of several an index is made, which is pushed or written (--push, -o)
    #[arg(long, value_name = "os/arch[/variant]", value_delimiter = ',')]
    platform: Vec<String>,
    /// Set type of progress output (auto, plain, tty, quiet, rawjson)
    #[arg(long, value_name = "string", default_value = "auto", env = "BUILDKIT_PROGRESS", hide_env = true)]
    progress: String,
    /// Shorthand for "--attest=type=provenance"
    #[arg(long, value_name = "string", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    provenance: Option<String>,
    /// Always attempt to pull a newer version of the image
    #[arg(long)]
    pull: bool,
    /// Push the image to the registries of its tags
    #[arg(long)]
    push: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    quiet: bool,
    /// Remove intermediate containers after a successful build, which hull does in any case
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    rm: Option<bool>,
    /// Shorthand for "--attest=type=sbom"
    #[arg(long, value_name = "string", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    sbom: Option<String>,
    /// Secret to expose to the build (format: "id=mysecret[,src=/local/secret|env=VARIABLE]")
    #[arg(long, value_name = "stringArray")]
    secret: Vec<String>,
    /// Shared memory size of a step
    #[arg(long, value_name = "bytes", value_parser = units::bytes)]
    shm_size: Option<i64>,
    /// Make one layer of all that the build adds to its base
    #[arg(long)]
    squash: bool,
    /// SSH agent socket or keys to expose to the build
    #[arg(long, value_name = "stringArray")]
    ssh: Vec<String>,
    /// Name and optionally a tag in the "name:tag" format
    #[arg(short, long, value_name = "stringArray")]
    tag: Vec<String>,
    /// Set the target build stage to build
    #[arg(long, value_name = "string")]
    target: Option<String>,
    /// Ulimit options
    #[arg(long, value_name = "ulimit")]
    ulimit: Vec<String>,
    #[arg(value_name = "PATH | URL | -")]
    path: String,
    /// Behind `logs` and `shell`, the build.
    #[arg(hide = true)]
    build: Option<String>,
}

/// What is sent: the archive, and what stands beside it.
struct Sent {
    packed: Packed,
    /// The Dockerfile's text, where it is not in the archive.
    dockerfile: Option<String>,
    /// What it is called.
    name: String,
    /// Where the daemon fetches the context.
    remote: Option<String>,
}

/// `hull build`.
pub async fn build(args: BuildArgs, context: &Context) -> Result<ExitStatus, Error> {
    // A folder that is called so is built.
    let names_logs = args.path == "logs" && (args.build.is_some() || !Path::new("logs").is_dir());
    let names_shell = args.path == "shell" && (args.build.is_some() || !Path::new("shell").is_dir());
    if names_shell {
        return shell::open(context, args.build.as_deref()).await;
    }
    match (&args.build, names_logs) {
        (Some(id), true) => return logs::show(context, id).await,
        (None, true) => return logs::list(context, None).await,
        (Some(more), false) => {
            return Err(Error::flag(format!("build takes one PATH, URL or -: {more:?} is one more")));
        }
        (None, false) => {}
    }
    let show = Show::of(&args.progress, args.quiet)?;
    refuse(&args)?;
    let secrets = secrets(&args.secret)?;
    let agents = agents::of(&args.ssh)?;
    let sent = sent(&args)?;
    let mut outputs = Outputs::of(&args)?;
    outputs.add_caches(&args.cache_to)?;
    outputs.add_mounts(&args.cache_mounts_to)?;
    let caches = Caches::of(&args.cache_from)?;
    let cache_mounts = Caches::of_mounts(&args.cache_mounts_from)?;
    // It goes with the value, behind the build.
    let session = agents::Session::open(context, &agents).await?;
    let query = query(&args, &sent.name)?
        .with_some("session", session.as_ref().map(agents::Session::id))
        .with_some("agents", session.as_ref().map(|_| json!(agents.ids()).to_string()))
        .with_some("remote", sent.remote.as_deref())
        .with_some("outputs", outputs.query())
        .with_some("cachefrom", list_of(&caches.images))
        .with_some("cachefromregistry", list_of(&caches.registries))
        .with_some("cachemountsfrom", list_of(&cache_mounts.registries))
        .with_flag("framed", outputs.framed());
    let (mut contexts, mut beside) = contexts::named(&args.build_context)?;
    contexts.extend(caches.folders.iter().map(|_| json!({ "name": "cache", "kind": "cache" })));
    beside.extend(caches.folders);
    contexts.extend(
        cache_mounts.folders.iter().map(|_| json!({ "name": "cache mounts", "kind": "cachemounts" })),
    );
    beside.extend(cache_mounts.folders);
    let preface = json!({ "secrets": secrets, "dockerfile": sent.dockerfile, "contexts": contexts });
    let registries = registry_config(context);
    let mut headers = vec![("content-type", "application/vnd.hull.build")];
    if !registries.is_empty() {
        headers.push(("x-registry-config", registries.as_str()));
    }
    let response = posted(context, &query, &headers, preface, sent.packed, beside, &args).await?;
    if !response.header("server").is_some_and(|server| server.starts_with("hull/")) {
        return Err(Error::new(
            "the daemon is not hull, whose builder hull build talks to: use docker build with it",
        ));
    }
    let mut answer = Answer::of(response, outputs.places);
    let told = show::follow(&mut answer, show, args.check).await?;
    answer.finish().await?;
    finish(&args, &told)
}

/// Sends the build: of a folder that was sent before what was changed since, where the daemon keeps that; or all.
async fn posted(
    context: &Context,
    query: &Query,
    headers: &[(&str, &str)],
    mut preface: Value,
    packed: Packed,
    beside: Vec<Packed>,
    args: &BuildArgs,
) -> Result<Response, Error> {
    if let Packed::Folder(folder, ignore) = &packed
        && beside.is_empty()
        && let Some(told) = tell::tell(context, folder, ignore, args.file.as_deref()).await?
    {
        preface["context"] = json!(told.id);
        let (body, transfer) = told.body(&preface);
        let response = context.client.request(Method::POST, query, headers, body).await;
        drop(transfer);
        match response {
            // Another build changes what is kept, or it went meanwhile.
            Err(error) if matches!(error.http_status(), Some(404 | 409)) => {}
            response => return response,
        }
        preface["context"] = Value::Null;
    }
    let (body, transfer) = packed.body(&preface, beside);
    let response = context.client.request(Method::POST, query, headers, body).await;
    drop(transfer);
    response
}

/// What is done with the image's id.
fn finish(args: &BuildArgs, told: &Told) -> Result<ExitStatus, Error> {
    if args.check {
        return Ok(if told.warnings == 0 { ExitStatus::SUCCESS } else { ExitStatus::FAILURE });
    }
    if told.result.is_null() {
        return Err(Error::new("the daemon ended the build without a word about the image"));
    }
    // Files of several platforms have no one image.
    let id = told.id.as_deref().unwrap_or_default();
    if id.is_empty() && args.iidfile.is_some() {
        return Err(Error::new(outputs::NO_ONE_ID));
    }
    if let Some(path) = &args.iidfile {
        std::fs::write(path, id).map_err(|error| {
            Error::new(format!("write the image's id to {}: {}", path.display(), words(&error)))
        })?;
    }
    if let Some(path) = &args.metadata_file {
        let text = serde_json::to_string_pretty(&told.result).unwrap_or_default();
        std::fs::write(path, text).map_err(|error| {
            Error::new(format!("write what is known of the image to {}: {}", path.display(), words(&error)))
        })?;
    }
    if (args.quiet || args.progress == "quiet") && !id.is_empty() {
        outln!("{id}")?;
    }
    Ok(ExitStatus::SUCCESS)
}

fn refuse(args: &BuildArgs) -> Result<(), Error> {
    if args.rm == Some(false) {
        return Err(Error::new(
            "--rm=false is not supported: the containers of a build's steps go with their steps",
        ));
    }
    Ok(())
}

/// The variable whose time what is built gets, as a build argument or in the client's environment.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

fn query(args: &BuildArgs, name: &str) -> Result<Query, Error> {
    let number = |value: Option<i64>| value.map(|value| value.to_string());
    let json_of = |value: &Value| {
        (!value.as_object().is_some_and(serde_json::Map::is_empty)).then(|| value.to_string())
    };
    let mut build_args = serde_json::Map::new();
    for argument in &args.build_arg {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), std::env::var(argument).ok()),
        };
        build_args.insert(name.to_owned(), json!(value));
    }
    // As buildx does: whoever wants the same image again says so once for all tools.
    if let Ok(epoch) = std::env::var(EPOCH)
        && !epoch.is_empty()
    {
        build_args.entry(EPOCH).or_insert_with(|| json!(epoch));
    }
    let ulimits = ulimits(&args.ulimit)?;
    let mut query = Query::new("/build")
        .with("progress", "events")
        .with("dockerfile", name)
        .with_some("target", args.target.as_deref())
        .with_some("buildargs", json_of(&Value::Object(build_args)))
        .with_some("labels", json_of(&pairs(&args.label)))
        .with_flag("nocache", args.no_cache)
        .with_some("nocachefilter", list_of(&args.no_cache_filter))
        .with_flag("squash", args.squash)
        .with("keepfailed", "1")
        .with_some("attests", outputs::attestations(args)?)
        .with_flag("pull", args.pull)
        .with_flag("check", args.check)
        .with_some("networkmode", args.network.as_deref())
        .with_some("memory", number(args.memory))
        .with_some("memswap", number(args.memory_swap))
        .with_some("cpushares", number(args.cpu_shares))
        .with_some("cpuperiod", number(args.cpu_period))
        .with_some("cpuquota", number(args.cpu_quota))
        .with_some("cpusetcpus", args.cpuset_cpus.as_deref())
        .with_some("cpusetmems", args.cpuset_mems.as_deref())
        .with_some("cgroupparent", args.cgroup_parent.as_deref())
        .with_some("shmsize", number(args.shm_size))
        .with_some("platform", (!args.platform.is_empty()).then(|| args.platform.join(",")))
        .with_some("ulimits", (!args.ulimit.is_empty()).then(|| ulimits.to_string()));
    for tag in &args.tag {
        query = query.with("t", tag);
    }
    for host in &args.add_host {
        query = query.with("extrahosts", host);
    }
    Ok(query)
}

/// A list in JSON, where there is something in it.
fn list_of(texts: &[String]) -> Option<String> {
    (!texts.is_empty()).then(|| json!(texts).to_string())
}

/// Reads secrets: `id=NAME[,src=FILE|env=VARIABLE]`.
fn secrets(texts: &[String]) -> Result<BTreeMap<String, String>, Error> {
    let mut secrets = BTreeMap::new();
    for text in texts {
        let wrong = |why: String| Error::flag(format!("--secret {text}: {why}"));
        let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
        for part in text.split(',') {
            let (name, value) =
                part.split_once('=').ok_or_else(|| wrong(format!("{part:?} is no NAME=VALUE")))?;
            if !["id", "src", "source", "env", "type"].contains(&name) {
                return Err(wrong(format!("unexpected key '{name}'")));
            }
            fields.insert(name, value);
        }
        let id =
            *fields.get("id").filter(|id| !id.is_empty()).ok_or_else(|| wrong("it has no id".to_owned()))?;
        let file = fields.get("src").or(fields.get("source"));
        let variable = fields.get("env").or(file.filter(|_| fields.get("type") == Some(&"env")));
        let bytes = match (variable, file) {
            (Some(name), _) => {
                variable_of(name).ok_or_else(|| wrong(format!("the environment has no {name}")))?
            }
            (None, Some(path)) => {
                std::fs::read(path).map_err(|error| wrong(format!("read {path}: {}", words(&error))))?
            }
            // As Docker: a variable of that name, or else a file.
            (None, None) => match variable_of(id) {
                Some(bytes) => bytes,
                None => std::fs::read(id).map_err(|error| {
                    wrong(format!("neither the environment nor the folder has {id}: {}", words(&error)))
                })?,
            },
        };
        secrets.insert(id.to_owned(), base64::engine::general_purpose::STANDARD.encode(bytes));
    }
    Ok(secrets)
}

fn variable_of(name: &str) -> Option<Vec<u8>> {
    std::env::var_os(name).map(std::os::unix::ffi::OsStringExt::into_vec)
}

/// What the path and `-f` mean.
fn sent(args: &BuildArgs) -> Result<Sent, Error> {
    if args.path == "-" {
        return from_stdin(args);
    }
    let folder = Path::new(&args.path);
    if !folder.is_dir() && is_elsewhere(&args.path) {
        let (dockerfile, name) = match args.file.as_deref() {
            Some("-") => (Some(dockerfile_on_stdin()?), "Dockerfile".to_owned()),
            // It is a file of what the daemon fetches.
            given => (None, given.unwrap_or_default().to_owned()),
        };
        let remote = Some(args.path.clone());
        return Ok(Sent { packed: Packed::nothing(), dockerfile, name, remote });
    }
    if !folder.is_dir() {
        let why = if folder.exists() { "it is no folder" } else { "there is no such folder" };
        return Err(Error::new(format!("unable to prepare context: path {:?}: {why}", args.path)));
    }
    let (text, name) = match args.file.as_deref() {
        Some("-") => (dockerfile_on_stdin()?, "Dockerfile".to_owned()),
        given => dockerfile(folder, given)?,
    };
    let ignore = pack::ignore(folder, args.file.as_deref().filter(|file| *file != "-"))?;
    Ok(Sent { packed: Packed::folder(folder.to_owned(), ignore), dockerfile: Some(text), name, remote: None })
}

fn dockerfile_on_stdin() -> Result<String, Error> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Error::new(format!("read the Dockerfile from standard input: {}", words(&error))))?;
    Ok(text)
}

/// The Dockerfile of a folder, and its name as a person knows it.
fn dockerfile(folder: &Path, given: Option<&str>) -> Result<(String, String), Error> {
    let path = match given {
        Some(given) => PathBuf::from(given),
        None => folder.join("Dockerfile"),
    };
    let failed = |error: std::io::Error| {
        Error::new(format!(
            "unable to prepare context: read the Dockerfile {}: {}",
            path.display(),
            words(&error)
        ))
    };
    // As Docker: a file in the context is found by its name there, too.
    let text = match std::fs::read_to_string(&path) {
        Err(error)
            if error.kind() == std::io::ErrorKind::NotFound
                && given.is_some_and(|given| !given.starts_with('/')) =>
        {
            std::fs::read_to_string(folder.join(&path)).map_err(|_| failed(error))?
        }
        read => read.map_err(failed)?,
    };
    let name = match given {
        Some(given) => {
            path.file_name().map_or_else(|| given.to_owned(), |name| name.to_string_lossy().into_owned())
        }
        None => "Dockerfile".to_owned(),
    };
    Ok((text, name))
}

/// Standard input: an archive, or a Dockerfile by itself.
fn from_stdin(args: &BuildArgs) -> Result<Sent, Error> {
    if std::io::stdin().is_terminal() {
        return Err(Error::new(
            "the Dockerfile or the context comes from standard input, which is a terminal",
        ));
    }
    let mut start = Vec::new();
    let failed = |error: std::io::Error| Error::new(format!("read standard input: {}", words(&error)));
    std::io::stdin().take(512).read_to_end(&mut start).map_err(failed)?;
    if pack::is_archive(&start) {
        let name = args.file.clone().unwrap_or_default();
        return Ok(Sent { packed: Packed::archive(start), dockerfile: None, name, remote: None });
    }
    std::io::stdin().read_to_end(&mut start).map_err(failed)?;
    let text = String::from_utf8(start)
        .map_err(|_| Error::new("standard input is neither an archive nor a Dockerfile: it is no text"))?;
    Ok(Sent {
        packed: Packed::nothing(),
        dockerfile: Some(text),
        name: "Dockerfile".to_owned(),
        remote: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "s3cret").unwrap();
        let text = format!("id=a,src={}", path.display());
        assert_eq!(secrets(&[text]).unwrap()["a"], "czNjcmV0");
        assert!(secrets(&["id=p,env=PATH".to_owned()]).unwrap().contains_key("p"));
        for wrong in ["src=x", "id=a,src=/no/such/file", "id=a,what=b", "id", "id=a,env=NO_SUCH_VARIABLE"] {
            assert!(secrets(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
