//! The firewall: one nftables table for each daemon, `inet <instance>`, with a fixed number of rules.
//!
//! What changes (bridges, subnets, published ports) is elements of sets and maps. A thousand published ports are a
//! thousand elements of a hash map and cost a packet what one does; publishing is one transaction of elements.
//!
//! ```text
//! table inet hull {
//!   map  ports4       host address . protocol . port → container address . port   -p 192.0.2.1:80:80
//!   map  wildcard4    protocol . port → container address . port                  -p 80:80
//!   map  ports6, wildcard6                                                        the same for IPv6
//!   set  bridges      our bridges
//!   set  internal     those without a way out or in
//!   set  neighbours   bridge . bridge: whose containers reach each other
//!   set  subnets4/6   subnet . bridge: what is behind each bridge
//!   set  masquerade4/6  subnet . bridge: the same, of the bridges that masquerade
//!   set  open4/6      bridges whose containers are reached at every port
//!   set  routed4/6    bridges whose containers are reached at their own addresses, at published ports
//!   set  trusted      interface . bridge: who comes by it is let in as on a routed bridge
//!   set  direct4/6    container address . protocol . port: what is published on such bridges
//!   map  source4/6    bridge → the address that what leaves takes instead of the interface's
//!
//!   chain guard        prerouting, raw:     from a bridge to 127.0.0.0/8: drop                            (1)
//!   chain prerouting   prerouting, dstnat:  to an address of this machine: translate by map               (2)
//!   chain output       output, dstnat:      the same for this machine's own connections, 127.0.0.1 too    (2)
//!   chain refuse       output, filter:      still to an address that stands for an IPv6 one: refuse      (6)
//!   chain postrouting  postrouting, srcnat:
//!       translated, and leaving into the subnet it came from: masquerade                                  (3)
//!       leaving into the subnet it came from: as it is
//!       from a masqueraded subnet through its bridge: the address by source4/6, else masquerade
//!       from 127.0.0.0/8 to a bridge: masquerade                                                          (4)
//!   chain forward      forward, filter, policy accept:
//!       established and related: accept
//!       neighbours: accept
//!       from or to an internal bridge: drop
//!       to a bridge: accept what was translated                                                           (5)
//!       to a routed bridge, or from an interface that one trusts: accept what direct4/6 has; ICMP to a routed one
//!       from a bridge to a bridge: drop
//!       to an open bridge: accept; to another: drop
//! }
//! ```
//!
//! 1. Our bridges have `route_localnet`, because (4) needs it; without this rule a container could reach what the
//!    host serves on 127.0.0.1 (CVE-2020-8558). It stands before conntrack: an answer to (4) is addressed to the
//!    bridge then.
//! 2. The maps are asked for local destinations only (`fib daddr type local`), so a port published on every address
//!    does not catch connections that only pass through. `::1` is left alone: the kernel routes it nowhere else,
//!    for IPv6 has no `route_localnet`. What is not translated (all of IPv6 where the container has IPv4 only, else what
//!    is sent to ::1) its shim answers at `[::]` and goes on to 127.0.0.1 ([`crate::ports`]); at a single IPv6 address it
//!    goes on to a port of 127.208.0.0/16 that stands for it ([`STAND_INS`]). Where the container has no IPv4, ::1 is
//!    refused at once.
//! 3. A container that talks to itself or a neighbour by the host's port: the answer must come back this way. Where
//!    br_netfilter hands bridged packets to this table (`net.bridge.bridge-nf-call-iptables` 1), such a packet is sent
//!    back through the port it came from, so our ports are in hairpin mode then.
//! 4. The kernel lets no packet from 127.0.0.1 leave by another interface as it is.
//! 5. From outside only what was published comes in, and between our bridges only what was published passes, as in
//!    Docker. What neither comes from nor goes to one of our bridges passes untouched.
//! 6. Nobody holds those addresses. Where one leads to no container (it has left its last network, it moves to another),
//!    what is sent there would reach whoever listens at that port of every address, so the maps of every address are not
//!    asked for them, and what nobody has translated is refused. In a chain of its own, for another daemon's table may
//!    translate it behind this one.
//!
//! **Beside other firewalls.** An accept in one nftables table does not overrule a drop in another. Where Docker runs
//! on the machine, or firewalld or ufw with a forward policy of drop, forwarded packets of our bridges need leave
//! there as well: `iptables -I DOCKER-USER -i hull0 -j ACCEPT; iptables -I DOCKER-USER -o hull0 -m conntrack --ctstate
//! RELATED,ESTABLISHED -j ACCEPT`, or `firewall-cmd --zone=trusted --add-interface=hull0`. This crate edits no table
//! but its own.
//!
//! **Forwarding.** Containers need `net.ipv4.ip_forward`. Where it was off, turning it on would make the machine a
//! router between its other interfaces too. So before it is turned on, the table `inet hull-forward` is made: the
//! interfaces of that moment are elements of its set, and IPv4 packets from one of them to another are dropped.
//! Interfaces that come later (another engine's bridges, a VPN's) are not in it. The table is shared by all daemons
//! and stays, as the sysctl does, until the next boot. IPv6 forwarding is turned on in the same way, with a set of its
//! own, when the first bridge with an IPv6 gateway is made; interfaces that take router advertisements (`accept_ra` 1)
//! are set to go on doing so (`accept_ra` 2).
//!
//! **Connections that exist** when a port is published or taken back keep their way, since the NAT chains see a
//! connection's first packet only. For UDP, where a peer may send on without a pause, the conntrack entries of the
//! port are removed.

