//! `cgroup tree` and `cgroup show`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use hull_runtime::cgroup::{self, Node, Usage};
use hull_runtime::partial::list::container_id;
use serde_json::{Value, json};

use crate::commands::explain::plain;
use crate::commands::shared::inspect::pretty;
use crate::commands::shared::print_list;
use crate::commands::shared::process::{self, failed};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::human::size_binary;
use crate::{out, outln};

/// `cgroup tree`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull cgroup tree                    # used / allowed, containers by name
  hull cgroup tree --watch            # anew each second
  hull cgroup tree --json | jq '[.. | objects | select(.name? == \"web\")][0].memory'")]
pub struct TreeArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show it anew each second
    #[arg(short, long)]
    watch: bool,
}

/// `cgroup show`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull cgroup show web
  hull cgroup show $$ --json")]
pub struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[arg(value_name = "PID|CONTAINER")]
    target: String,
}

/// `cgroup show`.
pub async fn show(args: ShowArgs, context: &Context) -> Result<ExitStatus, Error> {
    let pid = process::find(context, &args.target).await?;
    let usage = cgroup::usage_of_process(pid).map_err(failed)?;
    if args.json {
        outln!("{}", pretty(&serde_json::to_value(&usage)?)?)?;
    } else {
        lines(&usage).iter().try_for_each(|line| outln!("{line}"))?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// `cgroup tree`.
pub async fn tree(args: TreeArgs, context: &Context) -> Result<ExitStatus, Error> {
    let clears = args.watch && !args.json && std::io::stdout().is_terminal();
    loop {
        let names = process::container_names(context).await;
        let mut root = cgroup::tree().map_err(failed)?;
        name_containers(&mut root, &names);
        if clears {
            out!("\x1b[H\x1b[2J")?;
        }
        if args.json {
            outln!("{}", pretty(&serde_json::to_value(&root)?)?)?;
        } else {
            print_tree(&root)?;
        }
        if !args.watch {
            return Ok(ExitStatus::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn name_containers(node: &mut Node, names: &BTreeMap<String, String>) {
    if container_id(&node.name).is_some() {
        node.name = process::container_name(names, &node.name);
    }
    node.children.iter_mut().for_each(|child| name_containers(child, names));
}

const HEADERS: &[(&str, &str)] = &[
    ("Name", "CGROUP"),
    ("Memory", "MEMORY / MAX"),
    ("Peak", "PEAK"),
    ("Cpu", "CPU TIME / CPUS"),
    ("Pids", "PIDS / MAX"),
];

fn print_tree(root: &Node) -> Result<(), Error> {
    let mut rows = Vec::new();
    add_rows(root, "", "", &mut rows);
    print_list(None, "{{.Name}}\t{{.Memory}}\t{{.Peak}}\t{{.Cpu}}\t{{.Pids}}", HEADERS, &rows)
}

fn add_rows(node: &Node, branch: &str, indent: &str, rows: &mut Vec<Value>) {
    let name = if node.name.is_empty() { &node.path } else { &node.name };
    let usage = &node.usage;
    let or_max = |max: Option<String>| max.unwrap_or_else(|| "max".to_owned());
    let memory = usage.memory.as_ref();
    let beside = |used: String, max: Option<String>| format!("{used} / {}", or_max(max));
    let none = || "-".to_owned();
    rows.push(json!({
        // A container that may write its cgroups names them as it likes.
        "Name": format!("{branch}{}", plain(name)),
        "Memory": memory.map_or_else(none, |memory| beside(size(memory.current), memory.max.map(size))),
        "Peak": memory.and_then(|memory| memory.peak).map_or_else(none, size),
        "Cpu": usage.cpu.as_ref().map_or_else(none, |cpu| {
            beside(seconds(cpu.usage_ns), cpu.max.map(|max| max.to_string()))
        }),
        "Pids": usage.pids.as_ref().map_or_else(none, |pids| {
            beside(pids.current.to_string(), pids.max.map(|max| max.to_string()))
        }),
    }));
    for (index, child) in node.children.iter().enumerate() {
        let last = index + 1 == node.children.len();
        let (branch, deeper) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        add_rows(child, &format!("{indent}{branch}"), &format!("{indent}{deeper}"), rows);
    }
}

fn size(bytes: u64) -> String {
    size_binary(bytes as f64)
}

fn seconds(nanoseconds: u64) -> String {
    format!("{:.2}s", nanoseconds as f64 / 1e9)
}

/// What a cgroup uses of what it may, in v2's words, one a line.
pub(in crate::commands) fn lines(usage: &Usage) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<16}{value}"));
    let or_max = |max: Option<String>| max.unwrap_or_else(|| "max".to_owned());
    if let Some(memory) = &usage.memory {
        line("memory.current", size(memory.current));
        line("memory.peak", memory.peak.map_or_else(|| "unknown".to_owned(), size));
        line("memory.max", or_max(memory.max.map(size)));
        if let Some(swap) = &memory.swap {
            line("swap.current", size(swap.current));
            line("swap.max", or_max(swap.max.map(size)));
        }
        line("memory.oom_kill", memory.oom_kills.to_string());
    }
    if let Some(cpu) = &usage.cpu {
        let parts = format!(
            "{} (user {}, system {}, throttled {})",
            seconds(cpu.usage_ns),
            seconds(cpu.user_ns),
            seconds(cpu.system_ns),
            seconds(cpu.throttled_ns)
        );
        line("cpu.usage", parts);
        line("cpu.max", or_max(cpu.max.map(|max| max.to_string())));
    }
    if let Some(pids) = &usage.pids {
        line("pids.current", pids.current.to_string());
        if let Some(peak) = pids.peak {
            line("pids.peak", peak.to_string());
        }
        line("pids.max", or_max(pids.max.map(|max| max.to_string())));
    }
    if let Some(io) = &usage.io {
        line("io.read", format!("{} in {} operations", size(io.read_bytes), io.reads));
        line("io.written", format!("{} in {} operations", size(io.written_bytes), io.writes));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_in_the_tree_have_names() {
        let id = "ab".repeat(32);
        let below = Node { name: id.clone(), ..Node::default() };
        let mut root = Node { children: vec![below], ..Node::default() };
        name_containers(&mut root, &BTreeMap::from([(id.clone(), "web".to_owned())]));
        assert_eq!(root.children[0].name, "web");
        root.children[0].name = id;
        name_containers(&mut root, &BTreeMap::new());
        assert_eq!(root.children[0].name, "abababababab");
    }

    #[test]
    fn a_cgroup_s_name_is_nothing_to_a_terminal() {
        let below = Node { name: "a\u{1b}[2J\nb".to_owned(), ..Node::default() };
        let mut rows = Vec::new();
        add_rows(&Node { children: vec![below], ..Node::default() }, "", "", &mut rows);
        assert_eq!(rows[1]["Name"], "└─ a\\u{1b}[2J\\nb");
    }
}
