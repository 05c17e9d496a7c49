//! `system df`: what takes up the disk.

use hull_tests::{Daemon, Engine};
use serde_json::Value;

#[test]
fn sizes_are_those_of_now() {
    let daemon = Daemon::start();
    let write =
        "dd if=/dev/zero of=/f bs=1000 count=300; dd if=/dev/urandom of=/v/f bs=1000 count=200; ln /v/f /v/g";
    daemon.ok(&["run", "--name", "box", "-v", "data:/v", "busybox", "sh", "-c", write]);
    let usage = || daemon.api().get("/v1.44/system/df").expect("an answer").json();
    let sizes = |usage: &Value| {
        (usage["Containers"][0]["SizeRw"].clone(), usage["Volumes"][0]["UsageData"]["Size"].clone())
    };
    let told = usage();
    assert_eq!(sizes(&told), (300_000.into(), 200_000.into()), "{told}");
    assert_eq!(told["Volumes"][0]["UsageData"]["RefCount"], 1);
    let image = told["LayersSize"].as_u64().expect("a number");
    assert_eq!(told["Containers"][0]["SizeRootFs"], image + 300_000);
    daemon.ok(&["run", "--rm", "-v", "data:/v", "busybox", "sh", "-c", "rm /v/f; echo more >>/v/g"]);
    assert_eq!(sizes(&usage()).1, 200_005);
    daemon.ok(&["rm", "box"]);
    // What comes back is what lay on the disk, in its blocks.
    let pruned = daemon.ok(&["volume", "prune", "-af"]);
    assert!(
        pruned.contains("Total reclaimed space: 200.7kB") || Engine::under_test() == Engine::Docker,
        "{pruned}"
    );
}

#[test]
fn what_is_mounted_over_a_volume_takes_none_of_this_disk() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    Daemon::start().session(
        r#"
        $ hull volume create -o type=tmpfs -o device=tmpfs memory; hull volume create plain
        memory
        plain
        $ hull run -d --name user -v memory:/v busybox sh -c 'dd if=/dev/zero of=/v/f bs=1M count=3; sleep 600'
        <id>
        $ hull system df -v | sed -n '/VOLUME NAME/,/^$/p' | tr -s ' '
        VOLUME NAME LINKS SIZE
        memory 1 N/A
        plain 0 0B
        
        $ hull system df --format '{{.Type}} {{.Size}}' | grep Volumes
        Local Volumes 0B
        $ hull system df -v | sed -n '/CACHE ID/,$p' | tr -s ' '
        CACHE ID CACHE TYPE SIZE CREATED LAST USED USAGE SHARED
        "#,
    );
}
