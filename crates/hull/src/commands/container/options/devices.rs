//! `--device`, `--device-cgroup-rule`, `--gpus`.

use serde_json::{Map, Value, json};

use super::flags::ContainerFlags;
use super::limits::each;
use super::{Object, bad, csv};
use crate::error::Error;

/// Fills in the devices.
pub fn fill(host: &mut Object, flags: &ContainerFlags) -> Result<(), Error> {
    let (named, paths): (Vec<_>, Vec<_>) = flags.device.iter().cloned().partition(|text| is_cdi(text));
    let paths = paths.iter().map(|text| device(text).map_err(Error::usage));
    host.list("Devices", paths.collect::<Result<Vec<_>, _>>()?);
    let mut requests = each("--gpus", &flags.gpus, gpus)?;
    if !named.is_empty() {
        requests.push(json!({"Driver": "cdi", "DeviceIDs": named}));
    }
    host.list("DeviceRequests", requests);
    for rule in &flags.device_cgroup_rule {
        check_rule(rule).map_err(|why| bad("--device-cgroup-rule", rule, why))?;
    }
    host.list("DeviceCgroupRules", flags.device_cgroup_rule.clone());
    Ok(())
}

/// `vendor.com/class=name`: a device of the Container Device Interface.
fn is_cdi(text: &str) -> bool {
    let Some((kind, name)) = text.split_once('=') else { return false };
    !text.starts_with('/')
        && kind.split_once('/').is_some_and(|(v, c)| !v.is_empty() && !c.is_empty())
        && !name.is_empty()
}

/// `SOURCE[:TARGET][:PERMISSIONS]`.
fn device(text: &str) -> Result<Value, String> {
    let is_mode = |text: &str| !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, mode] if is_mode(mode) => (source, source, mode),
        [source, target] => (source, target, "rwm"),
        [source, target, mode] if is_mode(mode) => (source, target, mode),
        [_, _, mode] => return Err(format!("bad mode specified: {mode}")),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if source.is_empty() || !target.starts_with('/') {
        return Err(format!("{text} is not an absolute path"));
    }
    Ok(json!({"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode}))
}

/// `c 1:3 rwm`, `a *:* r`.
fn check_rule(rule: &str) -> Result<(), String> {
    let number =
        |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let parts: Vec<&str> = rule.split(' ').collect();
    let fits = match parts[..] {
        [kind, numbers, mode] => {
            matches!(kind, "a" | "b" | "c")
                && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&mode.len())
                && mode.bytes().all(|byte| b"rwm".contains(&byte))
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("invalid device cgroup format '{rule}'")) }
}

/// `all`, a count, or `device=…,driver=…,count=…,capabilities=…,options=…`.
fn gpus(text: &str) -> Result<Value, String> {
    let mut request =
        json!({"Driver": "", "Count": 1, "DeviceIDs": null, "Capabilities": [["gpu"]], "Options": {}});
    let mut devices_named = false;
    let mut count_given = false;
    for field in csv::fields(text)? {
        let (key, value) = field.split_once('=').unwrap_or(("count", &field));
        match key {
            "count" => {
                count_given = true;
                request["Count"] = match value {
                    "all" => json!(-1),
                    _ => json!(value.parse::<i64>().map_err(|_| format!(
                        "invalid count ({value}): value must be either \"all\" or an integer"
                    ))?),
                };
            }
            "device" => {
                devices_named = true;
                request["DeviceIDs"] = value.split(',').collect();
            }
            "driver" => request["Driver"] = value.into(),
            "capabilities" => {
                let mut capabilities: Vec<&str> = value.split(',').collect();
                if !capabilities.contains(&"gpu") {
                    capabilities.push("gpu");
                }
                request["Capabilities"] = json!([capabilities]);
            }
            "options" => {
                let pairs = csv::fields(value)?;
                let pairs = pairs.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let map: Map<String, Value> = pairs.map(|(k, v)| (k.to_owned(), v.into())).collect();
                request["Options"] = map.into();
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if devices_named && !count_given {
        request["Count"] = json!(0);
    }
    Ok(request)
}
