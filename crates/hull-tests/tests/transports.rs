//! The ways to a daemon besides its socket: TCP with certificates, ssh, and sockets that systemd hands over.

use std::process::{Child, Command, Stdio};

use hull_tests::{Daemon, Engine};
use rustix::process::{Pid, Signal, kill_process};

fn only_hull() -> bool {
    Engine::under_test() == Engine::Hull
}

/// A process of the test's own, ended with it.
struct Own(Child);

impl Own {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().expect("the program is installed"))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if kill_process(Pid::from_child(&self.0), Signal::TERM).is_ok() {
            self.0.wait().ok();
        }
    }
}

/// Two authorities, a daemon's certificate, and those of clients: good, expired, and of the other authority.
const CERTIFICATES: &str = r#"
    authority() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1" -keyout $1-key.pem -out $1.pem; }
    signed() { # NAME AUTHORITY EXTENSIONS OPTION...
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout $1-key.pem -out $1.csr
        openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2-key.pem -CAcreateserial -extfile <(echo "$3") -out $1.pem "${@:4}"
    }
    { authority ca; authority other
      signed daemon ca 'subjectAltName=IP:127.0.0.1,DNS:localhost' -days 2
      signed elsewhere ca 'subjectAltName=DNS:elsewhere.example' -days 2
      for client in good:ca:2 expired:ca:-1 foreign:other:2; do
          IFS=: read name by days <<<$client
          signed $name $by 'extendedKeyUsage=clientAuth' -days $days
          mkdir -p $name; cp ca.pem $name/; cp $name.pem $name/cert.pem; cp $name-key.pem $name/key.pem
      done; } >openssl.log 2>&1
"#;

/// Makes the certificates in the daemon's working folder.
fn certificates(daemon: &Daemon) {
    let made = daemon.command("bash").args(["-ec", CERTIFICATES]).status().expect("bash is there");
    assert!(made.success(), "{:?}", std::fs::read_to_string(daemon.dir().join("work/openssl.log")));
}

