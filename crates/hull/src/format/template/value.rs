//! What a template computes with: JSON, and what Docker's client knows of its types beyond JSON.
//!
//! Docker's client decodes the API's answers into Go structures and runs the template over those. Which field is a
//! duration, a set of ports or an optional pointer shows in what is printed: `5s`, `map[80/tcp:{}]`, `<nil>`. JSON does
//! not have this knowledge, so it is kept here, by the name of the field.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::human;

/// What kind of Go value an object of JSON stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A structure: only the fields that it has, or is known to leave out when empty.
    Struct,
    /// A health check, whose times are durations and whose fields have a fixed order.
    HealthCheck,
    /// `map[string]string`, with keys of the user's own.
    Strings,
    /// `map[string]struct{}`: keys alone.
    Set,
    /// A map with structures, or lists of them, as values.
    Map,
    /// A limit of a process, which prints as `nofile=1024:2048`.
    Ulimit,
    /// One row of a listing command.
    Row,
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Val<'a> {
    /// Go's invalid value: a key that a map does not have. Prints `<no value>`.
    Missing,
    /// A nil pointer. Prints `<nil>`.
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Nanoseconds.
    Duration(i64),
    Str(String),
    /// A list from the answer, or an empty one that the answer left out.
    Array(&'a [Value], Shape),
    /// A list that a function made.
    List(Vec<Val<'a>>),
    Object(&'a serde_json::Map<String, Value>, Shape),
    /// A map that the answer left out or gave as null.
    EmptyMap(Shape),
    /// `struct{}`, the value in a set.
    Unit,
}

/// Fields that hold lists; null, and absent where Docker leaves them out, is an empty list.
const LISTS: &[&str] = &[
    "Aliases",
    "Args",
    "Authorization",
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "LinkLocalIPs",
    "Links",
    "Log",
    "MaskedPaths",
    "Mounts",
    "OnBuild",
    "Peers",
    "ReadonlyPaths",
    "RepoDigests",
    "RepoTags",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "SecurityOpt",
    "SecurityOptions",
    "Shell",
    "Test",
    "Ulimits",
    "VolumesFrom",
    "Warnings",
    "Devices",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Layers",
];
/// Fields that hold maps of strings.
const STRINGS: &[&str] = &[
    "Annotations",
    "Attributes",
    "AuxiliaryAddresses",
    "Data",
    "Details",
    "DriverOpts",
    "Labels",
    "Options",
    "Opts",
    "Status",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
];
/// Fields that hold sets.
const SETS: &[&str] = &["ExposedPorts", "Volumes"];
/// Fields that hold maps of structures or of lists.
const MAPS: &[&str] =
    &["Containers", "IPAMOptions", "Networks", "PortBindings", "Ports", "Runtimes", "Services"];
/// Pointers that are left out when they are nil.
const POINTERS: &[&str] = &[
    "BindOptions",
    "ClusterVolume",
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "Init",
    "OomKillDisable",
    "PidsLimit",
    "SizeRootFs",
    "SizeRw",
    "StopTimeout",
    "TmpfsOptions",
    "UsageData",
    "VolumeOptions",
    "MemorySwappiness",
];
/// Texts that are left out when they are empty.
const TEXTS: &[&str] = &[
    "Author",
    "Comment",
    "Container",
    "CreatedAt",
    "DockerVersion",
    "EndReason",
    "Gateway",
    "GlobalIPv6Address",
    "IPRange",
    "IPv6Gateway",
    "MacAddress",
    "Message",
    "Name",
    "Os",
    "OsVersion",
    "Parent",
    "Runtime",
    "StopSignal",
    "Variant",
    "VolumeDriver",
    "Driver",
    "User",
    "Domainname",
];
/// Truth values that are left out when they are false.
const BOOLS: &[&str] = &["ArgsEscaped", "AutoRemove", "ConfigOnly", "NetworkDisabled"];
/// Numbers that are left out when they are zero.
const NUMBERS: &[&str] = &["CpuTime", "Retries", "Timeout", "VirtualSize"];

/// The times of a health check, in nanoseconds.
const HEALTH_DURATIONS: &[&str] = &["Interval", "Timeout", "StartPeriod", "StartInterval"];
/// A health check's fields as Go has them.
const HEALTH_FIELDS: &[&str] = &["Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"];

/// A container's mount's fields as Go has them.
const MOUNT_FIELDS: &[&str] =
    &["Type", "Name", "Source", "Destination", "Driver", "Mode", "RW", "Propagation"];
/// The fields of a network's address range.
const SUBNET_FIELDS: &[&str] = &["Subnet", "IPRange", "Gateway", "AuxiliaryAddresses"];

/// All fields of a structure of which an answer leaves some out, where it can be told by those that it has.
fn known_fields(map: &serde_json::Map<String, Value>) -> Option<&'static [&'static str]> {
    match () {
        () if map.contains_key("Destination") && map.contains_key("RW") => Some(MOUNT_FIELDS),
        () if map.contains_key("Subnet") => Some(SUBNET_FIELDS),
        () => None,
    }
}

/// What an object under the field `name` stands for.
fn shape_of(name: &str) -> Shape {
    match name {
        _ if STRINGS.contains(&name) => Shape::Strings,
        _ if SETS.contains(&name) => Shape::Set,
        _ if MAPS.contains(&name) => Shape::Map,
        "Healthcheck" => Shape::HealthCheck,
        "Ulimits" => Shape::Ulimit,
        _ => Shape::Struct,
    }
}

/// What a null, or nothing, under the field `name` stands for; none where the field is not known.
fn zero_of(name: &str) -> Option<Val<'static>> {
    Some(match name {
        _ if LISTS.contains(&name) => Val::Array(&[], Shape::Struct),
        _ if STRINGS.contains(&name) || SETS.contains(&name) || MAPS.contains(&name) => {
            Val::EmptyMap(shape_of(name))
        }
        _ if POINTERS.contains(&name) => Val::Nil,
        _ if TEXTS.contains(&name) => Val::Str(String::new()),
        _ if BOOLS.contains(&name) => Val::Bool(false),
        _ if NUMBERS.contains(&name) => Val::Int(0),
        _ => return None,
    })
}

