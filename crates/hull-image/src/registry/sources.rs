//! Where a repository is fetched from: its mirrors, one after the other, then its own registry.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::Registries;
use super::credentials::Credentials;
use super::failure::{Answer, Failure};
use super::repository::Repository;
use super::settings::Endpoint;

/// The places of one repository. One that failed is not asked again: a dead mirror costs one time-out for all.
pub(super) struct Sources {
    registries: Registries,
    endpoints: Vec<Endpoint>,
    who: Credentials,
    current: Mutex<Option<Current>>,
}

/// The place that is asked now.
#[derive(Clone)]
pub(super) struct Current {
    index: usize,
    pub(super) repository: Arc<Repository>,
}

impl Sources {
    pub(super) fn new(registries: Registries, endpoints: Vec<Endpoint>, who: Credentials) -> Sources {
        Sources { registries, endpoints, who, current: Mutex::default() }
    }

    /// The place to ask now; the first time, the first that answers.
    pub(super) async fn current(&self) -> Answer<Current> {
        let mut current = self.current.lock().await;
        match &*current {
            Some(current) => Ok(current.clone()),
            None => self.open(&mut current, 0).await,
        }
    }

    /// The place that was asked last, if any answered.
    pub(super) async fn asked(&self) -> Option<Current> {
        self.current.lock().await.clone()
    }

    /// The place to ask after one that failed; its failure, where there is no other. Who asks to go on from a place that
    /// another has left already gets the one that it went to.
    pub(super) async fn after(&self, failed: &Current, failure: Failure) -> Answer<Current> {
        let mut current = self.current.lock().await;
        if let Some(current) = &*current
            && current.index > failed.index
        {
            return Ok(current.clone());
        }
        if failed.index + 1 >= self.endpoints.len() {
            return Err(failure);
        }
        tracing::debug!(mirror = failed.repository.session.endpoint.host, %failure, "a mirror is left");
        self.open(&mut current, failed.index + 1).await
    }

    async fn open(&self, current: &mut Option<Current>, from: usize) -> Answer<Current> {
        let mut last = Failure::Line("there is no registry to ask".to_owned());
        for (index, endpoint) in self.endpoints.iter().enumerate().skip(from) {
            let scopes = vec![Repository::scope(&endpoint.repository, "pull")];
            match self.registries.greet(endpoint, &self.who, scopes).await {
                Ok(session) => {
                    let repository = Arc::new(Repository::of(session));
                    return Ok(current.insert(Current { index, repository }).clone());
                }
                Err(failure) => {
                    if endpoint.mirror {
                        tracing::warn!(mirror = endpoint.host, %failure, "a mirror does not answer");
                    }
                    last = failure;
                }
            }
        }
        Err(last)
    }
}