mod elements;

use std::net::Ipv6Addr;

pub(crate) use elements::{Ports, map_of, published, set_bridge};

use crate::Result;
use crate::netlink::Socket;
use crate::netlink::nft::{
    Base, CT_STATE, CT_STATUS, Element, Expression, Field, Hook, META_IIFNAME, META_L4PROTO, META_NFPROTO,
    META_OIFNAME, Set, Transaction,
};

const PORTS4: Set = Set {
    name: "ports4",
    key: &[Field::Address4, Field::Protocol, Field::Port],
    data: &[Field::Address4, Field::Port],
    interval: false,
};
const PORTS6: Set = Set {
    name: "ports6",
    key: &[Field::Address6, Field::Protocol, Field::Port],
    data: &[Field::Address6, Field::Port],
    interval: false,
};
const WILDCARD4: Set = Set {
    name: "wildcard4",
    key: &[Field::Protocol, Field::Port],
    data: &[Field::Address4, Field::Port],
    interval: false,
};
const WILDCARD6: Set = Set {
    name: "wildcard6",
    key: &[Field::Protocol, Field::Port],
    data: &[Field::Address6, Field::Port],
    interval: false,
};
const DIRECT4: Set = Set {
    name: "direct4",
    key: &[Field::Address4, Field::Protocol, Field::Port],
    data: &[],
    interval: false,
};
const DIRECT6: Set = Set {
    name: "direct6",
    key: &[Field::Address6, Field::Protocol, Field::Port],
    data: &[],
    interval: false,
};
const BRIDGES: Set = Set { name: "bridges", key: &[Field::Interface], data: &[], interval: false };
const INTERNAL: Set = Set { name: "internal", key: &[Field::Interface], data: &[], interval: false };
const NEIGHBOURS: Set =
    Set { name: "neighbours", key: &[Field::Interface, Field::Interface], data: &[], interval: false };
const SUBNETS4: Set =
    Set { name: "subnets4", key: &[Field::Address4, Field::Interface], data: &[], interval: true };
const SUBNETS6: Set =
    Set { name: "subnets6", key: &[Field::Address6, Field::Interface], data: &[], interval: true };
const MASQUERADE4: Set =
    Set { name: "masquerade4", key: &[Field::Address4, Field::Interface], data: &[], interval: true };
const MASQUERADE6: Set =
    Set { name: "masquerade6", key: &[Field::Address6, Field::Interface], data: &[], interval: true };

const OPEN4: Set = Set { name: "open4", key: &[Field::Interface], data: &[], interval: false };
const OPEN6: Set = Set { name: "open6", key: &[Field::Interface], data: &[], interval: false };

const ROUTED4: Set = Set { name: "routed4", key: &[Field::Interface], data: &[], interval: false };
const ROUTED6: Set = Set { name: "routed6", key: &[Field::Interface], data: &[], interval: false };
const TRUSTED: Set =
    Set { name: "trusted", key: &[Field::Interface, Field::Interface], data: &[], interval: false };
const SOURCE_OF4: Set =
    Set { name: "source4", key: &[Field::Interface], data: &[Field::Address4], interval: false };
const SOURCE_OF6: Set =
    Set { name: "source6", key: &[Field::Interface], data: &[Field::Address6], interval: false };

