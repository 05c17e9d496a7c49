//! Flags and the bodies that they come to.

use clap::{Args as _, FromArgMatches as _};
use serde_json::{Value, json};

use super::flags::ContainerFlags;
use super::request;
use crate::error::Error;

fn flags(words: &[&str]) -> ContainerFlags {
    let command = ContainerFlags::augment_args(clap::Command::new("run"))
        .no_binary_name(true)
        .disable_help_flag(true)
        .mut_args(|arg| {
            let takes = matches!(arg.get_action(), clap::ArgAction::Set | clap::ArgAction::Append);
            if takes && !arg.is_positional() { arg.allow_hyphen_values(true) } else { arg }
        });
    ContainerFlags::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap()
}

fn body(words: &[&str]) -> Value {
    request(&flags(words), Some("/run/x.sock")).unwrap().body
}

fn refusal(words: &[&str]) -> String {
    let error: Error = request(&flags(words), None).unwrap_err();
    assert_eq!(error.status(), 125, "{words:?}");
    error.to_string()
}

#[test]
fn the_least() {
    assert_eq!(
        body(&["img"]),
        json!({"Image": "img", "AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
               "HostConfig": {"NetworkMode": "default"}, "NetworkingConfig": {"EndpointsConfig": {}}})
    );
}

#[test]
fn what_follows_the_image_is_the_command() {
    let body = body(&["-i", "img", "ls", "--rm", "-t", "--", "x"]);
    assert_eq!(body["Cmd"], json!(["ls", "--rm", "-t", "--", "x"]));
    assert_eq!(body["Tty"], Value::Null);
    assert_eq!(body["StdinOnce"], true);
    assert_eq!(body["HostConfig"]["AutoRemove"], Value::Null);
}

