//! `run` and `create`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::foreground::{self, Foreground};
use super::options::flags::ContainerFlags;
use super::options::{self, Attach};
use super::signals::Signals;
use crate::client::{Client, Host, Query, Response, empty, segment};
use crate::commands::shared::{image_name, progress, to_pull};
use crate::context::Context;
use crate::credentials::{registry_auth, server};
use crate::error::{Error, ExitStatus, words};
use crate::stream::End;
use crate::{errln, outln, terminal};

/// `run`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull run --rm -it hull/host sh                     a shell on a copy-on-write view of this machine
  hull run -d --name web -p 8080:80 -v ./www:/www:ro busybox httpd -f -h /www
  hull run --rm --network none --memory 64m --timeout 10s busybox ./untrusted
  echo data | hull run --rm -i busybox wc -c")]
pub struct RunArgs {
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Proxy received signals to the process (default true)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = crate::cli::parse_bool, value_name = "bool")]
    sig_proxy: Option<bool>,
    #[command(flatten)]
    flags: ContainerFlags,
}

/// `create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    #[command(flatten)]
    flags: ContainerFlags,
}

/// `hull create`.
pub async fn create(args: CreateArgs, context: &Context) -> Result<ExitStatus, Error> {
    let request = options::request(&args.flags, api_socket(context).as_deref())?;
    let made = make(context, &args.flags, &request.image, &request.body).await;
    // 125 tells an engine's failure from a container's; here there is no container's status to be told from.
    let id = made.map_err(|error| if error.is_usage() { error } else { error.with_status(1) })?;
    outln!("{id}")?;
    Ok(ExitStatus::SUCCESS)
}

/// `hull run`.
pub async fn run(args: RunArgs, context: &Context) -> Result<ExitStatus, Error> {
    let flags = &args.flags;
    let mut request = options::request(flags, api_socket(context).as_deref())?;
    if args.detach {
        if !flags.attach.is_empty() {
            return Err(Error::new("conflicting options: cannot specify both --attach and --detach"));
        }
        request.attach = Attach::default();
        for stream in ["AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce"] {
            request.body[stream] = Value::Bool(false);
        }
    } else {
        foreground::check_tty(request.attach.stdin, flags.tty)?;
    }
    if flags.tty
        && let Some((height, width)) = terminal::size()
    {
        request.body["HostConfig"]["ConsoleSize"] = serde_json::json!([height, width]);
    }
    let keys = if flags.tty || args.detach_keys.is_some() {
        foreground::detach_keys(context, args.detach_keys.as_deref())?
    } else {
        (Vec::new(), None)
    };
    let id = make(context, flags, &request.image, &request.body).await?;
    if args.detach {
        start(&context.client, &id).await?;
        outln!("{id}")?;
        return Ok(ExitStatus::SUCCESS);
    }
    in_foreground(context, &args, &id, request.attach, keys).await
}

async fn in_foreground(
    context: &Context,
    args: &RunArgs,
    id: &str,
    attach: Attach,
    (keys, keys_text): (Vec<u8>, Option<String>),
) -> Result<ExitStatus, Error> {
    let client = &context.client;
    // Caught from here on: one that comes while the container starts is passed on when it has.
    let signals = Signals::catch()?;
    // Both are asked for before the start: the first line of output and the quickest end are not missed.
    let attaching = async {
        if attach == Attach::default() {
            return Ok(None);
        }
        client.hijack(&attach_path(id, attach, keys_text.as_deref()), None).await.map(Some)
    };
    let condition = if args.flags.rm { "removed" } else { "next-exit" };
    let (io, waiting) = tokio::try_join!(attaching, wait(client, id, condition)).map_err(engine)?;
    if let Err(error) = start(client, id).await {
        if args.flags.rm {
            // The daemon removes what did not start; the name is free when this command ends. Should it not, the
            // error is not held back for ever.
            let _ = tokio::time::timeout(Duration::from_secs(10), waiting.bytes()).await;
        }
        return Err(error);
    }
    if let Some(io) = io {
        let what = Foreground {
            path: format!("/containers/{id}"),
            tty: args.flags.tty,
            stdin: attach.stdin,
            detach_keys: keys,
            signals: Some((signals, id, args.sig_proxy.unwrap_or(true))),
        };
        if foreground::stay(context, io, what).await? == End::Detached {
            return Ok(ExitStatus::SUCCESS);
        }
        return status(waiting).await;
    }
    // Nothing is attached (`-a` names no stream that flows): the end is all there is to wait for.
    tokio::select! {
        status = status(waiting) => status,
        ended = signals.handle(context, id, args.sig_proxy.unwrap_or(true)) => Err(ended),
    }
}

