//! `hull daemon`, from its flags to its end.

mod registries;
mod reload;
mod runtimes;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, Parser};
use hull_build::Builder;
use hull_buildkit::BuildKit;
use hull_engine::model::{LogConfig, Ulimit};
use hull_engine::{Collection, DaemonConfig, Engine, Error, Remap, Result};
use hull_runtime::launcher::{self, Launcher};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

use self::reload::Reload;
use crate::policy::Guard;
use crate::server::{self, Listener, Service};
use crate::sockets::Sockets;
use crate::tls;

/// Runs the engine that clients talk to.
///
/// Containers do not depend on the daemon's life: end it, start it again, and they run on.
#[derive(Clone, Debug, Default, Parser, Deserialize)]
#[command(name = "hull daemon", no_binary_name = true)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Flags {
    /// Where clients connect: unix://PATH, tcp://ADDRESS:PORT, fd:// (several are possible)
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    hosts: Vec<String>,
    /// A further socket with a policy: PATH,RULE[,RULE...], of read-only, label=KEY[=VALUE], no-privilege, no-binds,
    /// no-host-namespaces, no-devices, and confined for the last four
    #[arg(long = "socket", value_name = "SOCKET")]
    sockets: Vec<String>,
    /// State that survives a reboot
    #[arg(long, value_name = "FOLDER")]
    data_root: Option<PathBuf>,
    /// State of this boot
    #[arg(long, value_name = "FOLDER")]
    exec_root: Option<PathBuf>,
    /// The file that holds the daemon's process id
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// The group that may use the unix socket, by name or number
    #[arg(short = 'G', long, value_name = "GROUP")]
    group: Option<String>,
    /// A JSON file with Docker's keys [default: /etc/hull/daemon.json, if it is there]
    #[arg(long, alias = "config-file", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// What is logged: debug, info, warn, error
    #[arg(short = 'l', long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Logs what the daemon does in detail
    #[arg(short = 'D', long)]
    debug: bool,
    /// A limit of containers that set none: NAME=SOFT[:HARD]
    #[arg(long = "default-ulimit", value_name = "LIMIT")]
    #[serde(skip)]
    default_ulimit: Vec<String>,
    /// The same, from the file
    #[arg(skip)]
    default_ulimits: BTreeMap<String, FileUlimit>,
    /// The log driver of containers that choose none: json-file, local, none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// An option of the log driver: NAME=VALUE
    #[arg(long = "log-opt", value_name = "OPTION")]
    #[serde(skip)]
    log_opt: Vec<String>,
    /// The same, from the file
    #[arg(skip)]
    log_opts: BTreeMap<String, String>,
    /// How containers' files are made of layers: overlayfs (also called overlay2), btrfs, vfs [default: the best that the
    /// file system carries, in this order]
    #[arg(short = 's', long, value_name = "NAME")]
    storage_driver: Option<String>,
    /// Gives containers a user namespace of their own, with the ids of /etc/subuid and /etc/subgid: default (those of
    /// hull, or else dockremap), USER[:GROUP] or UID[:GID]
    #[arg(long, value_name = "USER")]
    userns_remap: Option<String>,
    /// An option of the storage driver: overlay2.size=SIZE, the most that a container may write which does not say
    #[arg(long = "storage-opt", value_name = "OPTION")]
    #[serde(rename = "storage-opts")]
    storage_opt: Vec<String>,
    /// Whether images without a name that no container uses go by themselves: on or off [default: on]
    #[arg(long, value_name = "WORD")]
    image_gc: Option<String>,
    /// How long such an image stays: 168h, 30m, 10s [default: 168h]
    #[arg(long, value_name = "TIME")]
    image_gc_max_age: Option<String>,
    /// The disk's use from which on they go at once: a number of percent [default: 85]
    #[arg(long, value_name = "PERCENT")]
    image_gc_disk_use: Option<u8>,
    /// How often it is looked [default: 10m]
    #[arg(long, value_name = "TIME")]
    image_gc_every: Option<String>,
    /// Address and prefix length of the default bridge
    #[arg(long, value_name = "ADDRESS")]
    bip: Option<String>,
    /// Where networks take their subnets from: base=SUBNET,size=BITS (several are possible)
    #[arg(long = "default-address-pool", value_name = "POOL")]
    #[serde(skip)]
    default_address_pool: Vec<String>,
    /// The same, from the file
    #[arg(skip)]
    default_address_pools: Vec<FilePool>,
    /// A name server of containers that set none
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// An option of their resolv.conf
    #[arg(long = "dns-opt", value_name = "OPTION")]
    #[serde(rename = "dns-opts")]
    dns_opt: Vec<String>,
    /// A domain in which they search names
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// A label of the daemon: NAME=VALUE
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// A folder with specifications of devices (CDI) [default: /etc/cdi and /var/run/cdi]
    #[arg(long = "cdi-spec-dir", value_name = "FOLDER")]
    #[serde(rename = "cdi-spec-dirs")]
    cdi_spec_dir: Vec<PathBuf>,
    /// A mirror of the default registry: https://ADDRESS
    #[arg(long = "registry-mirror", value_name = "ADDRESS")]
    registry_mirrors: Vec<String>,
    /// Mirrors of any registry, from the file: REGISTRY[/PREFIX] to addresses
    #[arg(skip)]
    mirrors: BTreeMap<String, Vec<String>>,
    /// A registry without TLS, or with one that proves nothing: HOST[:PORT] or SUBNET
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    insecure_registries: Vec<String>,
    /// The host where images are that name no registry [default: registry-1.docker.io]
    #[arg(long, value_name = "HOST")]
    default_registry: Option<String>,
    /// A folder with certificates for single registries [default: /etc/docker/certs.d and /etc/hull/certs.d]
    #[arg(long = "certs-dir", value_name = "FOLDER")]
    #[serde(rename = "certs-dirs")]
    certs_dir: Vec<PathBuf>,
    /// How long a registry may be silent, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS")]
    registry_timeout: Option<u32>,
    /// How many layers are downloaded at once [default: 3]
    #[arg(long, value_name = "NUMBER")]
    max_concurrent_downloads: Option<usize>,
    /// How many layers are uploaded at once [default: 5]
    #[arg(long, value_name = "NUMBER")]
    max_concurrent_uploads: Option<usize>,
    /// How often a download is tried of which nothing comes [default: 5]
    #[arg(long, value_name = "NUMBER")]
    max_download_attempts: Option<usize>,
    /// Another OCI runtime with runc's command line, which containers can be made by: NAME=PATH (several are possible)
    #[arg(long = "add-runtime", value_name = "RUNTIME")]
    #[serde(skip)]
    runtime: Vec<String>,
    /// The same, from the file
    #[arg(skip)]
    runtimes: BTreeMap<String, runtimes::FileRuntime>,
    /// The runtime of containers that choose none [default: hull]
    #[arg(long, value_name = "NAME")]
    default_runtime: Option<String>,
    /// TLS on tcp://, without asking clients who they are
    #[arg(long)]
    tls: bool,
    /// TLS on tcp://, for clients whose certificate the authority has signed
    #[arg(long)]
    tlsverify: bool,
    /// The authority's certificate
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// The daemon's certificate
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// The daemon's key
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Lets everyone who reaches tcp:// have this machine: no TLS beyond loopback
    #[arg(long)]
    allow_root_to_anyone_on_the_network: bool,
}

