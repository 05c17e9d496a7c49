//! Answers have the shape that the API's definition gives them: every required property is there, and every property
//! that is there has its type. The definition lies beside the repository; without it these tests are left out.

use std::path::Path;

use hull_tests::{Daemon, Engine};
use serde_json::{Map, Value, json};

/// What hull says beyond the definition.
const HULLS_OWN: &[&str] = &["End", "EndReason", "Timeout", "CpuTime"];

/// What Docker says beyond the newest definition to clients of older versions, and hull to all.
const OF_OLDER_VERSIONS: &[&str] = &[
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

/// What Docker answers as null where it is not set, whatever the definition says.
const NULL_WHERE_NOT_SET: &[&str] = &["MemorySwappiness", "OomKillDisable", "PidsLimit", "Init"];

/// The definition's schemas by name, or none.
fn definitions() -> Option<Value> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/engine-api/swagger.yaml");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("left out: {} is not there", path.display());
        return None;
    };
    let lines: Vec<(usize, &str)> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .map(|line| (line.len() - line.trim_start().len(), line.trim()))
        .collect();
    let start = lines.iter().position(|line| *line == (0, "definitions:")).expect("the part 'definitions'");
    let (value, _) = block(&lines, start + 1);
    assert!(
        value["ContainerInspectResponse"]["properties"]["Id"].is_object(),
        "the definition is read wrongly"
    );
    Some(value)
}

/// The part of YAML that the definition uses: mappings, lists, scalars, block scalars (dropped), flow lists. Gives
/// back the value that begins at this line, and the line after it.
fn block(lines: &[(usize, &str)], mut at: usize) -> (Value, usize) {
    let indent = lines[at].0;
    if lines[at].1.starts_with('-') {
        let mut items = Vec::new();
        while at < lines.len() && lines[at].0 == indent && lines[at].1.starts_with('-') {
            let text = lines[at].1[1..].trim();
            let end = at + 1 + lines[at + 1..].iter().take_while(|line| line.0 > indent).count();
            if text.starts_with("$ref:") || text.starts_with("type:") {
                let item: Vec<(usize, &str)> =
                    std::iter::once((indent + 2, text)).chain(lines[at + 1..end].iter().copied()).collect();
                items.push(block(&item, 0).0);
            } else {
                items.push(scalar(text));
            }
            at = end;
        }
        return (Value::Array(items), at);
    }
    let mut map = Map::new();
    while at < lines.len() && lines[at].0 == indent {
        let Some((key, rest)) = lines[at].1.split_once(':') else {
            at += 1;
            continue;
        };
        let rest = rest.trim();
        at += 1;
        let nested = at < lines.len()
            && (lines[at].0 > indent || (lines[at].0 == indent && lines[at].1.starts_with('-')));
        let value = if rest.is_empty() && nested {
            let (value, after) = block(lines, at);
            at = after;
            value
        } else {
            scalar(rest)
        };
        // Text and flow lists over several lines tell nothing about shape.
        while at < lines.len() && lines[at].0 > indent {
            at += 1;
        }
        map.insert(key.trim_matches('"').to_owned(), value);
    }
    (Value::Object(map), at)
}

fn scalar(text: &str) -> Value {
    let plain = |text: &str| Value::String(text.trim().trim_matches(['"', '\'']).to_owned());
    match text.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
        Some(list) => list.split(',').filter(|item| !item.trim().is_empty()).map(plain).collect(),
        None if text == "true" || text == "false" => Value::Bool(text == "true"),
        None => plain(text),
    }
}

/// Compares answers with schemas and gathers what differs.
struct Shapes {
    definitions: Value,
    differences: Vec<String>,
}

impl Shapes {
    fn new() -> Option<Self> {
        Some(Self { definitions: definitions()?, differences: Vec::new() })
    }

    /// The answer must be of this definition, and have these properties besides those required.
    fn check(&mut self, answer: &Value, definition: &str, present: &[&str]) {
        let schema = self.definitions[definition].clone();
        assert!(schema.is_object(), "there is no definition {definition}");
        for name in present.iter().filter(|name| answer.get(**name).is_none()) {
            self.differences.push(format!("{definition}: {name} is missing"));
        }
        self.compare(answer, &schema, definition);
    }

