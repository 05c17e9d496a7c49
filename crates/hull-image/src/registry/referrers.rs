//! What refers to an image in its registry: signatures, bills of materials, attestations.

use std::collections::BTreeMap;

use hyper::header::ACCEPT;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::failure::{Answer, Failure};
use super::manifest::{OCI_INDEX, Raw};
use super::repository::following;
use super::wire::Call;
use super::{Credentials, Registries, Repository, encode};
use crate::config::null_is_default;
use crate::reference::Reference;
use crate::{Digest, Result};

/// All pages of the list together may not be larger, in bytes, and there may not be more pages and entries.
const LIST_LIMIT: usize = 8 << 20;
const PAGES: usize = 100;
const MOST: usize = 10_000;

/// What refers to an image, as the distribution specification describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Of the manifest.
    #[serde(default, deserialize_with = "null_is_default")]
    pub media_type: String,
    /// The manifest's.
    pub digest: Digest,
    /// The manifest's.
    #[serde(default, deserialize_with = "null_is_default")]
    pub size: u64,
    /// What it is: `application/spdx+json`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub artifact_type: String,
    /// What is said of it.
    #[serde(default, deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

/// An image, and what refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referred {
    /// The digest that the name means now.
    pub digest: Digest,
    /// What refers to that.
    pub referrers: Vec<Referrer>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default, deserialize_with = "null_is_default")]
    manifests: Vec<Referrer>,
}

impl Registries {
    /// What refers to an image in its registry; with a type, only what is of that.
    ///
    /// # Errors
    /// The image is not there, or the registry does not answer.
    pub async fn referrers(
        &self,
        name: &Reference,
        artifact_type: Option<&str>,
        who: &Credentials,
    ) -> Result<Referred> {
        let asked = async {
            let (repository, image) = self.named(name, who).await?;
            let referrers = repository.referrers(&image.digest, artifact_type).await?;
            Ok(Referred { digest: image.digest, referrers })
        };
        asked.await.map_err(super::ask::refused)
    }

    /// The repository of an image, and what the name means there now.
    pub(super) async fn named(&self, name: &Reference, who: &Credentials) -> Answer<(Repository, Raw)> {
        let endpoint = self.settings().own(name);
        let scopes = vec![Repository::scope(&name.path, "pull")];
        let repository = Repository::of(self.greet(&endpoint, who, scopes).await?);
        let at = name.digest.clone().or_else(|| name.tag.clone()).unwrap_or_else(|| "latest".to_owned());
        let raw = repository.manifest(&at).await?;
        Ok((repository, raw))
    }
}

impl Repository {
    /// What refers to a manifest: as the registry lists it, or where that knows of no such list, as clients keep it under a
    /// tag that is made of the digest.
    ///
    /// # Errors
    /// The registry does not answer, or with something else than a list.
    pub async fn referrers(&self, of: &Digest, artifact_type: Option<&str>) -> Answer<Vec<Referrer>> {
        let mut referrers = match self.listed(of, artifact_type).await? {
            Some(referrers) => referrers,
            None => match self.manifest(&format!("sha256-{}", of.hex())).await {
                Ok(raw) => read(&raw.bytes)?,
                Err(Failure::Refused(refusal)) if refusal.is_unknown() => Vec::new(),
                Err(failure) => return Err(failure),
            },
        };
        // A registry need not know how to filter.
        referrers.retain(|one| artifact_type.is_none_or(|wanted| one.artifact_type == wanted));
        Ok(referrers)
    }

    /// The registry's own list; none where it has no such thing.
    async fn listed(&self, of: &Digest, artifact_type: Option<&str>) -> Answer<Option<Vec<Referrer>>> {
        let filter = artifact_type.map(|wanted| format!("?artifactType={}", encode(wanted)));
        let mut next = Some(self.url(&format!("referrers/{of}{}", filter.unwrap_or_default()))?);
        let (mut referrers, mut left) = (Vec::new(), LIST_LIMIT);
        for page in 0..PAGES {
            let Some(url) = next.take() else { break };
            let reply = match self.session.call(Call::new(Method::GET, url).header(ACCEPT, OCI_INDEX)).await {
                Err(Failure::Refused(refusal)) if page == 0 && refusal.status == StatusCode::NOT_FOUND => {
                    return Ok(None);
                }
                reply => reply?,
            };
            next = following(&reply);
            let bytes = reply.bytes(left, "the list of referrers").await?;
            left -= bytes.len();
            referrers.extend(read(&bytes)?);
            if referrers.len() > MOST {
                return Err(Failure::Wrong(format!("the list of referrers has more than {MOST}")));
            }
        }
        Ok(Some(referrers))
    }
}

fn read(bytes: &[u8]) -> Answer<Vec<Referrer>> {
    let page: Page = serde_json::from_slice(bytes)
        .map_err(|error| Failure::Wrong(format!("the list of referrers is none: {error}")))?;
    Ok(page.manifests)
}
