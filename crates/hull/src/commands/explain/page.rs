//! The page of `hull explain`.

use std::fmt::Write as _;

use hull_runtime::cgroup::Usage;
use serde::Deserialize as _;
use serde_json::Value;

use super::quote::{plain, words};
use super::{text, texts};
use crate::commands::cgroup;
use crate::error::Error;

/// How wide a list of names may become.
const WIDTH: usize = 92;

/// A page that is being written. All that is put on it is made [`plain`].
#[derive(Default)]
struct Page(String);

impl Page {
    fn title(&mut self, title: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(&plain(title));
        self.0.push('\n');
    }

    fn line(&mut self, name: &str, value: &str) {
        let line = format!("  {:<16} {}", plain(name), plain(value));
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    /// Words with commas, in as many lines as they need.
    fn list(&mut self, name: &str, values: &[&str]) {
        let mut name = name;
        let mut line = String::new();
        for (index, value) in values.iter().enumerate() {
            if !line.is_empty() && line.len() + value.len() > WIDTH {
                self.line(std::mem::take(&mut name), &line);
                line.clear();
            }
            let comma = if index + 1 < values.len() { ", " } else { "" };
            let _ = write!(line, "{value}{comma}");
        }
        self.line(name, if values.is_empty() { "none" } else { &line });
    }
}

/// What a container is made of.
pub(super) fn page(of: &Value) -> Result<String, Error> {
    let mut page = Page::default();
    let id = text(&of["id"]);
    page.title(&format!(
        "{} ({}), image {}, {}",
        text(&of["name"]),
        id.get(..12).unwrap_or(id),
        text(&of["image"]),
        text(&of["status"])
    ));
    namespaces(&mut page, of);
    control(&mut page, of)?;
    files(&mut page, of);
    network(&mut page, of);
    process(&mut page, of);
    let notes = texts(&of["notes"]);
    if !notes.is_empty() {
        page.title("What could not be found out");
        notes.iter().for_each(|note| page.line("", note));
    }
    Ok(page.0)
}

fn namespaces(page: &mut Page, of: &Value) {
    page.title("Namespaces: what it sees of the machine");
    for (kind, namespace) in of["namespaces"].as_object().into_iter().flatten() {
        let whose = match (namespace["host"] == true, texts(&namespace["containers"])) {
            (true, _) => "the host's".to_owned(),
            (false, others) if others.is_empty() => "its own".to_owned(),
            (false, others) => format!("shared with {}", others.join(", ")),
        };
        let inode = namespace["inode"].as_u64().map(|inode| inode.to_string()).unwrap_or_default();
        page.line(kind, format!("{inode:<12} {whose}").trim_start());
    }
}

fn control(page: &mut Page, of: &Value) -> Result<(), Error> {
    let cgroup = &of["cgroup"];
    page.title("Cgroup: what it may use of the machine, and what it uses");
    page.line("path", &format!("{} (cgroup {})", text(&cgroup["path"]), text(&cgroup["hierarchies"])));
    if !cgroup["usage"].is_null() {
        let usage = Usage::deserialize(&cgroup["usage"])?;
        for line in cgroup::lines(&usage) {
            let (name, value) = line.split_at_checked(16).unwrap_or((&line, ""));
            page.line(name.trim_end(), value);
        }
    }
    page.list("device files", &texts(&of["devices"]["files"]));
    page.list("device rules", &texts(&of["devices"]["rules"]));
    Ok(())
}

fn files(page: &mut Page, of: &Value) {
    let layers = &of["layers"];
    match text(&layers["work"]).is_empty() {
        true => {
            page.title("Root: a tree of its own, made of layers, the uppermost first");
            page.line("its own", text(&layers["upper"]));
        }
        false => {
            page.title("Root: an overlay of layers, the uppermost first");
            page.line("its own", &format!("{} (all that it writes)", text(&layers["upper"])));
        }
    }
    texts(&layers["lower"]).iter().for_each(|layer| page.line("image", layer));
    page.title("Mounts");
    for mount in of["mounts"].as_array().into_iter().flatten() {
        let options: Vec<&str> = texts(&mount["options"]);
        // Those of an overlay are the layers, which stand above.
        let options =
            options.into_iter().filter(|option| !option.contains("dir=") && !option.contains("dir+="));
        let (kind, source) = (text(&mount["type"]), text(&mount["source"]));
        let what = if kind == source { kind.to_owned() } else { format!("{kind} {source}") };
        let options = options.collect::<Vec<_>>().join(",");
        page.line(text(&mount["destination"]), &format!("{what}  {options}"));
    }
    page.list("masked", &texts(&of["masked_paths"]));
    page.list("read-only", &texts(&of["readonly_paths"]));
}

fn network(page: &mut Page, of: &Value) {
    let network = &of["network"];
    page.title(&format!("Network: {}", text(&network["mode"])));
    let or = |value: &Value, other: &str| match text(value) {
        "" => other.to_owned(),
        value => value.to_owned(),
    };
    for wire in network["interfaces"].as_array().into_iter().flatten() {
        page.line(
            &or(&wire["name"], "(not now)"),
            &format!("{} {}", texts(&wire["addresses"]).join(" "), text(&wire["mac_address"])),
        );
        if !text(&wire["host_end"]).is_empty() {
            page.line("  veth", &format!("its other end on the host is {}", text(&wire["host_end"])));
        }
        let under = if text(&wire["parent"]).is_empty() { "bridge" } else { "parent" };
        page.line(
            &format!("  {under}"),
            &format!("{} of network {}", text(&wire[under]), text(&wire["network"])),
        );
        if let gateways @ [_, ..] = texts(&wire["gateways"]).as_slice() {
            page.line("  gateway", &gateways.join(" "));
        }
    }
    for element in network["firewall"].as_array().into_iter().flatten() {
        let at = format!("table inet {}, map {}", text(&element["table"]), text(&element["map"]));
        page.line("nftables", &format!("{at}: {}", text(&element["element"])));
    }
}

fn process(page: &mut Page, of: &Value) {
    page.title("Process");
    page.line("command", &words(&texts(&of["command"])));
    let processes = &of["processes"];
    if processes.is_object() {
        page.line("first process", &format!("{} by the host's numbers", processes["first"]));
        page.line(
            "shim",
            &format!("{}, the runtime's: its parent, which has its streams", processes["shim"]),
        );
        let all = numbers(&processes["all"], " ");
        page.line("all processes", &all);
    }
    let user = &of["user"];
    if user.is_object() {
        let groups = numbers(&user["groups"], ", ");
        let groups = if groups.is_empty() { String::new() } else { format!(", groups {groups}") };
        page.line("user", &format!("{}:{}{groups}", user["uid"], user["gid"]));
        for (name, map) in [("uid map", &user["uid_map"]), ("gid map", &user["gid_map"])] {
            for range in map.as_array().into_iter().flatten() {
                page.line(name, &mapped(range));
            }
        }
    } else {
        page.line(
            "user",
            match text(&of["configured_user"]) {
                "" => "root",
                user => user,
            },
        );
    }
    page.list("capabilities", &texts(&of["capabilities"]));
    page.line("seccomp", &seccomp(&of["seccomp"]));
    page.line("apparmor", &module(&of["apparmor"], "no profile"));
    page.line("selinux", &module(&of["selinux"], "no label of its own: it has the daemon's"));
    page.line("no_new_privs", if of["no_new_privileges"] == true { "yes" } else { "no" });
    page.line("oom_score_adj", &of["oom_score_adj"].to_string());
    let value = |value: &Value| if value.is_null() { "unlimited".to_owned() } else { value.to_string() };
    let is_one = |limit: &&Value| !limit["soft"].is_null() || !limit["hard"].is_null();
    for limit in of["limits"].as_array().into_iter().flatten().filter(is_one) {
        page.line(
            "limit",
            &format!("{:<24} {} / {}", text(&limit["name"]), value(&limit["soft"]), value(&limit["hard"])),
        );
    }
}

/// A range of users or groups.
fn mapped(range: &Value) -> String {
    let [inside, outside, count] = [0, 1, 2].map(|index| range[index].as_u64().unwrap_or_default());
    // What the first user namespace has: every number there is.
    if (inside, outside, count) == (0, 0, u32::MAX.into()) {
        return "every number inside is the host's own".to_owned();
    }
    let last = |first: u64| first.saturating_add(count.saturating_sub(1));
    format!("{inside} to {} inside are the host's {outside} to {}", last(inside), last(outside))
}

fn numbers(list: &Value, between: &str) -> String {
    let numbers = list.as_array().into_iter().flatten();
    numbers.map(Value::to_string).collect::<Vec<_>>().join(between)
}

/// What a security module confines the container by; `free`: what it means that it does not.
fn module(module: &Value, free: &str) -> String {
    match (module["enabled"] == true, text(&module["confined_by"])) {
        (false, "") => "not enabled in this machine's kernel".to_owned(),
        (true, "") => free.to_owned(),
        (_, name) => name.to_owned(),
    }
}

/// The filter in a line.
pub(super) fn seccomp(filter: &Value) -> String {
    let profile = text(&filter["profile"]);
    if !filter["allowed"].is_u64() {
        return format!("{profile}: every system call is let through");
    }
    format!(
        "{profile}: {} system calls are let through, with some arguments only {}; all others {}",
        filter["allowed"],
        texts(&filter["conditional"]).join(", "),
        text(&filter["otherwise"])
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_security_module_is_told_also_where_it_does_nothing() {
        let of = |enabled: bool, by: &str| {
            super::module(&json!({ "enabled": enabled, "confined_by": by }), "none")
        };
        assert_eq!(of(true, "hull-default"), "hull-default");
        assert_eq!(of(true, ""), "none");
        assert!(of(false, "").contains("not enabled"));
    }

    #[test]
    fn nothing_that_a_terminal_acts_upon() {
        let page = super::page(&json!({
            "name": "a\u{1b}[2J", "image": "x\ny", "status": "running", "command": ["sh", "-c", "\u{9b}1m\nrm"],
            "namespaces": { "net": { "inode": 7, "host": false, "containers": ["b\r"] } },
            "mounts": [{ "destination": "/\u{7}", "type": "bind", "source": "/\u{202e}", "options": ["ro"] }],
        }))
        .unwrap();
        assert!(page.chars().all(|c| c == '\n' || !c.is_control()) && !page.contains('\u{202e}'), "{page}");
        assert!(page.contains("shared with b\\u{d}"), "{page}");
        assert_eq!(page.lines().next(), Some("a\\u{1b}[2J (), image x\\ny, running"));
    }
}
