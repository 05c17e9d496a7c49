//! `system df`.

use clap::Args;
use serde_json::{Value, json};

use crate::client::Query;
use crate::commands::image::{IMAGE_HEADERS, image_rows};
use crate::commands::shared::print_list;
use crate::commands::volume;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::{self, human};
use crate::{out, outln};

/// `system df`.
#[derive(Args, Debug)]
pub struct DfArgs {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short, long)]
    verbose: bool,
}

/// `hull system df`.
pub async fn df(args: DfArgs, context: &Context) -> Result<ExitStatus, Error> {
    let path = Query::new("/system/df").with_flag("verbose", args.verbose);
    let answer: Value = context.client.get_json(&path).await?;
    let usage = Usage::read(&answer);
    let spec = args.format.as_deref().filter(|spec| !spec.is_empty());
    match (args.verbose, spec) {
        (true, None) => details(&usage)?,
        (true, Some("json")) => outln!("{}", usage.items())?,
        (true, Some(spec)) => {
            let template = format::Template::parse(spec).map_err(Error::new)?;
            outln!("{}", template.render(&usage.items()).map_err(Error::new)?)?;
        }
        (false, spec) => print_list(
            spec,
            "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
            &[
                ("Type", "TYPE"),
                ("TotalCount", "TOTAL"),
                ("Active", "ACTIVE"),
                ("Size", "SIZE"),
                ("Reclaimable", "RECLAIMABLE"),
            ],
            &usage.summary(),
        )?,
    }
    if spec.is_none() {
        lost_layers(&answer).iter().try_for_each(|line| outln!("\n{line}"))?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// Layers whose database is gone: where they are, what they take, and how that is given back.
fn lost_layers(answer: &Value) -> Vec<String> {
    let remedy = match answer["LostLayersInUse"].as_bool() {
        Some(true) => {
            "containers run on them: end those whose image is missing, and then \"hull system fsck --repair\""
        }
        _ => "\"hull system fsck --repair\"",
    };
    let line = |lost: &Value| {
        format!(
            "{} of {} layers whose database is gone are in {}; to remove them: {remedy}",
            human::size_in_digits(number(lost, "Size"), 4),
            lost["Layers"].as_u64().unwrap_or_default(),
            lost["Path"].as_str().unwrap_or_default()
        )
    };
    answer["LostLayers"].as_array().into_iter().flatten().map(line).collect()
}

/// One kind of object's share.
#[derive(Debug, Default, PartialEq)]
struct Share {
    total: u64,
    active: u64,
    size: f64,
    reclaimable: f64,
    items: Vec<Value>,
}

/// What the daemon says of its disk, whatever its API version.
#[derive(Debug)]
struct Usage {
    images: Share,
    containers: Share,
    volumes: Share,
    build_cache: Share,
}

impl Usage {
    /// Reads the answer: since API 1.52 the daemon counts, before that the client does.
    fn read(answer: &Value) -> Self {
        if answer["ImageUsage"].is_object() || answer["ContainerUsage"].is_object() {
            return Self {
                images: counted(&answer["ImageUsage"]),
                containers: counted(&answer["ContainerUsage"]),
                volumes: counted(&answer["VolumeUsage"]),
                build_cache: counted(&answer["BuildCacheUsage"]),
            };
        }
        let list = |field: &str| answer[field].as_array().cloned().unwrap_or_default();
        Self {
            images: images(list("Images"), answer["LayersSize"].as_f64().unwrap_or_default()),
            containers: containers(list("Containers")),
            volumes: volumes(list("Volumes")),
            build_cache: build_cache(list("BuildCache")),
        }
    }

    fn kinds(&self) -> [(&'static str, &Share); 4] {
        [
            ("Images", &self.images),
            ("Containers", &self.containers),
            ("Local Volumes", &self.volumes),
            ("Build Cache", &self.build_cache),
        ]
    }

    fn summary(&self) -> Vec<Value> {
        let row = |(kind, share): (&str, &Share)| {
            json!({
                "Type": kind,
                "TotalCount": share.total.to_string(),
                "Active": share.active.to_string(),
                "Size": human::size_in_digits(share.size, 4),
                "Reclaimable": reclaimable(share, kind),
            })
        };
        self.kinds().map(row).to_vec()
    }

    /// Every object, as `-v` shows them to a template.
    fn items(&self) -> Value {
        json!({
            "Images": one_row_each(&self.images.items, true),
            "Containers": container_rows(&self.containers.items, true),
            "Volumes": volume_rows(&self.volumes.items),
            "BuildCache": cache_rows(&self.build_cache.items, true),
        })
    }
}

/// The freeable part, with its percentage of the whole; Docker gives none for the build cache.
fn reclaimable(share: &Share, kind: &str) -> String {
    let text = human::size_in_digits(share.reclaimable, 4);
    if share.size > 0.0 && kind != "Build Cache" {
        let percent = (share.reclaimable * 100.0 / share.size).floor();
        return format!("{text} ({percent}%)");
    }
    text
}

fn counted(usage: &Value) -> Share {
    Share {
        total: usage["TotalCount"].as_u64().unwrap_or_default(),
        active: usage["ActiveCount"].as_u64().unwrap_or_default(),
        size: usage["TotalSize"].as_f64().unwrap_or_default(),
        reclaimable: usage["Reclaimable"].as_f64().unwrap_or_default(),
        items: usage["Items"].as_array().cloned().unwrap_or_default(),
    }
}

fn number(value: &Value, field: &str) -> f64 {
    value[field].as_f64().filter(|n| *n >= 0.0).unwrap_or_default()
}

fn count(items: &[Value], holds: impl Fn(&Value) -> bool) -> u64 {
    items.iter().filter(|item| holds(item)).count() as u64
}

fn images(items: Vec<Value>, layers: f64) -> Share {
    let used = |image: &Value| number(image, "Containers") > 0.0;
    // Layers that several images share are in none of their own sizes.
    let own = |image: &Value| number(image, "Size") - number(image, "SharedSize");
    let in_use: f64 = items.iter().filter(|i| used(i)).map(own).sum();
    Share {
        total: items.len() as u64,
        active: count(&items, used),
        size: layers,
        reclaimable: (layers - in_use).max(0.0),
        items,
    }
}

fn containers(items: Vec<Value>) -> Share {
    let runs =
        |container: &Value| matches!(container["State"].as_str(), Some("running" | "paused" | "restarting"));
    let size = |container: &Value| number(container, "SizeRw");
    Share {
        total: items.len() as u64,
        active: count(&items, runs),
        size: items.iter().map(size).sum(),
        reclaimable: items.iter().filter(|c| !runs(c)).map(size).sum(),
        items,
    }
}

fn volumes(items: Vec<Value>) -> Share {
    let used = |volume: &Value| number(&volume["UsageData"], "RefCount") > 0.0;
    let size = |volume: &Value| number(&volume["UsageData"], "Size");
    Share {
        total: items.len() as u64,
        active: count(&items, used),
        size: items.iter().map(size).sum(),
        reclaimable: items.iter().filter(|v| !used(v)).map(size).sum(),
        items,
    }
}

fn build_cache(items: Vec<Value>) -> Share {
    let used = |record: &Value| record["InUse"].as_bool() == Some(true);
    // What is shared with an image is counted there.
    let size =
        |record: &Value| if record["Shared"].as_bool() == Some(true) { 0.0 } else { number(record, "Size") };
    Share {
        total: items.len() as u64,
        active: count(&items, used),
        size: items.iter().map(size).sum(),
        reclaimable: items.iter().filter(|r| !used(r)).map(size).sum(),
        items,
    }
}

/// An image takes its room once, whatever number of names it has: the first one is shown.
fn one_row_each(images: &[Value], no_trunc: bool) -> Vec<Value> {
    images
        .iter()
        .filter_map(|image| image_rows(std::slice::from_ref(image), no_trunc, false).into_iter().next())
        .collect()
}

fn container_rows(containers: &[Value], no_trunc: bool) -> Vec<Value> {
    /// As wide as Docker shows a command.
    const COMMAND: usize = 20;
    let now = human::now();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |container: &Value| {
        let id = text(&container["Id"]);
        let command = text(&container["Command"]);
        let command = if no_trunc { command } else { human::ellipsis(&command, COMMAND) };
        let names = container["Names"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names: Vec<&str> = names.map(|name| name.trim_start_matches('/')).collect();
        let mounts = container["Mounts"].as_array().into_iter().flatten();
        let volumes = mounts.filter(|mount| mount["Type"] == "volume").count();
        json!({
            "ID": if no_trunc { &id } else { human::short_id(&id) },
            "Image": container["Image"],
            "Command": format!("\"{command}\""),
            "LocalVolumes": volumes.to_string(),
            "Size": human::size(number(container, "SizeRw")),
            "CreatedSince": human::duration_ago(number(container, "Created"), now),
            "CreatedAt": human::local_time(number(container, "Created")),
            "State": container["State"],
            "Status": container["Status"],
            "Names": names.join(","),
        })
    };
    containers.iter().map(row).collect()
}

fn volume_rows(volumes: &[Value]) -> Vec<Value> {
    let mut rows = volume::rows(volumes);
    // What `{{.Label "key"}}` is for in a list has no place among plain values.
    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
        row.remove("Label");
    }
    rows
}

fn cache_rows(records: &[Value], no_trunc: bool) -> Vec<Value> {
    let now = human::now();
    let ago = |value: &Value| {
        let then = value.as_str().and_then(human::parse_time);
        then.map_or_else(String::new, |then| human::duration_ago(then, now))
    };
    let row = |record: &Value| {
        let id = record["ID"].as_str().unwrap_or_default();
        let id = if no_trunc { id } else { human::short_id(id) };
        // A star marks what is in use, as in Docker.
        let mark = if record["InUse"].as_bool() == Some(true) { "*" } else { "" };
        json!({
            "ID": format!("{id}{mark}"),
            "CacheType": record["Type"],
            "Size": human::size(number(record, "Size")),
            "CreatedSince": ago(&record["CreatedAt"]),
            "LastUsedSince": ago(&record["LastUsedAt"]),
            "UsageCount": record["UsageCount"].as_u64().unwrap_or_default().to_string(),
            "Shared": record["Shared"].as_bool().unwrap_or_default().to_string(),
        })
    };
    records.iter().map(row).collect()
}

/// `-v` for people: a table for each kind.
fn details(usage: &Usage) -> Result<(), Error> {
    outln!("Images space usage:\n")?;
    print_list(
        None,
        "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
        IMAGE_HEADERS,
        &one_row_each(&usage.images.items, false),
    )?;
    outln!("\nContainers space usage:\n")?;
    print_list(
        None,
        "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.CreatedSince}}\t{{.Status}}\t{{.Names}}",
        &[
            ("ID", "CONTAINER ID"),
            ("Image", "IMAGE"),
            ("Command", "COMMAND"),
            ("LocalVolumes", "LOCAL VOLUMES"),
            ("Size", "SIZE"),
            ("CreatedSince", "CREATED"),
            ("Status", "STATUS"),
            ("Names", "NAMES"),
        ],
        &container_rows(&usage.containers.items, false),
    )?;
    outln!("\nLocal Volumes space usage:\n")?;
    print_list(
        None,
        "{{.Name}}\t{{.Links}}\t{{.Size}}",
        volume::HEADERS,
        &volume_rows(&usage.volumes.items),
    )?;
    out!("\nBuild cache usage: {}\n\n", human::size_in_digits(usage.build_cache.size, 4))?;
    print_list(
        None,
        "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
        &[
            ("ID", "CACHE ID"),
            ("CacheType", "CACHE TYPE"),
            ("Size", "SIZE"),
            ("CreatedSince", "CREATED"),
            ("LastUsedSince", "LAST USED"),
            ("UsageCount", "USAGE"),
            ("Shared", "SHARED"),
        ],
        &cache_rows(&usage.build_cache.items, false),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(answer: &Value) -> Vec<String> {
        let words = ["TotalCount", "Active", "Size", "Reclaimable"];
        let line = |row: &Value| words.map(|w| row[w].as_str().unwrap().to_owned()).join(" ");
        Usage::read(answer).summary().iter().map(line).collect()
    }

    #[test]
    fn an_older_daemons_answer_is_counted_here() {
        let answer = json!({
            "LayersSize": 1000,
            "Images": [{"Containers": 1, "Size": 600, "SharedSize": 100}, {"Containers": 0, "Size": 500, "SharedSize": 100}],
            "Containers": [{"State": "running", "SizeRw": 10}, {"State": "exited", "SizeRw": 30}],
            "Volumes": [{"UsageData": {"RefCount": 1, "Size": 5}}, {"UsageData": {"RefCount": 0, "Size": 15}},
                        {"UsageData": {"RefCount": -1, "Size": -1}}],
            "BuildCache": [{"Size": 7, "InUse": true}, {"Size": 3}, {"Size": 100, "Shared": true}],
        });
        assert_eq!(
            summary(&answer),
            ["2 1 1kB 500B (50%)", "2 1 40B 30B (75%)", "3 1 20B 15B (75%)", "3 1 10B 3B"]
        );
    }

    #[test]
    fn a_newer_daemon_counts_itself() {
        let answer = json!({
            "ImageUsage": {"TotalCount": 4, "ActiveCount": 1, "TotalSize": 2000, "Reclaimable": 1500},
            "ContainerUsage": {"TotalCount": 0, "ActiveCount": 0, "TotalSize": 0, "Reclaimable": 0},
        });
        assert_eq!(summary(&answer), ["4 1 2kB 1.5kB (75%)", "0 0 0B 0B", "0 0 0B 0B", "0 0 0B 0B"]);
    }

    #[test]
    fn lost_layers_are_told_of_with_what_to_do() {
        let answer = json!({ "LostLayers": [{"Path": "/d/image/lost/1", "Layers": 2, "Size": 3000}] });
        let told = "3kB of 2 layers whose database is gone are in /d/image/lost/1; to remove them: \"hull system fsck --repair\"";
        assert_eq!(lost_layers(&answer), [told]);
        let mut used = answer;
        used["LostLayersInUse"] = json!(true);
        assert!(lost_layers(&used)[0].contains("containers run on them"));
        assert!(lost_layers(&json!({})).is_empty());
    }

    #[test]
    fn nothing_at_all() {
        assert_eq!(summary(&json!({})), ["0 0 0B 0B"; 4]);
    }
}
