//! What a container's place on its networks consists of in the kernel.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;

use hull_network::{Given, Mark, netns};
use serde::Serialize;

use super::Networks;
use crate::model::EndpointSettings;
use crate::{Error, Result};

/// A container's way onto one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wire {
    /// The network's name.
    pub network: String,
    /// The veth's end inside; empty of a container that does not run.
    pub name: String,
    /// The veth's other end, on the host; empty of a container that does not run.
    pub host_end: String,
    /// The bridge that the host's end is a port of; empty where there is a parent.
    pub bridge: String,
    /// The machine's interface that the container's is a device on; empty where there is a bridge.
    pub parent: String,
    /// The network's driver, which the device on a parent is of.
    #[serde(skip)]
    pub driver: String,
    /// Empty of a container that does not run and did not ask for one.
    pub mac_address: String,
    /// With their prefix lengths: `172.17.0.2/16`.
    pub addresses: Vec<String>,
    /// Where its default routes lead, or would if it had no other network.
    pub gateways: Vec<String>,
}

/// An element of the firewall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Element {
    /// The table, of the family inet.
    pub table: String,
    /// The map in it.
    pub map: &'static str,
    /// As nft(8) writes it: `tcp . 8080 : 172.17.0.2 . 80`.
    pub element: String,
    /// tcp, udp or sctp.
    pub protocol: String,
    /// The host's address; none is every one.
    pub host_address: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub container_address: IpAddr,
    /// The container's port.
    pub container_port: u16,
}

impl Wire {
    /// What its device was given, where it has one on a parent.
    fn given(&self) -> Given {
        let addresses = self.addresses.iter().filter_map(|text| text.split('/').next()?.parse().ok());
        Given {
            mac: super::endpoint::mac(&self.mac_address).unwrap_or_default(),
            addresses: addresses.collect(),
        }
    }
}

impl Networks {
    /// A container's way onto a network; none onto one without a bridge (`host`, `none`).
    ///
    /// # Errors
    /// There is no such network.
    pub(crate) fn wire(&self, name: &str, settings: &EndpointSettings) -> Result<Option<Wire>> {
        let state = self.inner.state();
        let entry = state.find(name)?;
        let Some(plan) = &entry.plan else { return Ok(None) };
        let address =
            |address: &str, length: u8| (!address.is_empty()).then(|| format!("{address}/{length}"));
        let addresses = [
            address(&settings.ip_address, settings.ip_prefix_len),
            address(&settings.global_ipv6_address, settings.global_ipv6_prefix_len),
        ];
        let gateways = [&settings.gateway, &settings.ipv6_gateway];
        Ok(Some(Wire {
            network: name.to_owned(),
            name: String::new(),
            host_end: plan.bridge().map(|_| super::leg::host_name(&settings.endpoint_id)).unwrap_or_default(),
            bridge: plan.bridge().map(|bridge| bridge.name.clone()).unwrap_or_default(),
            parent: super::parent::of(&plan.wiring).map(|of| of.name().to_owned()).unwrap_or_default(),
            driver: entry.network.driver.clone(),
            mac_address: settings.mac_address.clone(),
            addresses: addresses.into_iter().flatten().collect(),
            gateways: gateways.into_iter().filter(|gateway| !gateway.is_empty()).cloned().collect(),
        }))
    }

    /// The same with what the interfaces of a process are called.
    ///
    /// # Errors
    /// The process is gone, or the kernel refuses.
    pub(crate) fn interfaces_of(&self, pid: i32, wires: &[Wire]) -> Result<Vec<Wire>> {
        let mut wires = wires.to_vec();
        if wires.is_empty() {
            return Ok(wires);
        }
        let path = format!("/proc/{pid}/ns/net");
        let namespace =
            File::open(&path).map_err(|error| Error::system(format_args!("open {path}"), error))?;
        let inside = netns::inside(namespace.as_fd())?;
        let given: Vec<Given> = wires.iter().map(Wire::given).collect();
        for index in 0..wires.len() {
            let wire = &wires[index];
            let on_it = |other: &&Wire| other.parent == wire.parent && other.driver == wire.driver;
            let others = wires.iter().zip(&given).enumerate();
            let others = others.filter(|(other, (wire, _))| *other != index && on_it(wire));
            let others: Vec<Given> = others.map(|(_, (_, given))| given.clone()).collect();
            let mark = match wire.parent.as_str() {
                "" => Mark::HostEnd(&wire.host_end),
                parent => {
                    Mark::OnParent { parent, kind: &wire.driver, given: &given[index], others: &others }
                }
            };
            let found = self.inner.fabric.find(&inside, &mark);
            wires[index].name = found.map(|interface| interface.name.clone()).unwrap_or_default();
        }
        Ok(wires)
    }

    /// What the firewall has of a container's published ports.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn elements_of(&self, id: &str) -> Result<Vec<Element>> {
        let fabric = &self.inner.fabric;
        let mut own: Vec<_> = fabric.published()?.into_iter().filter(|by| by.owner == id).collect();
        own.sort();
        let element = |port: hull_network::Published| Element {
            table: fabric.table().to_owned(),
            map: port.map(),
            element: port.element(),
            protocol: port.protocol.to_string(),
            host_address: port.host_address.filter(|address| !address.is_unspecified()),
            host_port: port.host_port,
            container_address: port.container_address,
            container_port: port.container_port,
        };
        Ok(own.into_iter().map(|by| element(by.port)).collect())
    }
}