impl<'a> Val<'a> {
    /// The value of `value`, found under the field `name` ("" for the whole).
    pub(super) fn named(name: &str, value: &'a Value) -> Self {
        match value {
            Value::Null => zero_of(name).unwrap_or(Val::Nil),
            // Two things are called so: a container's configuration, and the options of its log driver.
            Value::Object(map) if name == "Config" && map.values().all(Value::is_string) => {
                Val::Object(map, Shape::Strings)
            }
            Value::Object(map) => Val::Object(map, shape_of(name)),
            other => Self::shaped(other, shape_of(name)),
        }
    }

    /// The value of `value`, objects being of this shape.
    pub(super) fn shaped(value: &'a Value, shape: Shape) -> Self {
        match value {
            Value::Null => Val::Nil,
            Value::Bool(b) => Val::Bool(*b),
            Value::Number(n) => match n.as_i64() {
                Some(i) => Val::Int(i),
                None => Val::Float(n.as_f64().unwrap_or_default()),
            },
            Value::String(s) => Val::Str(s.clone()),
            Value::Array(items) => Val::Array(items, shape),
            Value::Object(map) => Val::Object(map, shape),
        }
    }

    /// The value of one entry of an object of `shape`.
    fn entry(shape: Shape, key: &str, value: &'a Value) -> Self {
        match (shape, value) {
            (Shape::Set, Value::Object(_)) => Val::Unit,
            (Shape::Strings | Shape::Row, other) => Val::shaped(other, Shape::Strings),
            (Shape::Map, Value::Null) => Val::Array(&[], Shape::Struct),
            (Shape::Map, other) => Val::shaped(other, Shape::Struct),
            (Shape::HealthCheck, Value::Number(n)) if HEALTH_DURATIONS.contains(&key) => {
                Val::Duration(n.as_i64().unwrap_or_default())
            }
            _ => Val::named(key, value),
        }
    }

    /// The entry `key` of an object, and what takes its place where there is none: Go's zero value of a structure's
    /// known field. None where nothing does.
    pub(super) fn get(map: &'a serde_json::Map<String, Value>, shape: Shape, key: &str) -> Option<Self> {
        match (map.get(key), shape) {
            (Some(Value::String(time)), Shape::Struct) if is_time(map, key) => {
                Some(Val::Str(human::go_time(time)))
            }
            (Some(value), _) => Some(Self::entry(shape, key, value)),
            // Go's field is called ID; in some of the API's answers it is Id.
            (None, Shape::Struct) if key == "ID" => map.get("Id").map(|id| Self::entry(shape, "Id", id)),
            (None, Shape::Struct) => zero_of(key),
            (None, Shape::HealthCheck) if HEALTH_DURATIONS.contains(&key) => Some(Val::Duration(0)),
            (None, Shape::HealthCheck) => zero_of(key),
            (None, Shape::Strings | Shape::Set | Shape::Map | Shape::Ulimit | Shape::Row) => None,
        }
    }