/// A limit as Docker's file writes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct FileUlimit {
    name: String,
    hard: i64,
    soft: i64,
}

/// A pool as Docker's file writes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePool {
    base: String,
    size: u8,
}

/// The place of the daemon's socket where nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/hull/hull.sock";

/// What a daemon is, all told.
struct Settings {
    engine: DaemonConfig,
    hosts: Vec<String>,
    /// The sockets with a policy.
    guards: Vec<Guard>,
    pidfile: PathBuf,
    group: Option<u32>,
    tls: Option<tokio_rustls::TlsAcceptor>,
    level: tracing::Level,
    /// Clients on TCP are trusted from anywhere: they show a certificate, or the flag says so.
    trusted: bool,
}

/// Runs the daemon until it is told to end.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let parsed = command().try_get_matches_from(arguments).and_then(|matches| {
        let flags = <Flags as clap::FromArgMatches>::from_arg_matches(&matches)?;
        Ok((flags, matches))
    });
    let (flags, given) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            // Printing to a closed terminal is no reason to fail differently.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 125 } else { 0 });
        }
    };
    match start(flags, &given) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hull daemon: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The daemon's flags, for help, manual pages and completions.
pub fn command() -> clap::Command {
    <Flags as clap::CommandFactory>::command()
}

fn start(flags: Flags, given: &ArgMatches) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(
            hull_engine::Kind::Forbidden,
            "the daemon needs root: start it with `sudo hull daemon`",
        ));
    }
    let settings = settle(flags.clone(), given)?;
    let set_level = reload::log_to_standard_error(settings.level);
    let reload = Reload { flags, given: given.clone(), set_level };
    fs::create_dir_all(&settings.engine.exec_root).map_err(|error| {
        Error::system(format_args!("make the folder {}", settings.engine.exec_root.display()), error)
    })?;
    let _pidfile = Pidfile::write(&settings.pidfile)?;
    if let Some(remap) = &settings.engine.userns_remap {
        remap.warn_of_others()?;
        remap.probe(&settings.engine.data_root)?;
    }
    // Before there are threads: the launcher is a fork of a small process.
    let launcher = launcher::start()?;
    hull_runtime::shim::share_heap();
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(512)
        .thread_name("hull")
        .thread_stack_size(512 << 10)
        .enable_all()
        .build()
        .map_err(|error| Error::system("start the daemon's threads", error))?;
    let result = runtime.block_on(run(settings, launcher, &reload));
    // What still copies bytes for clients ends with the daemon.
    runtime.shutdown_background();
    result
}

