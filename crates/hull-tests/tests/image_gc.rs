//! Images that go by themselves.

use std::time::Duration;

use hull_tests::{Daemon, Engine, PATIENCE, Tar, wait_until};

fn import(daemon: &Daemon, name: &str, content: &[u8]) -> String {
    let path = format!("/images/create?fromSrc=-&repo={name}");
    let archive = Tar::new().file("file", content).finish();
    let answer = daemon.api().send("POST", &path, "application/x-tar", &archive).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    daemon.ok(&["image", "inspect", "-f", "{{.Id}}", name])
}

fn is_there(daemon: &Daemon, image: &str) -> bool {
    daemon.hull(&["image", "inspect", image]).status == 0
}

#[test]
fn what_has_neither_a_name_nor_a_container_goes_and_nothing_else() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let mut daemon = Daemon::with(&["--image-gc-max-age", "2s", "--image-gc-every", "1s"]);
    let named = import(&daemon, "named", b"1");
    let used = import(&daemon, "moves", b"2");
    daemon.ok(&["create", "--name", "user", &used, "/file"]);
    let first = import(&daemon, "moves", b"3");
    let second = import(&daemon, "moves", b"4");
    wait_until("the image that lost its name is gone", PATIENCE, || !is_there(&daemon, &first));
    daemon.session(
        r#"
        $ hull events --since 0 --until 0s --filter type=image --filter event=delete --format '{{.Action}}'
        delete
        "#,
    );
    // Its age goes on while no daemon is there.
    let third = import(&daemon, "moves", b"5");
    daemon.kill();
    daemon.begin();
    wait_until("the next one is gone", PATIENCE, || !is_there(&daemon, &second));
    for image in [&named, &used, &third] {
        assert!(is_there(&daemon, image), "{image}");
    }
    daemon.ok(&["rm", "user"]);
    wait_until("its container is gone, and it with it", PATIENCE, || !is_there(&daemon, &used));
}

#[test]
fn it_can_be_turned_off_and_waits_its_time() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    let off = Daemon::with(&["--image-gc", "off", "--image-gc-max-age", "1s", "--image-gc-every", "1s"]);
    let young = Daemon::with(&["--image-gc-every", "1s", "--image-gc-disk-use", "100"]);
    let images = [&off, &young].map(|daemon| {
        let image = import(daemon, "moves", b"1");
        import(daemon, "moves", b"2");
        image
    });
    let begun = std::time::Instant::now();
    wait_until("it had the time to go", PATIENCE, || begun.elapsed() > Duration::from_secs(4));
    assert!(is_there(&off, &images[0]) && is_there(&young, &images[1]));
}

#[test]
fn a_disk_that_is_nearly_full_waits_for_no_age() {
    if Engine::under_test() == Engine::Docker {
        return;
    }
    // Any disk is fuller than this; a hundredth of the age is two seconds.
    let options = ["--image-gc-every", "1s", "--image-gc-max-age", "200s", "--image-gc-disk-use", "1"];
    let daemon = Daemon::with(&options);
    let image = import(&daemon, "moves", b"1");
    let newer = import(&daemon, "moves", b"2");
    wait_until("it is gone", PATIENCE, || !is_there(&daemon, &image));
    assert!(is_there(&daemon, &newer));
}
