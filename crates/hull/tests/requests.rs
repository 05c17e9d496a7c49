//! What the commands for images, volumes, networks and the system ask of a daemon, and what they make of its answers:
//! the program itself against a socket that answers by a script and writes down what was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// An answer for every request whose method and path begin so.
type Answer = (&'static str, u16, &'static str);

/// A daemon made of answers; it ends with its folder.
struct Daemon {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    fn answering(answers: &'static [Answer]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let log = log.clone();
                std::thread::spawn(move || serve(stream.unwrap(), answers, &log));
            }
        });
        Self { folder, asked }
    }

    /// Runs `hull` with these words against this daemon.
    fn run(&self, words: &[&str], input: &[u8]) -> Output {
        let host = format!("unix://{}", self.folder.path().join("socket").display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_hull"))
            .args(["-H", &host])
            .args(words)
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The requests so far, but for the one that asks for the API version.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().filter(|request| !request.contains("/_ping")).cloned().collect()
    }
}

/// Answers request after request on one connection.
fn serve(stream: UnixStream, answers: &[Answer], log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some((request, body)) = read_request(&mut reader) {
        let path = request.replacen("/v1.56", "", 1);
        log.lock().unwrap().push(format!("{path} {body}").trim_end().to_owned());
        let (status, body) = match answers.iter().find(|(start, ..)| path.starts_with(start)) {
            _ if path.contains("/_ping") => (200, "OK"),
            Some((_, status, body)) => (*status, *body),
            None => (501, r#"{"message":"no answer was planned"}"#),
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nApi-Version: 1.56\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body.as_bytes())).is_err() {
            return;
        }
    }
}

/// A request's method and path, and its body; none at the connection's end.
fn read_request(reader: &mut BufReader<UnixStream>) -> Option<(String, String)> {
    let mut line = || {
        let mut text = String::new();
        reader.read_line(&mut text).ok().filter(|length| *length > 0).map(|_| text.trim_end().to_owned())
    };
    let first = line()?;
    let (mut length, mut chunked) = (0, false);
    loop {
        let header = line()?.to_lowercase();
        match header.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("transfer-encoding", "chunked")) => chunked = true,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut piece = vec![0; size + 2];
            reader.read_exact(&mut piece).ok()?;
            body.extend_from_slice(&piece[..size]);
            if size == 0 {
                break;
            }
        }
    } else {
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
    }
    let request = first.trim_end_matches(" HTTP/1.1").to_owned();
    Some((request, String::from_utf8_lossy(&body).into_owned()))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// One command: what it asks, prints and ends with.
#[track_caller]
fn check(answers: &'static [Answer], words: &[&str], asks: &[&str], prints: &str) {
    check_with_input(answers, words, b"", asks, prints);
}

#[track_caller]
fn check_with_input(answers: &'static [Answer], words: &[&str], input: &[u8], asks: &[&str], prints: &str) {
    let daemon = Daemon::answering(answers);
    let output = daemon.run(words, input);
    assert_eq!(text(&output.stderr), "", "{words:?}");
    assert_eq!(daemon.asked(), asks, "{words:?}");
    assert_eq!(text(&output.stdout), prints, "{words:?}");
    assert_eq!(output.status.code(), Some(0), "{words:?}");
}

/// One command that fails: what it prints on standard error, and its exit status.
#[track_caller]
fn fails(answers: &'static [Answer], words: &[&str], says: &str, status: i32) {
    let daemon = Daemon::answering(answers);
    let output = daemon.run(words, b"");
    assert_eq!(text(&output.stderr), says, "{words:?}");
    assert_eq!(output.status.code(), Some(status), "{words:?}");
}