async fn run(settings: Settings, launcher: Launcher, reload: &Reload) -> Result<()> {
    // Before anyone is told that it serves: who starts a daemon may end it at once.
    let failed = |error: std::io::Error| Error::system("wait for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
    // Who connects waits.
    let mut waiting = Vec::new();
    for host in &settings.hosts {
        waiting.extend(listeners(host, &settings).await?);
    }
    let file = settings.engine.data_root.join("sockets.json");
    let engine = Engine::open(settings.engine, launcher).await?;
    let builder = Builder::open(&engine).map_err(|failure| Error::new(failure.kind, failure.message))?;
    let builder = Arc::new(BuildKit::new(&engine, &Arc::new(builder)));
    let sockets =
        Sockets::open(Arc::clone(&engine), Arc::clone(&builder), file, settings.group, settings.guards)
            .await?;
    let mut tasks = tokio::task::JoinSet::new();
    for listener in waiting {
        tasks.spawn(listener.serve(Service::new(
            Arc::clone(&engine),
            Arc::clone(&builder),
            Arc::clone(&sockets),
        )));
    }
    for host in &settings.hosts {
        tracing::info!(host, "listening");
    }
    tell_ready();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "the daemon is ready");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload.run(&engine),
        }
    }
    tracing::info!("the daemon ends; containers run on");
    // Listeners go first, so that nobody is half served.
    sockets.close().await;
    tasks.shutdown().await;
    engine.leave_cgroups();
    Ok(())
}

