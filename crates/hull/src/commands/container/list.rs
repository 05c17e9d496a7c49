//! `ps`.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::client::Query;
use crate::commands::shared::{labels_text, print_list};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;

/// `ps`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull ps -a --filter status=exited
  hull ps --format 'table {{.Names}}\\t{{.Status}}\\t{{.Ports}}'
  hull ps -aq --filter ancestor=busybox")]
pub struct ListArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show n last created containers (includes all states) (default -1)
    #[arg(short = 'n', long, value_name = "int")]
    last: Option<i64>,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
}

/// The titles of a container's columns.
pub const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

const TABLE: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

/// `hull ps`.
pub async fn list(args: ListArgs, context: &Context) -> Result<ExitStatus, Error> {
    let configured =
        || context.config_value("psFormat").and_then(|format| format.as_str().map(str::to_owned));
    let format = match args.format.clone().filter(|format| !format.is_empty()) {
        Some(format) => Some(format),
        None if args.quiet => None,
        None => configured(),
    };
    let last = if args.latest { Some(1) } else { args.last.filter(|&n| n > 0) };
    // A template that shows the size needs it computed, as the flag does.
    let size = args.size || format.as_ref().is_some_and(|format| format.contains(".Size"));
    let path = Query::new("/containers/json")
        .with_flag("all", args.all || last.is_some())
        .with_flag("size", size)
        .with_some("limit", last.map(|n| n.to_string()))
        .with_filters(&args.filter)?;
    let containers: Vec<Value> = context.client.get_json(&path).await?;
    let rows = rows(&containers, args.no_trunc);
    let is_table = format.as_deref().is_none_or(|format| format == "table");
    let format = if args.quiet && is_table { Some("{{.ID}}") } else { format.as_deref() };
    let table = if args.size { format!("{TABLE}\t{{{{.Size}}}}") } else { TABLE.to_owned() };
    print_list(format, &table, HEADERS, &rows)?;
    Ok(ExitStatus::SUCCESS)
}

/// A row for each container.
pub fn rows(containers: &[Value], whole: bool) -> Vec<Value> {
    containers.iter().map(|container| row(container, whole)).collect()
}

fn row(container: &Value, whole: bool) -> Value {
    let text = |name: &str| container[name].as_str().unwrap_or_default();
    let created = container["Created"].as_i64().unwrap_or(0);
    let command = if whole { text("Command").to_owned() } else { human::ellipsis(text("Command"), 20) };
    let networks = container["NetworkSettings"]["Networks"].as_object();
    let mut networks: Vec<&str> = networks.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    networks.sort_unstable();
    let mounts: Vec<&Value> = container["Mounts"].as_array().into_iter().flatten().collect();
    let local = mounts.iter().filter(|mount| mount["Driver"] == "local").count();
    json!({
        "ID": if whole { text("Id").to_owned() } else { human::short_id(text("Id")).to_owned() },
        "Names": names(container, whole),
        "Image": image(text("Image"), text("ImageID"), whole),
        "Command": format!("{command:?}"),
        "CreatedAt": human::local_time(created as f64),
        "RunningFor": human::duration_ago(created as f64, human::now()),
        "Ports": ports(&container["Ports"]),
        "State": text("State"),
        "Status": text("Status"),
        "Size": size(container),
        "Labels": labels_text(&container["Labels"]),
        "Label": container["Labels"].as_object().cloned().unwrap_or_else(Map::new),
        "Mounts": mounts.iter().map(|mount| mount_name(mount, whole)).collect::<Vec<_>>().join(","),
        "LocalVolumes": local.to_string(),
        "Networks": networks.join(","),
        "Platform": container["ImageManifestDescriptor"]["platform"],
    })
}

