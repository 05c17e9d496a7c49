//! Processes and containers by what was typed, for the commands that need no daemon: where none runs, none is started
//! just for names.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::client::segment;
use crate::context::Context;
use crate::error::Error;

/// The first process of what was typed: a process id, or the name or id of a container that runs.
pub async fn find(context: &Context, typed: &str) -> Result<i32, Error> {
    Ok(find_whose(context, typed).await?.0)
}

/// The same, and the id of the container whose process it is, where one was typed.
pub async fn find_whose(context: &Context, typed: &str) -> Result<(i32, Option<String>), Error> {
    if let Ok(pid) = typed.parse::<i32>()
        && (pid > 0 && std::path::Path::new(&format!("/proc/{pid}")).exists())
    {
        return Ok((pid, None));
    }
    let is_id = typed.parse::<i32>().is_ok();
    let nobody = |more: &str| {
        let what = if is_id { "no such process, or it is gone" } else { "no such container" };
        Error::new(format!("{typed}: {what}{more}")).with_status(125)
    };
    if !context.client.is_here().await {
        return Err(nobody(if is_id { "" } else { ": no daemon runs that knows names" }));
    }
    let found = context.client.get_json::<Value>(&format!("/containers/{}/json", segment(typed))).await;
    match found {
        Ok(container) => match container["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()) {
            Some(pid) if pid > 0 => Ok((pid, container["Id"].as_str().map(str::to_owned))),
            _ => Err(Error::new(format!(
                "container {typed} does not run, so it has no processes: hull start {typed}"
            ))
            .with_status(125)),
        },
        Err(error) if error.http_status() == Some(404) => Err(nobody("")),
        Err(error) => Err(error.with_status(125)),
    }
}

/// The names of the containers by their ids; none where no daemon runs.
pub async fn container_names(context: &Context) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    if !context.client.is_here().await {
        return names;
    }
    // Without the daemon's answer the ids are shown.
    let listed: Value = context.client.get_json("/containers/json").await.unwrap_or_default();
    for container in listed.as_array().into_iter().flatten() {
        if let (Some(id), Some(name)) = (container["Id"].as_str(), container["Names"][0].as_str()) {
            names.insert(id.to_owned(), name.trim_start_matches('/').to_owned());
        }
    }
    names
}

/// What to call a container: its name, or what is usual of its id.
pub fn container_name(names: &BTreeMap<String, String>, id: &str) -> String {
    names.get(id).cloned().unwrap_or_else(|| id.get(..12).unwrap_or(id).to_owned())
}

/// The runtime's error, under the exit status that it stands for.
pub fn failed(error: hull_runtime::Error) -> Error {
    Error::new(error.to_string()).with_status(error.exit_status)
}
