//! Registries: a client of the distribution specification, asynchronous and without policy of its own.
//!
//! - [`Registries`] is what a daemon has one of: the configuration ([`Settings`]) and the open lines.
//! - [`Session`] is one place ([`Endpoint`]) that was greeted: it knows how it wants to be told who asks, and does so.
//!   [`Session::call`] sends any request; what it answers to a request that is refused is a [`Failure`].
//! - [`Repository`] are the specification's verbs for one repository of it.
//! - [`Puller`] brings an image from there into the store, [`Pusher`] one from the store there.
//!
//! All that a registry says is an attacker's until its digest is right: bodies have limits, redirects lead to http(s)
//! only, credentials go to the host they are for, and lines that stand still are left.

mod artifact;
mod ask;
mod challenge;
mod connect;
mod credentials;
mod failure;
mod fetch;
mod last;
pub mod manifest;
mod pull;
mod push;
mod referrers;
mod repository;
mod session;
mod settings;
mod signature;
mod sources;
mod tls;
mod token;
mod upload;
mod wire;
pub mod words;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hyper_util::client::proxy::matcher::Matcher;

pub use artifact::Remote;
pub use ask::{Described, Found};
pub use challenge::Challenge;
pub use credentials::Credentials;
pub use failure::{Answer, Failure, Refusal};
pub use pull::{Keep, Pulled, Puller, Step, Tell, Wanted};
pub use push::{Push, Pusher, Sent};
pub use referrers::{Referred, Referrer};
pub use repository::{Blob, Repository};
pub use session::Session;
pub use settings::{Endpoint, Proxies, Settings};
pub use signature::{PublicKey, Verified};
pub use tls::Unverified;
pub use token::{Ask, Token, encode};
pub use upload::Mount;
pub use wire::{Body, Call, Payload, Reply, join};

use self::wire::Wire;

/// A host with its port, whether TLS is spoken with it, and whether it need not prove who it is.
type Host = (String, bool, bool);

/// All registries, as this daemon reaches them. It is cheap to clone: the clones share their lines.
#[derive(Clone)]
pub struct Registries {
    settings: Arc<RwLock<Arc<Settings>>>,
    proxies: Arc<Matcher>,
    wires: Arc<Mutex<HashMap<Host, Wire>>>,
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registries").field("settings", &self.settings()).finish_non_exhaustive()
    }
}

impl Registries {
    /// By that configuration, which was checked ([`Settings::check`]). Its proxies hold for as long as this is there.
    pub fn new(settings: Settings) -> Registries {
        Registries {
            proxies: Arc::new(settings.proxies.matcher()),
            settings: Arc::new(RwLock::new(Arc::new(settings))),
            wires: Arc::default(),
        }
    }

    /// The configuration by now.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes another configuration, which was checked. What is under way goes on by the old one.
    fn set(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        self.wires.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