/// The names without the slash before them; those given by links are shown in full listings alone.
fn names(container: &Value, whole: bool) -> String {
    let names = container["Names"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let names = names.map(|name| name.strip_prefix('/').unwrap_or(name));
    names.filter(|name| whole || !name.contains('/')).collect::<Vec<_>>().join(",")
}

fn image(name: &str, id: &str, whole: bool) -> String {
    if name.is_empty() {
        return "<no image>".to_owned();
    }
    if whole {
        return name.to_owned();
    }
    if human::short_id(id) == human::short_id(name) {
        return human::short_id(id).to_owned();
    }
    // The digest behind a tag is left out; one that is all there is stays.
    match name.split_once('@') {
        Some((tagged, _)) if tagged.rsplit('/').next().is_some_and(|last| last.contains(':')) => {
            tagged.to_owned()
        }
        _ => name.to_owned(),
    }
}

fn size(container: &Value) -> String {
    let own = human::size(container["SizeRw"].as_f64().unwrap_or(0.0));
    match container["SizeRootFs"].as_f64() {
        Some(all) if all > 0.0 => format!("{own} (virtual {})", human::size(all)),
        _ => own,
    }
}

fn mount_name(mount: &Value, whole: bool) -> String {
    let name = mount["Name"].as_str().filter(|name| !name.is_empty());
    let name = name.or_else(|| mount["Source"].as_str()).unwrap_or_default();
    if whole { name.to_owned() } else { human::ellipsis(name, 15) }
}

/// The ports as Docker shows them: neighbours joined to ranges, then those whose number differs on the host.
fn ports(ports: &Value) -> String {
    let mut ports: Vec<(u64, &str, u64, &str)> = ports
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let number = |name: &str| port[name].as_u64().unwrap_or(0);
            let text = |name: &str| port[name].as_str().unwrap_or_default();
            (number("PrivatePort"), text("IP"), number("PublicPort"), text("Type"))
        })
        .collect();
    ports.sort_unstable();
    let mut open: Vec<((&str, &str), u64, u64)> = Vec::new();
    let (mut result, mut mapped) = (Vec::new(), Vec::new());
    for (private, ip, public, kind) in ports {
        if !ip.is_empty() && public != private {
            mapped.push(format!("{}:{public}->{private}/{kind}", bracketed(ip)));
            continue;
        }
        match open.iter_mut().find(|(key, ..)| *key == (ip, kind)) {
            None => open.push(((ip, kind), private, private)),
            Some((_, _, last)) if *last + 1 == private => *last = private,
            Some((key, first, last)) => {
                result.push(port_group(*key, *first, *last));
                (*first, *last) = (private, private);
            }
        }
    }
    result.extend(open.into_iter().map(|(key, first, last)| port_group(key, first, last)));
    result.extend(mapped);
    result.join(", ")
}

fn port_group((ip, kind): (&str, &str), first: u64, last: u64) -> String {
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    if ip.is_empty() {
        format!("{range}/{kind}")
    } else {
        format!("{}:{range}->{range}/{kind}", bracketed(ip))
    }
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, private: u64, public: u64, kind: &str) -> Value {
        let mut port = json!({"PrivatePort": private, "Type": kind});
        if !ip.is_empty() {
            port["IP"] = ip.into();
            port["PublicPort"] = public.into();
        }
        port
    }

    #[test]
    fn ports_in_ranges() {
        for (list, wanted) in [
            (json!([]), ""),
            (
                json!([port("", 80, 0, "tcp"), port("", 81, 0, "tcp"), port("", 90, 0, "tcp")]),
                "80-81/tcp, 90/tcp",
            ),
            (
                json!([port("0.0.0.0", 80, 80, "tcp"), port("0.0.0.0", 81, 81, "tcp")]),
                "0.0.0.0:80-81->80-81/tcp",
            ),
            (
                json!([port("::", 80, 8080, "tcp"), port("0.0.0.0", 80, 8080, "tcp"), port("", 9, 0, "udp")]),
                "9/udp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
            ),
        ] {
            assert_eq!(ports(&list), wanted, "{list}");
        }
    }

    #[test]
    fn a_row() {
        let container = json!({"Id": "0123456789abcdef", "Names": ["/a", "/b/a"], "Image": "x@sha256:1", "Command":
            "sh -c 'a long command line'", "State": "running", "SizeRw": 5, "SizeRootFs": 1000,
            "Mounts": [{"Driver": "local", "Name": "0123456789abcdefgh"}],
            "NetworkSettings": {"Networks": {"z": {}, "a": {}}}});
        let row = row(&container, false);
        for (field, wanted) in [
            ("ID", "0123456789ab"),
            ("Names", "a"),
            ("Image", "x@sha256:1"),
            ("Command", "\"sh -c 'a long comma…\""),
            ("Size", "5B (virtual 1kB)"),
            ("Mounts", "0123456789abcd…"),
            ("LocalVolumes", "1"),
            ("Networks", "a,z"),
        ] {
            assert_eq!(row[field], wanted, "{field}");
        }
    }
}
