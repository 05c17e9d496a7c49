//! The texts of a container's /etc/hosts and /etc/resolv.conf, as Docker writes them.

use std::net::IpAddr;

/// What /etc/hosts is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    /// The container's own addresses, each with its names (host name first: "web", or "web.example web").
    pub own: Vec<(IpAddr, Vec<String>)>,
    /// `--add-host` and links, in the order given.
    pub extra: Vec<(String, IpAddr)>,
    /// The lines of IPv6 (::1 and the multicast groups) are written too.
    pub ipv6: bool,
}

/// The text of /etc/hosts.
pub fn hosts(_facts: &Hosts) -> String {
    String::new()
}

/// What /etc/resolv.conf is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The servers, in order.
    pub nameservers: Vec<IpAddr>,
    /// The search domains, in order.
    pub search: Vec<String>,
    /// The options, in order: "ndots:0".
    pub options: Vec<String>,
}

/// The text of /etc/resolv.conf.
pub fn resolv_conf(_facts: &ResolvConf) -> String {
    String::new()
}
