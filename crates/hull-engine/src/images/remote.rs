//! What registries are asked besides images: who one is there, what a name means there, what they have.

use hull_image::reference::Reference;
use hull_image::registry::{Credentials, Found, PublicKey};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::filter::Filters;
use crate::{Error, Result};

/// How many results a search has where nothing is said, and how many it may have.
const RESULTS: u32 = 25;
const MOST_RESULTS: u32 = 100;

impl Engine {
    /// Tries credentials at the registry that they name: the answer of `POST /auth`.
    ///
    /// # Errors
    /// It does not take them ([`crate::Kind::Unauthorized`]), or does not answer.
    pub async fn registry_login(&self, who: &Credentials) -> Result<Value> {
        let token = self.registries().login(who).await?;
        Ok(json!({ "Status": "Login Succeeded", "IdentityToken": token }))
    }

    /// What a name means in its registry: the answer of `GET /distribution/NAME/json`.
    ///
    /// # Errors
    /// It is not there, or not to be had.
    pub async fn image_remote(&self, name: &str, who: &Credentials) -> Result<Value> {
        let id = name.strip_prefix("sha256:").unwrap_or(name);
        if id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(Error::invalid("no manifest found for full image ID"));
        }
        let name = Reference::parse(name)?.or_latest();
        let described = self.registries().describe(&name, who).await?;
        Ok(json!({ "Descriptor": described.descriptor, "Platforms": described.platforms }))
    }

    /// What refers to an image in its registry; with a type, only what is of that.
    ///
    /// # Errors
    /// It is not there, or not to be had.
    pub async fn image_referrers(
        &self,
        name: &str,
        artifact_type: Option<&str>,
        who: &Credentials,
    ) -> Result<Value> {
        let name = Reference::parse(name)?.or_latest();
        let referred = self.registries().referrers(&name, artifact_type, who).await?;
        Ok(json!({ "Digest": referred.digest, "Referrers": referred.referrers }))
    }

    /// Whether what a name means in its registry was signed with a key, which is PEM.
    ///
    /// # Errors
    /// It was not ([`crate::Kind::Forbidden`]), it is not there, or the key is none.
    pub async fn image_verify(&self, name: &str, key: &str, who: &Credentials) -> Result<Value> {
        let (name, key) = (Reference::parse(name)?.or_latest(), PublicKey::from_pem(key)?);
        let verified = self.registries().verify(&name, &key, who).await?;
        let by_digest = Reference { tag: None, digest: Some(verified.digest.to_string()), ..name };
        Ok(json!({
            "Digest": verified.digest, "Reference": by_digest.familiar(), "Signatures": verified.signatures,
        }))
    }

    /// Searches a registry: `TERM`, or `HOST/TERM`.
    ///
    /// # Errors
    /// The limit or a filter makes no sense; the registry has no search, or does not answer.
    pub async fn image_search(
        &self,
        term: &str,
        limit: Option<u32>,
        filters: &Filters,
        who: &Credentials,
    ) -> Result<Vec<Found>> {
        filters.only(&["is-automated", "is-official", "stars"])?;
        let (automated, official) = (filters.boolean("is-automated")?, filters.boolean("is-official")?);
        let stars = filters.values("stars").iter().map(|value| {
            value.parse::<u64>().map_err(|_| Error::invalid(format!("invalid filter 'stars={value}'")))
        });
        let stars = stars.collect::<Result<Vec<u64>>>()?.into_iter().max().unwrap_or_default();
        let limit = limit.filter(|limit| *limit > 0).unwrap_or(RESULTS);
        if limit > MOST_RESULTS {
            return Err(Error::invalid(format!("limit {limit} is outside the range of [1, {MOST_RESULTS}]")));
        }
        let mut found = self.registries().search(term, limit, who).await?;
        found.retain(|one| {
            automated.is_none_or(|wanted| one.is_automated == wanted)
                && official.is_none_or(|wanted| one.is_official == wanted)
                && one.star_count >= stars
        });
        Ok(found)
    }
}
