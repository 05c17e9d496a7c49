//! `hull doctor`: it says what is there and what is not.

use hull_tests::Daemon;

#[test]
fn what_containers_need_is_found_on_a_machine_that_runs_them() {
    let daemon = Daemon::start();
    let before = daemon.settled();
    daemon.session(
        r#"
        $ hull doctor --json | jq -r '.[] | select(.name == "overlay" or .name == "nftables" or .name == "veth" or .name == "net") | .name + " " + .state' | sort
        net yes
        nftables yes
        overlay yes
        veth yes
        $ hull doctor --json | jq 'map(select(.area == "namespaces")) | length >= 8'
        true
        $ hull doctor --json | jq 'all(.[]; (.state == "yes") == (.remedy == ""))'
        true
        $ hull doctor | grep -E '^(privilege|namespaces|cgroups|files|security|network|limits):$' | wc -l
        7
        "#,
    );
    daemon.comes_back_to(&before);
}

#[test]
fn what_is_taken_away_is_missed() {
    Daemon::start().session(
        r#"
        $ hull ns run -U -r --setgroups deny -- sh -c 'echo 0 >/proc/sys/user/max_net_namespaces; hull doctor --json' | jq -c '.[] | select(.name == "net") | [.state, .found]'
        ["no","no space left on device"]
        $ hull ns run --setuid 65534 --setgid 65534 -- hull doctor --json | jq -c '.[] | select(.name == "root") | [.state, .remedy]'
        ["no","sudo hull doctor"]
        "#,
    );
}
