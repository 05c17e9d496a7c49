//! What of a body is of another type than it should be, told as Go tells it: `json: cannot unmarshal string into Go struct
//! field HostConfig.HostConfig.Memory of type int64`.

use std::cell::RefCell;
use std::fmt;

use serde::de::{Expected, Unexpected};

use super::json::Node;

/// Why a value could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    why: Why,
    /// The struct that the value is a field of.
    of: Option<&'static str>,
    /// The way from the whole to that field, innermost first.
    path: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    /// The text is no JSON.
    Syntax(String),
    /// It is of another type.
    Type { value: String, wanted: String },
    /// In serde's words.
    Other(String),
}

thread_local! {
    /// A mistake on its way through [`super::embedded`], which reads for any deserializer: serde lets a text alone through.
    static HANDED_ON: RefCell<Option<Mistake>> = const { RefCell::new(None) };
}

impl Mistake {
    pub(super) fn syntax(why: String) -> Mistake {
        Mistake { why: Why::Syntax(why), of: None, path: Vec::new() }
    }

    /// There is this value where a type is wanted.
    pub(super) fn mismatch(node: &Node, wanted: &str) -> Mistake {
        let value = match node {
            Node::Null => "null".to_owned(),
            Node::Bool(_) => "bool".to_owned(),
            // A number of another kind is shown.
            Node::Number(digits) if is_number(wanted) => format!("number {digits}"),
            Node::Number(_) => "number".to_owned(),
            Node::Text(_) => "string".to_owned(),
            Node::List(_) => "array".to_owned(),
            Node::Object(_) => "object".to_owned(),
        };
        Mistake { why: Why::Type { value, wanted: wanted.to_owned() }, of: None, path: Vec::new() }
    }

    /// The same, in that field of that struct.
    pub(super) fn within(mut self, of: &'static str, field: &'static str) -> Mistake {
        if self.of.is_none() {
            self.of = Some(of);
            if let Why::Type { wanted, .. } = &mut self.why {
                *wanted = type_of(of, field, wanted).to_owned();
            }
        }
        self.path.push(field);
        self
    }

    /// The same, where the struct that the field is of is embedded in another one, whose field it is then.
    pub(super) fn embedded_in(mut self, of: &'static str) -> Mistake {
        if self.path.len() == 1 {
            self.of = Some(of);
        }
        self
    }

    /// Goes through a deserializer's own error whole, if that is of this kind.
    pub(super) fn hand_on<E: serde::de::Error>(self) -> E {
        HANDED_ON.set(Some(self.clone()));
        let error = E::custom(&self);
        HANDED_ON.take();
        error
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, wanted) = match &self.why {
            Why::Syntax(why) => return out.write_str(why),
            Why::Other(why) => {
                out.write_str("json: cannot unmarshal")?;
                for (at, field) in self.path.iter().rev().enumerate() {
                    write!(out, "{}{field}", if at == 0 { " " } else { "." })?;
                }
                return write!(out, ": {why}");
            }
            Why::Type { value, wanted } => (value, wanted),
        };
        write!(out, "json: cannot unmarshal {value} into Go ")?;
        match self.of {
            None => write!(out, "value of type {wanted}"),
            Some(of) => {
                write!(out, "struct field {}", struct_name(of).1)?;
                for field in self.path.iter().rev() {
                    write!(out, ".{field}")?;
                }
                write!(out, " of type {wanted}")
            }
        }
    }
}

impl std::error::Error for Mistake {}

impl serde::de::Error for Mistake {
    fn custom<T: fmt::Display>(message: T) -> Self {
        HANDED_ON.take().unwrap_or_else(|| Mistake {
            why: Why::Other(message.to_string()),
            of: None,
            path: Vec::new(),
        })
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let wanted = expected.to_string();
        let value = match found {
            Unexpected::Bool(_) => "bool",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "number",
            Unexpected::Str(_) => "string",
            Unexpected::Seq => "array",
            Unexpected::Map => "object",
            _ => "",
        };
        // Other visitors say in words what they take.
        if wanted != "string" || value.is_empty() {
            return Self::custom(format_args!("invalid type: {found}, expected {wanted}"));
        }
        Mistake { why: Why::Type { value: value.to_owned(), wanted }, of: None, path: Vec::new() }
    }
}

fn is_number(wanted: &str) -> bool {
    wanted.starts_with("int") || wanted.starts_with("uint") || wanted.starts_with("float")
}