/// Lays flags over the file over the defaults.
fn settle(mut flags: Flags, given: &ArgMatches) -> Result<Settings> {
    let file = read_file(flags.config.take(), given)?;
    let registries = registries::settle(&flags, &file)?;
    let exec_root = absolute(flags.exec_root.or(file.exec_root).unwrap_or_else(|| "/run/hull".into()))?;
    let data_root = absolute(flags.data_root.or(file.data_root).unwrap_or_else(|| "/var/lib/hull".into()))?;
    let tls_files = tls::Files {
        verify: flags.tlsverify || file.tlsverify,
        authority: flags.tlscacert.or(file.tlscacert),
        certificate: flags.tlscert.or(file.tlscert),
        key: flags.tlskey.or(file.tlskey),
    };
    let use_tls = flags.tls || file.tls || tls_files.verify;
    let both = |mut flags: Vec<String>, file: Vec<String>| {
        flags.extend(file);
        flags
    };
    let mut hosts = both(flags.hosts, file.hosts);
    if hosts.is_empty() {
        hosts.push(format!("unix://{}", exec_root.join("hull.sock").display()));
    }
    let guards = both(flags.sockets, file.sockets).iter().map(|text| text.parse()).collect::<Result<_>>()?;
    let open = flags.allow_root_to_anyone_on_the_network || file.allow_root_to_anyone_on_the_network;
    for host in &mut hosts {
        if let Some(address) = host.strip_prefix("tcp://") {
            *host = format!("tcp://{}", with_port(address, use_tls));
        }
        check_host(host, tls_files.verify, open)?;
    }
    let debug = flags.debug || file.debug;
    let level = log_level(flags.log_level.or(file.log_level).as_deref(), debug)?;
    let log = log_config(flags.log_driver.or(file.log_driver), &flags.log_opt, file.log_opts)?;
    let pools = pools(flags.default_address_pool, file.default_address_pools);
    let userns_remap = flags.userns_remap.or(file.userns_remap).filter(|user| !user.is_empty());
    let userns_remap = userns_remap.map(|user| Remap::of(&user)).transpose()?;
    let collection = collection(
        (flags.image_gc.or(file.image_gc), flags.image_gc_disk_use.or(file.image_gc_disk_use)),
        flags.image_gc_max_age.or(file.image_gc_max_age).as_deref(),
        flags.image_gc_every.or(file.image_gc_every).as_deref(),
    )?;
    let group = group_id(flags.group.or(file.group).as_deref())?;
    Ok(Settings {
        pidfile: flags.pidfile.or(file.pidfile).unwrap_or_else(|| exec_root.join("hull.pid")),
        group,
        trusted: tls_files.verify || open,
        tls: use_tls.then(|| tls::acceptor(&tls_files)).transpose()?,
        level,
        hosts,
        guards,
        engine: DaemonConfig {
            instance: DaemonConfig::instance_of(&exec_root),
            data_root,
            exec_root,
            debug,
            default_ulimits: ulimits(&flags.default_ulimit, file.default_ulimits)?,
            log,
            bip: flags.bip.or(file.bip),
            address_pools: pools,
            dns: if flags.dns.is_empty() { file.dns } else { flags.dns },
            dns_options: both(flags.dns_opt, file.dns_opt),
            dns_search: both(flags.dns_search, file.dns_search),
            labels: both(flags.labels, file.labels),
            cdi_spec_dirs: cdi_spec_dirs(flags.cdi_spec_dir, file.cdi_spec_dir),
            collection,
            default_size: default_size(&both(flags.storage_opt, file.storage_opt))?,
            storage_driver: flags.storage_driver.or(file.storage_driver),
            registries,
            runtimes: runtimes::all(
                &flags.runtime,
                file.runtimes,
                flags.default_runtime.or(file.default_runtime),
            )?,
            userns_remap,
        },
    })
}

/// When images go by themselves.
fn collection(
    (word, disk_use): (Option<String>, Option<u8>),
    max_age: Option<&str>,
    every: Option<&str>,
) -> Result<Collection> {
    let mut collection = Collection::default();
    match word.as_deref() {
        None => {}
        Some("on" | "true") => collection.on = true,
        Some("off" | "false") => collection.on = false,
        Some(other) => return Err(Error::invalid(format!("image-gc: {other:?} is neither on nor off"))),
    }
    if let Some(percent) = disk_use {
        if !(1..=100).contains(&percent) {
            return Err(Error::invalid(format!(
                "image-gc-disk-use: {percent} is no number of percent from 1 to 100"
            )));
        }
        collection.disk_use = percent;
    }
    let time = |name: &str, text: &str| {
        duration(text)
            .ok_or_else(|| Error::invalid(format!("{name}: {text:?} is no time, as 168h, 30m or 10s")))
    };
    if let Some(text) = max_age {
        collection.max_age = time("image-gc-max-age", text)?;
    }
    if let Some(text) = every {
        collection.every = time("image-gc-every", text)?;
    }
    Ok(collection)
}

