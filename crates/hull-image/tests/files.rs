//! The files of a container: looked at, copied out and in, exported.

mod common;

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use common::shell_tar;
use hull_image::Kind;
use hull_image::archive::{IdMap, Put, copy_up, export, get, put, stat};

struct Root(tempfile::TempDir, std::fs::File);

impl Root {
    fn new(script: &str) -> Root {
        let folder = tempfile::tempdir().unwrap();
        let status = Command::new("sh").args(["-ec", script]).current_dir(folder.path()).status().unwrap();
        assert!(status.success());
        let file = std::fs::File::open(folder.path()).unwrap();
        Root(folder, file)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The names that tar lists.
fn listed(bytes: &[u8]) -> Vec<String> {
    let mut child =
        Command::new("tar").args(["-tPf", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

const TREE: &str = "mkdir -p etc/sub var/real; echo root >etc/passwd; chmod 640 etc/passwd; ln -s /var/real link;
                    ln -s ../../../../etc/passwd var/up; echo x >var/real/x; ln -s nowhere dangling; ln -s loop loop;
                    chmod 1777 var";

#[test]
fn paths_are_looked_at_as_the_container_sees_them() {
    let root = Root::new(TREE);
    let look = |path| stat(root.1.as_fd(), path);
    let found = look("/etc/passwd").unwrap();
    assert_eq!((&found.name[..], found.size, found.mode, &found.link_target[..]), ("passwd", 5, 0o640, ""));
    assert_eq!(look("etc/").unwrap().name, "etc");
    assert_eq!(look("/etc/.").unwrap().name, ".");
    assert_eq!(look("/").unwrap().name, "/");
    assert_eq!(look("/../../etc/../var").unwrap().mode, 1 << 31 | 1 << 20 | 0o777);
    assert_eq!(look("/link").unwrap().link_target, "/var/real");
    assert_eq!(look("/link/").unwrap().link_target, "", "a slash follows the link");
    assert_eq!(look("/var/up").unwrap().link_target, "/etc/passwd", "never above the root");
    assert_eq!(look("/link/x").unwrap().size, 2);
    assert_eq!(look("/dangling").unwrap().link_target, "/nowhere");
    assert_eq!(look("/loop").unwrap_err().kind, Kind::InvalidParameter);
    assert_eq!(look("/none").unwrap_err().message, "Could not find the file /none");
    assert_eq!(look("/none").unwrap_err().kind, Kind::NotFound);
    assert_eq!(look("/etc/passwd/").unwrap_err().kind, Kind::InvalidParameter);
    assert_eq!(look("/a\0b").unwrap_err().kind, Kind::InvalidParameter);
    assert_eq!(look(&"a/".repeat(3000)).unwrap_err().kind, Kind::InvalidParameter);
}

#[test]
fn copies_are_named_as_docker_names_them() {
    let root = Root::new(TREE);
    let names = |path| {
        let mut bytes = Vec::new();
        get(root.1.as_fd(), path, &IdMap::default(), &mut bytes).unwrap();
        listed(&bytes)
    };
    assert_eq!(names("/etc"), ["etc/", "etc/passwd", "etc/sub/"]);
    assert_eq!(names("/etc/"), ["etc/", "etc/passwd", "etc/sub/"]);
    assert_eq!(names("/etc/."), ["./", "./passwd", "./sub/"]);
    assert_eq!(names("/etc/passwd"), ["passwd"]);
    assert_eq!(names("/link"), ["link"]);
    assert_eq!(names("/link/"), ["link/", "link/x"]);
    assert_eq!(names("/link/."), ["./", "./x"]);
    assert_eq!(names("/")[..2], ["/", "/dangling"]);
    assert!(get(root.1.as_fd(), "/none", &IdMap::default(), &mut Vec::new()).is_err());
}

#[test]
fn archives_are_put_beneath_the_root_whatever_links_there_are() {
    let root = Root::new(TREE);
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), root.path().join("evil")).unwrap();
    std::fs::create_dir_all(root.path().join(outside.path().strip_prefix("/").unwrap())).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let tar =
        shell_tar(scratch.path(), "mkdir d; echo new >d/f; chown 5:6 d/f; ln -s /etc s; chmod 700 d", "");
    put(root.1.as_fd(), "/evil", &mut &tar[..], Put::default()).unwrap();
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "the link leads beneath the root");
    put(root.1.as_fd(), "/link", &mut &tar[..], Put { owner: Some((7, 8)), ..Put::default() }).unwrap();
    let file = root.path().join("var/real/d/f").metadata().unwrap();
    assert_eq!((file.uid(), file.gid()), (7, 8));
    put(root.1.as_fd(), "/var/real/", &mut &tar[..], Put::default()).unwrap();
    assert_eq!(root.path().join("var/real/d/f").metadata().unwrap().uid(), 5);
    assert_eq!(root.path().join("var/real/d").metadata().unwrap().permissions().mode() & 0o777, 0o700);

    assert_eq!(put(root.1.as_fd(), "/none", &mut &tar[..], Put::default()).unwrap_err().kind, Kind::NotFound);
    let error = put(root.1.as_fd(), "/etc/passwd", &mut &tar[..], Put::default()).unwrap_err();
    assert_eq!(error.message, "extraction point is not a directory");
    let strict = Put { no_overwrite_dir_non_dir: true, ..Put::default() };
    let folder = shell_tar(scratch.path(), "mkdir -p etc/passwd", "");
    let error = put(root.1.as_fd(), "/", &mut &folder[..], strict.clone()).unwrap_err();
    assert!(error.message.contains("cannot overwrite non-directory"), "{error}");
    let file = shell_tar(scratch.path(), "mkdir etc; echo >etc/sub", "");
    let error = put(root.1.as_fd(), "/", &mut &file[..], strict).unwrap_err();
    assert!(error.message.contains("cannot overwrite directory"), "{error}");
    put(root.1.as_fd(), "/", &mut &file[..], Put::default()).unwrap();
    assert!(root.path().join("etc/sub").is_file());
    // A link that the archive makes and then walks through ends beneath the root too.
    std::fs::create_dir(root.path().join("deep")).unwrap();
    let through = shell_tar(scratch.path(), "ln -s /etc a", "");
    put(root.1.as_fd(), "/deep", &mut &through[..], Put::default()).unwrap();
    let inner = shell_tar(scratch.path(), "mkdir a; echo inner >a/hull-inner", "--exclude=./a/. ");
    put(root.1.as_fd(), "/deep", &mut &inner[..], Put::default()).unwrap();
    assert!(!Path::new("/etc/hull-inner").exists());
    let truncated = &tar[..1000];
    assert!(put(root.1.as_fd(), "/", &mut &truncated[..], Put::default()).is_err());
}

#[test]
fn an_export_leaves_out_what_is_mounted() {
    let root =
        Root::new("mkdir -p a/mnt; echo f >a/f; ln a/f a/g; mkfifo p; truncate -s 1M sparse; mknod n c 1 3");
    let target = root.path().join("a/mnt");
    rustix::mount::mount("t", &target, "tmpfs", rustix::mount::MountFlags::empty(), c"size=1m").unwrap();
    std::fs::write(target.join("inside"), b"").unwrap();
    let mut bytes = Vec::new();
    let done = export(root.1.as_fd(), &IdMap::default(), &mut bytes);
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).unwrap();
    done.unwrap();
    assert_eq!(listed(&bytes), ["a/", "a/f", "a/g", "a/mnt/", "n", "p", "sparse"]);
    assert!(bytes.len() < 100_000, "holes are not written: {}", bytes.len());
}

#[test]
fn a_volume_gets_what_the_image_holds() {
    let root = Root::new(
        "mkdir -p data/sub; echo f >data/f; chown 3:4 data/f; chmod 4711 data/f; ln data/f data/sub/hard; ln -s x data/sym;
         mkfifo data/p; truncate -s 5M data/holes; echo end >>data/holes; chown 9:9 data; chmod 750 data;
         touch -d @1000000000.25 data/sub data",
    );
    let volume = tempfile::tempdir().unwrap();
    let opened = std::fs::File::open(volume.path()).unwrap();
    copy_up(root.1.as_fd(), "/data", opened.as_fd()).unwrap();
    let look = |path: &str| volume.path().join(path).symlink_metadata().unwrap();
    let file = look("f");
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.nlink()), (0o4711, 3, 4, 2));
    assert_eq!(look("sub/hard").ino(), file.ino());
    assert!(look("sym").is_symlink() && look("holes").len() > 5 << 20 && look("holes").blocks() < 1000);
    assert_eq!((look("").mode() & 0o7777, look("").uid()), (0o750, 9));
    assert_eq!((look("sub").mtime(), look("sub").mtime_nsec()), (1_000_000_000, 250_000_000));
    // Not into what holds something already; nothing to copy is no error.
    std::fs::remove_file(volume.path().join("f")).unwrap();
    copy_up(root.1.as_fd(), "/data", opened.as_fd()).unwrap();
    assert!(!volume.path().join("f").exists());
    let empty = tempfile::tempdir().unwrap();
    let opened = std::fs::File::open(empty.path()).unwrap();
    copy_up(root.1.as_fd(), "/none", opened.as_fd()).unwrap();
    copy_up(root.1.as_fd(), "/data/f", opened.as_fd()).unwrap();
}