    /// The schema with what it refers to and what it is put together from laid over each other.
    fn whole(&self, schema: &Value) -> Value {
        let mut whole = json!({"properties": {}, "required": []});
        let mut parts = vec![schema.clone()];
        while let Some(part) = parts.pop() {
            if let Some(name) = part["$ref"].as_str() {
                parts.push(self.definitions[name.trim_start_matches("#/definitions/")].clone());
            }
            parts.extend(part["allOf"].as_array().into_iter().flatten().cloned());
            for (key, value) in part.as_object().into_iter().flatten() {
                match (key.as_str(), &mut whole[key]) {
                    ("properties", Value::Object(all)) => {
                        all.extend(value.as_object().cloned().unwrap_or_default())
                    }
                    ("required", Value::Array(all)) => {
                        all.extend(value.as_array().cloned().unwrap_or_default())
                    }
                    ("$ref" | "allOf", _) => {}
                    (_, slot) => *slot = value.clone(),
                }
            }
        }
        whole
    }

    fn compare(&mut self, value: &Value, schema: &Value, at: &str) {
        let schema = self.whole(schema);
        let fits = match schema["type"].as_str() {
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            // Go writes an empty list or map as null.
            Some("array") => value.is_array() || value.is_null(),
            Some("object") => value.is_object() || value.is_null(),
            _ => true,
        };
        let nullable = value.is_null() && schema["x-nullable"] == true;
        if !fits && !nullable {
            self.differences.push(format!("{at}: is {value}, not of type {}", schema["type"]));
            return;
        }
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            self.compare(item, &schema["items"], &format!("{at}[{n}]"));
        }
        let Some(object) = value.as_object() else { return };
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                self.differences.push(format!("{at}: {name} is required and missing"));
            }
        }
        let known = schema["properties"].as_object().is_some_and(|properties| !properties.is_empty());
        for (name, value) in object {
            let inner = format!("{at}.{name}");
            if value.is_null() && NULL_WHERE_NOT_SET.contains(&name.as_str()) {
                continue;
            }
            if let Some(property) = schema["properties"].get(name) {
                self.compare(value, property, &inner);
            } else if schema["additionalProperties"].is_object() {
                self.compare(value, &schema["additionalProperties"], &inner);
            } else if at.ends_with("NetworkSettings") && OF_OLDER_VERSIONS.contains(&name.as_str()) {
                // A client that names no version reads the address where it always did.
            } else if known && !HULLS_OWN.contains(&name.as_str()) && Engine::under_test() == Engine::Hull {
                self.differences.push(format!("{inner}: is not in the definition"));
            }
        }
    }

    #[track_caller]
    fn finish(self) {
        assert!(
            self.differences.is_empty(),
            "answers differ from the definition:\n{}",
            self.differences.join("\n")
        );
    }
}

#[test]
fn containers() {
    let Some(mut shapes) = Shapes::new() else { return };
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let mut get = |path: &str| {
        let response = api.get(path).expect("an answer");
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json()
    };
    daemon.ok(&["network", "create", "net"]);
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "net",
        "-p",
        "127.0.0.1::80",
        "-v",
        "vol:/vol",
        "--health-cmd",
        "true",
        "--label",
        "k=v",
        "--restart",
        "always",
        "busybox",
        "sleep",
        "600",
    ]);
    daemon.ok(&["create", "--name", "idle", "busybox"]);
    let inspect = [
        "Id",
        "Created",
        "Path",
        "Args",
        "State",
        "Image",
        "ResolvConfPath",
        "HostnamePath",
        "HostsPath",
        "LogPath",
        "Name",
        "RestartCount",
        "Driver",
        "Platform",
        "MountLabel",
        "ProcessLabel",
        "AppArmorProfile",
        "ExecIDs",
        "HostConfig",
        "Mounts",
        "Config",
        "NetworkSettings",
    ];
    for name in ["box", "idle"] {
        let answer = get(&format!("/containers/{name}/json?size=1"));
        shapes.check(&answer, "ContainerInspectResponse", &inspect);
        let state = [
            "Status",
            "Running",
            "Paused",
            "Restarting",
            "OOMKilled",
            "Dead",
            "Pid",
            "ExitCode",
            "Error",
            "StartedAt",
            "FinishedAt",
        ];
        shapes.check(&answer["State"], "ContainerState", &state);
        let host = [
            "Binds",
            "LogConfig",
            "NetworkMode",
            "PortBindings",
            "RestartPolicy",
            "AutoRemove",
            "CapAdd",
            "CapDrop",
            "Dns",
            "IpcMode",
            "PidMode",
            "Privileged",
            "PublishAllPorts",
            "ReadonlyRootfs",
            "SecurityOpt",
            "ShmSize",
            "Memory",
            "NanoCpus",
            "MemorySwap",
            "PidsLimit",
            "Ulimits",
            "MaskedPaths",
            "ReadonlyPaths",
        ];
        shapes.check(&answer["HostConfig"], "HostConfig", &host);
        let config = [
            "Hostname",
            "User",
            "AttachStdin",
            "AttachStdout",
            "AttachStderr",
            "Tty",
            "OpenStdin",
            "StdinOnce",
            "Env",
            "Cmd",
            "Image",
            "WorkingDir",
            "Entrypoint",
            "Labels",
        ];
        shapes.check(&answer["Config"], "ContainerConfig", &config);
        shapes.check(
            &answer["NetworkSettings"],
            "NetworkSettings",
            &["SandboxID", "SandboxKey", "Ports", "Networks"],
        );
    }
    let summary = [
        "Id",
        "Names",
        "Image",
        "ImageID",
        "Command",
        "Created",
        "Ports",
        "Labels",
        "State",
        "Status",
        "HostConfig",
        "NetworkSettings",
        "Mounts",
        "SizeRootFs",
    ];
    let list = get("/containers/json?all=1&size=1");
    assert_eq!(list.as_array().map(Vec::len), Some(2));
    for item in list.as_array().into_iter().flatten() {
        shapes.check(item, "ContainerSummary", &summary);
    }
    shapes.check(&get("/containers/box/top"), "ContainerTopResponse", &["Titles", "Processes"]);
    let stats = [
        "read",
        "preread",
        "pids_stats",
        "blkio_stats",
        "cpu_stats",
        "precpu_stats",
        "memory_stats",
        "networks",
    ];
    shapes.check(&get("/containers/box/stats?stream=0"), "ContainerStatsResponse", &stats);
    for change in get("/containers/box/changes").as_array().into_iter().flatten() {
        shapes.check(change, "FilesystemChange", &[]);
    }
    shapes.finish();
}

