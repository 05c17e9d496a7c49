//! What shims answer by IPv6: no firewall translates it into IPv4, nor leads `::1` anywhere.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hull_network::STAND_INS;
use hull_network::ports::Answered;

use super::{Port, Taken, Target, add};
use crate::model::PortBinding;
use crate::{Error, Kind};

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
            let stands = stand_in(*host, *number);
            if let Some(relay) = self.relays.get_mut(*relay) {
                relay.to = stands.into();
            }
            add(&mut self.published, port, stands, container, target);
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

/// The address and port of this machine's loopback that stand for those of IPv6 at which the shim answers: the firewall
/// leads from there to the container, wherever it is, and to nobody else ([`STAND_INS`]). They follow from what was asked
/// for, so that every daemon knows them. Two may have one: by chance alone, one pair in four thousand million, and then
/// another port of the host does.
pub(super) fn stand_in(host: Ipv6Addr, number: u16) -> (IpAddr, u16) {
    let fold = |bits: u64, byte: u8| (bits ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3); // FNV-1a
    let bits = number.to_be_bytes().into_iter().chain(host.octets()).fold(0xcbf2_9ce4_8422_2325, fold);
    let [a, b, c, d, ..] = (bits ^ bits << 32).to_be_bytes();
    let [first, second] = STAND_INS;
    (Ipv4Addr::new(first, second, a, b).into(), u16::from_be_bytes([c, d]).max(1))
}

/// What the firewall says of a container's ports, with the address that was asked for in the place of the one that stands
/// for it.
pub(in crate::networks) fn told(
    error: hull_network::Error,
    shown: &BTreeMap<String, Vec<PortBinding>>,
) -> Error {
    if let hull_network::Error::AlreadyPublished { protocol, address: Some(address), port } = &error
        && let Some((host, number)) = stood_for(shown, (*address, *port))
    {
        return Error::new(
            Kind::System,
            format!(
                "[{host}]:{number}/{protocol} cannot be published: what comes there would go on by {address}:{port}, as what \
                 comes to a port of another container's does; publish another port of [{host}]"
            ),
        );
    }
    error.into()
}

/// Whose place on the loopback this is, among those of a container.
fn stood_for(shown: &BTreeMap<String, Vec<PortBinding>>, at: (IpAddr, u16)) -> Option<(Ipv6Addr, u16)> {
    let places = shown.values().flatten();
    let mut read =
        places.filter_map(|place| Some((place.host_ip.parse().ok()?, place.host_port.parse().ok()?)));
    read.find(|(host, number)| stand_in(*host, *number) == at)
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
        assert_eq!(port.relays[0].to, (led.host_address.unwrap(), led.host_port).into());
        let [first, second, ..] = led.host_address.unwrap().to_string().parse::<Ipv4Addr>().unwrap().octets();
        assert_eq!([first, second], STAND_INS);
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
        // There the shim does not answer too: at that port of 127.0.0.1 is another, if any.
        drop(both);
        for (target, places) in [
            (dual, [("80/tcp", "::", "")].as_slice()),
            (Target { host_binding: "::".parse().ok(), ..dual }, &[("80/tcp", "", "")]),
            (Target { routed4: true, ..dual }, &[("80/tcp", "", "")]),
            (Target { routed4: true, ..dual }, &[("80/tcp", "::", ""), ("80/udp", "::1", "")]),
        ] {
            let taken = taken(places, &target).unwrap();
            assert!(taken.relays.is_empty(), "{places:?}: {:?}", taken.relays);
            let six = taken.shown["80/tcp"].iter().filter(|place| place.host_ip == "::").count();
            assert_eq!(six, 1, "{places:?}: {:?}", taken.shown);
        }
        // Of every address, it does.
        let every = taken(&[("80/tcp", "", "")], &dual).unwrap();
        assert_eq!((every.relays.len(), every.shown["80/tcp"].len()), (1, 2));
        assert_eq!(every.relays[0].to.ip(), Ipv4Addr::LOCALHOST);
        // Without shims that answer it is told that there is no IPv6.
        assert!(taken(&[("80/tcp", "::1", "")], &Target { relayed: false, ..target }).is_err());
        assert!(taken(&[("80/sctp", "::1", "")], &target).is_err());
    }
    #[test]
    fn each_ipv6_address_and_port_has_a_place_of_its_own() {
        let mut places = std::collections::HashSet::new();
        for last in 1..=100u128 {
            for number in [22, 25, 53, 80, 443, 993, 3000, 8080, 8443, 65535] {
                let host = Ipv6Addr::from(0x2001_0db8_u128 << 96 | last);
                let at = stand_in(host, number);
                assert!(at.1 != 0 && places.insert(at), "[{host}]:{number}");
                let shown = bindings(&[
                    ("80/tcp", "0.0.0.0", "80"),
                    ("81/tcp", &host.to_string(), &number.to_string()),
                ]);
                assert_eq!(stood_for(&shown, at), Some((host, number)));
            }
        }
    }

    #[test]
    fn a_place_that_is_anothers_is_told_of_by_the_address_that_was_asked_for() {
        let shown = bindings(&[("80/tcp", "::1", "3165"), ("81/tcp", "127.0.0.1", "3165")]);
        let (address, port) = stand_in(Ipv6Addr::LOCALHOST, 3165);
        let error = |address, port| hull_network::Error::AlreadyPublished {
            protocol: hull_network::Protocol::Tcp,
            address: Some(address),
            port,
        };
        let said = told(error(address, port), &shown).message;
        assert!(said.starts_with("[::1]:3165/tcp cannot be published"), "{said}");
        let other = told(error(Ipv4Addr::LOCALHOST.into(), 3165), &shown).message;
        assert!(other.contains("127.0.0.1:3165/tcp is already published"), "{other}");
    }
}
