//! Limits and annotations of a configuration as properties of a unit: what systemd must know, or it would set something
//! else when it looks at the unit again.
//!
//! Source: org.freedesktop.systemd1(5) and systemd.resource-control(5).

use std::collections::HashMap;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::wire::Value;
use crate::cgroup::{devices_for_systemd, io_weight, swap_alone, weight_of_shares};
use crate::{Error, Result};

/// A property's name and value.
pub(crate) type Property = (String, Value);

/// systemd's word for no limit.
const INFINITY: u64 = u64::MAX;

/// As the methods take them, `a(sv)`.
pub(super) fn marshal(properties: Vec<Property>) -> Value {
    let one = |(name, value)| Value::Struct(vec![Value::Text(name), Value::variant(value)]);
    Value::Array("(sv)".into(), properties.into_iter().map(one).collect())
}

/// What every scope has.
pub(super) fn of_scope(slice: &str, name: &str, pid: i32) -> Vec<Property> {
    let yes = |name: &str| (name.to_owned(), Value::Bool(true));
    let pids = Value::Array("u".into(), vec![Value::U32(pid.unsigned_abs())]);
    vec![
        ("Description".into(), Value::text(format!("container {}", name.trim_end_matches(".scope")))),
        ("Slice".into(), Value::text(slice)),
        ("Wants".into(), Value::texts([slice])),
        ("PIDs".into(), pids),
        // What is in the scope's cgroup is the container's and the runtime's from here on.
        yes("Delegate"),
        yes("CPUAccounting"),
        yes("MemoryAccounting"),
        yes(if is_v2() { "IOAccounting" } else { "BlockIOAccounting" }),
        yes("TasksAccounting"),
        // Whoever made the container ends it; not the machine's shutdown before them.
        ("DefaultDependencies".into(), Value::Bool(false)),
    ]
}

fn is_v2() -> bool {
    crate::cgroup::hierarchy().mode == crate::cgroup::HierarchyMode::V2
}

/// The limits that systemd has properties for.
pub(crate) fn limits(resources: Option<&LinuxResources>, with_devices: bool) -> Result<Vec<Property>> {
    match resources {
        Some(resources) => limits_of(resources, with_devices, is_v2()),
        None => Ok(Vec::new()),
    }
}

fn limits_of(resources: &LinuxResources, with_devices: bool, v2: bool) -> Result<Vec<Property>> {
    let mut all = Properties(Vec::new());
    if with_devices && let Some(rules) = resources.devices() {
        devices(rules, &mut all);
    }
    if let Some(limits) = resources.memory() {
        memory(limits, v2, &mut all)?;
    }
    if let Some(limits) = resources.cpu() {
        cpu(limits, v2, &mut all)?;
    }
    if let Some(pids) = resources.pids() {
        all.number(
            "TasksMax",
            u64::try_from(pids.limit()).ok().filter(|limit| *limit > 0).unwrap_or(INFINITY),
        );
    }
    let weight =
        resources.block_io().as_ref().and_then(|limits| limits.weight()).filter(|weight| *weight != 0);
    if let Some(weight) = weight {
        if v2 {
            all.number("IOWeight", io_weight(weight));
        } else {
            all.number("BlockIOWeight", u64::from(weight));
        }
    }
    if v2 {
        for (file, value) in resources.unified().iter().flatten() {
            unified(file, value, &mut all)?;
        }
    }
    Ok(all.0)
}

struct Properties(Vec<Property>);

impl Properties {
    fn put(&mut self, name: &str, value: Value) {
        self.0.push((name.to_owned(), value));
    }

    fn number(&mut self, name: &str, number: u64) {
        self.put(name, Value::U64(number));
    }
}

/// Without these, systemd would allow everything again when it loads its configuration anew.
fn devices(rules: &[oci_spec::runtime::LinuxDeviceCgroup], all: &mut Properties) {
    let allowed = devices_for_systemd(rules);
    all.put("DevicePolicy", Value::text(if allowed.is_some() { "strict" } else { "auto" }));
    let allowed = allowed.into_iter().flatten();
    let pair = |(device, access)| Value::Struct(vec![Value::Text(device), Value::Text(access)]);
    all.put("DeviceAllow", Value::Array("(ss)".into(), allowed.map(pair).collect()));
}

/// Below 0 is no limit.
fn or_infinity(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(INFINITY)
}

