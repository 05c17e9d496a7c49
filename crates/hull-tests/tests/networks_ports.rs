//! Networks: names, published ports, kinds of networks, and that they end.

use hull_tests::Daemon;

#[test]
fn a_published_port() {
    Daemon::start().session(
        r#"
        $ mkdir www; echo 'it works' >www/index.html
        $ hull run -d --name web -p 127.0.0.1:3000:8080 -v ./www:/www:ro busybox httpd -f -p 8080 -h /www
        <id>
        $ eventually curl -sf http://127.0.0.1:3000/; curl -sf --max-time 2 http://127.0.0.1:3000/
        it works
        $ hull port web
        8080/tcp -> 127.0.0.1:3000
        $ hull port web 8080
        127.0.0.1:3000
        $ hull ps --format '{{.Ports}}'
        127.0.0.1:3000->8080/tcp
        $ hull run --rm -p 127.0.0.1:3000:1 busybox true 2>/dev/null
        [125]
        $ hull stop -t 0 web; curl -sf --max-time 1 http://127.0.0.1:3000/
        web
        [7]
        $ hull start web; eventually curl -sf http://127.0.0.1:3000/; curl -sf --max-time 2 http://127.0.0.1:3000/
        web
        it works
        $ hull rm -f web; curl -sf --max-time 1 http://127.0.0.1:3000/
        web
        [7]
        "#,
    );
}

#[test]
fn udp_ranges_and_ports_of_the_engines_choice() {
    Daemon::start().session(
        r#"
        $ hull run -d --name udp -p 127.0.0.1:5000:5000/udp -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro busybox /usr/bin/socat UDP-LISTEN:5000,fork PIPE
        <id>
        $ answers() { echo ping | timeout 1 socat -t 0.5 - UDP:127.0.0.1:5000 | grep ping; }; eventually answers
        $ hull run -d --name many -p 127.0.0.1:7000-7002:80-82 -p 127.0.0.1::90 busybox sleep 600
        <id>
        $ hull port many | sort | head -n 3
        80/tcp -> 127.0.0.1:7000
        81/tcp -> 127.0.0.1:7001
        82/tcp -> 127.0.0.1:7002
        $ hull port many 90 | grep -Ec '^127.0.0.1:[1-9][0-9]{3,4}$'
        1
        $ hull run -d --name all --expose 99 -P busybox sleep 600
        <id>
        $ hull port all | grep -c '^99/tcp -> 0.0.0.0:'
        1
        $ socat TCP-LISTEN:7100,fork,reuseaddr /dev/null & eventually sh -c 'ss -Hltn | grep :7100'
        $ hull run --rm -p 7100:1 busybox true 2>&1 | grep -c -m 1 7100
        1
        $ kill %1
        $ hull create -p 70000:1 busybox true 2>/dev/null
        [125]
        "#,
    );
}

#[test]
fn names_on_a_network_of_ones_own() {
    Daemon::start().session(
        r#"
        $ hull network create --subnet 10.201.0.0/24 one
        <id>
        $ hull run -d --name aa --network one --network-alias first busybox sleep 600
        <id>
        $ hull run -d --name bb --network one --ip 10.201.0.77 --add-host other:192.0.2.9 --dns-search example.test busybox sleep 600
        <id>
        $ hull exec bb ping -c 1 -W 2 aa >/dev/null; hull exec bb ping -c 1 -W 2 first >/dev/null
        $ hull exec aa ping -c 1 -W 2 bb | head -n 1
        PING bb (10.201.0.77): 56 data bytes
        $ hull inspect -f '{{(index .NetworkSettings.Networks "one").IPAddress}}' bb
        10.201.0.77
        $ hull exec bb grep other /etc/hosts | tr '\t' ' '
        192.0.2.9 other
        $ hull exec bb grep -E 'search|nameserver' /etc/resolv.conf | sort
        nameserver 127.0.0.11
        search example.test
        $ timeout 8 hull exec bb nslookup no-such-name >/dev/null 2>&1
        [1]
        $ hull network rm one 2>/dev/null
        [1]
        $ hull network create --subnet 10.201.0.0/16 over 2>/dev/null
        [1]
        $ hull network create two
        <id>
        $ hull run -d --name cc --network two busybox sleep 600
        <id>
        $ hull exec cc ping -c 1 -W 1 aa >/dev/null 2>&1
        [1]
        $ hull network connect --alias between two aa; hull exec cc ping -c 1 -W 2 between >/dev/null
        $ hull network disconnect two aa; hull exec cc ping -c 1 -W 1 between >/dev/null 2>&1
        [1]
        $ hull restart -t 0 aa; hull exec bb ping -c 1 -W 2 aa >/dev/null
        aa
        $ hull rm -f aa bb cc >/dev/null; hull network rm one two
        one
        two
        $ hull network ls --format '{{.Name}} {{.Driver}}'
        bridge bridge
        host host
        none null
        $ hull network rm bridge 2>/dev/null
        [1]
        "#,
    );
}