/// The sets and maps whose elements' keys end with a bridge's name.
const OF_BRIDGES: [Set; 14] = [
    BRIDGES,
    INTERNAL,
    NEIGHBOURS,
    SUBNETS4,
    SUBNETS6,
    MASQUERADE4,
    MASQUERADE6,
    OPEN4,
    OPEN6,
    ROUTED4,
    ROUTED6,
    TRUSTED,
    SOURCE_OF4,
    SOURCE_OF6,
];
const OF_PORTS: [Set; 6] = [PORTS4, PORTS6, WILDCARD4, WILDCARD6, DIRECT4, DIRECT6];

/// What the addresses begin with, of 127.0.0.0/8, that stand for single IPv6 addresses where shims answer. The rest is the
/// machine's own: resolvers listen there, and other programs.
pub const STAND_INS: [u8; 2] = [127, 208];

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

const IPV4: Expression<'_> = Expression::Equal { from: 0, value: &[libc::AF_INET as u8] };
const IPV6: Expression<'_> = Expression::Equal { from: 0, value: &[libc::AF_INET6 as u8] };
const FAMILY: Expression<'_> = Expression::Meta { key: META_NFPROTO, to: 0 };

/// IPS_DST_NAT: the connection's destination was translated.
const TRANSLATED: [Expression<'_>; 3] = [
    Expression::Connection { key: CT_STATUS, to: 0 },
    Expression::And { register: 0, mask: 1 << 5 },
    Expression::Differs { from: 0, value: &[0; 4] },
];

/// Makes the table, or brings the one of an earlier daemon to this version's rules; elements stay.
/// One transaction: no packet meets half a table.
pub(crate) fn open(socket: &mut Socket, table: &str) -> Result<()> {
    match make(socket, table, Expression::Refuse) {
        // A kernel that cannot refuse (CONFIG_NFT_REJECT); who asks waits.
        Err(error) if error.errno() == Some(libc::ENOENT) => make(socket, table, Expression::Drop),
        made => made,
    }
}

fn make(socket: &mut Socket, table: &str, refuse: Expression<'_>) -> Result<()> {
    let mut transaction = Transaction::new(table);
    transaction.add_table();
    for set in OF_PORTS.iter().chain(&OF_BRIDGES) {
        transaction.add_set(set);
    }
    for (name, kind, number, priority) in [
        ("guard", "filter", PREROUTING, -300),
        ("prerouting", "nat", PREROUTING, -100),
        ("output", "nat", OUTPUT, -100),
        ("refuse", "filter", OUTPUT, 0),
        ("postrouting", "nat", POSTROUTING, 100),
        ("forward", "filter", FORWARD, 0),
    ] {
        transaction.fresh_chain(name, Hook { kind, number, priority });
    }
    guard(&mut transaction);
    translate(&mut transaction, "prerouting");
    translate(&mut transaction, "output");
    transaction.rule("refuse", &to_stand_ins(refuse));
    postrouting(&mut transaction);
    forward(&mut transaction);
    transaction.commit(socket)
}

const DESTINATION4: Expression<'_> =
    Expression::Payload { base: Base::Network, offset: 16, length: 4, to: 0 };
const DESTINATION6: Expression<'_> =
    Expression::Payload { base: Base::Network, offset: 24, length: 16, to: 0 };
const SOURCE4: Expression<'_> = Expression::Payload { base: Base::Network, offset: 12, length: 4, to: 0 };
const SOURCE6: Expression<'_> = Expression::Payload { base: Base::Network, offset: 8, length: 16, to: 0 };

fn guard(transaction: &mut Transaction<'_>) {
    transaction.rule(
        "guard",
        &[
            Expression::Meta { key: META_IIFNAME, to: 0 },
            Expression::Lookup { set: BRIDGES.name, from: 0, to: None },
            FAMILY,
            IPV4,
            Expression::Payload { base: Base::Network, offset: 16, length: 1, to: 0 },
            Expression::Equal { from: 0, value: &[127] },
            Expression::Drop,
        ],
    );
}

/// What is sent to an address that stands for an IPv6 one.
fn to_stand_ins(verdict: Expression<'_>) -> [Expression<'_>; 5] {
    [
        FAMILY,
        IPV4,
        Expression::Payload { base: Base::Network, offset: 16, length: 2, to: 0 },
        Expression::Equal { from: 0, value: &STAND_INS },
        verdict,
    ]
}