fn memory(limits: &LinuxMemory, v2: bool, all: &mut Properties) -> Result<()> {
    let given = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
    let limit = given(limits.limit());
    if let Some(limit) = limit {
        all.number(if v2 { "MemoryMax" } else { "MemoryLimit" }, or_infinity(limit));
    }
    if !v2 {
        return Ok(());
    }
    if let Some(reservation) = given(limits.reservation()) {
        all.number("MemoryLow", or_infinity(reservation));
    }
    if let Some(swap) = swap_alone(limit, given(limits.swap()))? {
        all.number("MemorySwapMax", swap.parse().unwrap_or(INFINITY));
    }
    Ok(())
}

fn cpu(limits: &LinuxCpu, v2: bool, all: &mut Properties) -> Result<()> {
    if let Some(shares) = limits.shares().filter(|shares| *shares != 0) {
        if v2 {
            all.number("CPUWeight", weight_of_shares(shares));
        } else {
            all.number("CPUShares", shares);
        }
    }
    quota(limits.quota().filter(|quota| *quota != 0), limits.period().filter(|period| *period != 0), all);
    // On v1 systemd leaves the cpuset controller alone.
    if v2 {
        for (name, list) in [("AllowedCPUs", limits.cpus()), ("AllowedMemoryNodes", limits.mems())] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                all.put(name, Value::bytes(&bits(list)?));
            }
        }
    }
    Ok(())
}

/// systemd keeps whole percents: rounded up, so that what is written into the cgroup's own file never is above it.
fn quota(quota: Option<i64>, period: Option<u64>, all: &mut Properties) {
    const SECOND: u64 = 1_000_000;
    const PERCENT: u64 = SECOND / 100;
    if let Some(period) = period {
        all.number("CPUQuotaPeriodUSec", period);
    }
    if quota.is_none() && period.is_none() {
        return;
    }
    let period = period.unwrap_or(100_000);
    let of_second = match quota.map(u64::try_from) {
        Some(Ok(quota)) => quota.saturating_mul(SECOND).checked_div(period).unwrap_or(INFINITY),
        _ => INFINITY,
    };
    all.number("CPUQuotaPerSecUSec", of_second.checked_next_multiple_of(PERCENT).unwrap_or(INFINITY));
}

/// A list such as `0-3,7` as bits, the lowest first.
fn bits(list: &str) -> Result<Vec<u8>> {
    let wrong = || Error::refused(format!("the list {list:?}"), "it is not as 0-3,7");
    let mut bits = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u16>().ok().map(usize::from);
        let (Some(first), Some(last)) = (number(first), number(last)) else { return Err(wrong()) };
        if first > last {
            return Err(wrong());
        }
        for bit in first..=last {
            if bits.len() <= bit / 8 {
                bits.resize(bit / 8 + 1, 0_u8);
            }
            bits[bit / 8] |= 1 << (bit % 8);
        }
    }
    if bits.is_empty() { Err(wrong()) } else { Ok(bits) }
}

/// The configuration's own words for v2, as far as systemd has others for them.
fn unified(file: &str, value: &str, all: &mut Properties) -> Result<()> {
    let wrong =
        || Error::refused(format!("set the limit {file} to {value:?}"), "this is no number and not max");
    let number = |text: &str| match text.trim() {
        "max" => Ok(INFINITY),
        text => text.parse::<u64>().map_err(|_| wrong()),
    };
    let property = match file {
        "cpu.max" => {
            let mut words = value.split_whitespace();
            let limit = number(words.next().unwrap_or_default())?;
            let period = words.next().map(number).transpose()?;
            quota(Some(i64::try_from(limit).unwrap_or(-1)), period, all);
            return Ok(());
        }
        "cpuset.cpus" => return bits(value).map(|bits| all.put("AllowedCPUs", Value::bytes(&bits))),
        "cpuset.mems" => return bits(value).map(|bits| all.put("AllowedMemoryNodes", Value::bytes(&bits))),
        "cpu.weight" => "CPUWeight",
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        // By the file alone.
        _ => return Ok(()),
    };
    all.number(property, number(value)?);
    Ok(())
}

