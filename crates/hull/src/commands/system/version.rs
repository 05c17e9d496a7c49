//! `version`.

use clap::Args;
use serde_json::{Value, json};

use crate::client::API_VERSION;
use crate::context::Context;
use crate::error::{Error, ExitStatus};
use crate::format::Template;
use crate::{errln, out, outln};

/// `version`.
#[derive(Args, Debug)]
pub struct VersionArgs {
    /// Format output using a custom template: 'json', or 'TEMPLATE'
    #[arg(short, long, value_name = "string")]
    format: Option<String>,
}

/// `hull version`.
pub async fn version(args: VersionArgs, context: &Context) -> Result<ExitStatus, Error> {
    let template = args.format.as_deref().filter(|s| !s.is_empty()).map(Template::parse).transpose();
    let template = template.map_err(Error::new)?;
    let server = context.client.get_json::<Value>("/version").await;
    let spoken = context.client.version().await.unwrap_or(API_VERSION);
    let client = client(spoken);
    let (server, failure) = match server {
        Ok(server) => (server, None),
        // The client's half is known all the same.
        Err(error) => (Value::Null, Some(error)),
    };
    match template {
        Some(template) => {
            let whole = json!({"Client": client, "Server": server});
            outln!("{}", template.render(&whole).map_err(Error::new)?)?;
        }
        None => {
            let mut text = client_block(&client);
            if failure.is_none() {
                text.push_str(&server_block(&server));
            }
            out!("{}", columns(&text))?;
        }
    }
    match failure {
        None => Ok(ExitStatus::SUCCESS),
        Some(error) => {
            errln!("{error}");
            Ok(ExitStatus::FAILURE)
        }
    }
}

fn client(spoken: (u32, u32)) -> Value {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": format!("{}.{}", spoken.0, spoken.1),
        "DefaultAPIVersion": format!("{}.{}", API_VERSION.0, API_VERSION.1),
        "Os": std::env::consts::OS,
        "Arch": arch,
        "Context": "default",
    })
}

fn client_block(client: &Value) -> String {
    let text = |field: &str| client[field].as_str().unwrap_or_default();
    let downgraded = match text("ApiVersion") == text("DefaultAPIVersion") {
        true => String::new(),
        false => format!(" (downgraded from {})", text("DefaultAPIVersion")),
    };
    format!(
        "Client:\n Version:\t{}\n API version:\t{}{downgraded}\n OS/Arch:\t{}/{}\n Context:\t{}\n",
        text("Version"),
        text("ApiVersion"),
        text("Os"),
        text("Arch"),
        text("Context")
    )
}

fn server_block(server: &Value) -> String {
    let mut text = String::from("\nServer:");
    if let Some(name) = server["Platform"]["Name"].as_str().filter(|name| !name.is_empty()) {
        text.push_str(&format!(" {name}"));
    }
    text.push('\n');
    let components = server["Components"].as_array().map(Vec::as_slice).unwrap_or_default();
    for component in components {
        let name = component["Name"].as_str().unwrap_or_default();
        let version = component["Version"].as_str().unwrap_or_default();
        text.push_str(&format!(" {name}:\n  Version:\t{version}\n"));
        let details = component["Details"].as_object();
        let detail = |key: &str| details.and_then(|d| d.get(key)).and_then(Value::as_str);
        if name != "Engine" {
            let mut keys: Vec<&String> = details.into_iter().flat_map(|d| d.keys()).collect();
            keys.sort();
            for key in keys {
                text.push_str(&format!("  {key}:\t{}\n", detail(key).unwrap_or_default()));
            }
            continue;
        }
        let minimum = detail("MinAPIVersion").map(|v| format!(" (minimum version {v})")).unwrap_or_default();
        let lines = [
            ("API version", detail("ApiVersion").map(|v| format!("{v}{minimum}"))),
            ("Go version", detail("GoVersion").map(str::to_owned)),
            ("Git commit", detail("GitCommit").map(str::to_owned)),
            ("Built", detail("BuildTime").map(built)),
            ("OS/Arch", detail("Os").zip(detail("Arch")).map(|(os, arch)| format!("{os}/{arch}"))),
            ("Experimental", detail("Experimental").map(str::to_owned)),
        ];
        for (title, value) in lines {
            // What an engine that is not written in Go leaves empty is not shown.
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                text.push_str(&format!("  {title}:\t{value}\n"));
            }
        }
    }
    text
}

/// A time of RFC 3339 as Docker shows when something was built; what is none stays as it is.
fn built(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%a %b %e %H:%M:%S %Y").to_string(),
        Err(_) => text.to_owned(),
    }
}

/// The blocks' values, in one column as Docker has it.
fn columns(text: &str) -> String {
    const COLUMN: usize = 20;
    let line = |line: &str| match line.split_once('\t') {
        Some((title, value)) => format!("{title:COLUMN$}{value}\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_building() {
        assert_eq!(built("2026-05-07T21:09:36.000000000+00:00"), "Thu May  7 21:09:36 2026");
        assert_eq!(built("lately"), "lately");
    }

    #[test]
    fn the_servers_block() {
        let server = json!({
            "Platform": {"Name": ""},
            "Components": [
                {"Name": "Engine", "Version": "1.2", "Details": {"ApiVersion": "1.56", "MinAPIVersion": "1.24", "GoVersion": "",
                 "Os": "linux", "Arch": "amd64", "Experimental": "false"}},
                {"Name": "launcher", "Version": "3", "Details": {"GitCommit": "abc"}},
            ],
        });
        assert_eq!(
            columns(&server_block(&server)),
            "\nServer:\n Engine:\n  Version:          1.2\n  API version:      1.56 (minimum version 1.24)\n\
             \x20 OS/Arch:          linux/amd64\n  Experimental:     false\n launcher:\n  Version:          3\n  GitCommit:        abc\n"
        );
    }
}