/// A struct's name as a type, and as what has fields.
pub(super) fn struct_name(of: &str) -> (&str, &str) {
    match of {
        "CreateBody" | "Config" => ("container.CreateRequest", "CreateRequest"),
        "HostConfig" | "Resources" => ("container.HostConfig", "HostConfig"),
        "UpdateBody" => ("container.UpdateConfig", "UpdateConfig"),
        "Healthcheck" => ("container.HealthConfig", "HealthConfig"),
        "RestartPolicy" => ("container.RestartPolicy", "RestartPolicy"),
        "LogConfig" => ("container.LogConfig", "LogConfig"),
        "DeviceMapping" => ("container.DeviceMapping", "DeviceMapping"),
        "DeviceRequest" => ("container.DeviceRequest", "DeviceRequest"),
        "Ulimit" => ("units.Ulimit", "Ulimit"),
        "WeightDevice" => ("blkiodev.WeightDevice", "WeightDevice"),
        "ThrottleDevice" => ("blkiodev.ThrottleDevice", "ThrottleDevice"),
        "PortBinding" => ("nat.PortBinding", "PortBinding"),
        "Mount" => ("mount.Mount", "Mount"),
        "BindOptions" => ("mount.BindOptions", "BindOptions"),
        "VolumeOptions" => ("mount.VolumeOptions", "VolumeOptions"),
        "ImageOptions" => ("mount.ImageOptions", "ImageOptions"),
        "TmpfsOptions" => ("mount.TmpfsOptions", "TmpfsOptions"),
        "DriverConfig" => ("mount.Driver", "Driver"),
        "Empty" => ("struct {}", "struct {}"),
        "NetworkingConfig" => ("network.NetworkingConfig", "NetworkingConfig"),
        "EndpointSettings" => ("network.EndpointSettings", "EndpointSettings"),
        "EndpointIpam" => ("network.EndpointIPAMConfig", "EndpointIPAMConfig"),
        "NetworkCreate" => ("network.CreateRequest", "CreateRequest"),
        "Ipam" => ("network.IPAM", "IPAM"),
        "IpamConfig" => ("network.IPAMConfig", "IPAMConfig"),
        "ConfigFrom" => ("network.ConfigReference", "ConfigReference"),
        "ConnectBody" => ("network.ConnectRequest", "ConnectRequest"),
        "DisconnectBody" => ("network.DisconnectRequest", "DisconnectRequest"),
        "VolumeCreate" => ("volume.CreateRequest", "CreateRequest"),
        "ExecConfig" => ("container.ExecCreateRequest", "ExecCreateRequest"),
        "StartBody" => ("container.ExecStartRequest", "ExecStartRequest"),
        other => (other, other),
    }
}

/// Go's type of what is a map and no struct's field: that of a new type around it.
pub(super) fn map_name(of: &str) -> Option<&'static str> {
    match of {
        "FilterSets" => Some("map[string]map[string]bool"),
        "FilterSet" => Some("map[string]bool"),
        _ => None,
    }
}

/// Go's type of a field, where it is not the one that goes with such values.
fn type_of<'a>(of: &str, field: &str, wanted: &'a str) -> &'a str {
    match (of, field, wanted) {
        (_, "StopTimeout" | "MaximumRetryCount" | "Count" | "OomScoreAdj" | "Retries" | "GwPriority", _)
            if is_number(wanted) =>
        {
            "int"
        }
        ("Healthcheck", _, "int64") => "time.Duration",
        (_, "ConsoleSize", "uint16") => "uint",
        (_, "ExposedPorts", "map[string]string") => "nat.PortSet",
        (_, "Volumes", "map[string]string") => "map[string]struct {}",
        (_, "PortBindings", "map[string]string") => "nat.PortMap",
        (_, "EndpointsConfig", "map[string]string") => "map[string]*network.EndpointSettings",
        (_, "PortBindings", "[]string") => "[]nat.PortBinding",
        (_, "Mounts", "[]string") => "[]mount.Mount",
        (_, "Devices", "[]string") => "[]container.DeviceMapping",
        (_, "DeviceRequests", "[]string") => "[]container.DeviceRequest",
        (_, "Ulimits", "[]string") => "[]*units.Ulimit",
        (_, "BlkioWeightDevice", "[]string") => "[]*blkiodev.WeightDevice",
        (
            _,
            "BlkioDeviceReadBps" | "BlkioDeviceWriteBps" | "BlkioDeviceReadIOps" | "BlkioDeviceWriteIOps",
            "[]string",
        ) => "[]*blkiodev.ThrottleDevice",
        ("Ipam", "Config", "[]string") => "[]network.IPAMConfig",
        ("HostConfig", "NetworkMode", "string") => "container.NetworkMode",
        ("HostConfig", "IpcMode", "string") => "container.IpcMode",
        ("HostConfig", "PidMode", "string") => "container.PidMode",
        ("HostConfig", "UTSMode", "string") => "container.UTSMode",
        ("HostConfig", "UsernsMode", "string") => "container.UsernsMode",
        ("HostConfig", "CgroupnsMode", "string") => "container.CgroupnsMode",
        ("HostConfig", "Isolation", "string") => "container.Isolation",
        ("RestartPolicy", "Name", "string") => "container.RestartPolicyMode",
        ("Mount", "Type", "string") => "mount.Type",
        _ => wanted,
    }
}