/// The path that attaches to a container's streams.
pub fn attach_path(id: &str, attach: Attach, keys: Option<&str>) -> Query {
    Query::new(format!("/containers/{}/attach", segment(id)))
        .with("stream", "1")
        .with_flag("stdin", attach.stdin)
        .with_flag("stdout", attach.stdout)
        .with_flag("stderr", attach.stderr)
        .with_some("detachKeys", keys)
}

/// Waits for a container: the answer's head says that the daemon waits, its body comes at the end.
pub async fn wait(client: &Client, id: &str, condition: &str) -> Result<Response, Error> {
    let path = Query::new(format!("/containers/{}/wait", segment(id))).with("condition", condition);
    client.request(Method::POST, &path, &[], empty()).await
}

/// The container's exit status, as soon as it has one.
pub async fn status(waiting: Response) -> Result<ExitStatus, Error> {
    let lost = |error: Error| error.context("the daemon went away while it was waited for").with_status(125);
    let answer: Value = waiting.json().await.map_err(lost)?;
    if let Some(message) = answer["Error"]["Message"].as_str().filter(|message| !message.is_empty()) {
        return Err(Error::new(format!("Error waiting for container: {message}")).with_status(125));
    }
    let code = answer["StatusCode"]
        .as_i64()
        .ok_or_else(|| Error::new("the daemon's answer has no exit status in it").with_status(125))?;
    Ok(ExitStatus((code & 0xff) as u8))
}

async fn start(client: &Client, id: &str) -> Result<(), Error> {
    let result = client.post_empty(&format!("/containers/{id}/start")).await;
    result.map(|_| ()).map_err(|error| {
        let status = exec_status(error.message()).unwrap_or(125);
        error.with_status(status)
    })
}

/// The exit status that the words of a failed exec come to, as Docker's client finds it: 127 where there is no such
/// file, 126 where it cannot be executed. The API has no other place for it.
pub fn exec_status(message: &str) -> Option<u8> {
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if says(&["executable file not found", "no such file or directory"]) {
        Some(127)
    } else if says(&["permission denied", "is a directory", "exec format error"]) {
        Some(126)
    } else {
        None
    }
}

/// A refusal by the engine on the way of a run: 125, or what its words come to.
fn engine(error: Error) -> Error {
    let status = exec_status(error.message()).unwrap_or(125);
    if error.status() == 1 { error.with_status(status) } else { error }
}

/// The daemon's socket, where the client knows it by a path.
fn api_socket(context: &Context) -> Option<String> {
    match context.client.host() {
        Host::Default => Some("/run/hull/hull.sock".to_owned()),
        Host::Unix(path) => path.to_str().map(str::to_owned),
        _ => None,
    }
}

/// Makes the container, with its image pulled where that is wanted, and tells its id.
async fn make(context: &Context, flags: &ContainerFlags, image: &str, body: &Value) -> Result<String, Error> {
    let mut id_file =
        flags.cidfile.as_deref().filter(|path| !path.is_empty()).map(IdFile::make).transpose()?;
    let path = Query::new("/containers/create")
        .with_some("name", flags.name.as_deref())
        .with_some("platform", flags.platform.as_deref().filter(|platform| !platform.is_empty()));
    match flags.pull.as_str() {
        "always" => pull(context, image, flags).await?,
        "missing" | "never" | "" => {}
        other => {
            return Err(options::bad(
                "--pull",
                other,
                "it must be one of \"always\", \"missing\" or \"never\"",
            ));
        }
    }
    let made: Result<Value, Error> = context.client.post_json(&path, body).await;
    let made = match made {
        Err(error)
            if error.http_status() == Some(404)
                && flags.pull != "never"
                && flags.pull != "always"
                && !is_id(image) =>
        {
            // Other things can be missing as well: a network, an image that is to be mounted.
            if is_here(context, image, flags).await {
                return Err(engine(error));
            }
            if !flags.quiet {
                errln!("Unable to find image '{}' locally", image_name(image)?.or_latest().familiar());
            }
            pull(context, image, flags).await?;
            context.client.post_json(&path, body).await.map_err(engine)?
        }
        made => made.map_err(engine)?,
    };
    for warning in made["Warnings"].as_array().into_iter().flatten() {
        errln!("WARNING: {}", warning.as_str().unwrap_or_default());
    }
    let id = made["Id"].as_str().ok_or_else(|| Error::new("the daemon's answer has no id in it"))?;
    if let Some(file) = &mut id_file {
        file.write(id)?;
    }
    Ok(id.to_owned())
}

