//! Pulls from the registry that others run: Debian's docker-registry, filled by skopeo.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use hull_tests::{Daemon, DockerRegistry, Engine, private_network};
use serde_json::Value;

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the program is there");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// The image `busybox`, saved, and a daemon without it.
fn saved(options: &[&str]) -> (Daemon, PathBuf) {
    let daemon = Daemon::empty(Engine::Hull, options);
    daemon.import_busybox();
    let archive = daemon.dir().join("work/busybox.tar");
    daemon.ok(&["save", "-o", archive.to_str().expect("a path"), "busybox"]);
    daemon.ok(&["rmi", "busybox"]);
    (daemon, archive)
}

#[test]
fn manifests_and_layers_of_every_kind() {
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let registry = DockerRegistry::start(folder.path(), "127.0.0.1:15200", "");
    let (daemon, archive) = saved(&[]);
    for (tag, options) in [
        ("docker", &["--format", "v2s2"][..]),
        ("oci", &["--format", "oci"]),
        ("zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
        ("plain", &["--format", "oci", "--dest-decompress"]),
    ] {
        registry.fill(&archive, &format!("a/b:{tag}"), options);
        let image = format!("{}/a/b:{tag}", registry.address);
        daemon.ok(&["pull", "-q", &image]);
        assert_eq!(daemon.ok(&["run", "--rm", "--network=none", &image, "echo", tag]), tag);
        daemon.ok(&["rmi", &image]);
    }
    // One that is here as another image's layer is not fetched again.
    let image = format!("{}/a/b:docker", registry.address);
    daemon.ok(&["pull", "-q", &image]);
    let again = daemon.ok(&["pull", &format!("{}/a/b:zstd", registry.address)]);
    assert!(again.contains(": Already exists"), "{again}");
}

#[test]
fn words_are_dockers() {
    private_network();
    let folder = tempfile::tempdir().expect("a folder");
    let _registry = DockerRegistry::start(folder.path(), "127.0.0.1:15200", "");
    Daemon::start().session(
        r#"
        $ hull pull 127.0.0.1:15200/a/b:none
        Error response from daemon: manifest for 127.0.0.1:15200/a/b:none not found: manifest unknown: manifest unknown
        [1]
        $ hull pull 127.0.0.1:15201/a
        Using default tag: latest
        Error response from daemon: Get "http://127.0.0.1:15201/v2/": dial tcp 127.0.0.1:15201: connect: connection refused
        [1]
        $ hull pull -a 127.0.0.1:15200/a/b
        Error response from daemon: repository 127.0.0.1:15200/a/b not found: name unknown: repository name not known to registry
        [1]
        $ hull pull 'UPPER//case:::'
        invalid reference format
        [1]
        $ curl -s --unix-socket "${HULL_HOST#unix://}" -o /dev/null -w '%{http_code}\n' -X POST 'http://x/images/create?fromImage=127.0.0.1:15200/a/b&tag=none'
        404
        $ curl -s --unix-socket "${HULL_HOST#unix://}" -o /dev/null -w '%{http_code}\n' -X POST 'http://x/images/create?fromImage=127.0.0.1:15201/a&tag=none'
        500
        "#,
    );
}

#[test]
fn over_tls_with_certificates_and_a_password() {
    private_network();
    // An address that is not of the loopback, so that it has to prove itself.
    run(Command::new("ip").args(["address", "add", "10.98.7.6/32", "dev", "lo"]));
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let openssl =
        |arguments: &[&str]| run(Command::new("openssl").args(arguments).current_dir(folder.path()));
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    openssl(
        &[&["req", "-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"][..], &key]
            .concat(),
    );
    for (name, extension) in
        [("server", "subjectAltName=IP:10.98.7.6"), ("client", "extendedKeyUsage=clientAuth")]
    {
        let (keyout, out, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        let ends = [
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-addext",
            extension,
            "-addext",
            "basicConstraints=CA:FALSE",
        ];
        openssl(
            &[&["req", "-x509", "-subj", &subject, "-keyout", &keyout, "-out", &out][..], &key, &ends]
                .concat(),
        );
    }
    run(Command::new("htpasswd").args(["-Bbc", &at("htpasswd"), "someone", "secret"]));
    let more = format!(
        "  tls: {{certificate: {}, key: {}, clientcas: [{}]}}\nauth: {{htpasswd: {{realm: r, path: {}}}}}\n",
        at("server.crt"),
        at("server.key"),
        at("ca.crt"),
        at("htpasswd")
    );
    let registry = DockerRegistry::start(folder.path(), "10.98.7.6:15200", &more);
    let certificates = folder.path().join("certs.d");
    let own = certificates.join(&registry.address);
    let (daemon, archive) = saved(&["--certs-dir", certificates.to_str().expect("a path")]);
    let image = format!("{}/a:1", registry.address);
    let refused = |words: &str| {
        let pull = daemon.hull(&["pull", &image]);
        assert!(pull.status == 1 && pull.stderr.contains(words), "{words}: {pull:?}");
    };
    refused("tls: failed to verify certificate: x509: certificate signed by unknown authority");
    std::fs::create_dir_all(&own).expect("a folder");
    std::fs::copy(at("client.key"), own.join("client.key")).expect("a copy");
    refused("missing client certificate");
    std::fs::copy(at("client.crt"), own.join("client.cert")).expect("a copy");
    std::fs::copy(at("ca.crt"), own.join("ca.crt")).expect("a copy");
    let directory = own.to_str().expect("a path").to_owned();
    registry.fill(&archive, "a:1", &["--dest-creds", "someone:secret", "--dest-cert-dir", &directory]);
    let pull = daemon.hull(&["pull", &image]);
    assert!(pull.stderr.contains("no basic auth credentials"), "{pull:?}");
    // By the API, as any client does.
    let header = |text: &str| {
        let mut encode = daemon.command("base64");
        let mut encode =
            encode.arg("-w0").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("base64");
        std::io::Write::write_all(&mut encode.stdin.take().expect("a pipe"), text.as_bytes())
            .expect("written");
        String::from_utf8(encode.wait_with_output().expect("base64").stdout).expect("text")
    };
    let pull_as = |user: &str| {
        let output = daemon
            .command("curl")
            .args(["-s", "-X", "POST", "--unix-socket", daemon.socket().to_str().expect("a path"), "-H"])
            .arg(format!("X-Registry-Auth: {}", header(user)))
            .arg(format!("http://x/images/create?fromImage={}/a&tag=1", registry.address))
            .output()
            .expect("curl is installed");
        String::from_utf8(output.stdout).expect("text")
    };
    let wrong = pull_as(r#"{"username":"someone","password":"wrong"}"#);
    let wrong: Value = serde_json::from_str(&wrong).expect("JSON");
    assert!(wrong["message"].as_str().is_some_and(|words| words.starts_with("unauthorized: ")), "{wrong}");
    let right = pull_as(r#"{"username":"someone","password":"secret"}"#);
    assert!(right.contains("Status: Downloaded newer image"), "{right}");
    assert_eq!(daemon.ok(&["run", "--rm", "--network=none", &image, "echo", "hi"]), "hi");

    let login =
        format!("echo secret | hull login -u someone --password-stdin {} 2>/dev/null", registry.address);
    let login = daemon.command("bash").args(["-c", &login]).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&login.stdout), "Login Succeeded\n", "{login:?}");
    let copy = format!("{}/copy:1", registry.address);
    daemon.ok(&["tag", &image, &copy]);
    assert!(daemon.ok(&["push", &copy]).contains("Mounted from a"));
    assert!(!daemon.log().contains("secret"));
}
