//! `login` and `logout`: what is kept where, what the daemon is handed, and what nobody else gets to see. The daemon is
//! one of the test's own, which takes one password and remembers what it was asked.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use hull_tests::{Output, Pty, hull_binary};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::{Value, json};

const PASSWORD: &str = "s3cret-word";

/// A request: its first line, its `X-Registry-Auth`, its body.
type Asked = Arc<Mutex<Vec<(String, String, String)>>>;

/// A home with a daemon that answers `/auth`, and helpers of credentials on its path.
struct Home {
    folder: tempfile::TempDir,
    asked: Asked,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["bin", "config"] {
            fs::create_dir(folder.path().join(name)).expect("a folder in it");
        }
        let listener = UnixListener::bind(folder.path().join("sock")).expect("a socket");
        let asked = Asked::default();
        let log = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = log.clone();
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    while let Some(request) = read(&mut stream) {
                        let answer = answer(&request);
                        log.lock().expect("the log").push(request);
                        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { folder, asked }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config/config.json")
    }

    fn write(&self, config: &Value) {
        fs::write(self.config(), config.to_string()).expect("a configuration");
    }

    fn content(&self) -> Value {
        serde_json::from_slice(&fs::read(self.config()).expect("the configuration")).expect("JSON")
    }

    /// A helper of credentials, as a script of sh; `$1` is what it is to do.
    fn helper(&self, name: &str, script: &str) {
        let path = self.folder.path().join("bin").join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", self.folder.path().display()))
            .expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("that may be executed");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(hull_binary());
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(args)
            .env("PATH", format!("{}:{path}", self.folder.path().join("bin").display()))
            .env("DOCKER_CONFIG", self.folder.path().join("config"))
            .env("DOCKER_HOST", format!("unix://{}", self.folder.path().join("sock").display()))
            .env_remove("HULL_HOST");
        command
    }

    fn hull(&self, args: &[&str], input: &str) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the client starts");
        // One that refuses its command line has not read what comes.
        child.stdin.take().expect("its input").write_all(input.as_bytes()).ok();
        let output = child.wait_with_output().expect("its output");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output {
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            status: output.status.code().unwrap_or(-1),
        }
    }

    #[track_caller]
    fn login(&self, server: &str) -> Output {
        let output = self.hull(&["login", "-u", "me", "--password-stdin", server], &format!("{PASSWORD}\n"));
        assert!(!format!("{output:?}").contains(PASSWORD), "{output:?}");
        output
    }
}

/// The next request of a connection.
fn read(stream: &mut impl BufRead) -> Option<(String, String, String)> {
    let line = |stream: &mut dyn BufRead| {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|count| *count > 0).map(|_| line.trim_end().to_owned())
    };
    let first = line(stream)?;
    let (mut length, mut credentials) = (0, String::new());
    loop {
        let header = line(stream)?;
        let Some((name, value)) = header.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "x-registry-auth" => credentials = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first, credentials, String::from_utf8(body).ok()?))
}