/// Whether the image that is to be run is here, for the platform that is asked for. Where that cannot be asked, it is not
/// what is missing.
async fn is_here(context: &Context, image: &str, flags: &ContainerFlags) -> bool {
    let path = Query::new(format!("/images/{}/json", segment(image)));
    let found = match context.client.get_json::<Value>(&path).await {
        Ok(found) => found,
        Err(error) => return error.http_status() != Some(404),
    };
    let asked = flags.platform.as_deref().filter(|platform| !platform.is_empty());
    asked.is_none_or(|asked| is_for(&found, asked))
}

/// Whether an inspected image is for that platform; daemons of all versions tell what it is for. What is no platform is
/// the daemon's to refuse.
fn is_for(found: &Value, asked: &str) -> bool {
    let Ok(asked) = asked.parse::<hull_api::Platform>() else { return true };
    let is = |field: &str, wanted: &str| found[field].as_str().unwrap_or_default() == wanted;
    is("Os", &asked.os)
        && is("Architecture", &asked.architecture)
        && (asked.variant.is_empty() || is("Variant", &asked.variant))
}

fn is_id(image: &str) -> bool {
    let hex = image.strip_prefix("sha256:").unwrap_or(image);
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

async fn pull(context: &Context, image: &str, flags: &ContainerFlags) -> Result<(), Error> {
    let name = image_name(image)?.or_latest();
    let (repository, tag) = to_pull(&name);
    let path = Query::new("/images/create")
        .with("fromImage", &repository)
        .with_some("tag", tag)
        .with_some("platform", flags.platform.as_deref().filter(|platform| !platform.is_empty()));
    let credentials = registry_auth(context, server::of_image(image));
    let headers = [("x-registry-auth", credentials.as_str())];
    let answer = context.client.request(Method::POST, &path, &headers, empty()).await.map_err(engine)?;
    let mut messages = answer.json_stream();
    let shown = match flags.quiet {
        true => progress::drain(&mut messages).await,
        false => progress::show_aside(&mut messages).await,
    };
    shown.map_err(engine)
}

/// The file that `--cidfile` names. One that got no id in it is removed again.
struct IdFile {
    path: PathBuf,
    file: File,
    written: bool,
}

impl IdFile {
    fn make(path: &str) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).create_new(true).open(Path::new(path)).map_err(|e| {
            let why = if e.kind() == std::io::ErrorKind::AlreadyExists {
                format!(
                    "container ID file found, make sure the other container isn't running or delete {path}"
                )
            } else {
                format!("failed to create the container ID file {path}: {}", words(&e))
            };
            Error::new(why).with_status(125)
        })?;
        Ok(Self { path: PathBuf::from(path), file, written: false })
    }

    fn write(&mut self, id: &str) -> Result<(), Error> {
        self.file.write_all(id.as_bytes())?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_for_what_is_asked_for() {
        let found = serde_json::json!({ "Os": "linux", "Architecture": "arm64", "Variant": "v8" });
        for (asked, is) in [
            ("linux/arm64", true),
            ("linux/aarch64/v8", true),
            ("linux/arm64/v9", false),
            ("linux/amd64", false),
            ("no/such/plat/form", true),
        ] {
            assert_eq!(is_for(&found, asked), is, "{asked}");
        }
    }
}