/// `168h`, `1h30m`, `10s`.
fn duration(text: &str) -> Option<Duration> {
    let mut seconds = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let factor = match rest.as_bytes().get(digits)? {
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(factor)?)?;
        rest = rest.get(digits + 1..)?;
    }
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// The limit of containers that set none, out of the storage driver's options.
fn default_size(options: &[String]) -> Result<Option<u64>> {
    let mut size = None;
    for option in options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name.to_ascii_lowercase().as_str() {
            "overlay2.size" | "overlay.size" | "overlayfs.size" | "btrfs.size" => {
                size = Some(hull_engine::size_of(value).ok_or_else(|| {
                    Error::invalid(format!("invalid storage option {option:?}: {value:?} is no size"))
                })?);
            }
            _ => {
                return Err(Error::invalid(format!(
                    "unknown storage option {option:?}: there is overlay2.size=SIZE"
                )));
            }
        }
    }
    Ok(size.filter(|bytes| *bytes > 0))
}

/// The folders that are named, or Docker's.
fn cdi_spec_dirs(flags: Vec<PathBuf>, file: Vec<PathBuf>) -> Vec<PathBuf> {
    let named = if flags.is_empty() { file } else { flags };
    if named.is_empty() { vec!["/etc/cdi".into(), "/var/run/cdi".into()] } else { named }
}

/// How much is logged, by the level's name or, without one, by `debug`.
fn log_level(name: Option<&str>, debug: bool) -> Result<tracing::Level> {
    match name {
        None if debug => Ok(tracing::Level::DEBUG),
        None | Some("info") => Ok(tracing::Level::INFO),
        Some("debug") => Ok(tracing::Level::DEBUG),
        Some("warn") => Ok(tracing::Level::WARN),
        Some("error" | "fatal") => Ok(tracing::Level::ERROR),
        Some(other) => {
            Err(Error::invalid(format!("unknown log level {other:?}: debug, info, warn or error")))
        }
    }
}

fn read_file(path: Option<PathBuf>, given: &ArgMatches) -> Result<Flags> {
    let (path, asked) = match path {
        Some(path) => (path, true),
        None => (PathBuf::from("/etc/hull/daemon.json"), false),
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => return Ok(Flags::default()),
        Err(error) => {
            return Err(Error::system(format_args!("read the configuration {}", path.display()), error));
        }
    };
    let invalid = |error| Error::invalid(format!("the configuration {}: {error}", path.display()));
    let file = serde_json::from_str(&text).map_err(invalid)?;
    let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).map_err(invalid)?;
    let twice = said_twice(&keys, given);
    if !twice.is_empty() {
        return Err(Error::invalid(format!(
            "unable to configure the daemon with file {}: the following directives are specified both as a flag and in \
             the configuration file: {}",
            path.display(),
            twice.join(", ")
        )));
    }
    Ok(file)
}

/// The keys of the file that are flags on the command line as well, with both values: Docker takes neither.
fn said_twice(keys: &serde_json::Map<String, serde_json::Value>, given: &ArgMatches) -> Vec<String> {
    let on_the_command_line = |id: &str| {
        let known = given.ids().any(|known| known.as_str() == id);
        known && given.value_source(id) == Some(ValueSource::CommandLine)
    };
    keys.iter()
        .filter_map(|(key, value)| {
            // A flag that is given several times is called by one of what the key has many of.
            let many = key.replace('-', "_");
            let one = many.strip_suffix('s').unwrap_or(&many);
            let id = [many.as_str(), one].into_iter().find(|id| on_the_command_line(id))?;
            let raw = given.get_raw(id).into_iter().flatten();
            let values: Vec<String> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
            let flag = if values.is_empty() { "true".to_owned() } else { values.join(" ") };
            Some(format!("{key}: (from flag: {flag}, from file: {value})"))
        })
        .collect()
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path)
        .map_err(|error| Error::system(format_args!("use the folder {}", path.display()), error))
}

/// A TCP address with what it does not say: this machine, and Docker's port.
fn with_port(address: &str, tls: bool) -> String {
    let address = address.trim_end_matches('/');
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (address, ""),
    };
    let host = if host.is_empty() { "localhost" } else { host };
    match port {
        "" => format!("{host}:{}", if tls { 2376 } else { 2375 }),
        port => format!("{host}:{port}"),
    }
}

