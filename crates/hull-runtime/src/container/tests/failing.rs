//! Commands that cannot be executed, and what is said about them.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// Puts a file into the image, and says why executing it failed.
fn failure(content: &[u8], mode: u32) -> Error {
    let mut bench = Bench::new();
    let path = bench.path("base/bin/it");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    bench.command(&["/bin/it"]).run().error.unwrap()
}

fn told(error: &Error, status: u8, parts: &[&str]) {
    assert_eq!(error.exit_status, status, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn what_is_not_there() {
    let mut bench = Bench::new();
    let error = bench.command(&["no-such-command"]).run().error.unwrap();
    told(&error, 127, &["exec: \"no-such-command\": executable file not found in $PATH"]);
    let error = bench.command(&["/no/such"]).run().error.unwrap();
    told(&error, 127, &["exec: \"/no/such\": stat /no/such: no such file or directory"]);
    let error = bench.command(&[""]).run().error.unwrap();
    told(&error, 127, &["executable file not found in $PATH"]);
}

#[test]
fn what_may_not_be_executed() {
    let mut bench = Bench::new();
    let error = bench.command(&["/etc/passwd"]).run().error.unwrap();
    told(&error, 126, &["exec: \"/etc/passwd\": permission denied", "chmod +x"]);
    let error = bench.command(&["/etc"]).run().error.unwrap();
    told(&error, 126, &["exec: \"/etc\": is a directory"]);
    let folder = bench.path("base/bin");
    bench.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/opt", "source": folder, "options": ["bind", "noexec"] }));
    let error = bench.command(&["/opt/busybox"]).run().error.unwrap();
    told(&error, 126, &["permission denied", "noexec"]);
}

#[test]
fn scripts_without_their_interpreter() {
    told(
        &failure(b"#!/bin/bash -e\n", 0o755),
        127,
        &["the interpreter of its first line, /bin/bash, is not"],
    );
    told(&failure(b"#!/bin/sh\r\necho\r\n", 0o755), 127, &["carriage return", "/bin/sh\\r"]);
}

#[test]
fn files_of_a_wrong_format() {
    told(&failure(b"echo\n", 0o755), 126, &["exec format error", "#!/bin/sh"]);
    told(&failure(b"", 0o755), 126, &["exec format error", "empty"]);
    let mut foreign = std::fs::read("/usr/bin/busybox").unwrap();
    let (number, name) = if cfg!(target_arch = "aarch64") { (62u16, "x86_64") } else { (183, "aarch64") };
    foreign[18..20].copy_from_slice(&number.to_le_bytes());
    told(&failure(&foreign, 0o755), 126, &["exec format error", &format!("a program for {name}")]);
}

#[test]
fn programs_without_their_loader() {
    // This test itself is linked dynamically, and the image has no C library.
    let own = std::fs::read("/proc/self/exe").unwrap();
    let error = failure(&own, 0o755);
    told(&error, 127, &["its dynamic loader /lib", "link it statically"]);
}

#[test]
fn a_later_folder_of_the_path_is_tried() {
    let mut bench = Bench::new();
    bench.spec["process"]["env"] = json!(["PATH=/nowhere:/etc:/bin"]);
    let outcome = bench.command(&["sh", "-c", "echo found"]).run();
    assert_eq!(outcome.output, "found\n", "{outcome:?}");
}

#[test]
fn a_failed_start_leaves_no_process_and_no_mount() {
    let mut bench = Bench::new();
    bench.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/x", "source": "/no/such/source", "options": ["bind"] }));
    let error = bench.run().error.unwrap();
    assert_eq!(error.to_string(), "mount /no/such/source on /x: no such file or directory");
    assert_eq!(bench.cgroup().processes().unwrap(), [] as [i32; 0]);
    bench.spec["mounts"].as_array_mut().unwrap().pop();
    bench.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/y", "type": "tmpfs", "source": "t", "options": ["no-such-option"] }));
    let error = bench.run().error.unwrap();
    assert!(error.to_string().contains("option \"no-such-option\""), "{error}");
    bench.spec["mounts"].as_array_mut().unwrap().pop();
    bench.spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/etc/passwd", "source": "/tmp", "options": ["bind"] }));
    let error = bench.run().error.unwrap();
    assert!(error.to_string().contains("directory onto a file"), "{error}");
}
