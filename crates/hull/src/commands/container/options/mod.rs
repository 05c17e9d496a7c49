//! From the flags of `run` and `create` to the API's body.
//!
//! Only what was asked for is sent: a field that is absent has the engine's default.

pub mod csv;
pub mod devices;
pub mod environment;
pub mod flags;
pub mod limits;
pub mod mounts;
pub mod networks;
pub mod ports;
pub mod security;
#[cfg(test)]
mod tests;
pub mod units;

use serde_json::{Map, Value, json};

use crate::error::Error;
use flags::ContainerFlags;

/// What the flags come to.
#[derive(Debug)]
pub struct Request {
    /// The body of `POST /containers/create`.
    pub body: Value,
    /// The image as named.
    pub image: String,
    /// Which of the streams this client attaches to, should it stay in the foreground.
    pub attach: Attach,
}

/// Which streams are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// Ours goes to the container.
    pub stdin: bool,
    /// The container's comes here.
    pub stdout: bool,
    /// The container's comes here.
    pub stderr: bool,
}

/// An object of the body under construction.
#[derive(Default)]
pub struct Object(Map<String, Value>);

impl Object {
    /// Sets a field.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Sets a field where there is a value.
    pub fn some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// Sets a list where it holds anything.
    pub fn list<T: Into<Value>>(&mut self, name: &str, values: Vec<T>) {
        if !values.is_empty() {
            self.set(name, values);
        }
    }

    /// Sets a map where it holds anything.
    pub fn map(&mut self, name: &str, values: Map<String, Value>) {
        if !values.is_empty() {
            self.set(name, values);
        }
    }

    /// Sets a switch that is on.
    pub fn flag(&mut self, name: &str, on: bool) {
        if on {
            self.set(name, true);
        }
    }
}

/// Words a flag's bad value as Docker does.
pub fn bad(flag: &str, value: &str, why: impl std::fmt::Display) -> Error {
    Error::flag(format!("invalid argument {value:?} for {flag:?} flag: {why}"))
}