fn answer((first, _, body): &(String, String, String)) -> String {
    let auth: Value = serde_json::from_str(body).unwrap_or_default();
    let (status, body) = match first.as_str() {
        line if line.contains("/_ping") => ("200 OK", "OK".to_owned()),
        line if line.contains("/auth ") && auth["username"] == "token" => {
            ("200 OK", json!({ "Status": "Login Succeeded", "IdentityToken": "a-token" }).to_string())
        }
        line if line.contains("/auth ") && auth["password"] == PASSWORD => {
            ("200 OK", json!({ "Status": "Login Succeeded" }).to_string())
        }
        line if line.contains("/auth ") => {
            ("401 Unauthorized", json!({ "message": "unauthorized: authentication required" }).to_string())
        }
        _ => ("404 Not Found", json!({ "message": "not here" }).to_string()),
    };
    format!("HTTP/1.1 {status}\r\nApi-Version: 1.43\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("the file").permissions().mode() & 0o777
}

#[test]
fn a_password_is_tried_and_kept_for_its_owner_alone() {
    let home = Home::new();
    home.write(&json!({ "psFormat": "table", "future": { "z": 1, "a": [2] } }));
    fs::set_permissions(home.config(), fs::Permissions::from_mode(0o644)).expect("an open file");
    let output = home.login("r.example:5000");
    assert_eq!((output.stdout.as_str(), output.status), ("Login Succeeded\n", 0), "{output:?}");
    assert!(output.stderr.contains("WARNING! Your credentials are stored unencrypted in"), "{output:?}");
    assert_eq!(mode(&home.config()), 0o600);
    let content = home.content();
    assert_eq!(content["auths"]["r.example:5000"], json!({ "auth": "bWU6czNjcmV0LXdvcmQ=" }));
    assert_eq!((&content["psFormat"], &content["future"]), (&json!("table"), &json!({ "z": 1, "a": [2] })));
    let asked = home.asked.lock().expect("the log").last().cloned().expect("a request");
    assert_eq!(
        serde_json::from_str::<Value>(&asked.2).expect("JSON"),
        json!({ "username": "me", "password": PASSWORD, "serveraddress": "r.example:5000" })
    );

    // What is kept goes along with a pull from there, and with none from elsewhere.
    home.hull(&["pull", "-q", "r.example:5000/a/b:1"], "");
    home.hull(&["pull", "-q", "other.example/a/b:1"], "");
    let asked = home.asked.lock().expect("the log").clone();
    let pulls: Vec<&str> = asked
        .iter()
        .filter(|asked| asked.0.contains("/images/create"))
        .map(|asked| asked.1.as_str())
        .collect();
    assert_eq!(pulls.len(), 2, "{asked:?}");
    assert!(pulls[0].len() > 40 && pulls[1] == "e30=", "{pulls:?}");

    let output = home.hull(&["logout", "https://r.example:5000/"], "");
    assert_eq!(output.stdout, "Removing login credentials for r.example:5000\n");
    assert_eq!(home.content()["auths"], json!({}));
    let output = home.hull(&["logout"], "");
    assert_eq!(
        (output.stdout.as_str(), output.status),
        ("Not logged in to https://index.docker.io/v1/\n", 0)
    );
}

#[test]
fn a_wrong_password_keeps_nothing() {
    let home = Home::new();
    let output = home.hull(&["login", "-u", "me", "--password-stdin", "r"], "wr0ng\n");
    assert_eq!(output.status, 1);
    assert_eq!(output.stderr, "Error response from daemon: unauthorized: authentication required\n");
    assert!(!home.config().exists());
    for (args, input, words) in [
        (&["login", "--password-stdin", "r"][..], "x", "requires --username"),
        (&["login", "-u", "a", "-p", "b", "--password-stdin", "r"], "x", "conflicting options"),
        (&["login", "r"], "", "non TTY device"),
        (&["login", "-u", "a", "--password-stdin", "r"], "\n", "password is empty"),
    ] {
        let output = home.hull(args, input);
        assert!(output.status == 1 && output.stderr.contains(words), "{output:?}");
    }
    assert!(
        home.hull(&["login", "-u", "me", "-p", "other-word", "r"], "")
            .stderr
            .contains("--password via the CLI is insecure")
    );
}

#[test]
fn a_terminal_does_not_show_the_password() {
    let home = Home::new();
    let mut pty = Pty::start(home.command(&["login", "r"]));
    pty.shows("Username: ");
    pty.types("me\n");
    pty.shows("Password: ");
    pty.types(&format!("{PASSWORD}\n"));
    let (seen, status) = pty.ends();
    assert!(status == 0 && seen.contains("Login Succeeded") && !seen.contains(PASSWORD), "{seen}");

    // A second login tries what is kept.
    let output = home.hull(&["login", "r"], "");
    assert!(
        output.status == 0 && output.stdout.contains("existing credentials... [Username: me]"),
        "{output:?}"
    );
}

#[test]
fn a_helper_keeps_what_the_file_does_not() {
    let home = Home::new();
    home.helper(
        "box",
        r#"echo "$@" >>args; cat >"in.$1"; cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' >>processes; case $1 in
           store) cp in.store kept;;
           get) [ -f kept ] && cat kept || { echo "credentials not found in native keychain"; exit 1; };;
           erase) rm kept;;
           esac"#,
    );
    home.write(&json!({ "credHelpers": { "r.example": "box" }, "auths": { "r.example": { "auth": "b2xkOm9sZA==" } } }));
    let output = home.login("r.example");
    assert_eq!((output.stderr.as_str(), output.status), ("", 0), "{output:?}");
    assert_eq!(home.content()["auths"]["r.example"], json!({}));
    let kept: Value =
        serde_json::from_slice(&fs::read(home.folder.path().join("kept")).expect("kept")).expect("JSON");
    assert_eq!(kept, json!({ "ServerURL": "r.example", "Username": "me", "Secret": PASSWORD }));
    home.hull(&["pull", "-q", "r.example/a"], "");
    assert!(home.asked.lock().expect("the log").last().expect("a pull").1.len() > 40);
    home.hull(&["logout", "r.example"], "");
    assert!(!home.folder.path().join("kept").exists());
    let args = fs::read_to_string(home.folder.path().join("args")).expect("what it was called with");
    assert!(args.lines().all(|line| ["store", "get", "erase"].contains(&line)), "{args}");
    let processes = fs::read_to_string(home.folder.path().join("processes")).expect("what else ran");
    assert!(processes.contains("docker-credential-box") && !processes.contains(PASSWORD), "{processes}");

    // An identity token in the place of the password.
    home.write(&json!({ "credsStore": "box" }));
    let output = home.hull(&["login", "-u", "token", "--password-stdin", "r.example"], PASSWORD);
    assert_eq!(output.status, 0, "{output:?}");
    let kept = fs::read_to_string(home.folder.path().join("kept")).expect("kept");
    assert!(kept.contains("<token>") && kept.contains("a-token") && !kept.contains(PASSWORD), "{kept}");
}

