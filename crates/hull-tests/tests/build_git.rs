//! Git repositories and addresses as contexts of builds, and as sources of ADD.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hull_tests::{Daemon, Engine, PATIENCE, private_network, wait_until};

/// git's own server behind a small one for HTTP; files of the folder are given as they are.
const SERVER: &str = r#"
import http.server, os, subprocess, sys, urllib.parse
ROOT = sys.argv[1]
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    def log_message(self, *args): pass
    def do_GET(self): self.answer() if ".git/" in self.path else super().do_GET()
    def do_POST(self): self.answer()
    def answer(self):
        path, _, query = self.path.partition("?")
        with open("asked", "a") as asked: print(self.headers.get("Host"), self.headers.get("Authorization"), self.path, file=asked)
        if path.startswith("/away/"):
            self.send_response(302); self.send_header("Location", "http://localhost:8418" + self.path[5:]); self.end_headers(); return
        cut = path.startswith("/cut/")
        if cut: path = path[4:]
        if path.startswith("/moved/"):
            self.send_response(302); self.send_header("Location", self.path[6:]); self.end_headers(); return
        if path.startswith("/private/") and self.headers.get("Authorization") != "basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=":
            self.send_response(401); self.end_headers(); return
        env = dict(os.environ, GIT_PROJECT_ROOT=ROOT, GIT_HTTP_EXPORT_ALL="1", PATH_INFO=path, QUERY_STRING=query,
            REQUEST_METHOD=self.command, CONTENT_TYPE=self.headers.get("Content-Type", ""),
            GIT_PROTOCOL="" if path.startswith("/old") else self.headers.get("Git-Protocol", ""))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        out = subprocess.run(["git", "http-backend"], input=body, env=env, stdout=subprocess.PIPE).stdout
        head, _, rest = out.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(lines.pop("Status", "200 OK").split()[0]))
        for name, value in lines.items(): self.send_header(name, value)
        if cut and b"command=fetch" in body: rest = rest[:len(rest) // 2]
        self.end_headers(); self.wfile.write(rest)
os.chdir(ROOT)
http.server.ThreadingHTTPServer(("127.0.0.1", 8418), Handler).serve_forever()
"#;

/// A process that ends with the value.
struct Server(Child);

impl Server {
    fn start(args: &[&str], address: &str) -> Server {
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv of util-linux");
        wait_until("the server listens", PATIENCE, || TcpStream::connect(address).is_ok());
        Server(process)
    }

    /// git's, and files, over HTTP.
    fn http(root: &Path) -> Server {
        Server::start(&["python3", "-c", SERVER, root.to_str().expect("a path")], "127.0.0.1:8418")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

/// Repositories: `app` with a tag, a branch, a folder, a link and the submodule `lib`.
const REPOSITORIES: &str = r#"
set -e
cd "$1"
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@e GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@e
export GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000'
git init -q -b main lib && cd lib && echo lib >l && git add . && git commit -qm l && cd .. && git clone -q --bare lib lib.git
git init -q -b main app && cd app
mkdir -p sub/deep && echo one >file && echo deep >sub/deep/f && ln -s deep/f sub/link && printf '#!/bin/sh\necho run\n' >run.sh && chmod +x run.sh
seq 20000 >numbers
printf 'FROM busybox\nCOPY . /c\n' >Dockerfile && printf 'FROM busybox\nCOPY . /s\n' >sub/Dockerfile
git add . && git commit -qm 1 && git tag v1 && git tag -am annotated v1a
git checkout -q -b other && echo two >file && seq 20001 >numbers && git commit -qam 2 && git checkout -q main
echo three >file && (seq 10000; echo x; seq 10001 20000) >numbers && git commit -qam 3
git checkout -q -b withlib && git -c protocol.file.allow=always submodule --quiet add ../lib.git libs/l && git commit -qm sub && git checkout -q main
cd .. && mkdir -p private old && git clone -q --bare app app.git && cp -a app.git private/ && cp -a app.git old/
"#;

fn repositories(root: &Path) {
    let output = Command::new("sh").args(["-c", REPOSITORIES, "sh"]).arg(root).output().expect("sh");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_repository_is_a_context() {
    private_network();
    let root = tempfile::tempdir().expect("a folder");
    repositories(root.path());
    let _server = Server::http(root.path());
    // The program itself: `git daemon` would leave it behind when it is killed.
    let programs = Command::new("git").arg("--exec-path").output().expect("git").stdout;
    let programs = String::from_utf8(programs).expect("a path");
    let _git = Server::start(
        &[
            &format!("{}/git-daemon", programs.trim_end()),
            "--export-all",
            "--listen=127.0.0.1",
            "--port=9418",
            &format!("--base-path={}", root.path().display()),
        ],
        "127.0.0.1:9418",
    );
    let daemon = Daemon::start();
    daemon.session(&format!("        $ cp {}/app/.git/refs/heads/main head\n", root.path().display()));
    daemon.session(
        r#"
        $ R=http://127.0.0.1:8418/app.git; b() { hull build -q -t c "$@" >/dev/null && hull run --rm c sh -c 'cd /c 2>/dev/null || cd /s; cat file run.sh deep/f link 2>/dev/null; test -x run.sh && ./run.sh; ls -A'; }
        $ b $R
        three
        #!/bin/sh
        echo run
        run
        Dockerfile
        file
        numbers
        run.sh
        sub
        $ b "$R#v1" | head -1; b "$R#v1a" | head -1; b "$R#other" | head -1; b "$R#refs/heads/other" | head -1; b "$R#$(cat head)" | head -1; b "$R?branch=other" | head -1
        one
        one
        two
        two
        three
        two
        $ b "$R#:sub"; hull run --rm c stat -c '%Y %U' /s/deep/f /s/deep
        deep
        deep
        Dockerfile
        deep
        link
        1700000000 root
        1700000000 root
        $ b "git://127.0.0.1/app.git#main" | head -1; b http://127.0.0.1:8418/moved/app.git | head -1
        three
        three
        $ b -f sub/Dockerfile $R | head -1; printf 'FROM busybox\nCOPY file /c/\n' | b -f - $R | head -1
        three
        three
        $ hull run --rm c sh -c 'cat /c/file'; hull build -q -t n $R#main >/dev/null; (seq 10000; echo x; seq 10001 20000) >numbers; hull run --rm n cat /c/numbers | cmp - numbers
        three
        $ hull build "$R#nope" 2>&1 | tail -1
        Error response from daemon: failed to fetch the git repository http://127.0.0.1:8418/app.git: repository does not contain ref nope
        $ hull build "$R#:nope" 2>&1 | tail -1
        Error response from daemon: failed to fetch the git repository http://127.0.0.1:8418/app.git: it has no folder "nope"
        $ hull build http://127.0.0.1:8418/none.git 2>&1 | tail -1
        Error response from daemon: failed to fetch the git repository http://127.0.0.1:8418/none.git: there is no such repository
        $ hull build http://127.0.0.1:8418/old/app.git 2>&1 | tail -1 | grep -c 'does not speak version 2'
        1
        $ hull build git@127.0.0.1:app.git 2>&1 | tail -1 | grep -c 'by ssh, which hull does not speak'
        1
        $ b http://127.0.0.1:8418/private/app.git 2>&1; echo t0ken >token; b --secret id=GIT_AUTH_TOKEN,src=token http://127.0.0.1:8418/private/app.git | head -1
        Error response from daemon: failed to fetch the git repository http://127.0.0.1:8418/private/app.git: the server wants to know who asks: give a token with --secret id=GIT_AUTH_TOKEN,src=FILE
        three
        $ hull build -q -t l "$R#withlib" >/dev/null && hull run --rm l sh -c 'cat /c/libs/l/l; ls -A /c/libs/l'
        lib
        l
        $ hull ps -aq
        "#,
    );
}

#[test]
fn a_repository_is_a_source_of_add() {
    private_network();
    let root = tempfile::tempdir().expect("a folder");
    repositories(root.path());
    let _server = Server::http(root.path());
    let daemon = Daemon::start();
    let v1 = Command::new("git").arg("-C").arg(root.path().join("app")).args(["rev-parse", "v1"]).output();
    let v1 = String::from_utf8(v1.expect("git").stdout).expect("text");
    daemon.session(&format!("        $ echo {v1} >v1\n", v1 = v1.trim()));
    daemon.session(
        r#"
        $ mkdir ctx; R=http://127.0.0.1:8418/app.git; printf '%s\n' 'FROM busybox' "ADD --checksum=$(cat v1) $R#v1 /a" "ADD --keep-git-dir=true $R /k" "ADD $R#other:sub /s/" 'COPY --from=named file /n' >ctx/Dockerfile
        $ hull build -q -t a --build-context named=$R#other ctx >/dev/null && hull run --rm a sh -c 'cat /a/file /k/file /s/deep/f /n; wc -c </k/.git/HEAD; ls -A /a'
        one
        three
        deep
        two
        41
        Dockerfile
        file
        numbers
        run.sh
        sub
        $ hull create --name kept a true >/dev/null; hull cp kept:/k k >/dev/null; hull rm kept >/dev/null; git -c safe.directory='*' -C k status --short; git -c safe.directory='*' -C k log --oneline | cut -d' ' -f2; git -c safe.directory='*' -C k fsck --no-dangling 2>&1 | grep -v '^notice'
        3
        [1]
        $ hull build --progress plain --build-context named=$R#other ctx 2>&1 | grep -c CACHED
        4
        $ printf 'FROM busybox\nADD --checksum=%s %s /a\n' $(cat v1) $R#other >ctx/D; hull build -f ctx/D ctx 2>&1 | grep -c 'expected checksum to match'
        1
        $ printf 'FROM busybox\nADD git@e:x /a\n' >ctx/D; hull build -f ctx/D ctx 2>&1 | grep -c 'by ssh, which hull does not speak'
        1
        "#,
    );
}

#[test]
fn addresses_are_contexts() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    private_network();
    let root = tempfile::tempdir().expect("a folder");
    let _server = Server::http(root.path());
    let daemon = Daemon::start();
    daemon.session(&format!("        $ echo {} >root\n", root.path().display()));
    daemon.session(
        r#"
        $ mkdir t; printf 'FROM busybox\nCOPY f /f\n' >t/Dockerfile; echo packed >t/f; tar -C t -czf $(cat root)/c.tgz .; printf 'FROM busybox\nRUN echo alone >/f\n' >$(cat root)/Alone; echo text >$(cat root)/text
        $ H=http://127.0.0.1:8418; hull build -q -t a $H/c.tgz >/dev/null; hull run --rm a cat /f; hull build -q -t a $H/Alone >/dev/null; hull run --rm a cat /f
        packed
        alone
        $ mkdir e; printf 'FROM busybox\nCOPY --from=x text /f\nCOPY --from=y f /g\n' >e/Dockerfile; hull build -q -t a --build-context x=$H/text --build-context y=$H/c.tgz e >/dev/null; hull run --rm a cat /f /g
        text
        packed
        $ hull build $H/none 2>&1 | tail -1
        Error response from daemon: error downloading remote context http://127.0.0.1:8418/none: the server answered 404 Not Found
        $ curl -s --unix-socket "${HULL_HOST#unix://}" -X POST "http://x/build?remote=$H/c.tgz&t=b" | grep -c 'Successfully tagged b:latest'; hull run --rm b cat /f
        1
        packed
        $ curl -s --unix-socket "${HULL_HOST#unix://}" -X POST "http://x/build?remote=/etc" ; curl -s --unix-socket "${HULL_HOST#unix://}" -X POST "http://x/build?remote=file:///etc"
        {"message":"remoteURL (/etc) could not be recognized as URL"}
        {"message":"remoteURL (file:///etc) could not be recognized as URL"}
        "#,
    );
}

/// A server of git's own protocol that says all that it should, and then tells of its work without end.
const TALKER: &str = r#"
import socket, threading
line = lambda data: b"%04x" % (len(data) + 4) + data
def serve(c):
    f = c.makefile("rb")
    def read():
        n = int(f.read(4), 16)
        return f.read(n - 4) if n > 4 else b""
    greeting = read()
    c.sendall(line(b"version 2\n") + line(b"ls-refs\n") + line(b"fetch=shallow\n") + b"0000")
    command = read()
    try:
        if b"ls-refs" in command:
            c.sendall(line(b"1" * 40 + b" HEAD\n") + b"0000" if b"refs" not in greeting else line(b"1" * 40 + b" refs/x\n") * 100)
            while b"refs" in greeting: c.sendall(line(b"1" * 40 + b" refs/x\n") * 1000)
        c.sendall(line(b"packfile\n"))
        while True: c.sendall(line(b"\2counting") * 1000)
    except OSError: pass
s = socket.create_server(("127.0.0.1", 9418))
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"#;

#[test]
fn a_server_that_talks_without_end_is_left() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    private_network();
    let _server = Server::start(&["python3", "-c", TALKER], "127.0.0.1:9418");
    Daemon::start().session(
        r#"
        $ hull build git://127.0.0.1/refs 2>&1 | grep -o 'the server tells more than 16777216 bytes beside the files'
        the server tells more than 16777216 bytes beside the files
        $ hull build git://127.0.0.1/app 2>&1 | grep -o 'the server tells more than 16777216 bytes beside the files'
        the server tells more than 16777216 bytes beside the files
        $ hull system fsck | grep -o 'nothing is wrong'
        nothing is wrong
        "#,
    );
}

#[test]
fn a_server_that_lies_learns_no_secret_and_makes_nothing() {
    if Engine::under_test() != Engine::Hull {
        return;
    }
    private_network();
    let root = tempfile::tempdir().expect("a folder");
    repositories(root.path());
    // A submodule at a host that was not asked for: the same server by another name.
    let script = r#"
        set -e
        export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@e GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@e
        cd "$1/app" && git checkout -q -b elsewhere main
        printf '[submodule "x"]\n\tpath = x\n\turl = http://localhost:8418/private/app.git\n' >.gitmodules
        git add .gitmodules && git update-index --add --cacheinfo "160000,$(git rev-parse main),x" && git commit -qm x
        cd .. && git clone -q --bare app private/elsewhere.git
    "#;
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(root.path()).output().expect("sh");
    assert!(output.status.success(), "{output:?}");
    let _server = Server::http(root.path());
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ echo t0ken >token; b() { hull build -t lied --secret id=GIT_AUTH_TOKEN,src=token "$@" 2>&1 | tail -1; }
        $ b "http://127.0.0.1:8418/private/elsewhere.git#elsewhere" | grep -c 'http://localhost:8418/private/app.git: the server wants to know who asks'
        1
        $ b http://127.0.0.1:8418/away/private/app.git | grep -c 'the server wants to know who asks'
        1
        $ b http://127.0.0.1:8418/cut/app.git | grep -cE 'cut off|unexpected EOF|malformed|failed to fill'
        1
        $ hull images -q lied; hull ps -aq; hull system fsck | grep -o 'nothing is wrong'
        nothing is wrong
        "#,
    );
    let asked = std::fs::read_to_string(root.path().join("asked")).expect("what was asked");
    assert!(asked.contains("127.0.0.1:8418 basic "), "the token was not sent to who was asked: {asked}");
    let elsewhere: Vec<&str> = asked.lines().filter(|line| line.starts_with("localhost:8418 ")).collect();
    assert!(!elsewhere.is_empty(), "{asked}");
    for line in elsewhere {
        assert!(line.starts_with("localhost:8418 None "), "a token went to another host: {asked}");
    }
}
