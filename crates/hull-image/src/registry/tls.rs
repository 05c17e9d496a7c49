//! TLS to registries: the system's authorities, and those of `certs.d`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::{Error, Result};

/// The system's authorities, read once.
static SYSTEM: OnceLock<RootCertStore> = OnceLock::new();

fn system_roots() -> &'static RootCertStore {
    SYSTEM.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!("read the system's certificate authorities: {error}");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        roots
    })
}

/// How to speak TLS with the registry `host`. `folders` are those of all registries' certificates
/// (`/etc/docker/certs.d`). An insecure registry is believed whatever it shows.
pub(super) fn config(host: &str, folders: &[PathBuf], insecure: bool) -> Result<ClientConfig> {
    let wrong =
        |error: rustls::Error| Error::new(crate::Kind::System, format!("set up TLS for {host}: {error}"));
    let own = OwnCertificates::read(host, folders)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(wrong)?;
    let verifier: Arc<dyn ServerCertVerifier> = if insecure {
        Arc::new(Unverified::new(provider))
    } else {
        let mut roots = system_roots().clone();
        for certificate in own.authorities {
            roots.add(certificate).map_err(wrong)?;
        }
        if roots.is_empty() {
            return Err(Error::new(
                crate::Kind::System,
                format!(
                    "no certificate authority is known on this machine, so that {host} cannot be told from others: \
                     install ca-certificates, or put its authority's certificate into /etc/hull/certs.d/{host}/ca.crt"
                ),
            ));
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::new(crate::Kind::System, format!("set up TLS for {host}: {error}")))?
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match own.client {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(wrong),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// What lies in a registry's folders: `*.crt` are authorities, `*.cert` with the `*.key` of the same name is who we are.
#[derive(Default)]
struct OwnCertificates {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl OwnCertificates {
    fn read(host: &str, folders: &[PathBuf]) -> Result<OwnCertificates> {
        let mut own = OwnCertificates::default();
        // A host has no slash and is no `..`: the grammar of references keeps it from that. Addresses are checked here.
        if host.contains('/') || host.starts_with('.') {
            return Ok(own);
        }
        for folder in folders {
            let folder = folder.join(host);
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(Error::file("read", &folder, error)),
            };
            let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => own.authorities.extend(certificates(&file)?),
                    Some("cert") => {
                        let key = file.with_extension("key");
                        if !key.exists() {
                            return Err(Error::invalid(format!(
                                "missing key {} for client certificate {}",
                                key.display(),
                                file.display()
                            )));
                        }
                        let parsed =
                            PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, error))?;
                        own.client = Some((certificates(&file)?, parsed));
                    }
                    Some("key") if !file.with_extension("cert").exists() => {
                        return Err(Error::invalid(format!(
                            "missing client certificate {} for key {}: authorities' certificates are called .crt, \
                             clients' .cert",
                            file.with_extension("cert").display(),
                            file.display()
                        )));
                    }
                    _ => {}
                }
            }
        }
        Ok(own)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| unreadable(path, error))?.collect();
    let found = found.map_err(|error| unreadable(path, error))?;
    match found.is_empty() {
        true => Err(unreadable(path, "there is no certificate in it")),
        false => Ok(found),
    }
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::new(crate::Kind::System, format!("read the certificate {}: {error}", path.display()))
}

/// A failed handshake in the words of Docker's clients, with what to do.
pub(super) fn told(host: &str, error: &std::io::Error) -> String {
    let known = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match known {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => format!(
            "tls: failed to verify certificate: x509: certificate signed by unknown authority (put the authority's \
             certificate into /etc/hull/certs.d/{host}/ca.crt)"
        ),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => "tls: failed to verify certificate: x509: certificate has expired or is not yet valid".to_owned(),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!("tls: failed to verify certificate: x509: certificate is not valid for {host}"),
        Some(rustls::Error::InvalidMessage(_)) => {
            "http: server gave HTTP response to HTTPS client (a registry without TLS is named by the daemon's \
             --insecure-registry)"
                .to_owned()
        }
        _ => format!("tls: {error}"),
    }
}

/// Takes anybody's certificate: what is said is encrypted, to whomever it is. For registries that the configuration calls
/// insecure, and for a daemon that its user does not want verified.
#[derive(Debug)]
pub struct Unverified(Arc<CryptoProvider>);

impl Unverified {
    /// With the provider's algorithms.
    pub fn new(provider: Arc<CryptoProvider>) -> Unverified {
        Unverified(provider)
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