#[test]
fn kinds_of_networks() {
    Daemon::start().session(
        r#"
        $ hull run --rm --network none busybox ls /sys/class/net
        lo
        $ hull run --rm busybox ls /sys/class/net
        eth0
        lo
        $ test "$(hull run --rm --network host busybox readlink /proc/self/ns/net)" = "$(readlink /proc/self/ns/net)"
        $ hull run -d --name shared busybox sleep 600
        <id>
        $ test "$(hull run --rm --network container:shared busybox ip -o addr)" = "$(hull exec shared ip -o addr)"
        $ hull run --rm --network no-such busybox true 2>/dev/null
        [125]
        $ hull network create -d no-such-driver nn 2>/dev/null
        [1]
        $ hull network create --internal inside
        <id>
        $ hull network inspect -f '{{.Internal}} {{.Driver}} {{.Scope}} {{.EnableIPv6}}' inside
        true bridge local false
        $ hull run --rm --mac-address 02:42:ac:11:99:99 busybox cat /sys/class/net/eth0/address
        02:42:ac:11:99:99
        $ hull run --rm --dns 192.0.2.53 --dns-option ndots:3 busybox cat /etc/resolv.conf | grep -E 'nameserver|options'
        nameserver 192.0.2.53
        options ndots:3
        $ hull run --rm --sysctl net.ipv4.ip_forward=1 busybox cat /proc/sys/net/ipv4/ip_forward
        1
        "#,
    );
}

/// Where a network has IPv4 only, who comes by IPv6 is served all the same, as by Docker's proxy; and by the shim, so that
/// it goes on without a daemon.
#[test]
fn a_port_of_every_address_is_reached_by_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("left out: this machine has no IPv6");
        return;
    }
    Daemon::start().session(
        r#"
        $ mkdir www; echo 'it works' >www/index.html
        $ hull run -d --name web -p 3160:8080 -v ./www:/www:ro busybox httpd -f -p 8080 -h /www
        <id>
        $ hull port web 8080
        0.0.0.0:3160
        [::]:3160
        $ hull inspect -f '{{json (index .NetworkSettings.Ports "8080/tcp")}}' web
        [{"HostIp":"0.0.0.0","HostPort":"3160"},{"HostIp":"::","HostPort":"3160"}]
        $ eventually curl -sf http://127.0.0.1:3160/; curl -sf --max-time 2 'http://[::1]:3160/'
        it works
        $ hull restart -t 0 web; eventually curl -sf http://127.0.0.1:3160/; curl -sf --max-time 2 'http://[::1]:3160/'
        web
        it works
        $ hull rm -f web; curl -sf --max-time 1 'http://[::1]:3160/'
        web
        [7]
        $ hull run -d --name udp -p 5160:5000/udp -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro busybox /usr/bin/socat UDP-LISTEN:5000,fork PIPE
        <id>
        $ answers() { echo ping | timeout 1 socat -t 0.5 - 'UDP6:[::1]:5160' | grep ping; }; eventually answers
        $ hull run --rm -p 127.0.0.1:3161:1 --name four busybox true; hull run -d --name four -p 127.0.0.1:3161:1 busybox sleep 600; hull port four
        <id>
        1/tcp -> 127.0.0.1:3161
        "#,
    );
}

/// A single IPv6 address leads to a container with IPv4 alone, wherever that moves to, also behind another daemon.
#[test]
fn a_port_of_one_ipv6_address() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("left out: this machine has no IPv6");
        return;
    }
    let mut daemon = Daemon::start();
    daemon.session(
        r#"
        $ hull network create aa; hull network create zz
        <id>
        <id>
        $ mkdir www; echo 'it works' >www/index.html
        $ hull run -d --name web --network zz -p '[::1]:3165:8080' -v ./www:/www:ro busybox httpd -f -p 8080 -h /www
        <id>
        $ hull port web; hull ps --format '{{.Ports}}'
        8080/tcp -> [::1]:3165
        [::1]:3165->8080/tcp
        $ eventually curl -sf 'http://[::1]:3165/'; curl -sf --max-time 2 'http://[::1]:3165/'
        it works
        $ curl -sf --max-time 1 http://127.0.0.1:3165/
        [7]
        $ hull run --rm -p '[::1]:3165:1' busybox true 2>/dev/null
        [125]
        $ hull network connect aa web; curl -sf --max-time 2 'http://[::1]:3165/'
        it works
        "#,
    );
    daemon.kill();
    daemon.begin();
    daemon.session(
        r#"
        $ curl -sf --max-time 2 'http://[::1]:3165/'; hull network disconnect aa web; curl -sf --max-time 2 'http://[::1]:3165/'
        it works
        it works
        $ hull run -d --name other -p 0.0.0.0:3165:8080 -v ./www:/www:ro busybox httpd -f -p 8080 -h /www
        <id>
        $ eventually curl -sf http://127.0.0.1:3165/; hull network disconnect zz web; curl -s --max-time 2 'http://[::1]:3165/' || echo nobody
        nobody
        $ hull rm -f other; socat TCP4-LISTEN:3165,fork,reuseaddr 'SYSTEM:echo a stranger' & eventually sh -c 'ss -Hltn | grep "0.0.0.0:3165"'
        other
        $ curl -s --max-time 2 'http://[::1]:3165/' || echo nobody
        nobody
        $ hull network connect zz web; curl -sf --max-time 2 'http://[::1]:3165/'
        it works
        $ kill %1
        $ hull rm -f web; curl -sf --max-time 1 'http://[::1]:3165/'
        web
        [7]
        $ hull network rm aa zz
        aa
        zz
        "#,
    );
}

