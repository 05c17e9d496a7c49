//! What versions of the API ended: members that Docker's answers no longer have from a version on.

use serde_json::{Map, Value};

use crate::http::Version;

/// With this the shapes of old ended: a container's one network, an image's empty members, an event's words of before
/// 1.22.
pub(crate) const SHAPES_OF_OLD: Version = 52;

/// With this the lists of `GET /system/df`, beside its sums.
pub(crate) const LISTS_OF_USAGE: Version = 53;

/// With this the sum of the builder's cache there.
pub(crate) const BUILDER_SIZE: Version = 42;

/// The members of `NetworkSettings` about the default network alone.
const ONE_NETWORK: [&str; 14] = [
    "Bridge",
    "HairpinMode",
    "LinkLocalIPv6Address",
    "LinkLocalIPv6PrefixLen",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
];

/// What an image's configuration no longer has where it is not set.
const CONFIG: [&str; 8] = ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "User", "Volumes", "WorkingDir"];

pub(crate) fn in_container(shown: &mut Value) {
    remove(&mut shown["NetworkSettings"], &ONE_NETWORK);
    remove_empty(&mut shown["Config"], &["OnBuild"]);
}

pub(crate) fn in_image(shown: &mut Value) {
    remove_empty(&mut shown["Config"], &CONFIG);
    remove_empty(shown, &["Parent", "Comment", "DockerVersion", "Author"]);
}

pub(crate) fn in_event(shown: &mut Value) {
    remove(shown, &["status", "id", "from"]);
}

pub(crate) fn in_disk_usage(shown: &mut Value) {
    remove(shown, &["LayersSize", "Images", "Containers", "Volumes", "BuildCache"]);
}

/// The daemon's figures as a version has them.
pub(crate) fn in_info(info: &mut Value, version: Version) {
    if version >= 50 {
        remove(info, &["BridgeNfIptables", "BridgeNfIp6tables"]);
    }
    if version >= SHAPES_OF_OLD {
        remove(info, &["KernelMemoryTCP"]);
    }
    if version < 49 {
        for program in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            let id = info[program]["ID"].clone();
            info[program]["Expected"] = id;
        }
    }
    if version < 25 {
        info["ExecutionDriver"] = Value::from("<not supported>");
        // Names alone: what is to be known of each stands behind a comma since then.
        let name = |option: &Value| {
            let first = option.as_str()?.split(',').next()?;
            Some(Value::from(first.strip_prefix("name=").unwrap_or(first)))
        };
        if let Some(options) = info["SecurityOptions"].as_array() {
            info["SecurityOptions"] = options.iter().filter_map(name).collect();
        }
    }
}

fn members(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.as_object_mut()
}

fn remove(value: &mut Value, names: &[&str]) {
    if let Some(members) = members(value) {
        for name in names {
            members.shift_remove(*name);
        }
    }
}

/// Removes those of the members that say nothing.
fn remove_empty(value: &mut Value, names: &[&str]) {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    if let Some(members) = members(value) {
        members.retain(|name, value| !names.contains(&name.as_str()) || !says_nothing(value));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_says_nothing_goes_and_what_is_set_stays() {
        let mut image = json!({ "Id": "x", "Author": "", "Comment": "c",
            "Config": { "Cmd": null, "Env": ["A=b"], "Labels": {}, "User": "", "WorkingDir": "/w", "Other": null } });
        in_image(&mut image);
        assert_eq!(
            image,
            json!({ "Id": "x", "Comment": "c", "Config": { "Env": ["A=b"], "WorkingDir": "/w", "Other": null } })
        );
        let mut container = json!({ "Config": { "OnBuild": null, "Cmd": null },
            "NetworkSettings": { "IPAddress": "1.2.3.4", "Networks": {} } });
        in_container(&mut container);
        assert_eq!(container, json!({ "Config": { "Cmd": null }, "NetworkSettings": { "Networks": {} } }));
    }

    #[test]
    fn the_daemons_figures_are_those_of_the_version() {
        let info = || {
            json!({ "KernelMemoryTCP": false, "BridgeNfIptables": false, "RuncCommit": { "ID": "a" },
                "ContainerdCommit": { "ID": "" }, "InitCommit": { "ID": "" },
                "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"] })
        };
        let at = |version| {
            let mut info = info();
            in_info(&mut info, version);
            info
        };
        assert_eq!(at(24)["SecurityOptions"], json!(["seccomp", "cgroupns"]));
        assert_eq!(at(24)["ExecutionDriver"], "<not supported>");
        assert_eq!(at(25)["SecurityOptions"], info()["SecurityOptions"]);
        assert_eq!(at(48)["RuncCommit"], json!({ "ID": "a", "Expected": "a" }));
        assert_eq!(at(49)["RuncCommit"], json!({ "ID": "a" }));
        assert!(at(51).get("KernelMemoryTCP").is_some() && at(51).get("BridgeNfIptables").is_none());
        assert!(at(52).get("KernelMemoryTCP").is_none());
    }
}
