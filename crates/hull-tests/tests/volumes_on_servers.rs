//! Volumes whose files are a server's: NFS from the kernel's own server, CIFS from Samba's, both in the test's own network.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hull_tests::{Daemon, Engine, private_network, wait_until};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

/// The kernel's NFS server in the calling thread's network namespace, with one folder, `/`.
struct Nfs(PathBuf);

impl Nfs {
    /// None where the kernel has none; that is told.
    fn start(scratch: &Path, export: &Path) -> Option<Nfs> {
        private_network();
        Command::new("modprobe").args(["-aq", "nfsd", "nfs", "nfsv4"]).status().ok();
        let folder = scratch.join("nfsd");
        fs::create_dir_all(&folder).expect("a folder");
        if let Err(error) = mount("nfsd", &folder, "nfsd", MountFlags::empty(), c"") {
            eprintln!("left out: NFS: this kernel has no server for it: {error}");
            return None;
        }
        let nfs = Nfs(folder);
        nfs.set("versions", "-3 +4 +4.1 +4.2\n");
        nfs.set("nfsv4leasetime", "10\n");
        nfs.set("nfsv4gracetime", "10\n");
        // What mountd would answer when the kernel asks: who 127.0.0.1 is, and that these have the folder as their root
        // (the flags: an fsid of its own, no look above, written behind, any port).
        let answers = |file: &str, line: String| {
            let file = format!("/proc/thread-self/net/rpc/{file}/channel");
            fs::write(&file, line).unwrap_or_else(|error| panic!("{file}: {error}"));
        };
        let export = export.display();
        answers("auth.unix.ip", "nfsd 127.0.0.1 2147483647 everyone\n".to_owned());
        answers("nfsd.export", format!("everyone {export} 2147483647 {} 65534 65534 0\n", 0x2412));
        answers("nfsd.fh", format!("everyone 1 \\x00000000 2147483647 {export}\n"));
        nfs.set("portlist", "tcp 2049\n");
        nfs.set("threads", "2\n");
        // Else who opens a file waits the ten seconds, for clients of a server that was there before.
        fs::write(nfs.0.join("v4_end_grace"), "Y\n").ok();
        Some(nfs)
    }

    fn set(&self, file: &str, line: &str) {
        fs::write(self.0.join(file), line).unwrap_or_else(|error| panic!("nfsd: {file}: {error}"));
    }
}

impl Drop for Nfs {
    fn drop(&mut self) {
        fs::write(self.0.join("threads"), "0\n").ok();
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

/// A folder to be exported, with one file.
fn exported(daemon: &Daemon) -> PathBuf {
    let export = daemon.dir().join("work/export");
    fs::create_dir_all(export.join("sub")).expect("a folder");
    fs::write(export.join("sub/file"), "from the server").expect("a file");
    export
}

fn create(daemon: &Daemon, name: &str, kind: &str, device: &str, options: &str) {
    let kind = format!("type={kind}");
    let (device, options) = (format!("device={device}"), format!("o={options}"));
    daemon.ok(&["volume", "create", "-o", &kind, "-o", &device, "-o", &options, name]);
}

/// Whether something is mounted on a volume of this daemon's; others in the host's namespace have such names, too.
fn is_mounted(daemon: &Daemon, name: &str) -> bool {
    let mountpoint = format!("{}/data/volumes/{name}/_data ", daemon.dir().display());
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.pid())).expect("the mounts");
    mounts.lines().any(|line| line.contains(&mountpoint))
}

/// Runs a container with the volume that must not start; what is said.
fn refused(daemon: &Daemon, volume: &str) -> String {
    let output = daemon.hull(&["run", "--rm", "-v", &format!("{volume}:/v"), "busybox", "true"]);
    assert_ne!(output.status, 0, "{volume} was mounted");
    output.stderr
}

