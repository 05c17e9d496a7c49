//! The script's cgroup.

use serde_json::Value;

use super::{Script, texts, word, words};

/// What every script needs of a cgroup, whatever its limits are.
const HELPERS: &str = r#"v1() { findmnt -nro TARGET -t cgroup -O "$1" | head -n 1; }
v2=$(findmnt -nro TARGET -t cgroup2 | head -n 1)
if [ -n "$v2" ]; then
    for controller in $(cat "$v2/cgroup.controllers"); do
        echo "+$controller" 2>/dev/null >"$v2/cgroup.subtree_control" || true
    done
    cgroups+=("$v2/$name")
fi
for controller in $controllers; do
    folder=$(v1 "$controller")
    [ -z "$folder" ] || cgroups+=("$folder/$name")
done
for folder in "${cgroups[@]}"; do
    mkdir -p "$folder"
done
# limit CONTROLLER FILE VALUE FILE VALUE: writes v1's file or v2's, whichever this machine has the controller on.
limit() {
    local folder
    folder=$(v1 "$1")
    if [ -n "$folder" ]; then
        [ ! -e "$folder/$name/$2" ] || echo "$3" >"$folder/$name/$2"
    else
        [ ! -f "$v2/$name/$4" ] || echo "$5" >"$v2/$name/$4"
    fi
}"#;

/// The cgroup and its limits.
pub(super) fn cgroup(script: &mut Script, of: &Value) {
    let resources = &of["oci"]["linux"]["resources"];
    let cpuset = ["cpus", "mems"].map(|list| resources["cpu"][list].as_str().unwrap_or_default());
    let has_cpuset = cpuset.iter().any(|list| !list.is_empty());
    script.about(
        "The cgroup: a folder, made in the hierarchy of each controller on cgroup v1, and in the one of all on v2.\n\
         Whoever writes a process's number into its cgroup.procs puts that process, and all its children, under its limits.",
    );
    let further = if has_cpuset { " cpuset" } else { "" };
    script.line(format_args!("controllers='memory cpu cpuacct pids devices{further}'"));
    script.line(HELPERS);
    let writes = writes(resources);
    if !writes.is_empty() || has_cpuset {
        script.about("Its limits, as they were asked for.");
    }
    writes.iter().for_each(|write| script.line(format_args!("limit {}", words(write))));
    if has_cpuset {
        script.comment(
            "On v1 a cpuset begins with nothing at all; it gets what there is, then what was asked for.",
        );
        for (file, value) in ["cpuset.cpus", "cpuset.mems"].iter().zip(cpuset) {
            script.line(format_args!(
                "folder=$(v1 cpuset); [ -z \"$folder\" ] || cat \"$folder/{file}\" >\"$folder/$name/{file}\""
            ));
            if !value.is_empty() {
                script.line(format_args!("limit cpuset {file} {0} {file} {0}", word(value)));
            }
        }
    }
    devices(script, of);
    let beyond = ["blockIO", "hugepageLimits", "network", "rdma", "unified"];
    let beyond: Vec<&str> = beyond.into_iter().filter(|name| is_something(&resources[name])).collect();
    if !beyond.is_empty() {
        script.comment(&format!(
            "Left out here, and written in the same way: limits of {}.",
            beyond.join(", ")
        ));
    }
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.values().any(is_something),
        Value::Array(list) => !list.is_empty(),
        other => !other.is_null(),
    }
}

/// Controller, v1's file and value, v2's file and value.
fn writes(resources: &Value) -> Vec<[String; 5]> {
    let number = |part: &str, name: &str| resources[part][name].as_i64().filter(|number| *number != 0);
    let or_max = |number: i64| if number < 0 { "max".to_owned() } else { number.to_string() };
    let mut writes = Vec::new();
    let mut write = |controller: &str, v1: (&str, String), v2: (&str, String)| {
        writes.push([controller.to_owned(), v1.0.to_owned(), v1.1, v2.0.to_owned(), v2.1]);
    };
    let nothing = || ("", String::new());
    let memory = number("memory", "limit");
    if let Some(limit) = memory {
        write("memory", ("memory.limit_in_bytes", limit.to_string()), ("memory.max", or_max(limit)));
    }
    if let Some(both) = number("memory", "swap") {
        // v1 limits memory and swap together, v2 swap alone.
        let alone = if both < 0 { both } else { (both - memory.unwrap_or_default()).max(0) };
        write(
            "memory",
            ("memory.memsw.limit_in_bytes", both.to_string()),
            ("memory.swap.max", or_max(alone)),
        );
    }
    if let Some(low) = number("memory", "reservation") {
        write("memory", ("memory.soft_limit_in_bytes", low.to_string()), ("memory.low", or_max(low)));
    }
    let (period, quota) = (number("cpu", "period"), number("cpu", "quota"));
    if let Some(period) = period {
        write("cpu", ("cpu.cfs_period_us", period.to_string()), nothing());
    }
    if period.is_some() || quota.is_some() {
        let both =
            format!("{} {}", quota.map_or_else(|| "max".to_owned(), or_max), period.unwrap_or(100_000));
        let v1 = quota.map_or_else(nothing, |quota| ("cpu.cfs_quota_us", quota.to_string()));
        write("cpu", v1, ("cpu.max", both));
    }
    if let Some(shares) = number("cpu", "shares") {
        // v1 counts from 2 to 262144, v2 from 1 to 10000.
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        write("cpu", ("cpu.shares", shares.to_string()), ("cpu.weight", weight.to_string()));
    }
    if let Some(pids) = number("pids", "limit") {
        write("pids", ("pids.max", or_max(pids)), ("pids.max", or_max(pids)));
    }
    writes
}

fn devices(script: &mut Script, of: &Value) {
    let rules = texts(&of["devices"]["rules"]);
    if rules.is_empty() {
        return;
    }
    script.about(
        "Which devices it may read (r), write (w) or make files of (m): on v1 by the cgroup, the last rule that fits\n\
         decides. On v2 a BPF program decides, which no plain command loads.",
    );
    script.line("folder=$(v1 devices)");
    script.line("if [ -n \"$folder\" ]; then");
    for rule in rules {
        let (what, which) = rule.split_once(' ').unwrap_or((rule, "a"));
        let file = if what == "allow" { "devices.allow" } else { "devices.deny" };
        script.line(format_args!("    echo {} >\"$folder/$name/{file}\"", word(which)));
    }
    script.line("fi");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn limits_of_both_versions() {
        let found = super::writes(&json!({
            "memory": { "limit": 64, "swap": 128, "reservation": 0 },
            "cpu": { "quota": 50_000, "period": 100_000, "shares": 1024 },
            "pids": { "limit": -1 },
        }));
        let lines: Vec<String> = found.iter().map(|write| write.join(" ")).collect();
        assert_eq!(
            lines,
            [
                "memory memory.limit_in_bytes 64 memory.max 64",
                "memory memory.memsw.limit_in_bytes 128 memory.swap.max 64",
                "cpu cpu.cfs_period_us 100000  ",
                "cpu cpu.cfs_quota_us 50000 cpu.max 50000 100000",
                "cpu cpu.shares 1024 cpu.weight 39",
                "pids pids.max max pids.max max",
            ]
        );
        assert!(!super::is_something(&json!({ "a": null, "b": [], "c": {} })));
    }
}