/// The properties that annotations ask for: `org.systemd.property.NAME`, whose value is written as a GVariant's text
/// (`'text'`, `true`, `uint64 5`, `['a', 'b']`). A time in seconds becomes one in microseconds, as systemd has it.
pub(crate) fn annotated(annotations: &HashMap<String, String>) -> Result<Vec<Property>> {
    const PREFIX: &str = "org.systemd.property.";
    let mut all = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let doing = || format!("annotation {key}={text}");
        if name.len() < 3 || !name.chars().all(|c| c.is_ascii_alphabetic()) {
            return Err(Error::refused(doing(), "this is no property's name"));
        }
        let value = parse(text).ok_or_else(|| {
            Error::refused(doing(), "its value is not as 'text', true, 5, uint64 5 or ['a', 'b']")
        })?;
        let seconds = name.strip_suffix("Sec").filter(|name| !name.ends_with('U'));
        all.push(match seconds {
            Some(name) => {
                let value = microseconds(&value)
                    .ok_or_else(|| Error::refused(doing(), "a number of seconds is needed"))?;
                (format!("{name}USec"), value)
            }
            None => (name.to_owned(), value),
        });
    }
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(all)
}

fn microseconds(seconds: &Value) -> Option<Value> {
    const SECOND: u64 = 1_000_000;
    let whole = match seconds {
        Value::Byte(number) => u64::from(*number),
        Value::I32(number) => u64::try_from(*number).ok()?,
        Value::U32(number) => u64::from(*number),
        Value::I64(number) => u64::try_from(*number).ok()?,
        Value::U64(number) => *number,
        Value::Double(number) if *number >= 0.0 => return Some(Value::U64((number * 1e6) as u64)),
        _ => return None,
    };
    whole.checked_mul(SECOND).map(Value::U64)
}

/// A GVariant's text: the types that properties of scopes have.
fn parse(text: &str) -> Option<Value> {
    let text = text.trim();
    if let Some(list) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let values = elements(list)?.into_iter().map(parse).collect::<Option<Vec<Value>>>()?;
        let kind = values.first()?.signature();
        let alike = values.iter().all(|value| value.signature() == kind);
        return alike.then_some(Value::Array(kind, values));
    }
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote) {
            let inner = inner.strip_suffix(quote)?;
            return (!inner.contains([quote, '\\'])).then(|| Value::text(inner));
        }
    }
    match text.split_once(' ') {
        Some(("byte", number)) => number.trim().parse().ok().map(Value::Byte),
        Some(("int32", number)) => number.trim().parse().ok().map(Value::I32),
        Some(("uint32", number)) => number.trim().parse().ok().map(Value::U32),
        Some(("int64", number)) => number.trim().parse().ok().map(Value::I64),
        Some(("uint64", number)) => number.trim().parse().ok().map(Value::U64),
        Some(("double", number)) => number.trim().parse().ok().map(Value::Double),
        Some(_) => None,
        None => match text {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ if text.contains('.') => text.parse().ok().map(Value::Double),
            _ => text.parse().ok().map(Value::I32),
        },
    }
}