#[test]
fn files_of_an_nfs_server() {
    let daemon = Daemon::start();
    let export = exported(&daemon);
    let Some(server) = Nfs::start(&daemon.dir().join("work"), &export) else { return };
    // As Docker's documentation has it; the server by its address, by its name, and in the device.
    create(&daemon, "files", "nfs", ":/sub", "addr=127.0.0.1,rw,nfsvers=4");
    create(&daemon, "named", "nfs", ":/sub", "addr=localhost,ro,nfsvers=4.2");
    create(&daemon, "device", "nfs4", "127.0.0.1:/sub", "");
    let script = "cat /v/file; echo written > /v/new";
    let said = daemon.ok(&["run", "--rm", "-v", "files:/v", "busybox", "sh", "-c", script]);
    assert_eq!(said, "from the server");
    assert_eq!(fs::read_to_string(export.join("sub/new")).expect("what was written"), "written\n");
    assert!(!is_mounted(&daemon, "files"), "it is mounted while nobody uses it");
    for volume in ["named", "device"] {
        let volume = format!("{volume}:/v");
        assert_eq!(daemon.ok(&["run", "--rm", "-v", &volume, "busybox", "cat", "/v/new"]), "written");
    }
    let read_only = daemon.hull(&["run", "--rm", "-v", "named:/v", "busybox", "touch", "/v/x"]);
    assert!(read_only.stderr.contains("Read-only file system"), "{}", read_only.stderr);

    create(&daemon, "missing", "nfs", ":/not-there", "addr=127.0.0.1,nfsvers=4");
    let said = refused(&daemon, "missing");
    assert!(said.contains("No such file or directory") && said.contains("the server has no"), "{said}");
    create(&daemon, "nobody", "nfs", ":/sub", "addr=127.0.0.1,nfsvers=4,port=9,retry=0");
    let said = refused(&daemon, "nobody");
    assert!(said.contains("failed to mount local volume"), "{said}");
    create(&daemon, "nameless", "nfs", ":/sub", "addr=no.such.name.invalid,nfsvers=4");
    let said = refused(&daemon, "nameless");
    assert!(said.contains("error resolving passed in network volume address"), "{said}");

    // A server that goes while its files are used: the container ends, and the volume goes.
    let stays = ["run", "-d", "--name", "stays", "-v", "files:/v", "busybox", "sleep", "1000"];
    daemon.ok(&stays);
    assert!(is_mounted(&daemon, "files"));
    server.set("threads", "0\n");
    let begun = Instant::now();
    daemon.ok(&["rm", "-f", "stays"]);
    daemon.ok(&["volume", "rm", "files"]);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(!is_mounted(&daemon, "files"));
    for volume in ["named", "device", "missing", "nobody", "nameless"] {
        daemon.ok(&["volume", "rm", volume]);
    }
    // What the volumes were of is the server's still.
    assert!(export.join("sub/new").exists());
}

#[test]
fn an_nfs_server_that_does_not_answer_holds_nobody_else_up() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let daemon = Daemon::start();
    Command::new("modprobe").args(["-aq", "nfs", "nfsv4"]).status().ok();
    if !fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("nfs4")) {
        eprintln!("left out: NFS: this kernel has no client for it");
        return;
    }
    // Its connections are taken by the kernel, and nobody reads them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    create(
        &daemon,
        "silent",
        "nfs",
        ":/",
        &format!("addr=127.0.0.1,nfsvers=4,port={port},soft,timeo=20,retrans=1"),
    );
    let start = ["run", "-d", "--name", "hangs", "-v", "silent:/v", "busybox", "true"];
    let mut hangs = daemon.client(&start).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("hull");
    let waits = |task: &Path| {
        fs::read_to_string(task.join("wchan")).is_ok_and(|what| what.starts_with("rpc_wait"))
            || fs::read_to_string(task.join("stack")).is_ok_and(|what| what.contains("rpc_wait"))
    };
    wait_until("the start waits for the server", Duration::from_secs(60), || {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("the daemon's threads");
        tasks.flatten().any(|task| waits(&task.path()))
    });
    let begun = Instant::now();
    assert_eq!(daemon.ok(&["run", "--rm", "busybox", "echo", "fine"]), "fine");
    daemon.ok(&["ps", "-a"]);
    daemon.ok(&["volume", "ls"]);
    daemon.ok(&["volume", "inspect", "silent"]);
    daemon.ok(&["system", "df"]);
    daemon.ok(&["rm", "-f", "hangs"]);
    assert!(begun.elapsed() < Duration::from_secs(60), "others waited for it: {:?}", begun.elapsed());
    drop(silent);
    hangs.wait().expect("the client ends");
}

/// Samba's server at the loopback of the calling thread's network namespace, with one user and one share, `files`.
struct Smb(Child);

