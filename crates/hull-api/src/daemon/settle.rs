//! Flags over the file over the defaults: what a daemon is.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use hull_engine::model::{LogConfig, Ulimit};
use hull_engine::{Collection, DaemonConfig, Error, Remap, Result};

use super::file::read_file;
use super::flags::{FilePool, FileUlimit, Flags};
use super::hosts::{check_host, with_port};
use super::{Settings, docker, registries, runtimes};
use crate::tls;

/// Lays flags over the file over the defaults.
pub(super) fn settle(flags: Flags, given: &ArgMatches) -> Result<Settings> {
    let file = read_file(&flags, given)?;
    docker::check(&flags, &file)?;
    let registries = registries::settle(&flags, &file)?;
    let default_network = docker::default_network(&flags, &file)?;
    let defaults = docker::defaults(&flags, &file)?;
    let network_options =
        docker::network_options(&flags.default_network_opt, file.default_network_opts.clone())?;
    let live_restore = flags.live_restore.or(file.live_restore).unwrap_or(true);
    let shutdown = (!live_restore).then(|| docker::shutdown_timeout(&flags, &file));
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
        hosts.push(match flags.is_dockerd {
            true => "unix:///var/run/docker.sock".to_owned(),
            false => format!("unix://{}", exec_root.join("hull.sock").display()),
        });
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
    let (log, log_warning) = log_config(flags.log_driver.or(file.log_driver), &flags.log_opt, file.log_opts)?;
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
        shutdown,
        oom_score_adjust: flags.oom_score_adjust.or(file.oom_score_adjust),
        json_log: flags.log_format.or(file.log_format).as_deref() == Some("json"),
        pidfile: flags.pidfile.or(file.pidfile).unwrap_or_else(|| match flags.is_dockerd {
            true => "/var/run/docker.pid".into(),
            false => exec_root.join("hull.pid"),
        }),
        group,
        trusted: tls_files.verify || open,
        tls: use_tls.then(|| tls::acceptor(&tls_files)).transpose()?,
        level,
        warnings: log_warning.into_iter().collect(),
        hosts,
        guards,
        engine: DaemonConfig {
            instance: DaemonConfig::instance_of(&exec_root),
            data_root,
            exec_root,
            debug,
            default_ulimits: ulimits(&flags.default_ulimit, file.default_ulimits)?,
            log,
            defaults,
            default_network,
            userland_proxy: flags.userland_proxy.or(file.userland_proxy).unwrap_or(true),
            network_options,
            host_gateways: match [flags.host_gateway_ip, file.host_gateway_ip].concat() {
                none if none.is_empty() => file.one_host_gateway_ip.into_iter().collect(),
                named => named,
            },
            live_restore,
            selinux_enabled: flags.selinux_enabled || file.selinux_enabled,
            experimental: flags.experimental || file.experimental,
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
pub(super) fn log_level(name: Option<&str>, debug: bool) -> Result<tracing::Level> {
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

/// How containers log unless they say otherwise, and what of it is not taken as it was written.
fn log_config(
    driver: Option<String>,
    flags: &[String],
    mut options: BTreeMap<String, String>,
) -> Result<(LogConfig, Option<String>)> {
    for option in flags {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("--log-opt {option}: it is NAME=VALUE")))?;
        options.insert(name.to_owned(), value.to_owned());
    }
    let mut config = LogConfig { driver: driver.unwrap_or_else(|| "json-file".to_owned()), config: options };
    let warning = hull_engine::container::check_default_log_config(&mut config)?;
    Ok((config, warning))
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

pub(super) fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path)
        .map_err(|error| Error::system(format_args!("use the folder {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_daemon_with_too_many_log_files_starts_with_fewer() {
        let options = |count: &str| BTreeMap::from([("max-file".to_owned(), count.to_owned())]);
        let (config, warning) = log_config(Some("local".to_owned()), &[], options("2000")).unwrap();
        assert_eq!(config.config["max-file"], "1000");
        assert!(warning.is_some_and(|warning| warning.contains("2000 files are more than a log has")));
        let (config, warning) = log_config(Some("local".to_owned()), &[], options("1000")).unwrap();
        assert_eq!((config.config["max-file"].as_str(), warning), ("1000", None));
        assert!(log_config(Some("local".to_owned()), &[], options("0")).is_err());
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