/// No firewall leads ::1 elsewhere, also where the container has IPv6.
#[test]
fn a_port_of_a_container_with_ipv6_is_reached_at_the_loopback_too() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("left out: this machine has no IPv6");
        return;
    }
    Daemon::start().session(
        r#"
        $ hull network create --ipv6 --subnet 10.207.0.0/24 --subnet fd00:207::/64 both
        <id>
        $ mkdir www; echo 'it works' >www/index.html
        $ hull run -d --name web --network both -p 3162:8080 -v ./www:/www:ro busybox httpd -f -p 8080 -h /www
        <id>
        $ hull port web 8080
        0.0.0.0:3162
        [::]:3162
        $ eventually curl -sf http://127.0.0.1:3162/; for at in 127.0.0.1 [::1] [fd00:207::1]; do curl -sf --max-time 2 "http://$at:3162/"; done
        it works
        it works
        it works
        $ hull rm -f web; curl -sf --max-time 1 'http://[::1]:3162/'
        web
        [7]
        $ hull run -d --name web --network both -p '[::]:3166:8080/TCP' -v ./www:/www:ro busybox httpd -f -p 8080 -h /www
        <id>
        $ hull port web; hull ps --format '{{.Ports}}'
        8080/tcp -> [::]:3166
        [::]:3166->8080/tcp
        $ socat TCP4-LISTEN:3166,fork,reuseaddr 'SYSTEM:echo a stranger' & eventually sh -c 'ss -Hltn | grep "0.0.0.0:3166"'
        $ eventually curl -sf 'http://[fd00:207::1]:3166/'; curl -sf --max-time 2 'http://[fd00:207::1]:3166/'
        it works
        $ curl -s --max-time 2 'http://[::1]:3166/' || echo nobody
        nobody
        $ kill %1
        "#,
    );
}

#[test]
fn a_datagrams_answer_leaves_from_the_address_that_was_asked() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("left out: this machine has no IPv6");
        return;
    }
    Daemon::start().session(
        r#"
        $ ip addr add fd00:5160::1/128 dev lo; ip addr add fd00:5160::2/128 dev lo
        $ hull run -d --name udp -p 5161:5000/udp -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro busybox /usr/bin/socat UDP-LISTEN:5000,fork PIPE
        <id>
        $ answers() { echo ping | timeout 1 socat -t 0.5 - "UDP6:[$1]:5161,bind=[$2]" | grep ping; }; eventually answers ::1 ::1
        $ answers() { echo ping | timeout 1 socat -t 0.5 - "UDP6:[$1]:5161,bind=[$2]" | grep ping; }; eventually answers fd00:5160::1 fd00:5160::2 && eventually answers fd00:5160::2 ::1
        "#,
    );
}

/// nft tells a protocol by its number on a machine without /etc/protocols.
#[test]
fn a_routed_network_takes_no_port_of_the_host() {
    Daemon::start().session(
        r#"
        $ hull network create -o com.docker.network.bridge.gateway_mode_ipv4=routed --subnet 10.206.0.0/24 routed
        <id>
        $ hull run -d --name one --network routed -p 3170:80 --expose 81 busybox sleep 600
        <id>
        $ hull run -d --name two --network routed -p 3170:80 busybox sleep 600
        <id>
        $ hull inspect -f '{{json .NetworkSettings.Ports}}' one
        {"80/tcp":[{"HostIp":"0.0.0.0","HostPort":""}],"81/tcp":null}
        $ nft list ruleset | grep -cE '10.206.0.2 . (tcp|6) . 80'
        1
        $ hull restart -t 0 one; hull rm -f one two
        one
        one
        two
        $ nft list ruleset | grep -cE '10.206.0.. . (tcp|6) . 80'
        0
        [1]
        $ hull network create -o com.docker.network.bridge.trusted_host_interfaces=eth9 -o com.docker.network.host_ipv4=192.0.2.9 trusting
        <id>
        $ hull run -d --name three --network trusting -p 127.0.0.1:3171:80 -p 127.0.0.1:3172:80 busybox sleep 600
        <id>
        $ hull inspect -f '{{json .NetworkSettings.Ports}}' three
        {"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"3171"},{"HostIp":"127.0.0.1","HostPort":"3172"}]}
        $ hull rm -f three; hull network rm trusting
        three
        trusting
        "#,
    );
}