/// The elements of a list without its brackets; a comma in quotes is none between them.
fn elements(list: &str) -> Option<Vec<&str>> {
    let (mut elements, mut begin, mut quote) = (Vec::new(), 0, None);
    for (at, letter) in list.char_indices() {
        match (quote, letter) {
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), close) if open == close => quote = None,
            (None, ',') => {
                elements.push(&list[begin..at]);
                begin = at + 1;
            }
            // A list in a list no property of a scope has.
            (None, '[' | ']') => return None,
            _ => {}
        }
    }
    elements.push(&list[begin..]);
    Some(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(resources: serde_json::Value, v2: bool) -> Vec<Property> {
        limits_of(&serde_json::from_value(resources).unwrap(), true, v2).unwrap()
    }

    fn number(name: &str, number: u64) -> Property {
        (name.to_owned(), Value::U64(number))
    }

    #[test]
    fn limits_have_systemd_s_names_on_either_version() {
        let resources = serde_json::json!({
            "memory": { "limit": 1 << 20, "swap": 3 << 20, "reservation": 4096 },
            "cpu": { "shares": 1024, "quota": 12_345, "period": 100_000, "cpus": "0-1,9" },
            "pids": { "limit": 5 },
            "blockIO": { "weight": 10 },
            "unified": { "memory.high": "max" },
        });
        let v2 = of(resources.clone(), true);
        assert_eq!(
            v2,
            [
                number("MemoryMax", 1 << 20),
                number("MemoryLow", 4096),
                number("MemorySwapMax", 2 << 20),
                number("CPUWeight", weight_of_shares(1024)),
                number("CPUQuotaPeriodUSec", 100_000),
                number("CPUQuotaPerSecUSec", 130_000),
                ("AllowedCPUs".into(), Value::bytes(&[3, 2])),
                number("TasksMax", 5),
                number("IOWeight", 1),
                number("MemoryHigh", INFINITY),
            ]
        );
        let v1 = of(resources, false);
        assert_eq!(
            v1,
            [
                number("MemoryLimit", 1 << 20),
                number("CPUShares", 1024),
                number("CPUQuotaPeriodUSec", 100_000),
                number("CPUQuotaPerSecUSec", 130_000),
                number("TasksMax", 5),
                number("BlockIOWeight", 10),
            ]
        );
    }

    #[test]
    fn no_limit_is_infinity() {
        let resources = serde_json::json!({
            "memory": { "limit": -1 }, "cpu": { "quota": -1 }, "pids": { "limit": 0 },
            "unified": { "cpu.max": "max 50000" },
        });
        let infinite = |name| number(name, INFINITY);
        assert_eq!(
            of(resources, true),
            [
                infinite("MemoryMax"),
                infinite("CPUQuotaPerSecUSec"),
                infinite("TasksMax"),
                number("CPUQuotaPeriodUSec", 50_000),
                infinite("CPUQuotaPerSecUSec"),
            ]
        );
    }

    #[test]
    fn devices_are_strict_where_all_was_forbidden() {
        let rules = |rules| of(serde_json::json!({ "devices": rules }), true);
        let strict = rules(serde_json::json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw" },
        ]));
        assert_eq!(strict[0], ("DevicePolicy".into(), Value::text("strict")));
        let Value::Array(_, allowed) = &strict[1].1 else { panic!("{strict:?}") };
        let pair = |device: &str, access: &str| Value::Struct(vec![Value::text(device), Value::text(access)]);
        for wanted in [
            pair("/dev/char/10:200", "rw"),
            pair("/dev/char/1:3", "rwm"),
            pair("char-*", "m"),
            pair("block-*", "m"),
        ] {
            assert!(allowed.contains(&wanted), "{wanted:?} in {allowed:?}");
        }
        let open = rules(serde_json::json!([{ "allow": true, "access": "rwm" }]));
        assert_eq!(open[0], ("DevicePolicy".into(), Value::text("auto")));
    }

    #[test]
    fn lists_are_bits() {
        assert_eq!(bits("0").unwrap(), [1]);
        assert_eq!(bits("0-3,7").unwrap(), [0x8f]);
        assert_eq!(bits("8-9").unwrap(), [0, 3]);
        assert!(["", "3-1", "a", "70000"].iter().all(|list| bits(list).is_err()));
    }

    #[test]
    fn annotations_are_properties() {
        let of = |key: &str, value: &str| {
            let key = format!("org.systemd.property.{key}");
            annotated(&HashMap::from([(key, value.to_owned())])).map(|mut all| all.pop().unwrap())
        };
        for (name, text, expected, value) in [
            ("CollectMode", "'inactive-or-failed'", "CollectMode", Value::text("inactive-or-failed")),
            ("SendSIGHUP", "true", "SendSIGHUP", Value::Bool(true)),
            ("TimeoutStopUSec", "uint64 123", "TimeoutStopUSec", Value::U64(123)),
            ("TimeoutStopSec", "2", "TimeoutStopUSec", Value::U64(2_000_000)),
            ("TimeoutStopSec", "0.5", "TimeoutStopUSec", Value::U64(500_000)),
            ("After", "['a,b.service', 'c.service']", "After", Value::texts(["a,b.service", "c.service"])),
        ] {
            assert_eq!(of(name, text).unwrap(), (expected.to_owned(), value), "{name}={text}");
        }
        for (name, text) in [
            ("A", "1"),
            ("Bad-Name", "1"),
            ("Name", "text"),
            ("Name", "['a', 1]"),
            ("Name", "'a"),
            ("ASec", "'a'"),
        ] {
            assert!(of(name, text).is_err(), "{name}={text}");
        }
        assert_eq!(annotated(&HashMap::from([("other".into(), "x".into())])).unwrap(), []);
    }
}
