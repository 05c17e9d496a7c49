//! `hull daemon`, from its flags to its end.

mod docker;
mod file;
mod flags;
mod hosts;
mod messages;
mod pidfile;
mod registries;
mod reload;
mod runtimes;
mod settle;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use hull_build::Builder;
use hull_buildkit::BuildKit;
use hull_engine::{DaemonConfig, Engine, Error, Result};
use hull_runtime::launcher::{self, Launcher};
use tokio::signal::unix::{SignalKind, signal};

pub use self::flags::{Flags, command};
use self::hosts::listeners;
use self::messages::log_to_standard_error;
use self::pidfile::Pidfile;
use self::reload::Reload;
use self::settle::settle;
use crate::policy::Guard;
use crate::server::Service;
use crate::sockets::Sockets;

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
    /// What of the configuration is not taken as it was written.
    warnings: Vec<String>,
    /// Messages are JSON objects.
    json_log: bool,
    /// How long containers have to end with the daemon (none: as long as they need), where they are to.
    shutdown: Option<Option<Duration>>,
    oom_score_adjust: Option<i32>,
    /// Clients on TCP are trusted from anywhere: they show a certificate, or the flag says so.
    trusted: bool,
}

/// Runs the daemon until it is told to end; one that was called as `dockerd` has Docker's places for its socket, pidfile
/// and configuration.
pub fn main(arguments: impl Iterator<Item = OsString>, is_dockerd: bool) -> ExitCode {
    let parsed = command().try_get_matches_from(arguments).and_then(|matches| {
        let flags = <Flags as clap::FromArgMatches>::from_arg_matches(&matches)?;
        Ok((Flags { is_dockerd, ..flags }, matches))
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

fn start(flags: Flags, given: &ArgMatches) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(
            hull_engine::Kind::Forbidden,
            "the daemon needs root: start it with `sudo hull daemon`",
        ));
    }
    let settings = settle(flags.clone(), given)?;
    if flags.validate {
        eprintln!("configuration OK");
        return Ok(());
    }
    let set_level = log_to_standard_error(settings.level, settings.json_log);
    docker::warn(&flags);
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let reload = Reload { flags, given: given.clone(), set_level };
    fs::create_dir_all(&settings.engine.exec_root).map_err(|error| {
        Error::system(format_args!("make the folder {}", settings.engine.exec_root.display()), error)
    })?;
    let _pidfile = Pidfile::write(&settings.pidfile)?;
    if let Some(remap) = &settings.engine.userns_remap {
        remap.warn_of_others()?;
        remap.probe(&settings.engine.data_root, settings.engine.storage_driver.as_deref())?;
    }
    // Before there are threads: the launcher is a fork of a small process.
    let launcher = launcher::start()?;
    // Behind the launcher, whose containers have a figure of their own.
    if let Some(adjust) = settings.oom_score_adjust {
        fs::write("/proc/self/oom_score_adj", adjust.to_string()).map_err(|error| {
            Error::system(format_args!("set the daemon's oom_score_adj to {adjust}"), error)
        })?;
    }
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
    // Most of what has run until here does not run again.
    hull_runtime::shim::trim_text();
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload.run(&engine),
        }
    }
    match settings.shutdown {
        None => tracing::info!("the daemon ends; containers run on"),
        Some(_) => tracing::info!("the daemon ends, and its containers with it"),
    }
    // Listeners go first, so that nobody is half served.
    sockets.close().await;
    tasks.shutdown().await;
    if let Some(patience) = settings.shutdown {
        // Who cannot wait says so again.
        tokio::select! {
            () = engine.stop_all(patience) => {}
            _ = terminate.recv() => tracing::warn!("told to end again: containers that are left run on"),
            _ = interrupt.recv() => tracing::warn!("told to end again: containers that are left run on"),
        }
    }
    engine.leave_cgroups();
    Ok(())
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
