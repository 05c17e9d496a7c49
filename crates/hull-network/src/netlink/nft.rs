//! nftables over nfnetlink: a transaction of tables, chains, sets, rules and elements, all or nothing.
//!
//! Numbers are in network byte order here; registers are the 32-bit ones, so that a concatenation's fields lie where
//! they are written. See include/uapi/linux/netfilter/nf_tables.h.

use super::{Attributes, Batch, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, Socket, attribute, attributes};
use crate::Result;

const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// The table's family: IPv4 and IPv6 in one.
const NFPROTO_INET: u8 = 1;
/// One message's attributes must stay below 64 KiB; an element is at most some 250 bytes.
const ELEMENTS_IN_A_MESSAGE: usize = 200;

/// A transaction on one table.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    batch: Batch,
    table: &'a str,
    sets: u32,
}

/// struct nfgenmsg.
fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// A base chain's place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// The type of one field of a set's key, as `nft list` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Address4,
    Address6,
    Protocol,
    Port,
    Interface,
}

impl Field {
    /// nft's own number for the type, and its length.
    fn facts(self) -> (u32, u32) {
        match self {
            Field::Address4 => (7, 4),
            Field::Address6 => (8, 16),
            Field::Protocol => (12, 1),
            Field::Port => (13, 2),
            Field::Interface => (41, 16),
        }
    }
}

/// A set or map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [Field],
    /// A map's values.
    pub(crate) data: &'static [Field],
    /// Keys are ranges.
    pub(crate) interval: bool,
}

fn type_and_length(fields: &[Field]) -> (u32, u32) {
    fields.iter().fold((0, 0), |(kind, length), field| {
        let (number, bytes) = field.facts();
        (kind << 6 | number, length + bytes.next_multiple_of(4))
    })
}

