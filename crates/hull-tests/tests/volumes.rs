//! Volumes, binds and tmpfs.

use hull_tests::Daemon;
use serde_json::json;

#[test]
fn named_volumes() {
    Daemon::start().session(
        r#"
        $ hull volume create data
        data
        $ hull run --rm -v data:/data busybox sh -c 'echo kept >/data/file'
        $ hull run --rm -v data:/data:ro busybox cat /data/file
        kept
        $ hull run --rm -v data:/data:ro busybox touch /data/new 2>&1
        touch: /data/new: Read-only file system
        [1]
        $ hull run --rm -v fresh:/etc busybox cat /etc/group
        root:x:0:
        $ hull run --rm -v bare:/etc:nocopy busybox ls /etc | grep passwd
        [1]
        $ hull volume ls -q
        bare
        data
        fresh
        $ hull volume ls --filter name=dat --format '{{.Name}} {{.Driver}} {{.Scope}}'
        data local local
        $ hull volume inspect -f '{{.Name}} {{.Driver}} {{.Mountpoint}}' data
        data local <dir>/data/volumes/data/_data
        $ hull create --name user -v data:/data busybox true
        <id>
        $ hull volume rm data 2>/dev/null
        [1]
        $ hull volume ls -q --filter dangling=true
        bare
        fresh
        $ hull rm user; hull volume rm data bare fresh
        user
        data
        bare
        fresh
        $ hull volume inspect data 2>/dev/null
        []
        [1]
        $ hull volume create 'no/slash' 2>/dev/null
        [1]
        "#,
    );
}

#[test]
fn anonymous_volumes_go_with_their_container() {
    Daemon::start().session(
        r#"
        $ hull run --rm -v /data busybox touch /data/file
        $ hull volume ls -q
        $ hull run --name keeps -v /data busybox touch /data/file; hull volume ls -q
        <id>
        $ hull run --rm --volumes-from keeps busybox ls /data
        file
        $ hull run --rm --volumes-from keeps:ro busybox touch /data/more 2>&1
        touch: /data/more: Read-only file system
        [1]
        $ hull rm -v keeps; hull volume ls -q
        keeps
        $ hull run --name drops -v /data busybox true; hull rm drops; hull volume ls -q
        drops
        <id>
        $ hull volume prune -f | head -n 2
        Deleted Volumes:
        <id>
        "#,
    );
}

#[test]
fn binds() {
    Daemon::start().session(
        r#"
        $ mkdir share; echo host >share/a
        $ hull run --rm -v ./share:/data busybox sh -c 'cat /data/a; echo container >/data/b'
        host
        $ cat share/b
        container
        $ hull run --rm -v ./share/a:/etc/one:ro busybox cat /etc/one
        host
        $ hull run --rm -v $PWD/made:/data busybox ls -d /data; ls -d made
        /data
        made
        $ hull run --rm --mount type=bind,src=$PWD/missing,dst=/data busybox true 2>/dev/null
        [125]
        $ ls -d missing 2>/dev/null
        [2]
        $ hull run --rm --mount type=bind,src=$PWD/share,dst=/data,readonly busybox touch /data/c 2>&1
        touch: /data/c: Read-only file system
        [1]
        $ hull create -v relative/path:/data busybox true 2>/dev/null
        [1]
        $ hull create -v $PWD/share:relative busybox true 2>/dev/null
        [1]
        $ hull ps -aq
        "#,
    );
}

#[test]
fn tmpfs() {
    Daemon::start().session(
        r#"
        $ hull run --rm --tmpfs /scratch:size=1m busybox sh -c 'grep -c "tmpfs /scratch .*size=1024k" /proc/mounts'
        1
        $ hull run --rm --tmpfs /scratch:size=1m busybox dd if=/dev/zero of=/scratch/f bs=64k count=32 2>&1 | grep -o 'No space left'
        No space left
        $ hull run --rm --mount type=tmpfs,dst=/scratch,tmpfs-mode=700 busybox stat -c %a /scratch
        700
        $ hull run --rm --shm-size 2m busybox sh -c 'grep -c "/dev/shm .*size=2048k" /proc/mounts'
        1
        "#,
    );
}

#[test]
fn a_volume_that_cannot_be_mounted_fails_the_start() {
    let daemon = Daemon::start();
    let missing = daemon.dir().join("missing");
    let device = format!("device={}", missing.display());
    daemon.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "lost"]);
    daemon.ok(&["create", "--name", "box", "-v", "lost:/not-in-the-image", "busybox", "true"]);
    let started = daemon.hull(&["start", "box"]);
    assert!(started.stderr.contains("failed to mount local volume"), "{}", started.stderr);
    assert_ne!(started.status, 0);
    // What the image has there would have to be copied into it: that is of the creation.
    let created = daemon.hull(&["create", "-v", "lost:/etc", "busybox", "true"]);
    assert!(created.stderr.contains("failed to mount local volume"), "{}", created.stderr);
    assert_ne!(created.status, 0);
    std::fs::create_dir(&missing).expect("a folder");
    daemon.ok(&["start", "box"]);
}