#[test]
fn tcp_asks_for_certificates_both_ways() {
    if !only_hull() {
        return;
    }
    // The daemon that makes the certificates is another one, as they must be there when one starts.
    let maker = Daemon::empty(Engine::Hull, &[]);
    certificates(&maker);
    let work = maker.dir().join("work");
    let file = |name: &str| work.join(name).display().to_string();
    let daemon = Daemon::with(&[
        "-H",
        "tcp://127.0.0.1:23760",
        "-H",
        "tcp://0.0.0.0:23761",
        "--tlsverify",
        "--tlscacert",
        &file("ca.pem"),
        "--tlscert",
        &file("daemon.pem"),
        "--tlskey",
        &file("daemon-key.pem"),
    ]);
    daemon.session(&format!(
        r#"
        $ cd {work}; export DOCKER_CONFIG=$PWD/none
        $ as() {{ local name=$1; shift; hull -H tcp://127.0.0.1:23760 --tlsverify --tlscacert $name/ca.pem --tlscert $name/cert.pem --tlskey $name/key.pem "$@"; }}
        $ as good run --rm busybox echo by certificate
        by certificate
        $ echo typed | as good run --rm -i busybox cat
        typed
        $ DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=$PWD/good hull -H tcp://localhost:23761 images -q busybox | wc -l
        1
        $ as expired ps 2>&1 | grep -oi 'certificate.*expired'
        CertificateExpired
        $ as foreign ps >/dev/null 2>foreign.log; echo $?; grep -ci 'fatal alert' foreign.log
        1
        1
        $ hull -H tcp://127.0.0.1:23760 --tls ps >/dev/null 2>nobody.log; echo $?; grep -ci 'fatal alert: CertificateRequired' nobody.log
        1
        1
        $ hull -H tcp://127.0.0.1:23760 ps 2>&1
        Error response from daemon: Client sent an HTTP request to an HTTPS server.
        [1]
        $ cp other.pem good/other.pem; hull -H tcp://127.0.0.1:23760 --tlsverify --tlscacert other.pem --tlscert good/cert.pem --tlskey good/key.pem ps 2>&1 | grep -ciE 'certificate'
        1
        $ curl -s --max-time 5 http://127.0.0.1:23760/_ping
        Client sent an HTTP request to an HTTPS server.
        $ curl -sk --max-time 5 https://127.0.0.1:23760/_ping; test $? != 0
        $ curl -s --max-time 5 --cacert ca.pem --cert good/cert.pem --key good/key.pem https://127.0.0.1:23760/_ping; echo
        OK
        $ hull -H tcp://127.0.0.1:23760 --tlsverify --tlscacert none.pem ps 2>&1 | grep -o 'none.pem.*'
        none.pem: No such file or directory
        "#,
        work = work.display(),
    ));
    let name_of_another = Daemon::empty(
        Engine::Hull,
        &[
            "-H",
            "tcp://127.0.0.1:23762",
            "--tlsverify",
            "--tlscacert",
            &file("ca.pem"),
            "--tlscert",
            &file("elsewhere.pem"),
            "--tlskey",
            &file("elsewhere-key.pem"),
        ],
    );
    name_of_another.session(&format!(
        r#"
        $ cd {work}; DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=good hull -H tcp://127.0.0.1:23762 ps 2>&1 | grep -ci 'certificate'
        1
        "#,
        work = work.display(),
    ));
}

#[test]
fn docker_s_client_with_certificates() {
    if !only_hull() || !std::path::Path::new("/usr/local/bin/docker").exists() {
        return;
    }
    let maker = Daemon::empty(Engine::Hull, &[]);
    certificates(&maker);
    let work = maker.dir().join("work").display().to_string();
    let config = format!(
        r#"{{"tlsverify": true, "tlscacert": "{work}/ca.pem", "tlscert": "{work}/daemon.pem", "tlskey": "{work}/daemon-key.pem"}}"#
    );
    std::fs::write(maker.dir().join("work/daemon.json"), config).expect("a file");
    let daemon = Daemon::with(&["-H", "tcp://127.0.0.1:23763", "--config", &format!("{work}/daemon.json")]);
    daemon.session(&format!(
        r#"
        $ cd {work}; export DOCKER_CONFIG=$PWD/none DOCKER_HOST=tcp://127.0.0.1:23763 DOCKER_TLS_VERIFY=1
        $ DOCKER_CERT_PATH=$PWD/good docker run --rm busybox echo by certificate
        by certificate
        $ echo typed | DOCKER_CERT_PATH=$PWD/good docker run --rm -i busybox cat
        typed
        $ DOCKER_CERT_PATH=$PWD/expired docker ps >/dev/null 2>&1
        [1]
        $ DOCKER_CERT_PATH=$PWD/foreign docker ps >/dev/null 2>&1
        [1]
        "#
    ));
}

/// An ssh server of the test's own, its keys, and how `ssh` finds both.
const SSH: &str = r#"
    ssh-keygen -q -t ed25519 -N '' -f host_key; ssh-keygen -q -t ed25519 -N '' -f key
    cp key.pub authorized; chmod 700 .; chmod 600 authorized
    printf '%s\n' "HostKey $PWD/host_key" "AuthorizedKeysFile $PWD/authorized" "PidFile none" "StrictModes no" "UsePAM no" \
        "ListenAddress 127.0.0.1" "Port 23764" "PermitRootLogin yes" "PasswordAuthentication no" \
        "SetEnv PATH=$PATH HULL_HOST=$HULL_HOST DOCKER_HOST=$DOCKER_HOST" >sshd_config
    mkdir -p bin; printf '#!/bin/sh\nexec %s -i %s -o IdentitiesOnly=yes -o UserKnownHostsFile=%s -o StrictHostKeyChecking=no -o LogLevel=ERROR "$@"\n' \
        "$(command -v ssh)" "$PWD/key" "$PWD/known" >bin/ssh; chmod 755 bin/ssh
"#;

#[test]
fn by_ssh() {
    let sshd = "/usr/sbin/sshd";
    if !only_hull() || !std::path::Path::new(sshd).exists() {
        return;
    }
    let daemon = Daemon::start();
    let prepared = daemon.command("bash").args(["-ec", SSH]).status().expect("bash is there");
    assert!(prepared.success());
    // What sshd separates its privileges with; where its service runs, it is there.
    std::fs::create_dir_all("/run/sshd").expect("a folder that sshd wants");
    let work = daemon.dir().join("work");
    let mut server = daemon.command(sshd);
    server.arg("-D").arg("-f").arg(work.join("sshd_config")).stderr(Stdio::null());
    let _server = Own::start(&mut server);
    daemon.session(
        r#"
        $ export PATH=$PWD/bin:$PATH; unset HULL_HOST DOCKER_HOST
        $ eventually ssh -p 23764 root@127.0.0.1 true; hull -H ssh://root@127.0.0.1:23764 ps -q
        $ hull -H ssh://root@127.0.0.1:23764 run --rm busybox echo by ssh
        by ssh
        $ echo typed | hull -H ssh://root@127.0.0.1:23764 run --rm -i busybox cat
        typed
        $ hull -H ssh://root@127.0.0.1:23764 run --rm busybox sh -c 'exit 5'
        [5]
        $ hull -H ssh://root@127.0.0.1:1 ps 2>&1 | grep -ciE 'refused'
        1
        $ ps -ef | grep -c '[d]ial-stdio'
        0
        [1]
        "#,
    );
    if std::path::Path::new("/usr/local/bin/docker").exists() {
        daemon.session(
            r#"
            $ export PATH=$PWD/bin:$PATH DOCKER_CONFIG=$PWD/none; unset HULL_HOST DOCKER_HOST
            $ ln -s "$(command -v hull)" bin/docker-remote; docker -H ssh://root@127.0.0.1:23764 version --format '{{.Server.Version}}' | grep -c .
            1
            $ echo typed | docker -H ssh://root@127.0.0.1:23764 run --rm -i busybox cat
            typed
            "#,
        );
    }
}

#[test]
fn on_a_socket_that_was_handed_over() {
    let launcher = "/usr/bin/systemd-socket-activate";
    if !only_hull() || !std::path::Path::new(launcher).exists() {
        return;
    }
    let daemon = Daemon::empty(Engine::Hull, &[]);
    let work = daemon.dir().join("work");
    let mut activated = daemon.command(launcher);
    activated
        .arg("-l")
        .arg(work.join("s1"))
        .args(["-l", "127.0.0.1:23765", "hull", "daemon", "-H", "fd://", "--bip=10.214.0.1/24"])
        .args(["--data-root", "d", "--exec-root", "e", "--pidfile", "p"])
        .stderr(std::fs::File::create(work.join("log")).expect("a log"));
    let _activated = Own::start(&mut activated);
    daemon.session(
        r#"
        $ eventually test -S s1; hull -H unix://$PWD/s1 version --format '{{.Server.Version}}' | grep -c .
        1
        $ hull -H tcp://127.0.0.1:23765 info --format '{{.DockerRootDir}}'
        <dir>/work/d
        $ hull -H unix://$PWD/s1 info --format '{{.DockerRootDir}}'
        <dir>/work/d
        $ timeout 20 hull daemon -H fd:// --data-root d2 --exec-root e2 --pidfile p2 2>&1 | grep -o 'LISTEN_FDS is not set'
        LISTEN_FDS is not set
        "#,
    );
}

/// A client (the pool of an SDK) that rests between two requests keeps its connection, as dockerd lets it.
#[test]
fn a_connection_that_rests_is_kept() {
    use std::io::{Read, Write};
    // Longer than the half minute after which HTTP servers commonly hang up.
    const REST: std::time::Duration = std::time::Duration::from_secs(32);
    let daemon = Daemon::start();
    let mut stream = daemon.api().connect().expect("a connection");
    let mut answer = [0; 4096];
    let mut ask = |stream: &mut std::io::BufReader<std::os::unix::net::UnixStream>| {
        stream.get_mut().write_all(b"HEAD /_ping HTTP/1.1\r\nHost: hull\r\n\r\n").expect("it is sent");
        let length = stream.get_mut().read(&mut answer).expect("an answer");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 OK\r\n"), "{length} bytes");
    };
    ask(&mut stream);
    stream.get_ref().set_read_timeout(Some(REST)).expect("a time limit");
    let heard = stream.get_mut().read(&mut [0]).expect_err("nothing is said, nor hung up");
    assert_eq!(heard.kind(), std::io::ErrorKind::WouldBlock);
    ask(&mut stream);
}

#[test]
fn hosts_are_looked_up_without_what_nsswitch_conf_would_load() {
    if !only_hull() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (conf, listener) = (folder.path().join("nsswitch.conf"), std::net::TcpListener::bind("127.0.0.1:0"));
    std::fs::write(&conf, "hosts: no_such_module\n").expect("a file");
    // Nothing listens there any more when it is asked for.
    let port = listener.and_then(|listener| listener.local_addr()).expect("a port").port();
    let script = "mount --bind \"$1\" /etc/nsswitch.conf && exec \"$2\" -H \"tcp://localhost:$3\" ps";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&conf)
        .arg(hull_tests::hull_binary())
        .arg(port.to_string());
    let said = command.stdin(Stdio::null()).output().expect("unshare is there");
    let words = String::from_utf8_lossy(&said.stderr);
    if has_interpreter(&std::fs::read(hull_tests::hull_binary()).expect("the binary")) {
        println!("left out: this binary shares the machine's C library");
        return;
    }
    assert!(words.contains("Is the hull daemon running?"), "{words}");
}

/// Whether an ELF file is started by a dynamic loader: it has a program header of the type `PT_INTERP` (elf(5)).
fn has_interpreter(file: &[u8]) -> bool {
    let number = |at: usize, long: usize| {
        file[at..at + long].iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (first, each, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|index| number(first + index * each, 4) == 3)
}