/// One element. Each field of key and value is padded to four bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    /// The last key of a range, inclusive.
    pub(crate) key_end: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) comment: String,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(table: &'a str) -> Self {
        let mut batch = Batch::new();
        batch.message("beginning a firewall transaction", BATCH_BEGIN, 0, &[0, 0, 0, 10], |_| {});
        Transaction { batch, table, sets: 0 }
    }

    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<()> {
        let last = self.batch.messages.len() - 1;
        if last == 0 {
            return Ok(());
        }
        self.batch.message("committing a firewall transaction", BATCH_END, 0, &[0, 0, 0, 10], |_| {});
        socket.exchange(self.batch, last)
    }

    fn message(&mut self, what: String, kind: u16, flags: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        self.batch.message(what, kind, flags, &header(NFPROTO_INET), body);
    }

    /// Makes the table unless it is there.
    pub(crate) fn add_table(&mut self) {
        let table = self.table;
        self.message(format!("making nftables table {table}"), NEWTABLE, NLM_F_CREATE, |attributes| {
            attributes.text(1, table).be32(2, 0);
        });
    }

    pub(crate) fn delete_table(&mut self) {
        let table = self.table;
        self.message(format!("removing nftables table {table}"), DELTABLE, 0, |attributes| {
            attributes.text(1, table);
        });
    }

    /// Makes a base chain unless it is there, policy accept, and takes all its rules away.
    pub(crate) fn fresh_chain(&mut self, name: &str, hook: Hook) {
        let table = self.table;
        let what = format!("making chain {name} of nftables table {table}");
        self.message(what, NEWCHAIN, NLM_F_CREATE, |attributes| {
            attributes.text(1, table).text(3, name);
            attributes.nest(4, |inside| {
                inside.be32(1, hook.number).be32(2, hook.priority as u32);
            });
            attributes.be32(5, 1).text(7, hook.kind);
        });
        self.message(format!("clearing chain {name} of nftables table {table}"), DELRULE, 0, |attributes| {
            attributes.text(1, table).text(2, name);
        });
    }

    /// Makes a set unless it is there.
    pub(crate) fn add_set(&mut self, set: &Set) {
        const INTERVAL: u32 = 0x4;
        const MAP: u32 = 0x8;
        const CONCATENATION: u32 = 0x80;
        let table = self.table;
        self.sets += 1;
        let number = self.sets;
        let what = format!("making set {} of nftables table {table}", set.name);
        self.message(what, NEWSET, NLM_F_CREATE, |attributes| {
            let (key_type, key_length) = type_and_length(set.key);
            let mut flags = 0;
            if set.interval {
                flags |= INTERVAL | CONCATENATION;
            }
            if !set.data.is_empty() {
                flags |= MAP;
            }
            attributes.text(1, table).text(2, set.name).be32(3, flags);
            attributes.be32(4, key_type).be32(5, key_length);
            if !set.data.is_empty() {
                let (data_type, data_length) = type_and_length(set.data);
                attributes.be32(6, data_type).be32(7, data_length);
            }
            if set.interval {
                attributes.nest(9, |description| {
                    description.nest(2, |fields| {
                        for field in set.key {
                            fields.nest(1, |inside| {
                                inside.be32(1, field.facts().1);
                            });
                        }
                    });
                });
            }
            attributes.be32(10, number);
            if set.key == [Field::Interface] {
                // For `nft list` alone: a name is in the machine's byte order (NFTNL_UDATA_SET_KEYBYTEORDER).
                const HOST_ENDIAN: u32 = 1;
                let mut note = vec![0, 4];
                note.extend_from_slice(&HOST_ENDIAN.to_ne_bytes());
                attributes.bytes(13, &note);
            }
        });
    }

    /// Appends a rule.
    pub(crate) fn rule(&mut self, chain: &str, expressions: &[Expression<'_>]) {
        let table = self.table;
        let what = format!("adding a rule to chain {chain} of nftables table {table}");
        self.message(what, NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |attributes| {
            attributes.text(1, table).text(2, chain).nest(4, |list| {
                for expression in expressions {
                    list.nest(1, |inside| expression.write(inside));
                }
            });
        });
    }

    /// Adds elements; one that is there with the same value is no error, with another one it is EBUSY or EEXIST.
    pub(crate) fn add_elements(&mut self, set: &str, what: &str, elements: &[Element]) {
        self.elements(NEWSETELEM, NLM_F_CREATE, set, what, elements);
    }

    /// Removes elements; one that is not there is ENOENT.
    pub(crate) fn delete_elements(&mut self, set: &str, what: &str, elements: &[Element]) {
        self.elements(DELSETELEM, 0, set, what, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, what: &str, elements: &[Element]) {
        let table = self.table;
        for some in elements.chunks(ELEMENTS_IN_A_MESSAGE) {
            self.message(what.to_owned(), kind, flags, |attributes| {
                attributes.text(1, table).text(2, set).nest(3, |list| {
                    for element in some {
                        list.nest(1, |inside| element.write(inside));
                    }
                });
            });
        }
    }
}

const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_USERDATA: u16 = 6;
const ELEMENT_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;
/// nft's own type-length-value for a comment, so that `nft list` shows it; at most 127 bytes and a NUL.
const COMMENT: u8 = 0;

impl Element {
    fn write(&self, attributes: &mut Attributes<'_>) {
        let value = |attributes: &mut Attributes<'_>, kind, bytes: &[u8]| {
            if !bytes.is_empty() {
                attributes.nest(kind, |inside| {
                    inside.bytes(DATA_VALUE, bytes);
                });
            }
        };
        value(attributes, ELEMENT_KEY, &self.key);
        value(attributes, ELEMENT_KEY_END, &self.key_end);
        value(attributes, ELEMENT_DATA, &self.data);
        if !self.comment.is_empty() {
            let mut bytes = vec![COMMENT, self.comment.len() as u8 + 1];
            bytes.extend_from_slice(self.comment.as_bytes());
            bytes.push(0);
            attributes.bytes(ELEMENT_USERDATA, &bytes);
        }
    }

    fn read(bytes: &[u8]) -> Element {
        let mut element = Element::default();
        let value = |bytes: &[u8]| attribute(bytes, DATA_VALUE).map(<[u8]>::to_vec).unwrap_or_default();
        for (kind, bytes) in attributes(bytes) {
            match kind {
                ELEMENT_KEY => element.key = value(bytes),
                ELEMENT_KEY_END => element.key_end = value(bytes),
                ELEMENT_DATA => element.data = value(bytes),
                ELEMENT_USERDATA if bytes.first() == Some(&COMMENT) => {
                    element.comment = super::text(bytes.get(2..).unwrap_or_default());
                }
                _ => {}
            }
        }
        element
    }
}

/// Every element of a set.
pub(crate) fn elements(socket: &mut Socket, table: &str, set: &str) -> Result<Vec<Element>> {
    let mut batch = Batch::new();
    let what = format!("listing set {set} of nftables table {table}");
    batch.message(what, GETSETELEM, NLM_F_DUMP, &header(NFPROTO_INET), |attributes| {
        attributes.text(1, table).text(2, set);
    });
    let mut all = Vec::new();
    socket.dump(batch, |_, body| {
        let list = body.get(4..).and_then(|body| attribute(body, 3)).unwrap_or_default();
        all.extend(attributes(list).map(|(_, element)| Element::read(element)));
    })?;
    Ok(all)
}

/// Where a payload expression reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// A step of a rule. Registers are counted in fours of bytes, from 0.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expression<'a> {
    /// Bytes of the packet to a register.
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        to: u32,
    },
    /// A register into the packet; the transport checksum at `checksum` is kept right.
    Mangle {
        base: Base,
        offset: u32,
        length: u32,
        from: u32,
        checksum: u32,
    },
    /// A fact about the packet: see the META constants.
    Meta {
        key: u32,
        to: u32,
    },
    /// A fact about its connection: see the CT constants.
    Connection {
        key: u32,
        to: u32,
    },
    /// The type of the destination address (RTN_LOCAL is 2).
    DestinationType {
        to: u32,
    },
    /// Goes on when the register holds this.
    Equal {
        from: u32,
        value: &'a [u8],
    },
    /// Goes on when it does not.
    Differs {
        from: u32,
        value: &'a [u8],
    },
    /// Four bytes of a register and a mask, in place.
    And {
        register: u32,
        mask: u32,
    },
    /// Goes on when a set has the key at the register; a map puts its value at `to`.
    Lookup {
        set: &'a str,
        from: u32,
        to: Option<u32>,
    },
    /// Bytes to a register.
    Load {
        to: u32,
        value: &'a [u8],
    },
    /// Destination translation to the address and port at the registers.
    TranslateDestination {
        ipv6: bool,
        address: u32,
        port: u32,
    },
    /// Source translation to the address in a register.
    TranslateSource {
        ipv6: bool,
        address: u32,
    },
    /// Source translation to the leaving interface's address.
    Masquerade,
    Accept,
    Drop,
    /// Drops it, and tells who sent it that the port is not reached.
    Refuse,
    Return,
}

