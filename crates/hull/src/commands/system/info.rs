//! `info`.

use clap::Args;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::{Template, human};
use crate::{errln, out, outln};

/// `info`.
#[derive(Args, Debug)]
pub struct InfoArgs {
    /// Format output using a custom template: 'json', or 'TEMPLATE'
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
}

/// `hull info`.
pub async fn info(args: InfoArgs, context: &Context) -> Result<ExitStatus, Error> {
    let template = args.format.as_deref().filter(|s| !s.is_empty()).map(Template::parse).transpose();
    let template = template.map_err(Error::new)?;
    let mut info: Value = context.client.get_json("/info").await?;
    if let Some(template) = template {
        info["ClientInfo"] = json!({
            "Debug": context.debug,
            "Version": env!("CARGO_PKG_VERSION"),
            "Context": "default",
            "Plugins": [],
            "Warnings": null,
        });
        outln!("{}", template.render(&info).map_err(Error::new)?)?;
        return Ok(ExitStatus::SUCCESS);
    }
    out!(
        "Client:\n Version:    {}\n Context:    default\n Debug Mode: {}\n\nServer:\n{}\n",
        env!("CARGO_PKG_VERSION"),
        context.debug,
        server(&info)
    )?;
    for warning in info["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        errln!("{warning}");
    }
    Ok(ExitStatus::SUCCESS)
}

/// The page about the daemon, line by line.
struct Page<'i> {
    info: &'i Value,
    text: String,
}

impl Page<'_> {
    fn line(&mut self, title: &str, value: impl std::fmt::Display) {
        self.text.push_str(&format!(" {title}: {value}\n"));
    }

    /// A line with a field's value; empty where there is none.
    fn field(&mut self, title: &str, field: &str) {
        let value = match &self.info[field] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        self.line(title, value);
    }

    /// The same, left out where the value is empty.
    fn field_if_any(&mut self, title: &str, field: &str) {
        if self.info[field].as_str().is_some_and(|text| !text.is_empty()) {
            self.field(title, field);
        }
    }

    /// Pairs, a line each, one blank deeper.
    fn pairs(&mut self, field: &str) {
        for pair in self.info[field].as_array().into_iter().flatten() {
            if let (Some(name), Some(value)) = (pair[0].as_str(), pair[1].as_str()) {
                self.text.push_str(&format!("  {name}: {value}\n"));
            }
        }
    }

    /// A list, a line for each item.
    fn list(&mut self, title: &str, items: &Value) {
        let items: Vec<&str> = items.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if items.is_empty() {
            return;
        }
        self.text.push_str(&format!(" {title}:\n"));
        for item in items {
            self.text.push_str(&format!("  {item}\n"));
        }
    }
}

/// The daemon's part.
fn server(info: &Value) -> String {
    let mut page = Page { info, text: String::new() };
    page.field("Containers", "Containers");
    for (title, field) in
        [("Running", "ContainersRunning"), ("Paused", "ContainersPaused"), ("Stopped", "ContainersStopped")]
    {
        page.text.push_str(&format!("  {title}: {}\n", info[field]));
    }
    page.field("Images", "Images");
    page.field("Server Version", "ServerVersion");
    page.field("Storage Driver", "Driver");
    page.pairs("DriverStatus");
    page.field("Logging Driver", "LoggingDriver");
    page.field("Cgroup Driver", "CgroupDriver");
    page.field_if_any("Cgroup Version", "CgroupVersion");
    plugins(&mut page);
    swarm(&mut page);
    runtimes(&mut page);
    page.field_if_any("Init Binary", "InitBinary");
    for (title, field) in [
        ("containerd version", "ContainerdCommit"),
        ("runc version", "RuncCommit"),
        ("init version", "InitCommit"),
    ] {
        if let Some(id) = info[field]["ID"].as_str().filter(|id| !id.is_empty()) {
            page.line(title, id);
        }
    }
    security_options(&mut page);
    page.field("Kernel Version", "KernelVersion");
    page.field("Operating System", "OperatingSystem");
    page.field("OSType", "OSType");
    page.field("Architecture", "Architecture");
    page.field("CPUs", "NCPU");
    page.line("Total Memory", human::size_binary(info["MemTotal"].as_f64().unwrap_or_default()));
    page.field("Name", "Name");
    page.field("ID", "ID");
    page.field("Docker Root Dir", "DockerRootDir");
    page.field("Debug Mode", "Debug");
    if info["Debug"].as_bool() == Some(true) {
        for (title, field) in [
            ("File Descriptors", "NFd"),
            ("Goroutines", "NGoroutines"),
            ("System Time", "SystemTime"),
            ("EventsListeners", "NEventsListener"),
        ] {
            let value = &info[field];
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            page.text.push_str(&format!("  {title}: {value}\n"));
        }
    }
    for (title, field) in
        [("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")]
    {
        page.field_if_any(title, field);
    }
    page.list("Labels", &info["Labels"]);
    page.field("Experimental", "ExperimentalBuild");
    page.list("Insecure Registries", &info["RegistryConfig"]["InsecureRegistryCIDRs"]);
    page.list("Registry Mirrors", &info["RegistryConfig"]["Mirrors"]);
    page.field("Live Restore Enabled", "LiveRestoreEnabled");
    page.field_if_any("Product License", "ProductLicense");
    address_pools(&mut page);
    page.text
}