/// TCP to clients who need not say who they are is for this machine alone.
fn check_host(host: &str, verified: bool, open: bool) -> Result<()> {
    let Some(address) = host.strip_prefix("tcp://") else {
        if host.starts_with("unix://") || host.starts_with("fd://") || host.starts_with('/') {
            return Ok(());
        }
        return Err(Error::invalid(format!(
            "cannot listen on {host:?}: it is unix://PATH, tcp://ADDRESS:PORT or fd://"
        )));
    };
    let loopback = match address.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => address.split(':').next() == Some("localhost"),
    };
    if loopback || verified || open {
        return Ok(());
    }
    Err(Error::new(
        hull_engine::Kind::Forbidden,
        format!(
            "{host} without asking clients for a certificate would give root on this machine to everyone who reaches \
             it: use --tlsverify with certificates, listen on 127.0.0.1, or say --allow-root-to-anyone-on-the-network"
        ),
    ))
}

async fn listeners(host: &str, settings: &Settings) -> Result<Vec<Listener>> {
    let (group, tls) = (settings.group, settings.tls.clone());
    if let Some(path) = host.strip_prefix("unix://").or(host.starts_with('/').then_some(host)) {
        return Ok(vec![server::listen_unix(Path::new(path), group)?]);
    }
    if let Some(address) = host.strip_prefix("tcp://") {
        let listener = tokio::net::TcpListener::bind(&address)
            .await
            .map_err(|error| Error::system(format_args!("listen on tcp://{address}"), error))?;
        return Ok(vec![Listener::Tcp(listener, tls)]);
    }
    let descriptors = inherited();
    if descriptors.is_empty() {
        return Err(Error::invalid(
            "fd:// is for sockets that systemd hands over, and none was: LISTEN_FDS is not set for this process",
        ));
    }
    descriptors
        .into_iter()
        .map(|descriptor| server::listen_inherited(descriptor, tls.clone(), settings.trusted))
        .collect()
}

/// The descriptors that systemd hands over: from 3 on, LISTEN_FDS of them (sd_listen_fds(3)).
#[allow(unsafe_code)]
fn inherited() -> Vec<OwnedFd> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, 64);
    // SAFETY: systemd says by LISTEN_PID and LISTEN_FDS that these descriptors are open and this process's own;
    // nobody else in it has been told of them.
    (3..3 + count).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }).collect()
}

fn log_config(
    driver: Option<String>,
    flags: &[String],
    mut options: BTreeMap<String, String>,
) -> Result<LogConfig> {
    for option in flags {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("--log-opt {option}: it is NAME=VALUE")))?;
        options.insert(name.to_owned(), value.to_owned());
    }
    let config = LogConfig { driver: driver.unwrap_or_else(|| "json-file".to_owned()), config: options };
    hull_engine::container::check_log_config(&config)?;
    Ok(config)
}

fn ulimits(flags: &[String], file: BTreeMap<String, FileUlimit>) -> Result<BTreeMap<String, Ulimit>> {
    let mut ulimits: BTreeMap<String, Ulimit> = file
        .into_iter()
        .map(|(key, FileUlimit { name, hard, soft })| {
            let name = if name.is_empty() { key.clone() } else { name };
            (key, Ulimit { name, hard, soft })
        })
        .collect();
    for text in flags {
        let invalid = || Error::invalid(format!("--default-ulimit {text}: it is NAME=SOFT[:HARD]"));
        let (name, limits) = text.split_once('=').ok_or_else(invalid)?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| text.parse::<i64>().map_err(|_| invalid());
        let ulimit = Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)? };
        ulimits.insert(name.to_owned(), ulimit);
    }
    Ok(ulimits)
}

fn pools(flags: Vec<String>, file: Vec<FilePool>) -> Vec<String> {
    let mut pools = flags;
    pools.extend(file.into_iter().map(|FilePool { base, size }| format!("base={base},size={size}")));
    pools
}

/// The group of the socket: the one asked for, or `hull` if the machine has it.
fn group_id(asked: Option<&str>) -> Result<Option<u32>> {
    let name = asked.unwrap_or("hull");
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    // Read directly: a static binary has no name service switch.
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    if found.is_none() && asked.is_some() {
        return Err(Error::invalid(format!(
            "there is no group {name} on this machine: make it with `groupadd {name}`"
        )));
    }
    Ok(found)
}