/// Parses a flag's value where it was given.
pub fn parsed<T>(
    flag: &str,
    value: Option<&str>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Error> {
    value.map(|value| parse(value).map_err(|why| bad(flag, value, why))).transpose()
}

/// Maps all the flags.
pub fn request(flags: &ContainerFlags, socket: Option<&str>) -> Result<Request, Error> {
    let (image, command) = flags
        .image_and_command
        .split_first()
        .ok_or_else(|| Error::usage("an image is needed").with_status(1))?;
    if flags.disable_content_trust == Some(false) {
        return Err(Error::usage(
            "--disable-content-trust=false is not supported: there is no content trust here",
        ));
    }
    let attach = attach(flags)?;
    let ports = ports::parse(&flags.publish, &flags.expose).map_err(Error::usage)?;
    let volumes = mounts::volumes(&flags.volume).map_err(Error::usage)?;
    let networks = networks::parse(flags)?;

    let mut config = config(flags, image, command, attach)?;
    config.map("ExposedPorts", ports.exposed);
    config.map("Volumes", volumes.anonymous);

    let mut host = Object::default();
    host.list("Binds", volumes.binds);
    host.map("PortBindings", ports.bindings);
    host.list("Mounts", mounts_of(flags, socket)?);
    host.map("Tmpfs", mounts::tmpfs(&flags.tmpfs));
    lifetime(&mut host, flags)?;
    storage_and_logs(&mut host, flags)?;
    networks::fill(&mut host, flags, &networks)?;
    limits::fill(&mut host, flags)?;
    devices::fill(&mut host, flags)?;
    security::fill(&mut host, flags)?;

    config.set("HostConfig", host.0);
    config.set("NetworkingConfig", json!({"EndpointsConfig": networks.endpoints}));
    Ok(Request { body: Value::Object(config.0), image: image.clone(), attach })
}

fn attach(flags: &ContainerFlags) -> Result<Attach, Error> {
    let mut attach = Attach::default();
    for stream in &flags.attach {
        match stream.to_lowercase().as_str() {
            "stdin" => attach.stdin = true,
            "stdout" => attach.stdout = true,
            "stderr" => attach.stderr = true,
            _ => return Err(bad("-a, --attach", stream, "valid streams are STDIN, STDOUT and STDERR")),
        }
    }
    if flags.attach.is_empty() {
        attach = Attach { stdin: flags.interactive, stdout: true, stderr: true };
    }
    attach.stdin |= flags.interactive;
    Ok(attach)
}

fn config(flags: &ContainerFlags, image: &str, command: &[String], attach: Attach) -> Result<Object, Error> {
    // The API's containers without an image are nobody's wish who leaves a word empty here.
    if image.is_empty() {
        return Err(Error::flag("invalid reference format"));
    }
    let mut config = Object::default();
    config.set("Image", image);
    config.list("Cmd", command.to_vec());
    // `--entrypoint ""` takes the image's away.
    config.some("Entrypoint", flags.entrypoint.as_deref().map(|entrypoint| vec![entrypoint]));
    config.some("Hostname", flags.hostname.clone());
    config.some("Domainname", flags.domainname.clone());
    config.some("User", flags.user.clone());
    config.some("WorkingDir", flags.workdir.clone());
    config.flag("Tty", flags.tty);
    config.flag("OpenStdin", flags.interactive);
    config.set("AttachStdin", attach.stdin);
    config.set("AttachStdout", attach.stdout);
    config.set("AttachStderr", attach.stderr);
    config.flag("StdinOnce", flags.interactive && attach.stdin);
    config.list("Env", environment::variables(&flags.env_file, &flags.env).map_err(Error::usage)?);
    config.map("Labels", environment::labels(&flags.label_file, &flags.label).map_err(Error::usage)?);
    config.some("StopSignal", flags.stop_signal.clone());
    config.some("StopTimeout", parsed("--stop-timeout", flags.stop_timeout.as_deref(), units::int)?);
    config.some("Healthcheck", health(flags)?);
    Ok(config)
}

fn health(flags: &ContainerFlags) -> Result<Option<Value>, Error> {
    let duration = |flag: &str, value: &Option<String>| -> Result<Option<i64>, Error> {
        let nanos = parsed(flag, value.as_deref(), units::duration)?;
        if nanos.is_some_and(|nanos| nanos < 0) {
            return Err(Error::usage(format!("{flag} cannot be negative")));
        }
        Ok(nanos)
    };
    let mut health = Object::default();
    if let Some(command) = flags.health_cmd.as_deref().filter(|command| !command.is_empty()) {
        health.set("Test", vec!["CMD-SHELL", command]);
    }
    health.some("Interval", duration("--health-interval", &flags.health_interval)?);
    health.some("Timeout", duration("--health-timeout", &flags.health_timeout)?);
    health.some("StartPeriod", duration("--health-start-period", &flags.health_start_period)?);
    health.some("StartInterval", duration("--health-start-interval", &flags.health_start_interval)?);
    let retries = parsed("--health-retries", flags.health_retries.as_deref(), units::int)?;
    if retries.is_some_and(|retries| retries < 0) {
        return Err(Error::usage("--health-retries cannot be negative"));
    }
    health.some("Retries", retries);
    if flags.no_healthcheck {
        if !health.0.is_empty() {
            return Err(Error::usage("--no-healthcheck conflicts with --health-* options"));
        }
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    Ok((!health.0.is_empty()).then_some(Value::Object(health.0)))
}

fn mounts_of(flags: &ContainerFlags, socket: Option<&str>) -> Result<Vec<Value>, Error> {
    let mut all = Vec::new();
    for spec in &flags.mount {
        all.push(mounts::mount(spec).map_err(|why| bad("--mount", spec, why))?);
    }
    if flags.use_api_socket {
        let socket = socket.ok_or_else(|| {
            Error::usage("--use-api-socket needs a daemon that is reached by a unix socket (-H unix://PATH)")
        })?;
        all.push(json!({"Type": "bind", "Source": socket, "Target": "/var/run/docker.sock"}));
    }
    Ok(all)
}

fn lifetime(host: &mut Object, flags: &ContainerFlags) -> Result<(), Error> {
    let policy = restart_policy(&flags.restart).map_err(Error::usage)?;
    if flags.rm && policy["Name"] != "no" {
        return Err(Error::usage("conflicting options: cannot specify both --restart and --rm"));
    }
    if policy["Name"] != "no" {
        host.set("RestartPolicy", policy);
    }
    host.flag("AutoRemove", flags.rm);
    host.some("Init", flags.init);
    host.some("ContainerIDFile", flags.cidfile.clone());
    host.some("Timeout", limit("--timeout", flags.timeout.as_deref())?);
    host.some("CpuTime", limit("--cpu-time", flags.cpu_time.as_deref())?);
    Ok(())
}

/// A limit in time: a duration above zero, or seconds, as `timeout` has them, and 0 for none. Nanoseconds.
pub fn limit(flag: &str, value: Option<&str>) -> Result<Option<i64>, Error> {
    let nanos = parsed(flag, value, units::seconds_or_duration)?;
    match (nanos, value) {
        (Some(nanos), Some(value)) if nanos < 0 => Err(bad(flag, value, "it cannot be negative")),
        _ => Ok(nanos),
    }
}

/// `no`, `always`, `unless-stopped`, `on-failure[:N]`, as the API's RestartPolicy.
pub fn restart_policy(text: &str) -> Result<Value, String> {
    if text.is_empty() {
        return Ok(json!({"Name": "no"}));
    }
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    let count = match count {
        None | Some("") => 0,
        Some(count) => count.parse::<u32>().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

fn storage_and_logs(host: &mut Object, flags: &ContainerFlags) -> Result<(), Error> {
    host.list("VolumesFrom", flags.volumes_from.clone());
    host.some("VolumeDriver", flags.volume_driver.clone());
    host.flag("ReadonlyRootfs", flags.read_only);
    host.some("ShmSize", parsed("--shm-size", flags.shm_size.as_deref(), units::bytes)?);
    host.map("StorageOpt", pairs("--storage-opt", &flags.storage_opt)?);
    host.map("Annotations", pairs("--annotation", &flags.annotation)?);
    let options = pairs("--log-opt", &flags.log_opt)?;
    if flags.log_driver.as_deref() == Some("none") && !options.is_empty() {
        return Err(Error::usage("invalid logging opts for driver none"));
    }
    if flags.log_driver.is_some() || !options.is_empty() {
        host.set("LogConfig", json!({"Type": flags.log_driver.as_deref().unwrap_or(""), "Config": options}));
    }
    Ok(())
}

/// `key=value` flags as a map.
pub fn pairs(flag: &str, values: &[String]) -> Result<Map<String, Value>, Error> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').ok_or_else(|| bad(flag, text, "it must be key=value"))?;
        Ok((key.to_owned(), Value::from(value)))
    };
    values.iter().map(pair).collect()
}

impl Object {
    /// The object as a value.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}