    /// An object's entries in the order in which Go ranges over a map.
    pub(super) fn sorted(map: &'a serde_json::Map<String, Value>, shape: Shape) -> Vec<(&'a str, Self)> {
        let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.as_str(), Self::entry(shape, k, v))).collect();
        entries.sort_by_key(|(k, _)| *k);
        entries
    }

    /// The items of a list; none for what is no list.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        match self {
            Val::Array(items, shape) => Some(items.iter().map(|v| Val::shaped(v, *shape)).collect()),
            Val::List(items) => Some(items.clone()),
            _ => None,
        }
    }

    /// What `if`, `with`, `and` and `or` ask.
    pub(super) fn truth(&self) -> bool {
        match self {
            Val::Missing | Val::Nil | Val::EmptyMap(_) => false,
            Val::Bool(b) => *b,
            Val::Int(i) | Val::Duration(i) => *i != 0,
            Val::Float(f) => *f != 0.0,
            Val::Str(s) => !s.is_empty(),
            Val::Array(items, _) => !items.is_empty(),
            Val::List(items) => !items.is_empty(),
            Val::Object(_, Shape::Struct | Shape::HealthCheck | Shape::Ulimit | Shape::Row) | Val::Unit => {
                true
            }
            Val::Object(map, _) => !map.is_empty(),
        }
    }

    /// The name that Go's messages and `%T` give the value's type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Val::Missing | Val::Nil => "<nil>",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Float(_) => "float64",
            Val::Duration(_) => "time.Duration",
            Val::Str(_) => "string",
            Val::Array(items, _) if items.iter().all(Value::is_string) => "[]string",
            Val::Array(..) => "[]interface {}",
            Val::List(items) if items.iter().all(|v| matches!(v, Val::Str(_))) => "[]string",
            Val::List(_) => "[]interface {}",
            Val::Object(_, Shape::Strings) | Val::EmptyMap(Shape::Strings) => "map[string]string",
            Val::Object(_, Shape::Set) | Val::EmptyMap(Shape::Set) => "map[string]struct {}",
            Val::Object(..) | Val::EmptyMap(_) => "map[string]interface {}",
            Val::Unit => "struct {}",
        }
    }

    /// The value as an action prints it.
    pub(super) fn print(&self) -> String {
        match self {
            Val::Missing => "<no value>".to_owned(),
            other => other.verb_v(false),
        }
    }

    /// The value as `%v` prints it, or `%+v` with the names of a structure's fields.
    pub(super) fn verb_v(&self, names: bool) -> String {
        match self {
            Val::Missing | Val::Nil => "<nil>".to_owned(),
            Val::Bool(b) => b.to_string(),
            Val::Int(i) => i.to_string(),
            Val::Float(f) => go_float(*f),
            Val::Duration(d) => go_duration(*d),
            Val::Str(s) => s.clone(),
            Val::Array(items, shape) => {
                bracketed("[", items.iter().map(|v| Val::shaped(v, *shape).verb_v(names)), "]")
            }
            Val::List(items) => bracketed("[", items.iter().map(|v| v.verb_v(names)), "]"),
            Val::Object(map, Shape::HealthCheck) => structure(
                HEALTH_FIELDS.iter().filter_map(|f| Some((*f, Val::get(map, Shape::HealthCheck, f)?))),
                names,
            ),
            Val::Object(map, Shape::Ulimit) => {
                let name = map.get("Name").and_then(Value::as_str).unwrap_or_default();
                let limit = |key| map.get(key).and_then(Value::as_i64).unwrap_or_default();
                format!("{name}={}:{}", limit("Soft"), limit("Hard"))
            }
            Val::Object(map, Shape::Struct) if known_fields(map).is_some() => {
                let field = |name: &'static str| {
                    let value = Val::get(map, Shape::Struct, name);
                    (name, value.unwrap_or(Val::Str(String::new())))
                };
                structure(known_fields(map).into_iter().flatten().map(|name| field(name)), names)
            }
            Val::Object(map, Shape::Struct) => {
                structure(map.iter().map(|(k, v)| (k.as_str(), Val::entry(Shape::Struct, k, v))), names)
            }
            Val::Object(map, shape) => bracketed(
                "map[",
                Val::sorted(map, *shape)
                    .iter()
                    .filter(|(k, _)| !(*shape == Shape::Row && *k == METHOD_LABEL))
                    .map(|(k, v)| format!("{k}:{}", v.verb_v(names))),
                "]",
            ),
            Val::EmptyMap(_) => "map[]".to_owned(),
            Val::Unit => "{}".to_owned(),
        }
    }

    /// The value as JSON, keys in the answer's order; a row's sorted and without what is a method in Docker.
    pub(super) fn json(&self) -> String {
        match self {
            Val::Missing | Val::Nil => "null".to_owned(),
            Val::Bool(b) => b.to_string(),
            Val::Int(i) | Val::Duration(i) => i.to_string(),
            Val::Float(f) => Value::from(*f).to_string(),
            Val::Str(s) => Value::from(s.as_str()).to_string(),
            Val::Array(items, _) => {
                let inner: Vec<String> = items.iter().map(Value::to_string).collect();
                format!("[{}]", inner.join(","))
            }
            Val::List(items) => {
                let inner: Vec<String> = items.iter().map(Val::json).collect();
                format!("[{}]", inner.join(","))
            }
            Val::Object(map, shape) => {
                let mut entries: Vec<_> =
                    map.iter().filter(|(k, _)| !(*shape == Shape::Row && *k == METHOD_LABEL)).collect();
                if *shape == Shape::Row {
                    entries.sort_by_key(|(k, _)| *k);
                }
                let inner: Vec<String> =
                    entries.iter().map(|(k, v)| format!("{}:{v}", Value::from(k.as_str()))).collect();
                let text = format!("{{{}}}", inner.join(","));
                // Docker's client encodes rows with Go's own encoder, which is wary of HTML.
                if *shape == Shape::Row { escape_html(&text) } else { text }
            }
            Val::EmptyMap(_) => "null".to_owned(),
            Val::Unit => "{}".to_owned(),
        }
    }
}

