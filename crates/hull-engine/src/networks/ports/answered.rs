//! What shims answer by IPv6: no firewall translates it into IPv4, nor leads `::1` anywhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_network::ports::Answered;

use super::{Port, Taken, Target, add};
use crate::model::PortBinding;

impl Target<'_> {
    /// Who answers what comes by IPv6 to a port of every address and is not translated: all of it where the container has
    /// IPv4 only, else what is sent to ::1.
    pub(super) fn answered(&self) -> Answered {
        if self.relayed && self.address4.is_some() { Answered::ByHolder } else { Answered::No }
    }

    /// The single IPv6 address, where it is the shim that answers there: no firewall leads from it to the container.
    pub(super) fn answered_for(&self, host: Option<IpAddr>) -> Option<Ipv6Addr> {
        let Some(IpAddr::V6(host)) = host else { return None };
        let by_firewall = self.address6.is_some() && (self.routed6 || !host.is_loopback());
        (self.relayed && self.address4.is_some() && !self.routed4 && !by_firewall).then_some(host)
    }
}

impl Taken {
    /// Has what the shim answers at single IPv6 addresses (with the port and the relay of each) go on to the container, by
    /// the address that stands for each.
    pub(super) fn lead(
        &mut self,
        port: Port,
        answered: &[(Ipv6Addr, u16, usize)],
        shown: &[PortBinding],
        target: &Target<'_>,
    ) {
        let Some(container) = target.address4.map(IpAddr::V4) else { return };
        for (host, number, relay) in answered {
            if is_led_with_ipv4(*host, *number, shown) {
                continue;
            }
            let stands = stand_in(*host);
            if let Some(relay) = self.relays.get_mut(*relay) {
                relay.to = (stands, *number).into();
            }
            add(&mut self.published, port, (stands.into(), *number), container, target);
        }
    }
}

/// Whether what the shim answers at this IPv6 address goes where the port of every IPv4 address leads.
pub(super) fn is_led_with_ipv4(host: Ipv6Addr, number: u16, shown: &[PortBinding]) -> bool {
    let every = |binding: &PortBinding| {
        binding.host_ip == Ipv4Addr::UNSPECIFIED.to_string() && binding.host_port == number.to_string()
    };
    host.is_unspecified() && shown.iter().any(every)
}

/// The address of this machine's loopback that stands for an IPv6 address at which the shim answers: the firewall leads
/// from there to the container, wherever it is. It follows from the address, so that every daemon knows it.
pub(super) fn stand_in(host: Ipv6Addr) -> Ipv4Addr {
    let fold = |bits: u32, byte: u8| (bits ^ u32::from(byte)).wrapping_mul(0x0100_0193); // FNV-1a
    let [_, b, c, d] = host.octets().into_iter().fold(0x811c_9dc5, fold).to_be_bytes();
    // The lower half is the machine's own: resolvers listen there.
    Ipv4Addr::new(127, b | 0x80, c, d)
}

#[cfg(test)]
mod tests {
    use super::super::tests::bindings;
    use super::super::{again, plan, take};
    use super::*;

    #[test]
    fn the_shim_answers_at_one_ipv6_address() {
        let target =
            Target { bridge: "b", address4: "10.0.0.2".parse().ok(), relayed: true, ..Target::default() };
        let taken = |list: &[(&str, &str, &str)], target: &Target<'_>| {
            take(&plan(&bindings(list), &[], false).unwrap(), target, ("web", "e1"))
        };
        let port = taken(&[("80/tcp", "::1", "")], &target).unwrap();
        let number = port.shown["80/tcp"][0].host_port.clone();
        assert_eq!(port.shown["80/tcp"][0].host_ip, "::1");
        // By an address that stands for it, which a daemon that comes back knows.
        let [led] = port.published.as_slice() else { panic!("{:?}", port.published) };
        assert_eq!(port.relays[0].to, (led.host_address.unwrap(), number.parse().unwrap()).into());
        assert!(led.host_address.unwrap().is_loopback() && led.host_address.unwrap() != Ipv4Addr::LOCALHOST);
        assert_eq!(again(&port.shown, &Target { relayed: false, ..target }).unwrap(), port.published);
        // Every IPv6 address by itself, and beside every IPv4 address, whose way it goes.
        drop(port);
        let alone = taken(&[("80/tcp", "::", &number)], &target).unwrap();
        assert_eq!((alone.published.len(), alone.relays.len()), (1, 1));
        assert_eq!(again(&alone.shown, &target).unwrap(), alone.published);
        drop(alone);
        let both = taken(&[("80/tcp", "::", &number), ("80/tcp", "0.0.0.0", &number)], &target).unwrap();
        assert_eq!(both.relays[0].to.ip(), Ipv4Addr::LOCALHOST);
        assert_eq!((both.published.len(), both.published[0].host_address), (1, None));
        assert_eq!(again(&both.shown, &target).unwrap(), both.published);
        // The firewall leads from an address of the machine's to a container with IPv6, and from ::1 nowhere.
        let dual = Target { address6: "fd00::2".parse().ok(), ..target };
        let answered = |host: &str, target: &Target<'_>| target.answered_for(host.parse().ok()).is_some();
        assert_eq!(
            ["::1", "fd00::1", "::", "127.0.0.1"].map(|host| answered(host, &dual)),
            [true, false, false, false]
        );
        // Without shims that answer it is told that there is no IPv6.
        assert!(taken(&[("80/tcp", "::1", "")], &Target { relayed: false, ..target }).is_err());
        assert!(taken(&[("80/sctp", "::1", "")], &target).is_err());
    }
}