#[test]
fn volumes() {
    check(
        &[("POST /volumes/create", 201, r#"{"Name":"v"}"#)],
        &["volume", "create", "--label", "a=b", "-o", "type=tmpfs", "v"],
        &[
            r#"POST /volumes/create {"Name":"v","Driver":"local","DriverOpts":{"type":"tmpfs"},"Labels":{"a":"b"}}"#,
        ],
        "v\n",
    );
    check(
        &[("POST /volumes/prune", 200, r#"{"VolumesDeleted":["v"],"SpaceReclaimed":1500}"#)],
        &["volume", "prune", "-a", "-f"],
        &["POST /volumes/prune?filters=%7B%22all%22%3A%7B%22true%22%3Atrue%7D%7D"],
        "Deleted Volumes:\nv\n\nTotal reclaimed space: 1.5kB\n",
    );
    check_with_input(
        &[],
        &["volume", "prune"],
        b"n\n",
        &[],
        "WARNING! This will remove anonymous local volumes not used by at least one container.\n\
         Are you sure you want to continue? [y/N] ",
    );
    check(
        &[("DELETE /volumes/", 204, "")],
        &["volume", "rm", "-f", "a", "b/c"],
        &["DELETE /volumes/a?force=1", "DELETE /volumes/b%2Fc?force=1"],
        "a\nb/c\n",
    );
}

#[test]
fn networks() {
    check(
        &[("POST /networks/create", 201, r#"{"Id":"abc","Warning":""}"#)],
        &[
            "network",
            "create",
            "--subnet",
            "10.1.0.0/16",
            "--gateway",
            "10.1.0.1",
            "--ipv4=false",
            "--ipv6",
            "--internal",
            "n",
        ],
        &[concat!(
            r#"POST /networks/create {"Name":"n","Driver":"bridge","Internal":true,"Attachable":false,"ConfigOnly":false,"#,
            r#""IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"10.1.0.0/16","Gateway":"10.1.0.1"}]},"#,
            r#""Options":{},"Labels":{},"EnableIPv4":false,"EnableIPv6":true}"#
        )],
        "abc\n",
    );
    check(
        &[("POST /networks/n/connect", 200, "")],
        &["network", "connect", "--alias", "a", "--ip", "10.1.0.9", "--gw-priority=-3", "n", "c"],
        &[concat!(
            r#"POST /networks/n/connect {"Container":"c","EndpointConfig":{"IPAMConfig":{"IPv4Address":"10.1.0.9","#,
            r#""IPv6Address":"","LinkLocalIPs":[]},"Links":[],"Aliases":["a"],"DriverOpts":{},"GwPriority":-3}}"#
        )],
        "",
    );
    fails(
        &[("DELETE /networks/a", 404, r#"{"message":"network a not found"}"#)],
        &["network", "rm", "a"],
        "Error response from daemon: network a not found\n",
        1,
    );
    check(
        &[("DELETE /networks/a", 404, r#"{"message":"no"}"#)],
        &["network", "rm", "-f", "a"],
        &["DELETE /networks/a"],
        "",
    );
}

#[test]
fn images() {
    check_with_input(
        &[("POST /images/create", 200, "{\"status\":\"sha256:abc\"}\n")],
        &["import", "-c", "CMD [\"sh\"]", "-m", "a note", "--platform", "linux/arm64", "-", "a/b:1"],
        b"the archive",
        &[
            "POST /images/create?fromSrc=-&repo=a%2Fb%3A1&message=a%20note&platform=linux%2Farm64&changes=CMD%20%5B%22sh%22%5D the archive",
        ],
        "sha256:abc\n",
    );
    check_with_input(
        &[("POST /images/load", 200, "{\"stream\":\"Loaded image: a:1\\n\"}\n")],
        &["load", "--platform", "linux/arm/v7"],
        b"the archive",
        &[
            "POST /images/load?quiet=1&platform=%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22arm%22%2C%22variant%22%3A%22v7%22%7D the archive",
        ],
        "Loaded image: a:1\n",
    );
    check(
        &[("GET /images/get", 200, "tar")],
        &["save", "a:1", "b"],
        &["GET /images/get?names=a%3A1&names=b"],
        "tar",
    );
    check(
        &[("DELETE /images/", 200, r#"[{"Untagged":"a:1"},{"Deleted":"sha256:abc"}]"#)],
        &["rmi", "--no-prune", "a:1"],
        &["DELETE /images/a%3A1?noprune=1"],
        "Untagged: a:1\nDeleted: sha256:abc\n",
    );
    check(
        &[("POST /images/prune", 200, r#"{"ImagesDeleted":null,"SpaceReclaimed":0}"#)],
        &["image", "prune", "-f", "-a", "--filter", "until=1h"],
        &[
            "POST /images/prune?filters=%7B%22until%22%3A%7B%221h%22%3Atrue%7D%2C%22dangling%22%3A%7B%22false%22%3Atrue%7D%7D",
        ],
        "Total reclaimed space: 0B\n",
    );
    check(
        &[("POST /images/a/tag", 201, "")],
        &["tag", "a", "r:5000/b"],
        &["POST /images/a/tag?repo=r%3A5000%2Fb&tag=latest"],
        "",
    );
    check(
        &[(
            "POST /hull/images/bootstrap",
            200,
            "{\"status\":\"making it\"}\n{\"status\":\"Downloading\",\"progressDetail\":{\"current\":1,\"total\":2}}\n{\"status\":\"made\"}\n",
        )],
        &["image", "bootstrap", "debian:bookworm"],
        &["POST /hull/images/bootstrap?reference=debian%3Abookworm"],
        "making it\nmade\n",
    );
    check(
        &[("POST /images/create", 200, "{\"status\":\"Pulling\",\"id\":\"a\"}\n")],
        &["pull", "r:5000/b"],
        &["POST /images/create?fromImage=r%3A5000%2Fb&tag=latest"],
        "Using default tag: latest\na: Pulling\nr:5000/b:latest\n",
    );
}

#[test]
fn failures_in_the_middle_of_a_stream() {
    fails(
        &[(
            "POST /images/load",
            200,
            "{\"stream\":\"a\"}\n{\"errorDetail\":{\"message\":\"unexpected EOF\"},\"error\":\"unexpected EOF\"}\n",
        )],
        &["load"],
        "unexpected EOF\n",
        1,
    );
    fails(
        &[("POST /images/create", 501, r#"{"message":"registries are not supported yet"}"#)],
        &["pull", "-q", "a"],
        "Error response from daemon: registries are not supported yet\n",
        1,
    );
}

#[test]
fn a_save_that_fails_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.tar");
    std::fs::write(&path, "before").unwrap();
    fails(
        &[("GET /images/get", 404, r#"{"message":"No such image: a"}"#)],
        &["save", "-o", path.to_str().unwrap(), "a"],
        "Error response from daemon: No such image: a\n",
        1,
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
    check(
        &[("GET /images/get", 200, "tar")],
        &["save", "-o", path.to_str().unwrap(), "a"],
        &["GET /images/get?names=a"],
        "",
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "tar");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn system() {
    check(
        &[(
            "GET /events",
            200,
            "{\"Type\":\"volume\",\"Action\":\"create\",\"Actor\":{\"ID\":\"v\",\"Attributes\":{\"driver\":\"local\"}},\"timeNano\":1500000000}\n",
        )],
        &["events", "--since", "5", "--until", "1970-01-01T00:01:00Z", "--filter", "type=volume"],
        &["GET /events?since=5&until=60.000000000&filters=%7B%22type%22%3A%7B%22volume%22%3Atrue%7D%7D"],
        "1970-01-01T00:00:01.500000000Z volume create v (driver=local)\n",
    );
    check(
        &[(
            "GET /system/df",
            200,
            r#"{"ImageUsage":{"TotalCount":2,"ActiveCount":1,"TotalSize":2000,"Reclaimable":500}}"#,
        )],
        &["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}} {{.Reclaimable}}"],
        &["GET /system/df"],
        "Images 2 2kB 500B (25%)\nContainers 0 0B 0B\nLocal Volumes 0 0B 0B\nBuild Cache 0 0B 0B\n",
    );
    check(
        &[
            ("POST /containers/prune", 200, r#"{"ContainersDeleted":["c"],"SpaceReclaimed":1000}"#),
            ("POST /networks/prune", 200, r#"{"NetworksDeleted":["n"]}"#),
            ("POST /images/prune", 200, r#"{"ImagesDeleted":[{"Deleted":"i"}],"SpaceReclaimed":500}"#),
            ("POST /build/prune", 501, r#"{"message":"not supported yet"}"#),
        ],
        &["system", "prune", "-f"],
        &[
            "POST /containers/prune",
            "POST /networks/prune",
            "POST /images/prune?filters=%7B%22dangling%22%3A%7B%22true%22%3Atrue%7D%7D",
            "POST /build/prune",
        ],
        "Deleted Containers:\nc\n\nDeleted Networks:\nn\n\nDeleted Images:\ndeleted: i\n\nTotal reclaimed space: 1.5kB\n",
    );
    fails(&[], &["plugin", "install"], "hull plugin install is not supported yet\n", 1);
    fails(&[], &["context", "ls"], "hull context is not supported yet\n", 1);
    fails(&[], &["image", "ls", "--tree"], "--tree is not supported yet\n", 1);
}

#[test]
fn a_template_that_is_wrong_is_told_before_anything_is_asked() {
    let daemon = Daemon::answering(&[]);
    let output = daemon.run(&["volume", "inspect", "-f", "{{.A", "v"], b"");
    assert_eq!(text(&output.stderr), "template parsing error: template: :1: unclosed action\n");
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(daemon.asked(), [""; 0]);
}

#[test]
fn what_a_daemon_has_of_plugins_and_builds() {
    check(
        &[("GET /plugins", 200, "[]")],
        &["plugin", "ls"],
        &["GET /plugins"],
        "ID        NAME      DESCRIPTION   ENABLED\n",
    );
    check(
        &[(
            "GET /plugins",
            200,
            r#"[{"Id":"0123456789abcdef","Name":"p:1","Enabled":true,"Config":{"Description":"what it does"}}]"#,
        )],
        &["plugin", "ls", "--format", "{{.ID}} {{.Name}} {{.Description}} {{.Enabled}}"],
        &["GET /plugins"],
        "0123456789ab p:1 what it does true\n",
    );
    check(
        &[("POST /build/prune", 200, r#"{"CachesDeleted":null,"SpaceReclaimed":0}"#)],
        &["builder", "prune", "-af", "--filter", "until=1h"],
        &["POST /build/prune?all=1&filters=%7B%22until%22%3A%7B%221h%22%3Atrue%7D%7D"],
        "Total reclaimed space: 0B\n",
    );
}