impl Smb {
    /// None where there is no server, or the kernel has no client for it; that is told.
    fn start(scratch: &Path, export: &Path) -> Option<Smb> {
        private_network();
        Command::new("modprobe").args(["-aq", "cifs"]).status().ok();
        let has_client = fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("cifs"));
        let server = hull_tests::which("smbd");
        let (Some(server), true) = (server, has_client) else {
            assert!(std::env::var_os("HULL_TESTS_NEED_CIFS").is_none(), "no client or no server for CIFS");
            eprintln!("left out: CIFS: it needs the kernel's module cifs, and smbd of the package samba");
            return None;
        };
        let folder = scratch.join("smb");
        fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("smb.conf");
        let (own, export) = (folder.display(), export.display());
        // All that it keeps is in the test's folder, and it serves the loopback alone.
        let folders = ["lock directory", "state directory", "cache directory", "pid directory"];
        let folders = folders.iter().chain(&["private dir", "ncalrpc dir"]);
        let folders: String = folders.map(|name| format!("{name} = {own}\n")).collect();
        let text = format!(
            "[global]\nserver role = standalone server\ninterfaces = lo\nbind interfaces only = yes\n\
             disable netbios = yes\nsmb ports = 445\npassdb backend = smbpasswd:{own}/users\n\
             load printers = no\nprintcap name = /dev/null\ndisable spoolss = yes\nlogging = file\n\
             log file = {own}/log\n{folders}[files]\npath = {export}\nread only = no\n"
        );
        fs::write(&config, text).expect("the configuration");
        let mut adds = Command::new("smbpasswd")
            .arg("-c")
            .arg(&config)
            .args(["-s", "-a", "root"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("smbpasswd");
        let mut typed = adds.stdin.take().expect("its input");
        typed.write_all(b"secret\nsecret\n").expect("a password");
        drop(typed);
        assert!(adds.wait().expect("smbpasswd").success(), "a user for the server");
        let server = Command::new(server)
            .args(["--foreground", "--no-process-group", "--log-basename"])
            .arg(&folder)
            .arg("--configfile")
            .arg(&config)
            .spawn();
        let smb = Smb(server.expect("smbd"));
        wait_until("the server serves", Duration::from_secs(60), || {
            std::net::TcpStream::connect("127.0.0.1:445").is_ok()
        });
        Some(smb)
    }

    /// Ends it with all that it has started.
    fn end(&mut self) {
        let mut left = vec![self.0.id()];
        // Who serves a connection, or waits for more of them, is its child, or that one's.
        while let Some(pid) = left.pop() {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            left.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
        self.0.wait().ok();
    }
}

impl Drop for Smb {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn files_of_a_cifs_server() {
    let daemon = Daemon::start();
    let export = exported(&daemon);
    let Some(mut server) = Smb::start(&daemon.dir().join("work"), &export) else { return };
    // As Docker's documentation has it; the server by its address and by its name, and what its files are like here.
    let login = "username=root,password=secret,vers=3.0";
    create(
        &daemon,
        "files",
        "cifs",
        "//127.0.0.1/files",
        &format!("addr=localhost,{login},uid=7,gid=8,file_mode=0640,dir_mode=0750"),
    );
    create(&daemon, "named", "cifs", "//localhost/files/sub", &format!("ro,{login}"));
    let script = "cat /v/sub/file; echo; mkdir /v/made; echo written > /v/made/new; mv /v/made/new /v/sub/new
        rmdir /v/made; stat -c %u:%g:%a /v/sub/new /v/sub; ls /v/sub";
    let said = daemon.ok(&["run", "--rm", "-v", "files:/v", "busybox", "sh", "-c", script]);
    assert_eq!(said, "from the server\n7:8:640\n7:8:750\nfile\nnew");
    assert_eq!(fs::read_to_string(export.join("sub/new")).expect("what was written"), "written\n");
    assert!(!export.join("made").exists());
    assert!(!is_mounted(&daemon, "files"), "it is mounted while nobody uses it");
    assert_eq!(daemon.ok(&["run", "--rm", "-v", "named:/v", "busybox", "cat", "/v/new"]), "written");
    let read_only = daemon.hull(&["run", "--rm", "-v", "named:/v", "busybox", "touch", "/v/x"]);
    assert!(read_only.stderr.contains("Read-only file system"), "{}", read_only.stderr);

    create(&daemon, "wrong", "cifs", "//127.0.0.1/files", "username=root,password=guessed,vers=3.0");
    let said = refused(&daemon, "wrong");
    assert!(said.contains("Permission denied") && said.contains("username="), "{said}");
    for secret in ["guessed", "secret"] {
        assert!(!said.contains(secret) && !daemon.log().contains(secret), "a password is told: {said}");
    }
    create(&daemon, "missing", "cifs", "//127.0.0.1/nothing", login);
    let said = refused(&daemon, "missing");
    assert!(said.contains("the server has no //127.0.0.1/nothing"), "{said}");

    // A server that goes while its files are used: the container ends, and the volume goes.
    daemon.ok(&["run", "-d", "--name", "stays", "-v", "files:/v", "busybox", "sleep", "1000"]);
    assert!(is_mounted(&daemon, "files"));
    server.end();
    let begun = Instant::now();
    daemon.ok(&["rm", "-f", "stays"]);
    let said = refused(&daemon, "named");
    assert!(said.contains("no server answers there"), "{said}");
    for volume in ["files", "named", "wrong", "missing"] {
        daemon.ok(&["volume", "rm", volume]);
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    // The kernel's client may hold the unmounting up until it has given the server up; nobody waits for that.
    wait_until("it is unmounted behind", Duration::from_secs(120), || !is_mounted(&daemon, "files"));
    // What the volumes were of is the server's still.
    assert!(export.join("sub/new").exists());
}
