//! `cargo xtask corpus`: the Dockerfiles of `crates/hull-tests/corpus` built from the package registries that this machine
//! reaches, run, and what they print compared.
//!
//! The daemon is one of its own, on the machine's network: the steps' containers reach the registries by its bridge, with
//! this machine's resolver, certificates, proxies and apt's settings, which their base image gets.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hull_tests::{Daemon, Engine, corpus};

use crate::Result;
use crate::shell::{heading, run};

/// Nobody else's bridge, hopefully.
const BRIDGE: &str = "--bip=10.214.77.1/24";

/// Certificates of this machine, where the base image has them (Debian's package writes its own at their place here), and by
/// what programs look for them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
const IN_THE_BASE: &str = "/etc/ssl/of-the-host.pem";
const LOOKED_FOR: [&str; 6] = [
    "SSL_CERT_FILE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cafile",
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
];

/// Variables that say how registries are reached.
const PROXIES: [&str; 6] = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// Builds those whose names hold one of the words, or all.
pub(crate) fn check(options: &[&str]) -> Result<()> {
    if std::env::var_os("HULL_BIN").is_none() {
        heading("building hull");
        run("cargo", &["build", "--release", "--package", "hull"])?;
    }
    let wanted: Vec<_> = corpus()
        .into_iter()
        .filter(|one| options.is_empty() || options.iter().any(|word| one.name.contains(word)))
        .collect();
    let daemon = Daemon::on_this_network(Engine::Hull, &[BRIDGE]);
    daemon.import_busybox();
    let mut failed = Vec::new();
    if wanted.iter().any(|one| one.needs_packages()) {
        heading("debian:bookworm, with what this machine reaches registries by");
        base(&daemon)?;
    }
    heading("the corpus");
    for one in &wanted {
        let begun = Instant::now();
        let done = one.check(&|| daemon.client(&[]));
        println!("{:>6.1} s  {}", begun.elapsed().as_secs_f64(), one.name);
        if let Err(error) = done {
            println!("{error}");
            failed.push(one.name.as_str());
        }
    }
    println!("{} of {} were built and print what they should", wanted.len() - failed.len(), wanted.len());
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

/// The base image, made of Debian's packages, with this machine's settings on top.
fn base(daemon: &Daemon) -> Result<()> {
    daemon.ok(&["image", "bootstrap", "debian:bookworm"]);
    let folder = daemon.dir().join("work/base");
    fs::create_dir_all(folder.join("apt"))?;
    let mut lines = vec!["FROM debian:bookworm".to_owned(), "COPY apt/ /etc/apt/apt.conf.d/".to_owned()];
    for settings in apt_settings() {
        fs::copy(&settings, folder.join("apt").join(settings.file_name().unwrap_or_default()))?;
    }
    if Path::new(CERTIFICATES).exists() {
        fs::copy(CERTIFICATES, folder.join("certificates"))?;
        lines.push(format!("COPY certificates {IN_THE_BASE}"));
        lines.extend(LOOKED_FOR.iter().map(|name| format!("ENV {name}={IN_THE_BASE}")));
    }
    for name in PROXIES {
        if let Ok(value) = std::env::var(name) {
            lines.push(format!("ENV {name}={value:?}"));
        }
    }
    fs::write(folder.join("Dockerfile"), lines.join("\n"))?;
    daemon.ok(&["build", "-q", "-t", "debian:bookworm", "base"]);
    Ok(())
}

/// The files of apt's settings that say how to fetch.
fn apt_settings() -> Vec<PathBuf> {
    let files = fs::read_dir("/etc/apt/apt.conf.d").into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("Acquire::"))).collect()
}
