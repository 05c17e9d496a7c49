//! Another process in a container that runs.

use super::*;

/// Starts a container that waits on its standard input, runs processes in it, and ends it.
pub(super) fn in_a_container(
    bench: &Bench,
    processes: &[Value],
    filter: Option<seccomp::Filter>,
) -> Vec<Outcome> {
    let (spec, rootfs) = (bench.parsed(), bench.rootfs());
    let mut outcomes = Vec::new();
    let (reader, writer) = std::io::pipe().unwrap();
    for process in processes {
        let process: Process = serde_json::from_value(process.clone()).unwrap();
        let reader = OwnedFd::from(reader.try_clone().unwrap());
        outcomes.push(in_a_shim(|outcome| {
            let mut first = first_process(bench, &spec, &rootfs, reader)?;
            let (streams, output) = super::streams(process.terminal() == Some(true));
            let result = super::super::exec(exec_in(bench, &first, &process, filter.as_ref(), streams))
                .and_then(|child| conduct(child, output, outcome, |_, _| {}));
            first.running = false;
            drop(first);
            result
        }));
    }
    drop(writer);
    outcomes
}

/// The container's first process, which reads `stdin`.
fn first_process(bench: &Bench, spec: &Spec, rootfs: &Rootfs, stdin: OwnedFd) -> Result<Child> {
    let null = || OwnedFd::from(File::options().write(true).open("/dev/null").unwrap());
    let streams = Streams::Pipes { stdin, stdout: null(), stderr: null() };
    let cgroup = bench.cgroup();
    let start = Start::plain(spec, rootfs, streams, cgroup);
    let mut first = super::super::start(start)?;
    while !matches!(first.step()?, Step::Running) {}
    Ok(first)
}

fn exec_in<'a>(
    bench: &'a Bench,
    first: &'a Child,
    process: &'a Process,
    filter: Option<&'a seccomp::Filter>,
    streams: Streams,
) -> ExecIn<'a> {
    ExecIn {
        preserved: 0,
        detached: false,
        state: None,
        target_pid: first.pid(),
        target_pidfd: first.pidfd(),
        process,
        filter,
        streams,
        cgroup: bench.cgroup(),
        apart: &[],
        leaf: None,
        user: None,
    }
}

pub(super) fn process(script: &str) -> Value {
    // The first process's own: looking at its namespaces takes no fewer.
    let caps = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETGID", "CAP_SETUID", "CAP_MKNOD", "CAP_KILL"];
    json!({
        "user": { "uid": 0, "gid": 0 }, "args": ["sh", "-c", script], "env": ["PATH=/bin", "A=b"], "cwd": "/tmp",
        "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
    })
}

fn waiting() -> Bench {
    let mut bench = Bench::new();
    bench.command(&["/bin/cat"]);
    bench
}

#[test]
fn it_is_inside_and_its_status_comes_back() {
    let bench = waiting();
    let script = "hostname; pwd; echo $A $HOME; cat /proc/1/comm; for n in mnt uts ipc net pid cgroup; do \
                  [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n; done; \
                  grep CapEff /proc/self/status; exit 4";
    let outcome = in_a_container(&bench, &[process(script)], None).remove(0);
    assert!(outcome.error.is_none(), "{}", outcome.error.unwrap());
    assert_eq!(outcome.output, "box\n/tmp\nb /root\ncat\nCapEff:\t00000000080000e3\n");
    assert_eq!(outcome.status, 4);
}

#[test]
fn it_has_a_user_a_filter_and_a_terminal_of_its_own() {
    let bench = waiting();
    let mut asked = process("id -u; tty; stty size; grep Seccomp: /proc/self/status");
    asked["user"] = json!({ "uid": 1000, "gid": 1000 });
    asked["terminal"] = json!(true);
    let filter = Some(seccomp::default_filter(&[]).unwrap());
    let outcome = in_a_container(&bench, &[asked], filter).remove(0);
    assert!(outcome.error.is_none(), "{}", outcome.error.unwrap());
    assert_eq!(outcome.output.replace('\r', ""), "1000\n/dev/pts/0\n40 100\nSeccomp:\t2\n");
}

#[test]
fn it_is_in_the_container_s_cgroup() {
    let bench = waiting();
    let outcome =
        in_a_container(&bench, &[process("cat /proc/self/cgroup; echo; cat /proc/1/cgroup")], None).remove(0);
    let (own, first) = outcome.output.split_once("\n\n").unwrap();
    assert_eq!(own.trim(), first.trim());
}

#[test]
fn what_is_not_there_is_127() {
    let bench = waiting();
    let mut asked = process("");
    asked["args"] = json!(["no-such-command"]);
    let outcome = in_a_container(&bench, &[asked], None).remove(0);
    let error = outcome.error.unwrap();
    assert_eq!(error.exit_status, 127, "{error}");
    assert_eq!(error.to_string(), "exec: \"no-such-command\": executable file not found in $PATH");
}

#[test]
fn a_shim_s_own_children_are_still_born_at_home() {
    let bench = waiting();
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let outcome = in_a_shim(|outcome| {
        let namespace = File::open("/proc/self/ns/pid").unwrap();
        drop(Entered::enter(oci_spec::runtime::LinuxNamespaceType::Pid, namespace)?);
        outcome.output = std::fs::read_link("/proc/self/ns/pid_for_children").unwrap().display().to_string();
        Ok(())
    });
    assert_eq!(outcome.output, own.display().to_string());
    drop(bench);
}

#[test]
fn a_container_that_is_ending_takes_no_process_and_says_so() {
    let bench = waiting();
    let (spec, rootfs) = (bench.parsed(), bench.rootfs());
    let (reader, writer) = std::io::pipe().unwrap();
    let process: Process = serde_json::from_value(process("exec sleep 600")).unwrap();
    let outcome = in_a_shim(|outcome| {
        let mut first = first_process(&bench, &spec, &rootfs, reader.into())?;
        let mut one = super::super::exec(exec_in(&bench, &first, &process, None, super::streams(false).0))?;
        while !matches!(one.step()?, Step::Running) {}
        let entered = Entered::enter(oci_spec::runtime::LinuxNamespaceType::Pid, first.pidfd())?;
        // Not reaped: the first process cannot end before it is.
        pidfd_send_signal(first.pidfd(), Signal::KILL).unwrap();
        waitid(WaitId::PidFd(one.pidfd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        let two =
            super::super::clone_entered(&exec_in(&bench, &first, &process, None, super::streams(false).0));
        drop(entered);
        outcome.output = two.err().map(|error| error.to_string()).unwrap_or_default();
        one.running = false;
        drop(one);
        first.running = false;
        drop(first);
        Ok(())
    });
    drop(writer);
    assert!(outcome.error.is_none(), "{}", outcome.error.unwrap());
    assert_eq!(outcome.output, "clone a process into the container: no such process");
}
