//! Networks that are none: a configuration that others have theirs of (`--config-only`, `--config-from`).

use std::sync::Arc;

use super::State;
use super::create::{Ipam, Network, NetworkCreate};
use crate::{Error, Kind, Result};

impl NetworkCreate {
    /// The row of what is a configuration only: as it was written, with nothing taken from any pool.
    pub(super) fn configuration(self, id: String, created: String) -> Network {
        Network {
            name: self.name,
            id,
            created,
            driver: "null".to_owned(),
            enable_ipv4: self.enable_ipv4.unwrap_or(true),
            enable_ipv6: self.enable_ipv6,
            ipam: Ipam { driver: "default".to_owned(), ..self.ipam },
            internal: false,
            attachable: false,
            options: self.options,
            labels: self.labels,
            configured: false,
            config_only: true,
            config_from: String::new(),
            left_out: Vec::new(),
        }
    }

    /// Takes over the configuration of another network.
    ///
    /// # Errors
    /// It has one of its own besides; in Docker's words.
    pub(super) fn configure(&mut self, from: &Network) -> Result<()> {
        let own = !self.ipam.config.is_empty()
            || self.enable_ipv6
            || !self.options.is_empty()
            || !self.labels.is_empty();
        if own {
            return Err(Error::new(
                Kind::Forbidden,
                "user specified configurations are not supported if the network depends on a configuration network",
            ));
        }
        self.ipam.clone_from(&from.ipam);
        self.options.clone_from(&from.options);
        self.labels.clone_from(&from.labels);
        (self.enable_ipv4, self.enable_ipv6) = (Some(from.enable_ipv4), from.enable_ipv6);
        Ok(())
    }

    /// What a configuration cannot have.
    pub(super) fn check_configuration(&self) -> Result<()> {
        if !self.config_only {
            return Ok(());
        }
        let refused = if !self.config_from.network.is_empty() {
            "a configuration network cannot depend on another configuration network"
        } else if self.internal
            || self.attachable
            || self.ingress
            || !matches!(self.scope.as_str(), "" | "local")
        {
            "configuration network can only contain network specific fields. Network operator fields like \
             [ ingress | internal | attachable | scope ] are not supported."
        } else {
            return Ok(());
        };
        Err(Error::new(Kind::Forbidden, refused))
    }
}

impl State {
    /// The network of that name that is a configuration only.
    pub(super) fn configuration(&self, name: &str) -> Result<Arc<Network>> {
        let entry = self.by_name.get(name).and_then(|id| self.by_id.get(id));
        let entry = entry.filter(|entry| entry.network.config_only);
        let network = entry.map(|entry| Arc::clone(&entry.network));
        network.ok_or_else(|| Error::not_found(format!("configuration network {name:?} does not exist")))
    }
}