#[test]
fn each_flag_has_its_field() {
    for (words, pointer, wanted) in [
        (vec!["-e", "A=1", "-e", "B="], "/Env", json!(["A=1", "B="])),
        (vec!["-l", "a=b"], "/Labels", json!({"a": "b"})),
        (vec!["--entrypoint", ""], "/Entrypoint", json!([""])),
        (vec!["-h", "box"], "/Hostname", json!("box")),
        (vec!["-u", "1:2"], "/User", json!("1:2")),
        (vec!["-w", "/x"], "/WorkingDir", json!("/x")),
        (vec!["--stop-timeout", "-1"], "/StopTimeout", json!(-1)),
        (vec!["--stop-signal", "INT"], "/StopSignal", json!("INT")),
        (vec!["-p", "1:2"], "/ExposedPorts", json!({"2/tcp": {}})),
        (vec!["-v", "/x"], "/Volumes", json!({"/x": {}})),
        (vec!["-v", "a:/x:ro"], "/HostConfig/Binds", json!(["a:/x:ro"])),
        (vec!["--tmpfs", "/x:size=1m"], "/HostConfig/Tmpfs", json!({"/x": "size=1m"})),
        (vec!["--rm"], "/HostConfig/AutoRemove", json!(true)),
        (vec!["--init"], "/HostConfig/Init", json!(true)),
        (vec!["--init=false"], "/HostConfig/Init", json!(false)),
        (
            vec!["--restart", "on-failure:3"],
            "/HostConfig/RestartPolicy",
            json!({"Name": "on-failure", "MaximumRetryCount": 3}),
        ),
        (vec!["--timeout", "1m30s"], "/HostConfig/Timeout", json!(90_000_000_000i64)),
        (vec!["--timeout", "2"], "/HostConfig/Timeout", json!(2_000_000_000i64)),
        (vec!["--cpu-time", "10s"], "/HostConfig/CpuTime", json!(10_000_000_000i64)),
        (vec!["-m", "64m"], "/HostConfig/Memory", json!(64 << 20)),
        (vec!["--memory-swap", "-1"], "/HostConfig/MemorySwap", json!(-1)),
        (vec!["--memory-swappiness", "0"], "/HostConfig/MemorySwappiness", json!(0)),
        (vec!["--cpus", "1.5"], "/HostConfig/NanoCpus", json!(1_500_000_000)),
        (vec!["-c", "5"], "/HostConfig/CpuShares", json!(5)),
        (vec!["--pids-limit", "-1"], "/HostConfig/PidsLimit", json!(-1)),
        (vec!["--oom-score-adj", "-5"], "/HostConfig/OomScoreAdj", json!(-5)),
        (
            vec!["--ulimit", "nofile=1:2", "--ulimit", "core=-1"],
            "/HostConfig/Ulimits",
            json!([{"Name": "nofile", "Hard": 2, "Soft": 1}, {"Name": "core", "Hard": -1, "Soft": -1}]),
        ),
        (
            vec!["--device", "/dev/null:/x:r", "--device", "/dev/zero"],
            "/HostConfig/Devices",
            json!([{"PathOnHost": "/dev/null", "PathInContainer": "/x", "CgroupPermissions": "r"},
                   {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/zero", "CgroupPermissions": "rwm"}]),
        ),
        (
            vec!["--device", "vendor.com/class=x"],
            "/HostConfig/DeviceRequests",
            json!([{"Driver": "cdi", "DeviceIDs": ["vendor.com/class=x"]}]),
        ),
        (
            vec!["--gpus", "\"device=0,1\",capabilities=utility"],
            "/HostConfig/DeviceRequests",
            json!([{"Driver": "", "Count": 0, "DeviceIDs": ["0", "1"], "Capabilities": [["utility", "gpu"]],
                    "Options": {}}]),
        ),
        (
            vec!["--gpus", "all"],
            "/HostConfig/DeviceRequests",
            json!([{"Driver": "", "Count": -1, "DeviceIDs": null, "Capabilities": [["gpu"]], "Options": {}}]),
        ),
        (
            vec!["--device-read-bps", "/dev/sda:1m"],
            "/HostConfig/BlkioDeviceReadBps",
            json!([{"Path": "/dev/sda", "Rate": 1 << 20}]),
        ),
        (
            vec!["--device-write-iops", "/dev/sda:7"],
            "/HostConfig/BlkioDeviceWriteIOps",
            json!([{"Path": "/dev/sda", "Rate": 7}]),
        ),
        (
            vec!["--blkio-weight-device", "/dev/sda:100"],
            "/HostConfig/BlkioWeightDevice",
            json!([{"Path": "/dev/sda", "Weight": 100}]),
        ),
        (vec!["--security-opt", "systempaths=unconfined"], "/HostConfig/MaskedPaths", json!([])),
        (
            vec!["--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined"],
            "/HostConfig/SecurityOpt",
            json!(["no-new-privileges", "seccomp=unconfined"]),
        ),
        (
            vec!["--add-host", "a:::1", "--add-host", "b=[::2]"],
            "/HostConfig/ExtraHosts",
            json!(["a:::1", "b:::2"]),
        ),
        (vec!["--add-host", "h:host-gateway"], "/HostConfig/ExtraHosts", json!(["h:host-gateway"])),
        (vec!["--log-opt", "a=b"], "/HostConfig/LogConfig", json!({"Type": "", "Config": {"a": "b"}})),
        (vec!["--network", "host"], "/HostConfig/NetworkMode", json!("host")),
        (vec!["--net", "container:x"], "/HostConfig/NetworkMode", json!("container:x")),
        (vec!["--network", "host"], "/NetworkingConfig/EndpointsConfig", json!({})),
        (
            vec!["--network", "foo", "--network-alias", "x", "--ip", "1.2.3.4", "--link", "a:b"],
            "/NetworkingConfig/EndpointsConfig",
            json!({"foo": {"IPAMConfig": {"IPv4Address": "1.2.3.4"}, "Aliases": ["x"], "Links": ["a:b"]}}),
        ),
        (
            vec!["--network", "a", "--network", "name=b,alias=x,alias=y,driver-opt=k=v,gw-priority=3"],
            "/NetworkingConfig/EndpointsConfig",
            json!({"a": {}, "b": {"Aliases": ["x", "y"], "DriverOpts": {"k": "v"}, "GwPriority": 3}}),
        ),
        (
            vec!["--mac-address", "02:42:ac:11:00:02"],
            "/NetworkingConfig/EndpointsConfig",
            json!({"default": {"MacAddress": "02:42:ac:11:00:02"}}),
        ),
        (
            vec!["--health-cmd", "true", "--health-interval", "1s", "--health-retries", "2"],
            "/Healthcheck",
            json!({"Test": ["CMD-SHELL", "true"], "Interval": 1_000_000_000, "Retries": 2}),
        ),
        (vec!["--no-healthcheck"], "/Healthcheck", json!({"Test": ["NONE"]})),
        (
            vec!["--use-api-socket"],
            "/HostConfig/Mounts",
            json!([{"Type": "bind", "Source": "/run/x.sock", "Target": "/var/run/docker.sock"}]),
        ),
        (vec!["--sysctl", "net.x=1"], "/HostConfig/Sysctls", json!({"net.x": "1"})),
        (vec!["--annotation", "a=b"], "/HostConfig/Annotations", json!({"a": "b"})),
        (vec!["--storage-opt", "size=1G"], "/HostConfig/StorageOpt", json!({"size": "1G"})),
        (vec!["-a", "stdout"], "/AttachStderr", json!(false)),
    ] {
        let mut all = words.clone();
        all.push("img");
        assert_eq!(body(&all).pointer(pointer), Some(&wanted), "{words:?}");
    }
}

#[test]
fn a_seccomp_file_is_read_in() {
    use std::io::Write as _;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"{ \"defaultAction\" :\n \"SCMP_ACT_ALLOW\" }").unwrap();
    let option = format!("seccomp={}", file.path().display());
    let body = body(&["--security-opt", &option, "img"]);
    assert_eq!(body["HostConfig"]["SecurityOpt"], json!(["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]));
    assert!(refusal(&["--security-opt", "seccomp=/nowhere", "img"]).contains("/nowhere"));
}

#[test]
fn refusals_name_what_is_wrong() {
    for (words, why) in [
        (vec!["-m", "x"], "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'"),
        (vec!["--restart", "always", "--rm"], "cannot specify both --restart and --rm"),
        (vec!["--restart", "on-failure:x"], "maximum retry count must be an integer"),
        (vec!["--no-healthcheck", "--health-cmd", "x"], "--no-healthcheck conflicts"),
        (vec!["--memory-swappiness", "101"], "range is 0-100"),
        (
            vec!["--pids-limit", "x"],
            "strconv.ParseInt: parsing \"x\": invalid syntax: a whole number is expected",
        ),
        (vec!["--cpu-shares", "99999999999999999999"], "value out of range"),
        (
            vec!["--blkio-weight", "70000"],
            "strconv.ParseUint: parsing \"70000\": value out of range: a whole number from 10",
        ),
        (vec!["--pid", "x"], "--pid: invalid PID mode"),
        (vec!["--uts", "x"], "--uts: invalid UTS mode"),
        (vec!["--ulimit", "nofile=3:2"], "less than or equal to hard limit: 3 > 2"),
        (vec!["--ulimit", "nix=3"], "invalid ulimit type: nix"),
        (vec!["--security-opt", "label"], "Invalid --security-opt"),
        (vec!["--network", "a", "--network", "host"], "user-defined and non-user-defined"),
        (vec!["--network", "a", "--network", "a"], "specified multiple times"),
        (vec!["--network", "name=a,ip=1.1.1.1", "--ip", "1.1.1.2"], "cannot specify both --ip"),
        (vec!["--network", "name=a,color=1"], "invalid field key color"),
        (vec!["--add-host", "x"], "bad format for add-host"),
        (vec!["--add-host", "x:y"], "invalid IP address in add-host"),
        (vec!["--dns", "x"], "not an IP address"),
        (vec!["--device-cgroup-rule", "x 1:2 rwm"], "invalid device cgroup format"),
        (vec!["--device", "/dev/null:/x:q"], "bad mode specified: q"),
        (vec!["--kernel-memory", "1m"], "--kernel-memory is not supported"),
        (vec!["--timeout", "-1s"], "cannot be negative"),
        (vec!["--timeout", "5x"], "invalid duration"),
        (vec!["--log-driver", "none", "--log-opt", "a=b"], "invalid logging opts for driver none"),
        (vec!["-a", "x"], "valid streams are"),
        (vec!["--use-api-socket"], "needs a daemon that is reached by a unix socket"),
        (vec!["--sysctl", "x"], "sysctl 'x' is not allowed"),
        (vec!["--disable-content-trust=false"], "is not supported"),
    ] {
        let mut all = words.clone();
        all.push("img");
        let got = refusal(&all);
        assert!(got.contains(why), "{words:?}: {got}");
    }
}