fn plugins(page: &mut Page<'_>) {
    page.text.push_str(" Plugins:\n");
    for kind in ["Volume", "Network", "Authorization", "Log"] {
        let names: Vec<&str> =
            page.info["Plugins"][kind].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !names.is_empty() || kind != "Authorization" {
            page.text.push_str(&format!("  {kind}: {}\n", names.join(" ")));
        }
    }
}

fn swarm(page: &mut Page<'_>) {
    if let Some(state) = page.info["Swarm"]["LocalNodeState"].as_str().filter(|state| !state.is_empty()) {
        page.line("Swarm", state);
    }
}

fn runtimes(page: &mut Page<'_>) {
    let Some(runtimes) = page.info["Runtimes"].as_object().filter(|runtimes| !runtimes.is_empty()) else {
        return;
    };
    let mut names: Vec<&str> = runtimes.keys().map(String::as_str).collect();
    names.sort_unstable();
    page.line("Runtimes", names.join(" "));
    page.field("Default Runtime", "DefaultRuntime");
}

/// `name=seccomp,profile=default` becomes the name, and its other pairs a line each below it.
fn security_options(page: &mut Page<'_>) {
    let info = page.info;
    let options: Vec<&str> =
        info["SecurityOptions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if options.is_empty() {
        return;
    }
    page.text.push_str(" Security Options:\n");
    for option in options {
        for (index, (key, value)) in option.split(',').filter_map(|pair| pair.split_once('=')).enumerate() {
            match index {
                0 => page.text.push_str(&format!("  {value}\n")),
                _ => page.text.push_str(&format!("   {}: {value}\n", capitalised(key))),
            }
        }
    }
}

fn capitalised(word: &str) -> String {
    let mut characters = word.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn address_pools(page: &mut Page<'_>) {
    let info = page.info;
    let Some(pools) = info["DefaultAddressPools"].as_array().filter(|pools| !pools.is_empty()) else {
        return;
    };
    page.text.push_str(" Default Address Pools:\n");
    for pool in pools {
        page.text.push_str(&format!(
            "   Base: {}, Size: {}\n",
            pool["Base"].as_str().unwrap_or_default(),
            pool["Size"]
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_shown_and_nothing_else() {
        let info = json!({
            "Containers": 3, "ContainersRunning": 1, "ContainersPaused": 0, "ContainersStopped": 2, "Images": 4,
            "ServerVersion": "0.1", "Driver": "overlayfs", "DriverStatus": [["Backing Filesystem", "extfs"]],
            "LoggingDriver": "json-file", "CgroupDriver": "cgroupfs", "CgroupVersion": "1",
            "Plugins": {"Volume": ["local"], "Network": ["bridge", "host"], "Authorization": null, "Log": ["json-file"]},
            "SecurityOptions": ["name=seccomp,profile=builtin"], "MemTotal": 25276514304i64, "NCPU": 2, "Debug": false,
            "Runtimes": {"b": {}, "a": {}}, "DefaultRuntime": "a", "Labels": ["x=y"], "ExperimentalBuild": false,
            "LiveRestoreEnabled": true,
        });
        assert_eq!(
            server(&info),
            " Containers: 3\n  Running: 1\n  Paused: 0\n  Stopped: 2\n Images: 4\n Server Version: 0.1\n\
             \x20Storage Driver: overlayfs\n  Backing Filesystem: extfs\n Logging Driver: json-file\n Cgroup Driver: cgroupfs\n\
             \x20Cgroup Version: 1\n Plugins:\n  Volume: local\n  Network: bridge host\n  Log: json-file\n Runtimes: a b\n\
             \x20Default Runtime: a\n Security Options:\n  seccomp\n   Profile: builtin\n Kernel Version: \n Operating System: \n\
             \x20OSType: \n Architecture: \n CPUs: 2\n Total Memory: 23.54GiB\n Name: \n ID: \n Docker Root Dir: \n\
             \x20Debug Mode: false\n Labels:\n  x=y\n Experimental: false\n Live Restore Enabled: true\n"
        );
    }
}