/// A row's entry that is a method with an argument in Docker's client: `{{.Label "key"}}`.
pub(super) const METHOD_LABEL: &str = "Label";

/// Whether Docker's client decodes this field into a time, which prints in a form of its own. Most times of the API
/// stay the texts that they are: a network's creation and a health check's runs do not.
fn is_time(map: &serde_json::Map<String, Value>, key: &str) -> bool {
    match key {
        "Created" => map.contains_key("IPAM"),
        "Start" | "End" => map.contains_key("ExitCode") && map.contains_key("Output"),
        _ => false,
    }
}

fn escape_html(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn bracketed(open: &str, items: impl Iterator<Item = String>, close: &str) -> String {
    format!("{open}{}{close}", items.collect::<Vec<_>>().join(" "))
}

fn structure<'a, 'k>(fields: impl Iterator<Item = (&'k str, Val<'a>)>, names: bool) -> String {
    let field = |(name, value): (&str, Val<'a>)| {
        let value = value.verb_v(names);
        if names { format!("{name}:{value}") } else { value }
    };
    bracketed("{", fields.map(field), "}")
}

/// Go's `%v` of a float: the shortest digits that read back as the same, an exponent below 1e-4 and from 1e21 on.
pub(super) fn go_float(f: f64) -> String {
    if !f.is_finite() {
        return human::go_infinite(f);
    }
    let magnitude = f.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        let text = format!("{f:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    f.to_string()
}

/// Go's text of a duration in nanoseconds: `1h30m0s`, `1.5s`, `300ms`, `0s`.
pub(super) fn go_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let fraction = |value: u64, unit: u64, suffix: &str| {
        let digits = unit.ilog10() as usize;
        let mut text = format!("{}", value / unit);
        if !value.is_multiple_of(unit) {
            let decimals = format!("{:0digits$}", value % unit);
            let _ = write!(text, ".{}", decimals.trim_end_matches('0'));
        }
        format!("{text}{suffix}")
    };
    let body = match total {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => fraction(total, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(total, 1_000_000, "ms"),
        _ => {
            let minutes = total / 60_000_000_000;
            let seconds = fraction(total % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    };
    format!("{sign}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (300_000_000, "300ms"),
            (1_500_000_000, "1.5s"),
            (5_000_000_000, "5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-5_000_000_000, "-5s"),
        ] {
            assert_eq!(go_duration(nanoseconds), expected);
        }
    }

    #[test]
    fn floats_are_gos() {
        for (f, expected) in [
            (1.5, "1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1e30, "1e+30"),
            (0.0, "0"),
            (0.00001, "1e-05"),
            (-2.0, "-2"),
        ] {
            assert_eq!(go_float(f), expected);
        }
    }
}