#[test]
fn a_helper_that_fails_leaves_the_file_whole_and_tells_no_secret() {
    let home = Home::new();
    let config = json!({ "credsStore": "bad", "auths": { "r": {} } });
    home.write(&config);
    for script in ["echo no keychain here; exit 1", "cat; exit 1", "exit 3", "kill -9 $$"] {
        home.helper("bad", script);
        let output = home.login("r");
        assert!(
            output.status == 1 && output.stderr.contains("error storing credentials - err: "),
            "{output:?}"
        );
        assert_eq!(home.content(), config);
    }
    home.helper("bad", "echo no keychain here; exit 1");
    assert!(home.login("r").stderr.contains("exit status 1, out: `no keychain here`"));
    // Without credentials a pull goes on, and says so.
    let output = home.hull(&["pull", "-q", "r.example/a"], "");
    assert!(output.stderr.contains("WARNING: no credentials for r.example: error getting"), "{output:?}");
    home.helper("bad", &format!("echo '{PASSWORD}'"));
    let output = home.hull(&["pull", "-q", "r.example/a"], "");
    assert!(output.stderr.contains("not the JSON") && !output.stderr.contains(PASSWORD), "{output:?}");
    home.write(&json!({ "credsStore": "none-such" }));
    assert!(home.login("r").stderr.contains("executable file not found in $PATH"));
}

#[test]
fn a_full_disk_leaves_the_file_whole() {
    let home = Home::new();
    let folder = home.folder.path().join("config");
    mount("tmpfs", &folder, "tmpfs", MountFlags::empty(), Some(c"size=64k")).expect("a small file system");
    let config = json!({ "auths": { "kept": { "auth": "a2VwdDprZXB0" } } });
    home.write(&config);
    fs::write(folder.join("filler"), vec![0; 1 << 20]).expect_err("it is full");
    let output = home.login("r.example");
    let (content, names) = (home.content(), fs::read_dir(&folder).expect("the folder").count());
    unmount(&folder, UnmountFlags::DETACH).expect("unmounted");
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.contains("Error saving credentials: cannot write"), "{output:?}");
    assert!(output.stderr.contains("no space left on device"), "{output:?}");
    assert_eq!((content, names), (config, 2));
}