#[test]
fn images_volumes_networks_and_the_system() {
    let Some(mut shapes) = Shapes::new() else { return };
    let daemon = Daemon::start();
    let mut api = daemon.api();
    let mut get = |path: &str| {
        let response = api.get(path).expect("an answer");
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json()
    };
    daemon.ok(&["volume", "create", "--label", "k=v", "vol"]);
    daemon.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    for image in get("/images/json").as_array().expect("a list") {
        shapes.check(image, "ImageSummary", &[]);
    }
    let image = [
        "Id",
        "RepoTags",
        "RepoDigests",
        "Created",
        "Config",
        "Architecture",
        "Os",
        "Size",
        "RootFS",
        "Metadata",
    ];
    shapes.check(&get("/images/busybox/json"), "ImageInspect", &image);
    for item in get("/images/busybox/history").as_array().expect("a list") {
        shapes.check(item, "ImageHistoryResponseItem", &[]);
    }
    shapes.check(&get("/volumes"), "VolumeListResponse", &["Volumes", "Warnings"]);
    shapes.check(&get("/volumes/vol"), "Volume", &["CreatedAt"]);
    let network = [
        "Name",
        "Id",
        "Created",
        "Scope",
        "Driver",
        "EnableIPv6",
        "IPAM",
        "Internal",
        "Attachable",
        "Ingress",
        "Containers",
        "Options",
        "Labels",
    ];
    shapes.check(&get("/networks/bridge"), "NetworkInspect", &network);
    for item in get("/networks").as_array().expect("a list") {
        shapes.check(item, "NetworkSummary", &["Name", "Id", "Driver", "IPAM"]);
    }
    let info = [
        "ID",
        "Containers",
        "ContainersRunning",
        "ContainersPaused",
        "ContainersStopped",
        "Images",
        "Driver",
        "DriverStatus",
        "DockerRootDir",
        "Plugins",
        "MemoryLimit",
        "SwapLimit",
        "PidsLimit",
        "CgroupDriver",
        "CgroupVersion",
        "KernelVersion",
        "OperatingSystem",
        "OSType",
        "Architecture",
        "NCPU",
        "MemTotal",
        "Name",
        "ServerVersion",
        "Runtimes",
        "DefaultRuntime",
        "SecurityOptions",
        "Warnings",
        "LoggingDriver",
    ];
    shapes.check(&get("/info"), "SystemInfo", &info);
    let version = [
        "Version",
        "ApiVersion",
        "MinAPIVersion",
        "GitCommit",
        "Os",
        "Arch",
        "KernelVersion",
        "BuildTime",
        "Components",
    ];
    shapes.check(&get("/version"), "SystemVersion", &version);
    shapes.finish();
}
