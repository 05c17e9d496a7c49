//! The network's mechanism: bridges, veth pairs, addresses, firewall, published ports, name resolution.
//!
//! This crate knows the kernel and nothing of a container's life. What a network is to a user, its name, its
//! persistence and who is on it live in the engine; here are the calls that make it so, each synchronous and a few
//! milliseconds at most, spoken as netlink messages from this process: no `ip`, `nft` or `iptables` is executed.
//! Only [`dns::serve`] is asynchronous, because it serves as long as a container lives.
//!
//! | module | what lives there |
//! |---|---|
//! | [`Fabric`] | one daemon's bridges, endpoints and published ports in the kernel |
//! | [`Parent`] | interfaces of the machine that containers' own are made on (macvlan, ipvlan) |
//! | [`ipam`] | subnets and addresses, pure |
//! | [`ports`] | host ports, held by bound sockets |
//! | [`dns`] | the responder at 127.0.0.11 |
//! | [`files`] | the texts of /etc/hosts and /etc/resolv.conf, pure |
//! | [`netns`] | work inside a network namespace |

pub mod dns;
mod error;
mod fabric;
pub mod files;
mod firewall;
pub mod ipam;
mod netlink;
pub mod netns;
mod own_proc;
mod parent;
pub mod ports;
mod sysctl;

pub use error::{Error, Result};
pub use fabric::{Attached, Bridge, Endpoint, Fabric, Protocol, Published, PublishedBy, Subnet, mac_of};
pub use firewall::STAND_INS;
pub use parent::{Device, Given, IpvlanFlag, IpvlanMode, MacvlanMode, Mark, OnParent, Parent};