fn translate(transaction: &mut Transaction<'_>, chain: &str) {
    const RTN_LOCAL: u32 = 2;
    const LOOPBACK6: [u8; 16] = Ipv6Addr::LOCALHOST.octets();
    let protocol = |to| Expression::Meta { key: META_L4PROTO, to };
    let port = |to| Expression::Payload { base: Base::Transport, offset: 2, length: 2, to };
    let local = RTN_LOCAL.to_ne_bytes();
    transaction.rule(
        chain,
        &[
            Expression::DestinationType { to: 0 },
            Expression::Differs { from: 0, value: &local },
            Expression::Return,
        ],
    );
    transaction.rule(
        chain,
        &[
            FAMILY,
            IPV4,
            DESTINATION4,
            protocol(1),
            port(2),
            Expression::Lookup { set: PORTS4.name, from: 0, to: Some(0) },
            Expression::TranslateDestination { ipv6: false, address: 0, port: 1 },
        ],
    );
    transaction.rule(chain, &to_stand_ins(Expression::Return));
    transaction.rule(
        chain,
        &[
            FAMILY,
            IPV4,
            protocol(0),
            port(1),
            Expression::Lookup { set: WILDCARD4.name, from: 0, to: Some(0) },
            Expression::TranslateDestination { ipv6: false, address: 0, port: 1 },
        ],
    );
    transaction.rule(
        chain,
        &[FAMILY, IPV6, DESTINATION6, Expression::Equal { from: 0, value: &LOOPBACK6 }, Expression::Return],
    );
    transaction.rule(
        chain,
        &[
            FAMILY,
            IPV6,
            DESTINATION6,
            protocol(4),
            port(5),
            Expression::Lookup { set: PORTS6.name, from: 0, to: Some(0) },
            Expression::TranslateDestination { ipv6: true, address: 0, port: 4 },
        ],
    );
    transaction.rule(
        chain,
        &[
            FAMILY,
            IPV6,
            protocol(0),
            port(1),
            Expression::Lookup { set: WILDCARD6.name, from: 0, to: Some(0) },
            Expression::TranslateDestination { ipv6: true, address: 0, port: 4 },
        ],
    );
}

fn postrouting(transaction: &mut Transaction<'_>) {
    let families = [
        (IPV4, SOURCE4, 1, SUBNETS4.name, MASQUERADE4.name, SOURCE_OF4.name),
        (IPV6, SOURCE6, 4, SUBNETS6.name, MASQUERADE6.name, SOURCE_OF6.name),
    ];
    for (family, source, after, subnets, masquerade, sources) in families {
        let leaving = [
            FAMILY,
            family,
            source,
            Expression::Meta { key: META_OIFNAME, to: after },
            Expression::Lookup { set: subnets, from: 0, to: None },
        ];
        let hairpin: Vec<_> =
            leaving.iter().chain(&TRANSLATED).copied().chain([Expression::Masquerade]).collect();
        transaction.rule("postrouting", &hairpin);
        let stays: Vec<_> = leaving.iter().copied().chain([Expression::Return]).collect();
        transaction.rule("postrouting", &stays);
        let outgoing = [
            FAMILY,
            family,
            source,
            Expression::Meta { key: META_IIFNAME, to: after },
            Expression::Lookup { set: masquerade, from: 0, to: None },
        ];
        let by_address = [
            Expression::Meta { key: META_IIFNAME, to: 0 },
            Expression::Lookup { set: sources, from: 0, to: Some(0) },
            Expression::TranslateSource { ipv6: after == 4, address: 0 },
        ];
        let addressed: Vec<_> = outgoing.iter().copied().chain(by_address).collect();
        transaction.rule("postrouting", &addressed);
        let masqueraded: Vec<_> = outgoing.iter().copied().chain([Expression::Masquerade]).collect();
        transaction.rule("postrouting", &masqueraded);
    }
    transaction.rule(
        "postrouting",
        &[
            FAMILY,
            IPV4,
            Expression::Payload { base: Base::Network, offset: 12, length: 1, to: 0 },
            Expression::Equal { from: 0, value: &[127] },
            Expression::Meta { key: META_OIFNAME, to: 0 },
            Expression::Lookup { set: BRIDGES.name, from: 0, to: None },
            Expression::Masquerade,
        ],
    );
}

