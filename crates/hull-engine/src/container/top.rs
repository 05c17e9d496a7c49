//! The processes of a container, as `ps` of the host prints them.
//!
//! The usual columns are read from `/proc` here; for others the host's own `ps` is asked, as Docker does.

mod columns;

use std::collections::BTreeSet;
use std::process::{Output, Stdio};
use std::sync::Arc;

use hull_runtime::cgroup::Cgroup;
use serde::Serialize;
use tokio::process::Command;

use self::columns::{Layout, Process};
use super::{Container, Status};
use crate::{Engine, Error, Kind, Result};

/// Processes as a table.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Top {
    /// The columns' heads.
    pub titles: Vec<String>,
    /// One row for each process, in the order of their ids.
    pub processes: Vec<Vec<String>>,
}

impl Engine {
    /// The processes of a container. `ps_args` as for `ps`; empty: `-ef`.
    ///
    /// # Errors
    /// The container does not run, or `ps` does not know the arguments or shows no process ids with them.
    pub async fn top(self: &Arc<Self>, container: &Arc<Container>, ps_args: &str) -> Result<Top> {
        let ps_args = if ps_args.is_empty() { "-ef" } else { ps_args };
        check_arguments(ps_args)?;
        match container.record().state.status {
            Status::Running | Status::Paused => {}
            Status::Restarting => {
                let id = &container.id;
                return Err(Error::conflict(format!(
                    "Container {id} is restarting, wait until the container is running"
                )));
            }
            _ => return Err(Error::conflict(format!("container {} is not running", container.id))),
        }
        let pids = Cgroup::open(&container.cgroup_path(&self.config.instance))?.processes()?;
        let top = match Layout::of(ps_args) {
            Some(layout) => {
                let read = tokio::task::spawn_blocking(move || table(&layout, &pids));
                read.await.map_err(|error| Error::system("read a container's processes", error))??
            }
            None => of_hosts_ps(ps_args, &pids).await?,
        };
        self.tell(container, "top");
        Ok(top)
    }
}

/// Refuses a column whose head is made to look like the one of process ids.
fn check_arguments(ps_args: &str) -> Result<()> {
    for word in ps_args.split_ascii_whitespace().skip(1).flat_map(|words| words.split(',')) {
        if let Some((column, head)) = word.split_once('=')
            && head.trim_start().starts_with("PID")
            && column != "pid"
        {
            return Err(Error::invalid(format!("specifying \"{column}={head}\" is not allowed")));
        }
    }
    Ok(())
}

fn table(layout: &Layout, pids: &[i32]) -> Result<Top> {
    let machine =
        columns::Machine::read().map_err(|error| Error::system("read the machine's clock", error))?;
    let mut top = Top { titles: layout.titles(), processes: Vec::with_capacity(pids.len()) };
    for &pid in pids {
        // One that ended since the cgroup was read is none any more.
        if let Some(process) = Process::read(pid) {
            top.processes.push(layout.row(&process, &machine));
        }
    }
    Ok(top)
}

/// Asks the host's `ps`: for these processes alone first; some arguments do not go together with a choice.
async fn of_hosts_ps(ps_args: &str, pids: &[i32]) -> Result<Top> {
    let chosen = pids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let chosen = format!("-q{chosen}");
    let mut output = run_ps(ps_args, Some(&chosen)).await?;
    if !output.status.success() {
        output = run_ps(ps_args, None).await?;
    }
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let line = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("it failed without a word");
        return Err(Error::system("ps", line.trim()));
    }
    parse_ps(&String::from_utf8_lossy(&output.stdout), &pids.iter().copied().collect())
}

async fn run_ps(ps_args: &str, chosen: Option<&str>) -> Result<Output> {
    let mut command = Command::new("ps");
    command.args(ps_args.split(' ')).args(chosen).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            Kind::NotImplemented,
            format!(
                "top with {ps_args:?} needs the program ps on the host, which is not there: install procps, or use \
                 -ef, aux or -o with the usual columns"
            ),
        ),
        _ => Error::system("run ps", error),
    })
}

/// Cuts what `ps` printed into columns and keeps the rows of these processes.
fn parse_ps(text: &str, pids: &BTreeSet<i32>) -> Result<Top> {
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    let Some(at) = titles.iter().position(|title| title == "PID") else {
        return Err(Error::new(Kind::System, "Couldn't find PID field in ps output"));
    };
    let mut processes = Vec::new();
    // A thread's line has a dash for its id and comes behind its process.
    let mut own = false;
    for line in lines {
        let mut fields: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
        let Some(pid) = fields.get(at) else { continue };
        if pid != "-" {
            let pid: i32 = pid
                .parse()
                .map_err(|error| Error::new(Kind::System, format!("Unexpected pid '{pid}': {error}")))?;
            own = pids.contains(&pid);
        }
        if own {
            // The last column has spaces of its own.
            if fields.len() > titles.len() {
                let last = fields.split_off(titles.len() - 1).join(" ");
                fields.push(last);
            }
            processes.push(fields);
        }
    }
    Ok(Top { titles, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_ps_are_those_of_the_container() {
        let text = "  PID TTY CMD\n    1 ?   init\n    7 ?   sleep 600 s\n    - -   -\n   77 ?   other\n";
        let top = parse_ps(text, &BTreeSet::from([7])).unwrap();
        assert_eq!(top.titles, ["PID", "TTY", "CMD"]);
        assert_eq!(top.processes, [vec!["7", "?", "sleep 600 s"], vec!["-", "-", "-"]]);
        let error = parse_ps("TTY CMD\n? init\n", &BTreeSet::new()).unwrap_err();
        assert_eq!(error.message, "Couldn't find PID field in ps output");
        assert!(parse_ps("PID\nx\n", &BTreeSet::new()).unwrap_err().message.contains("Unexpected pid"));
    }

    #[test]
    fn a_column_does_not_pose_as_process_ids() {
        check_arguments("-eo pid,cmd").unwrap();
        check_arguments("-o pid=PID,cmd").unwrap();
        for arguments in ["-o ppid=PID", "ae -o uid=PID,x=y", "-o pid,ppid=PIDX"] {
            assert!(
                check_arguments(arguments).unwrap_err().message.contains("is not allowed"),
                "{arguments}"
            );
        }
    }
}
