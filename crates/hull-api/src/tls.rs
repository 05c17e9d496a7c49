//! TLS of the daemon's tcp sockets.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_engine::{Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// The files that a daemon was told of.
pub(crate) struct Files {
    /// Clients must show a certificate that the authority has signed.
    pub(crate) verify: bool,
    pub(crate) authority: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// Reads the files.
///
/// # Errors
/// One is missing or is not what it should be.
pub(crate) fn acceptor(files: &Files) -> Result<TlsAcceptor> {
    let need = |file: &Option<PathBuf>, flag: &str| {
        file.clone().ok_or_else(|| Error::invalid(format!("TLS needs --{flag}: the path of a PEM file")))
    };
    let certificates = certificates(&need(&files.certificate, "tlscert")?)?;
    let key_path = need(&files.key, "tlskey")?;
    let key = PrivateKeyDer::from_pem_reader(open(&key_path)?).map_err(|error| {
        Error::invalid(format!("no key could be read from {}: {error}", key_path.display()))
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::system("set TLS up", error))?;
    let config = if files.verify {
        let mut roots = RootCertStore::empty();
        for certificate in self::certificates(&need(&files.authority, "tlscacert")?)? {
            roots.add(certificate).map_err(|error| Error::invalid(format!("--tlscacert: {error}")))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::invalid(format!("--tlscacert: {error}")))?;
        config.with_client_cert_verifier(verifier)
    } else {
        config.with_no_client_auth()
    };
    let mut config = config
        .with_single_cert(certificates, key)
        .map_err(|error| Error::invalid(format!("--tlscert and --tlskey do not belong together: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file =
        File::open(path).map_err(|error| Error::system(format_args!("open {}", path.display()), error))?;
    Ok(BufReader::new(file))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read: std::result::Result<Vec<_>, _> = CertificateDer::pem_reader_iter(open(path)?).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Error::invalid(format!("{} holds no certificate", path.display()))),
        Err(error) => {
            Err(Error::invalid(format!("no certificate could be read from {}: {error}", path.display())))
        }
    }
}
