//! What the script does within the namespaces: the root, the mounts, and what the process may.

use serde_json::Value;

use super::{Script, Share, own_file, plain, share, text, texts, word, words};
use crate::commands::explain::page::seccomp;

const HELPERS: &str = r#"place() {
    local path
    path=$(realpath -m -- "$root$1")
    case $path/ in
        "$root"/*) ;;
        *) echo "by hand: a link in the image leads out of it: $1" >&2; return 1 ;;
    esac
    if [ "$2" = folder ]; then
        mkdir -p -- "$path"
    elif [ ! -e "$path" ]; then
        mkdir -p -- "${path%/*}"
        touch -- "$path"
    fi
    printf '%s\n' "$path"
}

# bind_mount SOURCE PATH HOW OPTIONS: shows a file or folder of the host there; HOW is bind, or rbind with what is mounted below.
bind_mount() {
    local to kind=file
    [ ! -d "$1" ] || kind=folder
    to=$(place "$2" $kind)
    mount "--$3" -- "$1" "$to"
    [ -z "$4" ] || mount -o "remount,bind,$4" -- "$to"
}"#;

/// What is done in the namespaces, up to the command.
pub(super) fn root(script: &mut Script, of: &Value) {
    let oci = &of["oci"];
    script.about(
        "place PATH folder|file: that path beneath the new root, made where it is not there. The image is somebody else's:\n\
         a link in it must not lead what is written or mounted here onto the host.",
    );
    script.line(HELPERS);
    script.about("What the first process does, in its namespaces, before it becomes the command.");
    script.line("inside() {");
    script.line("set -eu");
    script.line("root=$work/root");
    let hostname = text(&oci["hostname"]);
    if !hostname.is_empty() && share(oci, "uts") == Share::Own {
        script.about("Its host name, which the uts namespace keeps from the host.");
        script.line(format_args!("echo {} >/proc/sys/kernel/hostname", word(hostname)));
        if let domain @ [_, ..] = text(&oci["domainname"]).as_bytes() {
            script.line(format_args!(
                "echo {} >/proc/sys/kernel/domainname",
                word(&String::from_utf8_lossy(domain))
            ));
        }
    }
    overlay(script, of);
    files(script, of);
    mounts(script, of);
    hidden(script, of);
    let cwd = text(&oci["process"]["cwd"]);
    if !matches!(cwd, "" | "/") {
        script.about("The folder that it begins in.");
        script.line(format_args!("place {} folder >/dev/null", word(cwd)));
    }
    if oci["root"]["readonly"] == true {
        script.about("The root itself is read-only.");
        script.line("mount -o remount,bind,ro \"$root\"");
    }
    sysctls(script, oci);
}

fn overlay(script: &mut Script, of: &Value) {
    let lower = texts(&of["layers"]["lower"]);
    script.about(
        "The root: an overlay. The image's layers lie below, the uppermost first, and are only ever read; what is written\n\
         goes to a folder above them. A file system that cannot take that (another overlay) is replaced by memory.",
    );
    script.line("cd \"$work\"");
    script.line("mkdir layers own root");
    for (index, layer) in lower.iter().enumerate() {
        script.line(format_args!("ln -s -- {} layers/{index}", word(layer)));
    }
    let names: Vec<String> = (0..lower.len()).map(|index| format!("layers/{index}")).collect();
    script.line(format_args!("overlay=lowerdir={},upperdir=own/upper,workdir=own/work", names.join(":")));
    script.line("mkdir own/upper own/work");
    script.line("if ! mount -t overlay -o \"$overlay\" overlay root 2>/dev/null; then");
    script.line("    mount -t tmpfs tmpfs own");
    script.line("    mkdir own/upper own/work");
    script.line("    mount -t overlay -o \"$overlay\" overlay root");
    script.line("fi");
}

/// The files that hull writes for a container.
fn files(script: &mut Script, of: &Value) {
    let mounts = of["oci"]["mounts"].as_array();
    let own: Vec<&str> = mounts.into_iter().flatten().filter_map(|mount| own_file(of, mount)).collect();
    if own.is_empty() {
        return;
    }
    let hostname = word(text(&of["oci"]["hostname"]));
    script.about(
        "Files that are written for each container. On a network of one's own a daemon answers for the names of the others\n\
         at 127.0.0.11; here it is whom the host asks.",
    );
    if own.contains(&"hostname") {
        script.line(format_args!("echo {hostname} >\"$work/hostname\""));
    }
    if own.contains(&"hosts") {
        script.line(format_args!(
            "printf '%s\\t%s\\n' 127.0.0.1 localhost \"${{address-127.0.1.1}}\" {hostname} >\"$work/hosts\""
        ));
    }
    if own.contains(&"resolv.conf") {
        script.line("cp /etc/resolv.conf \"$work/resolv.conf\" || touch \"$work/resolv.conf\"");
    }
}

fn mounts(script: &mut Script, of: &Value) {
    script.about(
        "The file systems of the kernel, memory, and what is bound from the host. Each shows what its namespaces have: a /proc\n\
         of the new process ids, a /sys of the new network.",
    );
    for mount in of["oci"]["mounts"].as_array().into_iter().flatten() {
        let to = text(&mount["destination"]);
        match text(&mount["type"]) {
            "cgroup" | "cgroup2" => cgroup(script, to, mount),
            "bind" => bind(script, of, mount),
            kind => {
                let options = options(mount);
                let options =
                    if options.is_empty() { String::new() } else { format!("-o {} ", word(&options)) };
                script.line(format_args!(
                    "mount -t {} {options}-- {} \"$(place {} folder)\"",
                    word(kind),
                    word(text(&mount["source"])),
                    word(to)
                ));
                if to == "/dev" {
                    devices(script, of);
                }
            }
        }
    }
}

/// The options but those that are no option of mount(8) at a first mount.
fn options(mount: &Value) -> String {
    const NONE: [&str; 15] = [
        "bind",
        "idmap",
        "ridmap",
        "rbind",
        "rw",
        "rro",
        "tmpcopyup",
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "unbindable",
        "runbindable",
    ];
    let is_one = |option: &&str| !NONE.contains(option);
    texts(&mount["options"]).into_iter().filter(is_one).collect::<Vec<_>>().join(",")
}

fn bind(script: &mut Script, of: &Value, mount: &Value) {
    let given = texts(&mount["options"]);
    let how = if given.contains(&"bind") { "bind" } else { "rbind" };
    let mut options = options(mount);
    if given.contains(&"rro") {
        options = if options.is_empty() { "ro".to_owned() } else { format!("ro,{options}") };
    }
    let source = match own_file(of, mount) {
        Some(name) => format!("\"$work/{name}\""),
        None => word(text(&mount["source"])),
    };
    let to = word(text(&mount["destination"]));
    script.line(format_args!("bind_mount {source} {to} {how} {}", word(&options)));
}

/// The cgroup file system: one for all controllers on v2, one each on v1.
fn cgroup(script: &mut Script, to: &str, mount: &Value) {
    let (to, options) = (word(to), word(&options(mount)));
    script.line("if [ -e \"$v2/cgroup.controllers\" ] && [ -z \"$(v1 memory)\" ]; then");
    script.line(format_args!("    mount -t cgroup2 -o {options} -- cgroup2 \"$(place {to} folder)\""));
    script.line("else");
    script.line(format_args!("    mount -t tmpfs -o mode=755 -- tmpfs \"$(place {to} folder)\""));
    script.line("    for controller in memory cpu pids devices; do");
    script.line("        [ -n \"$(v1 $controller)\" ] || continue");
    script.line(format_args!(
        "        mount -t cgroup -o {options},$controller -- cgroup \"$(place {to}/$controller folder)\" || true"
    ));
    script.line("    done");
    script.line("fi");
}

fn devices(script: &mut Script, of: &Value) {
    script.comment(
        "Files of devices: a number that says whose driver answers. Where they may not be made, the host's are bound.",
    );
    script.line("while read -r device major minor; do");
    script.line("    mknod -m 666 \"$root/dev/$device\" c \"$major\" \"$minor\" 2>/dev/null ||");
    script.line("        bind_mount \"/dev/$device\" \"/dev/$device\" bind ''");
    script.line("done <<< 'null 1 3\nzero 1 5\nfull 1 7\nrandom 1 8\nurandom 1 9\ntty 5 0'");
    script.line("ln -s /proc/self/fd \"$root/dev/fd\"");
    for (number, name) in ["stdin", "stdout", "stderr"].iter().enumerate() {
        script.line(format_args!("ln -s /proc/self/fd/{number} \"$root/dev/{name}\""));
    }
    script.line("ln -s pts/ptmx \"$root/dev/ptmx\"");
    for device in of["oci"]["linux"]["devices"].as_array().into_iter().flatten() {
        let path = word(text(&device["path"]));
        let kind = if device["type"] == "b" { "b" } else { "c" };
        let number = |name: &str| device[name].as_i64().unwrap_or_default();
        script.line(format_args!("device=$(place {path} file)"));
        script.line("rm -- \"$device\"");
        let (major, minor) = (number("major"), number("minor"));
        script.line(format_args!("mknod -m 666 -- \"$device\" {kind} {major} {minor}"));
    }
}

fn hidden(script: &mut Script, of: &Value) {
    let (masked, read_only) = (texts(&of["masked_paths"]), texts(&of["readonly_paths"]));
    if !masked.is_empty() {
        script.about(
            "What the kernel tells of the machine that is nobody's business in here: covered by nothing.",
        );
        script.line(format_args!("for path in {}; do", words(&masked)));
        script.line("    if [ -d \"$root$path\" ]; then");
        script.line("        mount -t tmpfs -o ro -- tmpfs \"$root$path\"");
        script.line("    elif [ -e \"$root$path\" ]; then");
        script.line("        mount --bind -- /dev/null \"$root$path\"");
        script.line("    fi");
        script.line("done");
    }
    if !read_only.is_empty() {
        script.about("What would change the machine for everybody: it can be read, not written.");
        script.line(format_args!("for path in {}; do", words(&read_only)));
        script.line("    [ -e \"$root$path\" ] || continue");
        script.line("    mount --bind -- \"$root$path\" \"$root$path\"");
        script.line("    mount -o remount,bind,ro,nosuid,nodev,noexec -- \"$root$path\"");
        script.line("done");
    }
}

fn sysctls(script: &mut Script, oci: &Value) {
    let Some(settings) = oci["linux"]["sysctl"].as_object().filter(|settings| !settings.is_empty()) else {
        return;
    };
    script.about("Settings of the kernel that its namespaces have for themselves.");
    for (name, value) in settings {
        let path = word(&format!("/proc/sys/{}", name.replace('.', "/")));
        script.line(format_args!("echo {} >{path}", word(text(value))));
    }
}

/// What the process may, and the command.
pub(super) fn process(script: &mut Script, of: &Value) -> Result<(), String> {
    let process = &of["oci"]["process"];
    let limits: Vec<String> = process["rlimits"].as_array().into_iter().flatten().filter_map(limit).collect();
    if !limits.is_empty() {
        script.about("Limits of each process.");
        script.line(format_args!("prlimit --pid $$ {}", limits.join(" ")));
    }
    if let Some(score) = process["oomScoreAdj"].as_i64() {
        script.about("Who is killed first when memory runs out.");
        script.line(format_args!("echo {score} >/proc/self/oom_score_adj"));
    }
    script.about(
        "The new root takes the old one's place. hull calls pivot_root, and then lets go of the host's root altogether; a\n\
         shell cannot, as its next command would be out of reach. So the new root is moved on top of the old one.",
    );
    script.line("unshare=$(command -v unshare)");
    script.line("cd \"$root\"");
    script.line("mount --move -- \"$root\" /");
    let user = user(of)?;
    if of["namespaces"]["user"]["host"] == false {
        script.comment(
            "The container is in a user namespace besides, and its layers are mounted with mapped ids: its root is nobody in\n\
             particular outside. Here root is the host's, kept in by what follows alone.",
        );
    }
    script.about(&format!(
        "What it may: of root's power these capabilities alone{}. A filter of system calls comes on top,\n\
         which no plain command installs ({}).\n\
         Then the environment, the root, the folder, and the command.",
        if user.is_some() { ", until it becomes its user" } else { "" },
        seccomp(&of["seccomp"]),
    ));
    let mut power = vec!["--inh-caps=-all".to_owned()];
    if let Some(bounding) = bounding(script, of, user.is_some()) {
        power.push(format!("--bounding-set={bounding}"));
    }
    if process["noNewPrivileges"] == true {
        power.push("--no-new-privs".to_owned());
    }
    script.line(format_args!("exec setpriv {} \\", power.join(" ")));
    script.line(format_args!("    env -i {} \\", words(&texts(&process["env"]))));
    let cwd = match text(&process["cwd"]) {
        "" => "/",
        cwd => cwd,
    };
    let user = user.map(|(uid, gid)| format!(" --setgid={gid} --setuid={uid}")).unwrap_or_default();
    script.line(format_args!("    \"$unshare\" --root=. {}{user} -- \\", word(&format!("--wd={cwd}"))));
    script.line(format_args!("    {}", words(&texts(&of["command"]))));
    script.line("}");
    Ok(())
}

/// `--nofile=1024:524288`.
fn limit(limit: &Value) -> Option<String> {
    let name = text(&limit["type"]).strip_prefix("RLIMIT_")?.to_ascii_lowercase();
    let name = match name.as_str() {
        "sigpending" | "msgqueue" | "nice" | "rtprio" | "rttime" | "nofile" | "nproc" | "core" | "cpu"
        | "data" | "fsize" | "memlock" | "rss" | "stack" | "as" | "locks" => name,
        _ => return None,
    };
    let value = |value: &Value| match value.as_u64() {
        Some(u64::MAX) | None => "unlimited".to_owned(),
        Some(value) => value.to_string(),
    };
    Some(format!("--{name}={}:{}", value(&limit["soft"]), value(&limit["hard"])))
}

/// What setpriv takes; none where all are left.
fn bounding(script: &mut Script, of: &Value, becomes_user: bool) -> Option<String> {
    let own = texts(&of["capabilities"]);
    if own.contains(&"CAP_SYS_ADMIN") {
        return None;
    }
    let mut names: Vec<String> = own
        .iter()
        .filter_map(|name| name.strip_prefix("CAP_"))
        .map(str::to_ascii_lowercase)
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        .collect();
    let needed: &[&str] = if becomes_user { &["sys_chroot", "setuid", "setgid"] } else { &["sys_chroot"] };
    let lacking: Vec<&str> =
        needed.iter().copied().filter(|need| !names.iter().any(|name| name == need)).collect();
    if !lacking.is_empty() {
        script.comment(&format!(
            "The container itself has no {}: it is here for the next command, which changes the root.",
            lacking.join(", no ")
        ));
        names.extend(lacking.into_iter().map(str::to_owned));
    }
    Some(format!("-all,+{}", names.join(",+")))
}

/// What an id of the host's is inside, by the kernel's mappings; none where nobody there has it.
fn inside(id: u64, map: &Value) -> Option<u64> {
    let ranges = map.as_array().map(Vec::as_slice).unwrap_or_default();
    if ranges.is_empty() {
        return Some(id);
    }
    ranges.iter().find_map(|range| {
        let [inside, outside, count] = [0, 1, 2].map(|index| range[index].as_u64().unwrap_or_default());
        id.checked_sub(outside).filter(|offset| *offset < count).map(|offset| inside + offset)
    })
}

/// The numbers of the user that it becomes, as they are inside; none for root.
fn user(of: &Value) -> Result<Option<(u64, u64)>, String> {
    let known = |id: &str, map: &str| inside(of["user"][id].as_u64()?, &of["user"][map]);
    let (uid, gid) = match (known("uid", "uid_map"), known("gid", "gid_map")) {
        (Some(uid), Some(gid)) => (uid, gid),
        _ => {
            let named = text(&of["configured_user"]);
            let (uid, gid) = named.split_once(':').unwrap_or((named, "0"));
            match (uid, uid.parse(), gid.parse()) {
                ("" | "root", _, Ok(gid)) => (0, gid),
                (_, Ok(uid), Ok(gid)) => (uid, gid),
                _ => {
                    return Err(format!(
                        "the number of user {} stands in the image's files: start the container, then it is known",
                        plain(named)
                    ));
                }
            }
        }
    };
    Ok((uid != 0 || gid != 0).then_some((uid, gid)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn users_by_number() {
        let of = |configured: &str| user(&json!({ "configured_user": configured }));
        assert_eq!(of(""), Ok(None));
        assert_eq!(of("root"), Ok(None));
        assert_eq!(of("33"), Ok(Some((33, 0))));
        assert_eq!(of("0:5"), Ok(Some((0, 5))));
        assert!(of("web").unwrap_err().contains("start the container"));
        let running = json!({ "configured_user": "web", "user": { "uid": 33, "gid": 34 } });
        assert_eq!(user(&running), Ok(Some((33, 34))));
        let mapped = json!([[0, 100_000, 10], [10, 500_000, 90]]);
        let running =
            json!({ "user": { "uid": 500_023, "gid": 100_000, "uid_map": mapped, "gid_map": mapped } });
        assert_eq!(user(&running), Ok(Some((33, 0))));
    }

    #[test]
    fn options_that_mount_takes() {
        let mount = json!({ "options": ["rbind", "rprivate", "rw", "nosuid", "ro"] });
        assert_eq!(options(&mount), "nosuid,ro");
    }
}
