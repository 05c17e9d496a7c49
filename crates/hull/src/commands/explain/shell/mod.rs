//! `hull explain --shell`: a script that makes the like of a container by hand.
//!
//! Each block has a comment that says what it is for. What others wrote (names, paths, words of a command) comes into the
//! script through [`word`] alone, or through [`plain`] into a comment, so that none of it is ever more than it is.

mod inside;
mod limits;
mod outside;

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::quote::{plain, word, words};
use super::{text, texts};

/// A script that is being written.
#[derive(Default)]
struct Script(String);

impl Script {
    /// A line as it is.
    fn line(&mut self, line: impl fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    /// A block's comment, in lines of their own.
    fn about(&mut self, lines: &str) {
        self.0.push('\n');
        self.comment(lines);
    }

    fn comment(&mut self, lines: &str) {
        lines.lines().for_each(|line| self.line(format_args!("# {}", plain(line))));
    }
}

/// How a container has a kind of namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Share {
    Own,
    Host,
    /// That of the process whose file this is.
    Of(String),
}

/// How the configuration has a kind of namespace, in its own words: `network`, `pid`…
fn share(oci: &Value, kind: &str) -> Share {
    let namespaces = oci["linux"]["namespaces"].as_array().into_iter().flatten();
    match namespaces.into_iter().find(|namespace| namespace["type"] == kind) {
        None => Share::Host,
        Some(namespace) => match text(&namespace["path"]) {
            "" => Share::Own,
            path => Share::Of(path.to_owned()),
        },
    }
}

/// The script.
///
/// # Errors
/// What is not known of the container now, and without which there is none.
pub(super) fn script(of: &Value) -> Result<String, String> {
    let oci = &of["oci"];
    if !oci.is_object() {
        return Err(format!(
            "container {} cannot be made by hand now: {}",
            plain(text(&of["name"])),
            plain(&texts(&of["notes"]).join("; "))
        ));
    }
    let mut script = Script::default();
    outside::head(&mut script, of);
    limits::cgroup(&mut script, of);
    outside::network(&mut script, of);
    inside::root(&mut script, of);
    inside::process(&mut script, of)?;
    outside::start(&mut script, of);
    Ok(script.0)
}

/// The name of the folder of the script's own files for one of the container's that hull writes.
fn own_file(of: &Value, mount: &Value) -> Option<&'static str> {
    let name = match text(&mount["destination"]) {
        "/etc/hostname" => "hostname",
        "/etc/hosts" => "hosts",
        "/etc/resolv.conf" => "resolv.conf",
        _ => return None,
    };
    text(&mount["source"]).ends_with(&format!("/{}/{name}", text(&of["id"]))).then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn explanation() -> Value {
        json!({
            "id": "0f", "name": "web", "image": "busybox", "status": "exited", "command": ["sleep", "600"],
            "layers": { "lower": ["/l/2", "/l/1"] },
            "capabilities": ["CAP_CHOWN"], "masked_paths": ["/proc/kcore"], "readonly_paths": ["/proc/sys"],
            "network": { "mode": "bridge", "interfaces": [{ "network": "bridge", "bridge": "hull0" }] },
            "seccomp": { "profile": "builtin" },
            "oci": {
                "hostname": "web", "root": { "readonly": true },
                "process": { "cwd": "/", "env": ["PATH=/bin"], "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 2 }] },
                "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"] }],
                "linux": { "namespaces": [{ "type": "network" }, { "type": "pid" }, { "type": "uts" }],
                    "resources": { "memory": { "limit": 67_108_864, "swap": 134_217_728 } } },
            },
        })
    }

    fn is_sound(script: &str) {
        use std::io::Write as _;
        let mut bash = std::process::Command::new("bash")
            .arg("-n")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("bash");
        bash.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("written");
        assert!(bash.wait().expect("bash").success(), "{script}");
    }

    #[test]
    fn the_command_stands_as_it_was_typed() {
        let script = script(&explanation()).unwrap();
        is_sound(&script);
        assert!(script.lines().any(|line| line.trim() == "sleep 600"), "{script}");
        assert!(
            script.contains("limit memory memory.limit_in_bytes 67108864 memory.max 67108864\n"),
            "{script}"
        );
    }

    #[test]
    fn what_others_wrote_changes_no_other_line() {
        const EVIL: &str = "x\nrm -rf \"$HOME\" '\n`id` $(id)\u{1b}[2J";
        let plain = script(&explanation()).unwrap();
        let mut of = explanation();
        of["name"] = json!(EVIL);
        of["image"] = json!(EVIL);
        of["network"]["interfaces"][0]["network"] = json!(EVIL);
        let named = script(&of).unwrap();
        is_sound(&named);
        assert_eq!(named.lines().count(), plain.lines().count());
        let code = |script: &str| -> Vec<String> {
            script.lines().filter(|line| !line.trim_start().starts_with('#')).map(str::to_owned).collect()
        };
        assert_eq!(code(&named), code(&plain));
        of["command"] = json!(["echo", EVIL, "EOF\n}\nid"]);
        of["oci"]["process"]["env"] = json!([format!("A={EVIL}")]);
        of["oci"]["process"]["cwd"] = json!(EVIL);
        of["oci"]["hostname"] = json!(EVIL);
        of["masked_paths"] = json!([EVIL]);
        of["layers"]["lower"] = json!([EVIL]);
        of["oci"]["mounts"] = json!([
            { "destination": EVIL, "type": "bind", "source": EVIL, "options": ["rbind", "ro"] },
            { "destination": EVIL, "type": "tmpfs", "source": "tmpfs", "options": [EVIL] },
        ]);
        let script = script(&of).unwrap();
        is_sound(&script);
        assert!(!script.contains('\u{1b}'), "{script}");
    }

    #[test]
    fn without_a_configuration_there_is_no_script() {
        let told = script(&json!({ "name": "a", "notes": ["its configuration: no"] })).unwrap_err();
        assert_eq!(told, "container a cannot be made by hand now: its configuration: no");
    }
}
