//! The bridges and parents of networks: made with them, removed with the last that is on one.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::{Entry, Inner, Network, State, parent, plan};
use crate::database::Table;
use crate::{Error, Kind, Result};

impl Inner {
    pub(super) fn parents(&self) -> MutexGuard<'_, ()> {
        self.parents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the kernel have the bridges and parents of all networks, and no others of this instance.
    pub(super) fn ensure_wirings(&self) -> Result<()> {
        let plans: Vec<Arc<plan::Plan>> =
            self.state().by_id.values().filter_map(|entry| entry.plan.clone()).collect();
        let is_bridge =
            |name: &str| plans.iter().any(|plan| plan.bridge().is_some_and(|bridge| bridge.name == name));
        for name in self.fabric.bridges()?.into_iter().filter(|name| !is_bridge(name)) {
            tracing::info!(bridge = name, "a bridge of no network is removed");
            self.fabric.remove_bridge(&name)?;
        }
        let is_parent = |name: &str| {
            plans.iter().any(|plan| parent::of(&plan.wiring).is_some_and(|of| of.name() == name))
        };
        for name in self.fabric.parents()?.into_iter().filter(|name| !is_parent(name)) {
            tracing::info!(parent = name, "an interface that was a parent of no network's is removed");
            self.fabric.remove_parent(&name)?;
        }
        for plan in &plans {
            match &plan.wiring {
                plan::Wiring::Bridge(bridge) => self.fabric.ensure_bridge(bridge)?,
                // The machine's interface may come later; whoever starts a container before that is told.
                plan::Wiring::Parent(parent, _) => {
                    if let Err(error) = self.fabric.ensure_parent(parent) {
                        tracing::warn!(parent = parent.name(), %error, "a network's parent is not there");
                    }
                }
            }
        }
        Ok(())
    }

    /// The kernel's part of a new network, then its row.
    pub(super) fn build(&self, network: &Network) -> Result<()> {
        if network.config_only {
            return self.database.put(Table::Networks, &network.id, network);
        }
        let wiring = plan::plan(network)?.wiring;
        match &wiring {
            plan::Wiring::Bridge(bridge) => self.fabric.ensure_bridge(bridge)?,
            plan::Wiring::Parent(parent, _) => {
                let _parents = self.parents();
                self.fabric.ensure_parent(parent)?;
            }
        }
        self.database.put(Table::Networks, &network.id, network).inspect_err(|_| {
            if let Err(error) = self.unmake(&network.id, &wiring) {
                tracing::error!(network = network.name, %error, "an interface that no row names stays behind");
            }
        })
    }

    /// Takes back what [`Inner::build`] made for the network `id`: a bridge, or a parent that no other network is on.
    /// One whose making failed is among the networks still.
    pub(super) fn unmake(&self, id: &str, wiring: &plan::Wiring) -> Result<()> {
        match wiring {
            plan::Wiring::Bridge(bridge) => self.fabric.remove_bridge(&bridge.name)?,
            plan::Wiring::Parent(parent, _) => {
                let on_it = |entry: &Entry| {
                    let plan = entry.plan.as_ref();
                    plan.and_then(|plan| parent::of(&plan.wiring))
                        .is_some_and(|of| of.name() == parent.name())
                };
                // Whoever comes to it from here on is among the networks first, and makes it anew when this is done.
                let _parents = self.parents();
                let is_others =
                    self.state().by_id.iter().any(|(of, entry)| of.as_str() != id && on_it(entry));
                if !is_others {
                    self.fabric.remove_parent(parent.name())?;
                }
            }
        }
        Ok(())
    }
}

impl State {
    /// Whether a new network's bridge or parent is free for it.
    pub(super) fn check_wiring(&self, network: &Network) -> Result<()> {
        if network.config_only {
            return Ok(());
        }
        let wiring = plan::plan(network)?.wiring;
        let others = self.by_id.values().filter_map(|entry| Some((&*entry.network, entry.plan.as_deref()?)));
        for (other, plan) in others {
            match (&wiring, &plan.wiring) {
                (plan::Wiring::Bridge(own), plan::Wiring::Bridge(its)) if own.name == its.name => {
                    let (id, other, bridge) = (&network.id, &other.id, &own.name);
                    let message = format!(
                        "cannot create network {id} ({bridge}): conflicts with network {other} ({bridge}): \
                         networks have same bridge name"
                    );
                    return Err(Error::new(Kind::Forbidden, message));
                }
                _ => parent::check_shared(&wiring, &plan.wiring, &other.id)?,
            }
        }
        Ok(())
    }
}
