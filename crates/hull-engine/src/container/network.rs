//! Putting a container on a further network, and taking it off one: at once while it runs, at its next start
//! otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Container, Record, locked};
use crate::blocking::see_through;
use crate::events;
use crate::model::EndpointSettings;
use crate::networks::{Allocation, Live, Networks};
use crate::{Engine, Error, Kind, Result};

/// Whether a container may come to one more network.
fn check_joining(record: &Record, network: &str) -> Result<()> {
    let conflict = |message: &str| Err(Error::invalid(message));
    let mode = record.host_config.network_mode.as_str();
    if network == "host" && mode != "host" {
        return conflict("container cannot be disconnected from host network or connected to host network");
    }
    if mode == "host" || mode.starts_with("container:") {
        return conflict(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        );
    }
    if record.endpoints.contains_key(network) {
        // One that does not run only has its settings changed.
        return match record.is_running() {
            false => Ok(()),
            true => Err(Error::new(
                Kind::Forbidden,
                format!("endpoint with name {} already exists in network {network}", record.name),
            )),
        };
    }
    if record.endpoints.contains_key("none") || (network == "none" && !record.endpoints.is_empty()) {
        return conflict(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        );
    }
    Ok(())
}

impl Engine {
    /// Puts a container on a network.
    ///
    /// # Errors
    /// It is on it already, it shares another's network or has none, or the settings do not fit the network.
    pub async fn connect_network(
        self: &Arc<Self>,
        network: &str,
        container: &Arc<Container>,
        settings: EndpointSettings,
    ) -> Result<()> {
        let name = self.networks.check(network, &settings)?;
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        // A client that goes away leaves no interface behind that nobody has written down.
        see_through(
            "connect the container",
            async move { engine.connect_now(name, &container, settings).await },
        )
        .await
    }

    async fn connect_now(
        self: &Arc<Self>,
        name: String,
        container: &Arc<Container>,
        settings: EndpointSettings,
    ) -> Result<()> {
        let _transition = container.transition.lock().await;
        check_joining(&container.record(), &name)?;
        let joins = name.clone();
        let wanted = settings.clone();
        let joined = self
            .change_live(container, move |networks, live, allocation| {
                networks.connect(&joins, live, &wanted, allocation)
            })
            .await?;
        let before = container.record().clone();
        container.change(&self.database, |record| {
            record.endpoints.insert(name.clone(), joined.unwrap_or(settings))
        })?;
        self.refresh_files(container, before).await;
        self.tell_network(&name, container, "connect");
        Ok(())
    }

    /// Takes a container off a network.
    ///
    /// # Errors
    /// It is not on it, or the kernel refuses.
    pub async fn disconnect_network(
        self: &Arc<Self>,
        network: &str,
        container: &Arc<Container>,
        force: bool,
    ) -> Result<()> {
        let name = self.networks.resolve(network)?.name.clone();
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        see_through("disconnect the container", async move {
            engine.disconnect_now(name, &container, force).await
        })
        .await
    }

    async fn disconnect_now(
        self: &Arc<Self>,
        name: String,
        container: &Arc<Container>,
        force: bool,
    ) -> Result<()> {
        let _transition = container.transition.lock().await;
        if name == "host" && container.record().endpoints.contains_key(&name) {
            return Err(Error::invalid(
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        if !container.record().endpoints.contains_key(&name) {
            let the = if container.record().is_running() { "" } else { "the " };
            return Err(Error::new(
                Kind::System,
                format!("container {} is not connected to {the}network {name}", container.id),
            ));
        }
        let leaves = name.clone();
        let left = self
            .change_live(container, move |networks, live, allocation| {
                networks.disconnect(&leaves, live, allocation)
            })
            .await;
        if let Err(error) = left
            && !force
        {
            return Err(error);
        }
        let before = container.record().clone();
        container.change(&self.database, |record| record.endpoints.remove(&name))?;
        self.refresh_files(container, before).await;
        self.tell_network(&name, container, "disconnect");
        Ok(())
    }

    /// Lets a running container's /etc/hosts and /etc/resolv.conf follow its networks.
    async fn refresh_files(self: &Arc<Self>, container: &Arc<Container>, before: Record) {
        if !before.is_running() {
            return;
        }
        let (engine, changed) = (Arc::clone(self), Arc::clone(container));
        let work = tokio::task::spawn_blocking(move || engine.rewrite_files(&changed, &before));
        let written = work.await.unwrap_or_else(|error| Err(Error::system("write its files", error)));
        if let Err(error) = written {
            tracing::error!(container = container.id, %error, "its /etc/hosts and /etc/resolv.conf stay as they are");
        }
    }

    /// Changes the places of a running container in the kernel; its ports are written down after it. None: it does
    /// not run, and there is nothing to change there.
    async fn change_live<T: Send + 'static>(
        self: &Arc<Self>,
        container: &Arc<Container>,
        change: impl FnOnce(&Networks, &Live<'_>, &mut Allocation) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        if !container.record().is_running() {
            return Ok(None);
        }
        let (engine, container) = (Arc::clone(self), Arc::clone(container));
        let work = tokio::task::spawn_blocking(move || {
            let (name, hostname, pid, dns) = {
                let record = container.record();
                let dns = record.host_config.dns.clone().unwrap_or_default();
                (record.name.clone(), record.hostname().to_owned(), record.state.pid, dns)
            };
            let live = Live { id: &container.id, name: &name, hostname: &hostname, pid, dns: &dns };
            let mut allocation = locked(&container.allocation);
            let allocation = allocation.as_mut().ok_or_else(|| {
                Error::conflict(format!("container {} has no network of its own", container.id))
            })?;
            let changed = change(&engine.networks, &live, allocation)?;
            container.record().ports.clone_from(&allocation.ports);
            Ok(Some(changed))
        });
        work.await.unwrap_or_else(|error| Err(Error::system("change the container's networks", error)))
    }

    /// Tells that a container has come to a network or left it.
    pub(super) fn tell_network(&self, network: &str, container: &Container, action: &str) {
        let Ok(network) = self.networks.resolve(network) else { return };
        let attributes = BTreeMap::from([
            ("container".to_owned(), container.id.clone()),
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), network.driver.clone()),
        ]);
        self.events.publish(events::Kind::Network, action, &network.id, attributes);
    }
}
