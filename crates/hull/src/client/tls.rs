//! TLS to a daemon over TCP.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hull_api::Unverified;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;

use super::Io;
use crate::cli::TlsChoice;
use crate::error::words;

pub(super) async fn handshake(
    choice: &TlsChoice,
    address: &str,
    stream: TcpStream,
) -> io::Result<Box<dyn Io>> {
    let config = config(choice)?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Ok(Box::new(connector.connect(name, stream).await?))
}

fn config(choice: &TlsChoice) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match &choice.ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|e| in_file(ca, e))?;
            }
            builder.with_root_certificates(roots)
        }
        // `--tls` without `--tlsverify`, in Docker's meaning.
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified::new(provider))),
    };
    match (&choice.certificate, &choice.key) {
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| in_file(key, of_pem(&e)))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, private)
                .map_err(|e| in_file(certificate, e))
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(_), None) => Err(io::Error::other("--tlscert needs --tlskey")),
        (None, Some(_)) => Err(io::Error::other("--tlskey needs --tlscert")),
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|e| in_file(path, of_pem(&e)))?.collect();
    let found = found.map_err(|e| in_file(path, of_pem(&e)))?;
    if found.is_empty() {
        return Err(in_file(path, "no certificate in it"));
    }
    Ok(found)
}

fn of_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => words(error),
        error => error.to_string(),
    }
}

fn in_file(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}