#[test]
fn a_part_of_a_volume() {
    Daemon::start().session(
        r#"
        $ hull run --rm -v data:/v busybox sh -c 'mkdir -p /v/part/deep; echo part >/v/part/deep/file; echo whole >/v/file; ln -s /part /v/link; ln -s /etc /v/out'
        $ hull run --rm --mount type=volume,src=data,dst=/v,volume-subpath=part/deep busybox cat /v/file
        part
        $ hull run --rm --mount type=volume,src=data,dst=/f,volume-subpath=part/deep/file busybox cat /f
        part
        $ hull run --rm --mount type=volume,src=data,dst=/v,volume-subpath=link/deep,ro busybox sh -c 'cat /v/file; echo >/v/file' 2>/dev/null
        part
        [1]
        $ hull run --rm --mount type=volume,src=data,dst=/v,volume-subpath=out busybox true 2>&1 | grep -c 'cannot access path out in the volume: no such file'
        1
        $ hull create --name stopped --mount type=volume,src=data,dst=/v,volume-subpath=part/deep busybox true
        <id>
        $ hull cp stopped:/v/file - | tar -xO
        part
        "#,
    );
}

#[test]
fn an_image_s_files_are_mounted() {
    let daemon = Daemon::start();
    daemon.session(
        r#"
        $ hull run --name make busybox sh -c 'mkdir -p /data/sub; echo told >/data/file; echo below >/data/sub/file; ln -s /data /way' && hull commit make files >/dev/null && hull rm make
        make
        $ hull run --name user --mount type=image,source=files,target=/i busybox sh -c 'cat /i/data/file; ls /i | grep -v -e dev -e proc -e root -e sys -e tmp; touch /i/x'
        told
        bin
        data
        etc
        way
        touch: /i/x: Read-only file system
        [1]
        $ hull inspect -f '{{json .Mounts}}' user
        [{"Type":"image","Source":"files","Destination":"/i","Mode":"","RW":false,"Propagation":""}]
        $ hull run --rm --mount type=image,source=files,target=/i,image-subpath=data/sub busybox ls /i
        file
        $ hull run --rm --mount type=image,source=files,target=/one,image-subpath=way/file busybox cat /one
        told
        $ hull run --rm --volumes-from user busybox cat /i/data/file
        told
        $ hull run --rm --mount type=image,source=missing,target=/i busybox true
        hull: Error response from daemon: No such image: missing:latest (which is to be mounted at /i)

        Run 'hull run --help' for more information
        [125]
        $ hull run --rm --mount type=image,source=files,target=/i,image-subpath=nope busybox true 2>/dev/null
        [127]
        $ hull rmi files
        Error response from daemon: conflict: unable to remove repository reference "files" (must force) - container <short id> is using its referenced image <short id>
        [1]
        $ hull rmi -f files >/dev/null; hull start -a user
        told
        bin
        data
        etc
        way
        touch: /i/x: Read-only file system
        [1]
        $ hull cp user:/i/data/file - | tar -xO; echo more >more; hull cp more user:/i/data/ 2>&1 | grep -c -i read-only; hull start -a user >/dev/null 2>&1; hull cp user:/i/data - | tar -t
        told
        1
        data/
        data/file
        data/sub/
        data/sub/file
        $ hull rm user; hull system fsck
        user
        1 images, 1 layers, 0 snapshots, 0 containers, 0 volumes, 3 networks: nothing is wrong
        $ hull create --mount type=image,target=/i busybox 2>&1
        Error response from daemon: invalid mount config for type "image": field Source must not be empty
        [1]
        $ hull create --mount type=image,source=busybox,target=/i,image-subpath=../x busybox 2>&1
        Error response from daemon: invalid mount config for type "image": subpath "../x" must be a relative path inside the image
        [1]
        "#,
    );
    let mut api = daemon.api();
    let mut create = |version: &str, image: &str| {
        let mount = json!({ "Type": "image", "Source": image, "Target": "/i" });
        let body = json!({ "Image": "busybox", "HostConfig": { "Mounts": [mount] } });
        let answer = api.post(&format!("/{version}/containers/create"), &body).expect("an answer");
        (answer.status, answer.message())
    };
    assert_eq!(
        create("v1.48", "no-such"),
        (404, "No such image: no-such:latest (which is to be mounted at /i)".to_owned())
    );
    let old = create("v1.47", "busybox");
    assert_eq!(old, (400, "Mount type \"image\" needs API v1.48 or newer".to_owned()));
}