pub(crate) const META_IIFNAME: u32 = 6;
pub(crate) const META_OIFNAME: u32 = 7;
pub(crate) const META_NFPROTO: u32 = 15;
pub(crate) const META_L4PROTO: u32 = 16;
pub(crate) const CT_STATE: u32 = 0;
pub(crate) const CT_STATUS: u32 = 2;

impl Expression<'_> {
    fn write(&self, attributes: &mut Attributes<'_>) {
        /// NFT_REG32_00.
        const FIRST: u32 = 8;
        let mut named = |name: &str, body: &dyn Fn(&mut Attributes<'_>)| {
            attributes.text(1, name).nest(2, |inside| body(inside));
        };
        let value = |attributes: &mut Attributes<'_>, kind: u16, value: &[u8]| {
            attributes.nest(kind, |inside| {
                inside.bytes(DATA_VALUE, value);
            });
        };
        let verdict = |attributes: &mut Attributes<'_>, code: i32| {
            attributes.be32(1, 0).nest(2, |data| {
                data.nest(2, |verdict| {
                    verdict.be32(1, code as u32);
                });
            });
        };
        match *self {
            Expression::Payload { base, offset, length, to } => named("payload", &|a| {
                a.be32(1, FIRST + to).be32(2, base as u32).be32(3, offset).be32(4, length);
            }),
            Expression::Mangle { base, offset, length, from, checksum } => named("payload", &|a| {
                const CSUM_INET: u32 = 1;
                a.be32(2, base as u32).be32(3, offset).be32(4, length).be32(5, FIRST + from);
                a.be32(6, CSUM_INET).be32(7, checksum);
            }),
            Expression::Meta { key, to } => named("meta", &|a| {
                a.be32(1, FIRST + to).be32(2, key);
            }),
            Expression::Connection { key, to } => named("ct", &|a| {
                a.be32(1, FIRST + to).be32(2, key);
            }),
            Expression::DestinationType { to } => named("fib", &|a| {
                const RESULT_ADDRTYPE: u32 = 3;
                const DESTINATION: u32 = 1 << 1;
                a.be32(1, FIRST + to).be32(2, RESULT_ADDRTYPE).be32(3, DESTINATION);
            }),
            Expression::Equal { from, value: wanted } => named("cmp", &|a| {
                a.be32(1, FIRST + from).be32(2, 0);
                value(a, 3, wanted);
            }),
            Expression::Differs { from, value: unwanted } => named("cmp", &|a| {
                a.be32(1, FIRST + from).be32(2, 1);
                value(a, 3, unwanted);
            }),
            Expression::And { register, mask } => named("bitwise", &|a| {
                a.be32(1, FIRST + register).be32(2, FIRST + register).be32(3, 4);
                value(a, 4, &mask.to_ne_bytes());
                value(a, 5, &[0; 4]);
            }),
            Expression::Lookup { set, from, to } => named("lookup", &|a| {
                a.text(1, set).be32(2, FIRST + from);
                if let Some(to) = to {
                    a.be32(3, FIRST + to);
                }
            }),
            Expression::Load { to, value: bytes } => named("immediate", &|a| {
                a.be32(1, FIRST + to);
                value(a, 2, bytes);
            }),
            Expression::TranslateDestination { ipv6, address, port } => named("nat", &|a| {
                const DNAT: u32 = 1;
                let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
                a.be32(1, DNAT).be32(2, family as u32).be32(3, FIRST + address).be32(5, FIRST + port);
            }),
            Expression::TranslateSource { ipv6, address } => named("nat", &|a| {
                const SNAT: u32 = 0;
                let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
                a.be32(1, SNAT).be32(2, family as u32).be32(3, FIRST + address);
            }),
            Expression::Masquerade => named("masq", &|_| {}),
            Expression::Accept => named("immediate", &|a| verdict(a, 1)),
            Expression::Drop => named("immediate", &|a| verdict(a, 0)),
            Expression::Refuse => named("reject", &|a| {
                /// NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH.
                const UNREACHABLE: u32 = 2;
                const PORT: u8 = 1;
                a.be32(1, UNREACHABLE).u8(2, PORT);
            }),
            Expression::Return => named("immediate", &|a| verdict(a, -5)),
        }
    }
}
