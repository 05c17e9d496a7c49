//! `hull build logs`: what builds told, whole, after they have ended and while they go on.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::client::{Query, segment};
use crate::commands::shared::print_list;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human;
use crate::outln;

/// Lists the builds whose logs are kept.
pub async fn list(context: &Context, format: Option<&str>) -> Result<ExitStatus, Error> {
    let builds: Vec<Value> = context.client.get_json(&Query::new("/hull/builds")).await?;
    let now = human::now();
    let rows: Vec<Value> = builds
        .iter()
        .map(|build| {
            let started = build["Started"].as_str().and_then(human::parse_time);
            let names = build["Tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
            json!({
                "ID": build["Id"],
                "Started": started.map_or_else(String::new, |started| human::duration_ago(started, now)),
                "Status": build["Status"],
                "Duration": build["Seconds"].as_f64().map_or_else(String::new, |seconds| format!("{seconds:.1}s")),
                "Size": human::size(build["Size"].as_f64().unwrap_or_default()),
                "Names": names.collect::<Vec<_>>().join(","),
                "Dockerfile": build["Dockerfile"],
            })
        })
        .collect();
    print_list(
        format,
        "{{.ID}}\t{{.Started}}\t{{.Status}}\t{{.Duration}}\t{{.Size}}\t{{.Dockerfile}}\t{{.Names}}",
        &[
            ("ID", "BUILD ID"),
            ("Started", "STARTED"),
            ("Status", "STATUS"),
            ("Duration", "DURATION"),
            ("Size", "SIZE"),
            ("Dockerfile", "DOCKERFILE"),
            ("Names", "NAMES"),
        ],
        &rows,
    )?;
    Ok(ExitStatus::SUCCESS)
}

/// Prints what a build told.
pub async fn show(context: &Context, id: &str) -> Result<ExitStatus, Error> {
    let path = format!("/hull/builds/{}/log", segment(id));
    let mut lines = context.client.stream(&Query::new(path)).await?.json_stream();
    let mut partial: BTreeMap<u64, String> = BTreeMap::new();
    while let Some(line) = lines.next().await? {
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        let step = line["step"].as_u64().unwrap_or_default();
        let at = line["at"].as_f64().unwrap_or_default();
        match text("event") {
            "step" => outln!("#{step} [{}] {}", text("name"), text("text"))?,
            "output" => {
                let pending = partial.entry(step).or_default();
                pending.push_str(text("text"));
                while let Some(end) = pending.find('\n') {
                    let whole: String = pending.drain(..=end).collect();
                    outln!("#{step} {at:.3} {}", super::show::shown(&whole))?;
                }
            }
            "cut" => outln!("{}", text("text").trim_end())?,
            "done" | "failed" => {
                if let Some(rest) = partial.remove(&step).filter(|rest| !rest.is_empty()) {
                    outln!("#{step} {at:.3} {}", super::show::shown(&rest))?;
                }
                let seconds = line["seconds"].as_f64().unwrap_or_default();
                match (text("event"), line["cached"] == true) {
                    ("failed", _) => outln!("#{step} ERROR\n")?,
                    (_, true) => outln!("#{step} CACHED\n")?,
                    (_, false) => outln!("#{step} DONE {seconds:.1}s\n")?,
                }
            }
            "end" if line["image"].is_string() => outln!("Built {}", text("image"))?,
            "end" => {
                if !text("excerpt").is_empty() {
                    outln!("{}", text("excerpt"))?;
                }
                outln!("failed to build: {}", text("error"))?;
            }
            _ => {}
        }
    }
    Ok(ExitStatus::SUCCESS)
}
