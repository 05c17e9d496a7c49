//! What the script does on the host's side: its name, its end, the network, and the start.

use serde_json::Value;

use super::{Script, Share, plain, share, text, word};

const HEAD: &str = r#"set -eu

# A name for all that this makes in the kernel, and a folder for its files.
name=by-hand-$$
short=bh$$
work=$(realpath "$(mktemp -d)")
net=$work/net

# Nothing stays behind, however it ends.
cgroups=()
links=()
clean_up() {
    set +e
    for folder in "${cgroups[@]}"; do
        [ -d "$folder" ] || continue
        while pids=$(cat "$folder/cgroup.procs") && [ -n "$pids" ]; do
            kill -KILL $pids 2>/dev/null
            sleep 0.05
        done
        for try in 1 2 3 4 5; do
            rmdir "$folder" 2>/dev/null && break
            sleep 0.1
        done
    done
    nft delete table inet "$name" 2>/dev/null
    [ -z "${forwarding-}" ] || echo "$forwarding" >/proc/sys/net/ipv4/ip_forward
    umount "$net" 2>/dev/null
    for link in "${links[@]}"; do
        ip link delete "$link" 2>/dev/null
    done
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM"#;

/// What it is, and how it ends.
pub(super) fn head(script: &mut Script, of: &Value) {
    script.line("#!/bin/bash");
    script.comment(&format!(
        "By hand, what hull does for the container {} of the image {}.",
        plain(text(&of["name"])),
        plain(text(&of["image"]))
    ));
    script.comment(
        "Run it as root, with bash. It needs coreutils, util-linux, iproute2 and nftables. Its names and addresses are\n\
         its own; of the container it shares the image's layers, which are never written, and what is bound into it.",
    );
    script.line(HEAD);
}

/// The network namespace, the pairs of interfaces and the firewall.
pub(super) fn network(script: &mut Script, of: &Value) {
    match share(&of["oci"], "network") {
        Share::Host => script.about("Its network is the host's: there is nothing to make."),
        Share::Of(path) => {
            script.about("Its network is another container's: whose first process that is, is in it.");
            script.line(format_args!("net={}", word(&path)));
        }
        Share::Own => own_network(script, of),
    }
}

fn own_network(script: &mut Script, of: &Value) {
    script.about(
        "The network: a namespace of its own, with interfaces, addresses, routes, a firewall and ports of its own. It\n\
         lives as long as a process is in it or, as here, a file is bound to it. At first it has the loopback alone.",
    );
    script.line("touch \"$net\"");
    script.line("unshare --net=\"$net\" true");
    script.line("nsenter --net=\"$net\" ip link set lo up");
    let network = &of["network"];
    let wires: Vec<&Value> = network["interfaces"].as_array().into_iter().flatten().collect();
    let has_gateway = |wire: &&Value| wire["gateways"].as_array().is_some_and(|list| !list.is_empty());
    let routed = wires.iter().position(has_gateway).unwrap_or(0);
    for (index, wire) in wires.iter().enumerate() {
        script.about(&format!(
            "Network {}: a pair of interfaces is a cable. One end is inside, the other is a port of a bridge, which is\n\
             a switch. The bridge's own address is the way out. The addresses are of the range for tests (RFC 2544).",
            plain(text(&wire["network"]))
        ));
        if index == 0 {
            script.line("part=$(($$ % 250))");
        }
        let name = match text(&wire["name"]) {
            "" => format!("eth{index}"),
            name => name.to_owned(),
        };
        let name = word(&name);
        let (bridge, range) = (format!("${{short}}b{index}"), format!("198.{}.$part", 18 + index % 2));
        let address = if index == 0 { "address".to_owned() } else { format!("address{index}") };
        // Two ranges of 250 are enough for two networks; a third shares the first's by another host number.
        let host = 2 + index / 2 * 64;
        let (gateway, prefix) = (format!("{range}.{}", host - 1), 26);
        script.line(format_args!("{address}={range}.{host}"));
        script.line(format_args!("links+=(\"${{short}}v{index}\" \"{bridge}\")"));
        script.line(format_args!("ip link add \"{bridge}\" type bridge"));
        script.line(format_args!("ip address add {gateway}/{prefix} dev \"{bridge}\""));
        script.line(format_args!("ip link set \"{bridge}\" up"));
        script.line(format_args!(
            "ip link add \"${{short}}v{index}\" type veth peer name {name} netns \"$net\""
        ));
        script.line(format_args!("ip link set \"${{short}}v{index}\" master \"{bridge}\" up"));
        script.line(format_args!("nsenter --net=\"$net\" ip address add \"${address}/{prefix}\" dev {name}"));
        script.line(format_args!("nsenter --net=\"$net\" ip link set {name} up"));
        if index == routed {
            script.line(format_args!("nsenter --net=\"$net\" ip route add default via {gateway}"));
        }
    }
    if !wires.is_empty() {
        firewall(script, network, routed);
    }
}

fn firewall(script: &mut Script, network: &Value, routed: usize) {
    script.about(
        "The way out: the host forwards, and what leaves takes the host's address, as the world does not know the other.\n\
         The way in: a published port is an element of a map, so a thousand of them are still one rule. Where the\n\
         container itself runs and has the port, its own element comes first.",
    );
    let address = if routed == 0 { "$address".to_owned() } else { format!("$address{routed}") };
    script.line("forwarding=$(cat /proc/sys/net/ipv4/ip_forward)");
    script.line("echo 1 >/proc/sys/net/ipv4/ip_forward");
    script.line("nft -f - <<EOF");
    script.line("table inet $name {");
    script.line("    chain leaving {");
    script.line("        type nat hook postrouting priority srcnat;");
    script.line(format_args!("        ip saddr {address} oifname != \"${{short}}b{routed}\" masquerade"));
    script.line("    }");
    let elements: Vec<String> = ports(network)
        .into_iter()
        .map(|(protocol, from, to)| format!("{protocol} . {from} : {address} . {to}"))
        .collect();
    if !elements.is_empty() {
        script.line("    map ports {");
        script.line("        type inet_proto . inet_service : ipv4_addr . inet_service");
        script.line(format_args!("        elements = {{ {} }}", elements.join(", ")));
        script.line("    }");
        for (chain, hook) in [("arriving", "prerouting"), ("from_here", "output")] {
            script.line(format_args!("    chain {chain} {{"));
            script.line(format_args!("        type nat hook {hook} priority -100;"));
            script.line("        fib daddr type local dnat ip to meta l4proto . th dport map @ports");
            script.line("    }");
        }
    }
    script.line("}");
    script.line("EOF");
}

/// The published ports, each once: nothing but numbers and the protocols that there are.
fn ports(network: &Value) -> Vec<(&'static str, u64, u64)> {
    let of = |element: &Value| {
        let protocol = ["tcp", "udp", "sctp"].into_iter().find(|known| element["protocol"] == **known)?;
        Some((protocol, element["host_port"].as_u64()?, element["container_port"].as_u64()?))
    };
    let mut ports: Vec<_> = network["firewall"].as_array().into_iter().flatten().filter_map(of).collect();
    ports.sort_unstable();
    ports.dedup_by_key(|(protocol, from, _)| (*protocol, *from));
    ports
}

/// The first process.
pub(super) fn start(script: &mut Script, of: &Value) {
    let oci = &of["oci"];
    script.about(
        "The start. A process puts itself into the cgroup and into the namespaces, new ones or others'; its child is then\n\
         number 1 of the new process ids, and with it ends whatever else is in them. Here it is a shell, that does what\n\
         stands above, and in the end becomes the command.",
    );
    let mut enter = Vec::new();
    let mut unshare = vec!["--mount".to_owned()];
    match share(oci, "network") {
        Share::Host => {}
        Share::Own | Share::Of(_) => enter.push("--net=\"$net\"".to_owned()),
    }
    for kind in ["uts", "ipc", "pid", "cgroup"] {
        match share(oci, kind) {
            Share::Host => {}
            Share::Own => unshare.push(format!("--{kind}")),
            Share::Of(path) => enter.push(word(&format!("--{kind}={path}"))),
        }
    }
    unshare.extend(["--fork", "--kill-child"].map(str::to_owned));
    script.line("{ declare -p work v2 address 2>/dev/null || true; declare -f v1 place bind_mount inside; echo inside; } >\"$work/inside\"");
    script.line("(");
    script.line("    for folder in \"${cgroups[@]}\"; do");
    script.line("        echo \"$BASHPID\" >\"$folder/cgroup.procs\"");
    script.line("    done");
    let nsenter = if enter.is_empty() { String::new() } else { format!("nsenter {} ", enter.join(" ")) };
    script.line(format_args!("    exec {nsenter}unshare {} bash \"$work/inside\"", unshare.join(" ")));
    script.line(") <&0 &");
    script.line("status=0");
    script.line("wait $! || status=$?");
    script.line("exit $status");
}