fn forward(transaction: &mut Transaction<'_>) {
    const ESTABLISHED_RELATED: u32 = 0b110;
    let from = Expression::Meta { key: META_IIFNAME, to: 0 };
    let to = Expression::Meta { key: META_OIFNAME, to: 0 };
    let any_of = |set| Expression::Lookup { set, from: 0, to: None };
    transaction.rule(
        "forward",
        &[
            Expression::Connection { key: CT_STATE, to: 0 },
            Expression::And { register: 0, mask: ESTABLISHED_RELATED },
            Expression::Differs { from: 0, value: &[0; 4] },
            Expression::Accept,
        ],
    );
    transaction.rule(
        "forward",
        &[from, Expression::Meta { key: META_OIFNAME, to: 4 }, any_of(NEIGHBOURS.name), Expression::Accept],
    );
    transaction.rule("forward", &[from, any_of(INTERNAL.name), Expression::Drop]);
    transaction.rule("forward", &[to, any_of(INTERNAL.name), Expression::Drop]);
    let published: Vec<_> =
        [to, any_of(BRIDGES.name)].iter().chain(&TRANSLATED).copied().chain([Expression::Accept]).collect();
    transaction.rule("forward", &published);
    let protocol = |to| Expression::Meta { key: META_L4PROTO, to };
    let port = |to| Expression::Payload { base: Base::Transport, offset: 2, length: 2, to };
    for (family, destination, after, routed, direct, icmp) in [
        (IPV4, DESTINATION4, 1, ROUTED4.name, DIRECT4.name, &[libc::IPPROTO_ICMP as u8]),
        (IPV6, DESTINATION6, 4, ROUTED6.name, DIRECT6.name, &[libc::IPPROTO_ICMPV6 as u8]),
    ] {
        let published = [
            destination,
            protocol(after),
            port(after + 1),
            Expression::Lookup { set: direct, from: 0, to: None },
            Expression::Accept,
        ];
        let to_routed = [FAMILY, family, to, any_of(routed)];
        transaction.rule("forward", &to_routed.iter().chain(&published).copied().collect::<Vec<_>>());
        let trusted =
            [FAMILY, family, from, Expression::Meta { key: META_OIFNAME, to: 4 }, any_of(TRUSTED.name)];
        transaction.rule("forward", &trusted.iter().chain(&published).copied().collect::<Vec<_>>());
        let pinged = [protocol(0), Expression::Equal { from: 0, value: icmp }, Expression::Accept];
        transaction.rule("forward", &to_routed.iter().chain(&pinged).copied().collect::<Vec<_>>());
    }
    let between = [from, any_of(BRIDGES.name), to, any_of(BRIDGES.name), Expression::Drop];
    transaction.rule("forward", &between);
    for (family, open) in [(IPV4, OPEN4.name), (IPV6, OPEN6.name)] {
        transaction.rule("forward", &[FAMILY, family, to, any_of(open), Expression::Accept]);
    }
    transaction.rule("forward", &[to, any_of(BRIDGES.name), Expression::Drop]);
}

/// Removes the table and all in it.
pub(crate) fn close(socket: &mut Socket, table: &str) -> Result<()> {
    let mut transaction = Transaction::new(table);
    transaction.delete_table();
    ignore_absent(transaction.commit(socket))
}

fn ignore_absent(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn interface_bytes(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// Drops what passes between interfaces that the machine did not forward between before, of one family. See
/// "Forwarding" above.
pub(crate) fn keep_closed(socket: &mut Socket, ipv4: bool, interfaces: &[String]) -> Result<()> {
    const CLOSED4: Set = Set { name: "closed4", key: &[Field::Interface], data: &[], interval: false };
    const CLOSED6: Set = Set { name: "closed6", key: &[Field::Interface], data: &[], interval: false };
    let mut transaction = Transaction::new("hull-forward");
    transaction.add_table();
    transaction.add_set(&CLOSED4);
    transaction.add_set(&CLOSED6);
    transaction.fresh_chain("forward", Hook { kind: "filter", number: FORWARD, priority: 0 });
    let elements: Vec<_> = interfaces
        .iter()
        .map(|name| Element { key: interface_bytes(name).to_vec(), ..Element::default() })
        .collect();
    let set = if ipv4 { CLOSED4 } else { CLOSED6 };
    transaction.add_elements(set.name, "keeping forwarding closed", &elements);
    for (family, set) in [(IPV4, CLOSED4.name), (IPV6, CLOSED6.name)] {
        transaction.rule(
            "forward",
            &[
                FAMILY,
                family,
                Expression::Meta { key: META_IIFNAME, to: 0 },
                Expression::Lookup { set, from: 0, to: None },
                Expression::Meta { key: META_OIFNAME, to: 0 },
                Expression::Lookup { set, from: 0, to: None },
                Expression::Drop,
            ],
        );
    }
    transaction.commit(socket)
}
