//! Signatures of images with a key, as cosign makes them: a manifest under the tag `sha256-DIGEST.sig`, or one that refers
//! to the image, whose layers are what was signed, each with its signature among its annotations.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use serde::Deserialize;
use webpki::RawPublicKeyEntity;
use webpki::ring::{ECDSA_P256_SHA256, ECDSA_P384_SHA256, ED25519, RSA_PKCS1_2048_8192_SHA256};

use super::failure::{Answer, Failure};
use super::manifest::Descriptor;
use super::{Credentials, Registries, Repository};
use crate::reference::Reference;
use crate::{Digest, Error, Kind, Result};

/// What is signed.
const SIGNED: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const CLAIM: &str = "cosign container image signature";
/// What is signed is a few lines.
const SIGNED_LIMIT: usize = 1 << 20;
/// So many signatures are looked at.
const MOST: usize = 100;

/// A public key.
#[derive(Debug)]
pub struct PublicKey(SubjectPublicKeyInfoDer<'static>);

impl PublicKey {
    /// Reads `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// It is none, or of a kind that is not known.
    pub fn from_pem(pem: &str) -> Result<PublicKey> {
        let wrong = |why: String| Error::invalid(format!("the key is no public key in PEM: {why}"));
        let key = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| wrong(error.to_string()))?
            .into_owned();
        let key = PublicKey(key);
        match key.check(b"", b"") {
            Err(webpki::Error::InvalidSignatureForPublicKey) => Ok(key),
            Err(webpki::Error::BadDer) => Err(wrong("it is malformed".to_owned())),
            _ => Err(Error::new(
                Kind::NotImplemented,
                "the key is of no kind that is supported: ECDSA on P-256 or P-384, Ed25519 and RSA are",
            )),
        }
    }

    /// Whether it signed a message.
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.check(message, signature).is_ok()
    }

    fn check(&self, message: &[u8], signature: &[u8]) -> std::result::Result<(), webpki::Error> {
        const KINDS: [&dyn SignatureVerificationAlgorithm; 4] =
            [ECDSA_P256_SHA256, ECDSA_P384_SHA256, ED25519, RSA_PKCS1_2048_8192_SHA256];
        let key = RawPublicKeyEntity::try_from(&self.0).map_err(|_| webpki::Error::BadDer)?;
        let mut last = webpki::Error::BadDer;
        for kind in KINDS {
            match key.verify_signature(kind, message, signature) {
                // Of another kind than this one.
                Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {
                    last = webpki::Error::UnsupportedCriticalExtension
                }
                decided => return decided,
            }
        }
        Err(last)
    }
}

/// An image that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The digest that was signed: what the name means now.
    pub digest: Digest,
    /// How many signatures of the key there are.
    pub signatures: usize,
}

/// The manifest of signatures: what is no image.
#[derive(Deserialize)]
struct Signatures {
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SignedImage {
    docker_manifest_digest: Digest,
}

impl Registries {
    /// Whether what a name means in its registry was signed with a key.
    ///
    /// # Errors
    /// It was not ([`Kind::Forbidden`]), it is not there, or the registry does not answer.
    pub async fn verify(&self, name: &Reference, key: &PublicKey, who: &Credentials) -> Result<Verified> {
        let asked = async {
            let (repository, image) = self.named(name, who).await?;
            let layers = repository.signatures(&image.digest).await?;
            let mut signatures = 0;
            for layer in layers.iter().take(MOST) {
                signatures += usize::from(repository.is_signed(layer, &image.digest, key).await?);
            }
            Ok((image.digest, layers.len(), signatures))
        };
        let (digest, found, signatures) = asked.await.map_err(super::ask::refused)?;
        let name = name.familiar();
        match (found, signatures) {
            (0, _) => Err(Error::new(Kind::Forbidden, format!("{name} ({digest}) is not signed"))),
            (found, 0) => Err(Error::new(
                Kind::Forbidden,
                format!(
                    "{name} ({digest}) is not signed with this key: of its {found} signatures none is of it"
                ),
            )),
            (_, signatures) => Ok(Verified { digest, signatures }),
        }
    }
}

impl Repository {
    /// What was signed of an image, with the signatures.
    async fn signatures(&self, of: &Digest) -> Answer<Vec<Descriptor>> {
        let mut layers = match self.manifest(&format!("sha256-{}.sig", of.hex())).await {
            Ok(raw) => signed(raw.digest, &raw.bytes)?,
            Err(Failure::Refused(refusal)) if refusal.is_unknown() => Vec::new(),
            Err(failure) => return Err(failure),
        };
        for referrer in self.referrers(of, Some(ARTIFACT)).await?.into_iter().take(MOST) {
            let raw = self.manifest(&referrer.digest.to_string()).await?;
            layers.extend(signed(raw.digest, &raw.bytes)?);
            layers.truncate(MOST);
        }
        Ok(layers)
    }

    async fn is_signed(&self, layer: &Descriptor, of: &Digest, key: &PublicKey) -> Answer<bool> {
        let signature = layer.annotations.get(SIGNATURE).and_then(|text| STANDARD.decode(text).ok());
        let Some(signature) = signature else { return Ok(false) };
        let payload = self.small_blob(layer, SIGNED_LIMIT).await?;
        Ok(key.signed(&payload, &signature) && claims(&payload, of))
    }
}

/// What was signed, with the signatures, by a manifest of that digest.
pub(super) fn signed(digest: Digest, bytes: &[u8]) -> Answer<Vec<Descriptor>> {
    let signatures: Signatures = serde_json::from_slice(bytes)
        .map_err(|error| Failure::Wrong(format!("the manifest of signatures {digest} is none: {error}")))?;
    Ok(signatures.layers.into_iter().filter(|layer| layer.media_type == SIGNED).collect())
}

/// Whether what was signed says that it is of that image.
pub(super) fn claims(payload: &[u8], of: &Digest) -> bool {
    serde_json::from_slice::<Payload>(payload)
        .is_ok_and(|said| said.critical.kind == CLAIM && said.critical.image.docker_manifest_digest == *of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_of_one_image() {
        let digest = Digest::of(b"image");
        let payload = |kind: &str, digest: &Digest| {
            serde_json::json!({ "critical": {
                "identity": { "docker-reference": "r/a" }, "image": { "docker-manifest-digest": digest }, "type": kind,
            }, "optional": null })
            .to_string()
        };
        assert!(claims(payload(CLAIM, &digest).as_bytes(), &digest));
        assert!(!claims(payload(CLAIM, &Digest::of(b"other")).as_bytes(), &digest));
        assert!(!claims(payload("another claim", &digest).as_bytes(), &digest));
        assert!(!claims(b"{}", &digest));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for wrong in ["", "word", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
            assert_eq!(PublicKey::from_pem(wrong).unwrap_err().kind, Kind::InvalidParameter, "{wrong}");
        }
    }
}