/// Tells whoever started the daemon that it serves (sd_notify(3)).
fn tell_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        match path.as_bytes().strip_prefix(b"@") {
            Some(name) => {
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(b"READY=1", &address)
            }
            None => socket.send_to(b"READY=1", &path),
        }
    });
    if let Err(error) = told {
        tracing::warn!(%error, "nobody could be told that the daemon is ready");
    }
}

/// The file with the daemon's process id; removed at its end.
struct Pidfile(PathBuf);

impl Pidfile {
    fn write(path: &Path) -> Result<Pidfile> {
        if let Ok(text) = fs::read_to_string(path)
            && let Ok(pid) = text.trim().parse::<u32>()
            && pid != std::process::id()
            && is_daemon(pid)
        {
            return Err(Error::conflict(format!(
                "process {pid} is a daemon with the same pidfile {}: end it with `hull system stop`, or give this one \
                 roots and a pidfile of its own (--data-root, --exec-root, --pidfile)",
                path.display()
            )));
        }
        fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|error| Error::system(format_args!("write the pidfile {}", path.display()), error))?;
        Ok(Pidfile(path.to_owned()))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // It may have been removed with its folder.
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether that process is a daemon of hull's, and not another that got the number later.
fn is_daemon(pid: u32) -> bool {
    let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    program.ends_with(b"hull") && words.next() == Some(b"daemon")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_tcp_is_for_loopback() {
        for host in ["unix:///x", "/x", "fd://", "tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1"] {
            check_host(host, false, false).unwrap();
        }
        assert!(check_host("tcp://0.0.0.0:2375", false, false).unwrap_err().message.contains("--tlsverify"));
        check_host("tcp://0.0.0.0:2376", true, false).unwrap();
        assert_eq!(with_port("127.0.0.1", false), "127.0.0.1:2375");
        assert_eq!(with_port("example.org/", true), "example.org:2376");
        assert_eq!(with_port("[::1]", false), "[::1]:2375");
        assert_eq!(with_port("[::1]:1", true), "[::1]:1");
        assert_eq!(with_port(":7", true), "localhost:7");
        check_host("tcp://0.0.0.0:2375", false, true).unwrap();
        assert!(check_host("http://x", false, false).is_err());
    }

    #[test]
    fn what_is_said_twice_is_named() {
        let given = command()
            .try_get_matches_from([
                "--debug",
                "--label",
                "x=y",
                "--default-ulimit",
                "core=1",
                "--dns",
                "192.0.2.1",
            ])
            .unwrap();
        let said = |file: &str| said_twice(&serde_json::from_str(file).unwrap(), &given);
        assert_eq!(said(r#"{"debug": false}"#), ["debug: (from flag: true, from file: false)"]);
        assert_eq!(said(r#"{"labels": ["a=b"]}"#), [r#"labels: (from flag: x=y, from file: ["a=b"])"#]);
        assert_eq!(said(r#"{"default-ulimits": {}, "dns": []}"#).len(), 2);
        assert_eq!(said(r#"{"tls": true, "dns-search": [], "log-level": "info"}"#), [] as [&str; 0]);
    }

    #[test]
    fn times_are_read() {
        let seconds = |text: &str| duration(text).map(|time| time.as_secs());
        assert_eq!(
            (seconds("168h"), seconds("1h30m"), seconds("10s")),
            (Some(604_800), Some(5400), Some(10))
        );
        for text in ["", "0s", "h", "5", "5d", "1.5h", "-1s", "99999999999999999999h"] {
            assert_eq!(seconds(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = serde_json::from_str::<Flags>(r#"{"data-root": "/x", "storage-optz": []}"#).unwrap_err();
        assert!(error.to_string().contains("storage-optz"), "{error}");
        let file: Flags = serde_json::from_str(
            r#"{"hosts": ["fd://"], "log-opts": {"max-size": "1m"}, "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 2, "Soft": 1}},
                "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}], "debug": true}"#,
        )
        .unwrap();
        assert_eq!(ulimits(&["core=1:2".to_owned()], file.default_ulimits).unwrap().len(), 2);
        assert_eq!(pools(Vec::new(), file.default_address_pools), ["base=10.0.0.0/8,size=24"]);
    }
}
