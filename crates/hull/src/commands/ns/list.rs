//! `ns ls` and `ns pids`.

use clap::Args;
use hull_runtime::partial::list as namespaces;
use serde_json::{Value, json};

use crate::commands::explain::plain;
use crate::commands::shared::inspect::pretty;
use crate::commands::shared::print_list;
use crate::commands::shared::process::{self, failed};
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::outln;

/// `ns ls`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull ns ls                  # every namespace, who made it, how many processes it has
  hull ns ls --type net       # those of the network alone
  hull ns ls --json | jq '.[] | select(.containers != [])'")]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Don't truncate commands
    #[arg(long)]
    no_trunc: bool,
    /// Only this type: mnt, uts, ipc, net, pid, user, cgroup, time
    #[arg(short, long = "type", value_name = "type")]
    kind: Option<String>,
}

const HEADERS: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("Inode", "INODE"),
    ("Owner", "OWNER"),
    ("Processes", "PROCESSES"),
    ("Pid", "PID"),
    ("Containers", "CONTAINERS"),
    ("Command", "COMMAND"),
];

const TABLE: &str =
    "{{.Type}}\t{{.Inode}}\t{{.Owner}}\t{{.Processes}}\t{{.Pid}}\t{{.Containers}}\t{{.Command}}";

/// `ns ls`.
pub async fn list(args: ListArgs, context: &Context) -> Result<ExitStatus, Error> {
    let kinds = hull_runtime::partial::Kind::ALL.map(|kind| kind.name());
    if let Some(kind) = args.kind.as_deref().filter(|kind| !kinds.contains(kind)) {
        return Err(Error::usage(format!("--type {kind}: there are {}", kinds.join(", "))));
    }
    let names = process::container_names(context).await;
    let mut found = namespaces::namespaces().map_err(failed)?;
    found.retain(|namespace| args.kind.as_deref().is_none_or(|kind| kind == namespace.kind));
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let rows: Vec<Value> = found
        .iter()
        .map(|namespace| {
            let called: Vec<String> =
                namespace.containers.iter().map(|id| process::container_name(&names, id)).collect();
            if args.json {
                let mut row = serde_json::to_value(namespace)?;
                row["containers"] = json!(called);
                return Ok(row);
            }
            let command = &plain(&namespace.command);
            Ok(json!({
                "Type": namespace.kind,
                "Inode": namespace.inode,
                "Owner": namespace.owner.map_or_else(|| "-".to_owned(), |uid| user_name(&users, uid)),
                "Processes": namespace.processes,
                "Pid": namespace.pid,
                "Containers": containers(namespace.host, &called),
                "Command": if args.no_trunc { command.clone() } else { crate::format::human::ellipsis(command, 40) },
            }))
        })
        .collect::<Result<_, Error>>()?;
    if args.json {
        outln!("{}", pretty(&Value::Array(rows))?)?;
    } else {
        print_list(None, TABLE, HEADERS, &rows)?;
    }
    Ok(ExitStatus::SUCCESS)
}

fn containers(host: bool, called: &[String]) -> String {
    match (host, called) {
        (true, _) => "(host)".to_owned(),
        (false, []) => "-".to_owned(),
        (false, called) => called.join(","),
    }
}

/// The user's name in the text of an /etc/passwd; the number where there is none.
pub(super) fn user_name(passwd: &str, uid: u32) -> String {
    let uid = uid.to_string();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    name.unwrap_or(uid)
}

/// `ns pids`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  hull ns pids web            # the id that the host knows, and the one inside: 1
  hull ns pids 4711 --json")]
pub struct PidsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[arg(value_name = "PID|CONTAINER")]
    target: String,
}

/// `ns pids`.
pub async fn pids(args: PidsArgs, context: &Context) -> Result<ExitStatus, Error> {
    let pid = process::find(context, &args.target).await?;
    let levels = namespaces::ids(pid).map_err(failed)?;
    if args.json {
        outln!("{}", pretty(&serde_json::to_value(&levels)?)?)?;
        return Ok(ExitStatus::SUCCESS);
    }
    let rows: Vec<Value> = levels
        .iter()
        .map(|level| {
            let namespace = level.namespace.map_or_else(|| "-".to_owned(), |inode| inode.to_string());
            json!({ "Level": level.level, "Namespace": namespace, "Pid": level.pid })
        })
        .collect();
    let headers = &[("Level", "LEVEL"), ("Namespace", "NAMESPACE"), ("Pid", "PID")];
    print_list(None, "{{.Level}}\t{{.Namespace}}\t{{.Pid}}", headers, &rows)?;
    Ok(ExitStatus::SUCCESS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn users_by_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/:/\n";
        assert_eq!(super::user_name(passwd, 33), "web");
        assert_eq!(super::user_name(passwd, 34), "34");
    }
}
