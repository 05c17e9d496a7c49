//! Where clients connect: unix sockets, TCP, and what systemd hands over.

use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use hull_engine::{Error, Result};

use super::Settings;
use crate::server::{self, Listener};

/// A TCP address with what it does not say: this machine, and Docker's port.
pub(super) fn with_port(address: &str, tls: bool) -> String {
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
pub(super) fn check_host(host: &str, verified: bool, open: bool) -> Result<()> {
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

pub(super) async fn listeners(host: &str, settings: &Settings) -> Result<Vec<Listener>> {
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
}
