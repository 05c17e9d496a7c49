//! `hull cgroup`: a program under limits, and what cgroups use.

use hull_tests::Daemon;

#[test]
fn over_its_memory_all_of_it_is_killed_and_it_is_said() {
    Daemon::start().session(
        r#"
        $ hull cgroup run --memory 100m --memory-swap 100m -- tail -n1 /dev/zero
        hull: tail was killed for memory: its own limit (memory.max 100MiB), memory.peak 100MiB
        [137]
        $ hull cgroup run --memory 50m --memory-swap 50m -- sh -c 'sh -c "tail -n1 /dev/zero"; echo goes on' 2>/dev/null
        [137]
        $ hull cgroup run --memory 100m -- sh -c 'exit 7'
        [7]
        "#,
    );
}

#[test]
fn limits_and_what_it_took() {
    Daemon::start().session(
        r#"
        $ hull cgroup run --stat --memory 100m -- head -c 20m /dev/zero 2>&1 >/dev/null | grep -E '^memory.(peak|max)' | sed 's/peak .*/peak some/'
        memory.peak some
        memory.max      100MiB
        $ hull cgroup run --pids 10 -- bash -c 'for i in $(seq 30); do sleep 1 & done; wait' 2>&1 | grep -qi 'fork\|resource'
        $ hull cgroup run --cpus 0.5 --stat -- true 2>&1 | grep cpu.max
        cpu.max         0.5
        $ hull cgroup run --cpus 0 -- true 2>&1 | head -n 1
        hull: --cpus 0: it is a number of processors from 0.01 on
        $ hull cgroup run --memory 1k -- true 2>&1 | head -n 1
        hull: --memory 1024: less than a page of memory, 4096 bytes: no program begins with that; 100m is a hundred megabytes
        $ hull cgroup run --memory 100m --memory-swap 50m -- true 2>&1 | head -n 1
        hull: --memory-swap 52428800: it is memory and swap together, so not less than --memory
        $ hull cgroup run --io /dev/null:rbps=1m -- true 2>&1 | head -n 1
        hull: --io /dev/null:rbps=1m: /dev/null is no block device
        $ hull cgroup run -- nope 2>/dev/null
        [127]
        $ hull cgroup run -- sh -c 'sleep 300 & exit 0'
        "#,
    );
}

#[test]
fn nothing_is_left_of_a_program_whose_parent_was_killed() {
    let daemon = Daemon::start();
    let mut parent = daemon.client(&["cgroup", "run", "--", "sh", "-c", "sleep 300 & echo ready; wait"]);
    let mut parent = parent.stdout(std::process::Stdio::piped()).spawn().expect("the client is executed");
    let name = format!("hull-run-*-{}", parent.id());
    let mut line = String::new();
    let mut output = std::io::BufReader::new(parent.stdout.take().expect("a pipe"));
    std::io::BufRead::read_line(&mut output, &mut line).expect("a line");
    let find = || daemon.command("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &name]).output();
    assert!(!find().expect("find").stdout.is_empty(), "the cgroup is there while the program runs");
    parent.kill().and_then(|()| parent.wait()).expect("it is killed");
    // The program dies with its parent; the next one takes away what that had started, and the cgroup.
    daemon.ok(&["cgroup", "run", "--", "true"]);
    assert!(find().expect("find").stdout.is_empty(), "nothing is left");
    line.clear();
    std::io::BufRead::read_line(&mut output, &mut line).expect("the pipe's end: nobody holds it any more");
}

#[test]
fn the_tree_and_one_of_it() {
    Daemon::start().session(
        r#"
        $ hull run -d --name small --memory 64m --pids-limit 50 --cpus 0.5 busybox sleep 600
        <id>
        $ hull cgroup tree | grep ' small ' | grep -o '/ 64MiB\|/ 0.5\|/ 50' | tr '\n' ' '
        / 64MiB / 0.5 / 50 
        $ hull cgroup tree --json | jq -c '[.. | objects | select(.name? == "small")][0] | [.memory.max, .memory.current > 0, .pids.max, .cpu.max]'
        [67108864,true,50,0.5]
        $ hull cgroup show small --json | jq -c '[.memory.current > 0, .memory.peak >= .memory.current, .cpu.max]'
        [true,true,0.5]
        $ hull cgroup show small | grep -E '^(memory|cpu|pids).max'
        memory.max      64MiB
        cpu.max         0.5
        pids.max        50
        $ hull cgroup show "$(hull inspect -f '{{.State.Pid}}' small)" | grep memory.max
        memory.max      64MiB
        $ hull cgroup tree --watch | grep -m 2 -c '^/ '
        2
        $ hull cgroup show nobody
        nobody: no such container
        [125]
        "#,
    );
}
