//! The built-in profile against Docker's, and programs against a model and the kernel. Needs root.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::rules::{Comparison, Condition};
use super::*;

const ALL: [Capability; 12] = [
    Capability::DacReadSearch,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::SysNice,
    Capability::Syslog,
];

/// For each call what happens to it under which conditions, independent of the order of rules.
type Meaning = BTreeMap<String, BTreeSet<String>>;

fn meaning_of(rules: impl IntoIterator<Item = rules::Rule>, architecture: Architecture) -> Meaning {
    let mut meaning = Meaning::new();
    for rule in rules {
        if numbers::number(architecture, &rule.name).is_some() {
            let what = format!("{:?} {:?}", rule.action, rule.conditions);
            meaning.entry(rule.name).or_default().insert(what);
        }
    }
    // A rule for the whole call makes those on its arguments idle.
    for what in meaning.values_mut() {
        if what.contains("Allow []") {
            what.retain(|rule| rule == "Allow []");
        }
    }
    meaning
}

/// Docker's profile as the engine would hand it to a runtime, for an architecture and capabilities.
fn docker(profile: &Value, architecture: &str, capabilities: &[Capability]) -> Vec<rules::Rule> {
    let names: Vec<String> = capabilities.iter().map(|capability| format!("CAP_{capability}")).collect();
    let holds = |condition: &Value, any: bool| {
        let list = |key: &str| condition[key].as_array().cloned().unwrap_or_default();
        let has = |capability: &Value| names.iter().any(|name| *name == capability.as_str().unwrap());
        let (caps, arches) = (list("caps"), list("arches"));
        if any {
            caps.iter().any(has) || arches.iter().any(|name| name == architecture)
        } else {
            caps.iter().all(has) && (arches.is_empty() || arches.iter().any(|name| name == architecture))
        }
    };
    let chosen = profile["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| holds(&entry["includes"], false) && !holds(&entry["excludes"], true));
    chosen.flat_map(|entry| rules::of(&serde_json::from_value(entry.clone()).unwrap()).unwrap()).collect()
}

#[test]
fn the_profile_means_what_docker_s_does() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/seccomp/docker-default.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("left out: {} is not there", path.display());
        return;
    };
    let profile: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&profile["defaultAction"], &profile["defaultErrnoRet"]),
        (&"SCMP_ACT_ERRNO".into(), &1.into())
    );
    let mut sets: Vec<Vec<Capability>> = ALL.iter().map(|capability| vec![*capability]).collect();
    sets.extend([Vec::new(), ALL.to_vec(), vec![Capability::Bpf], vec![Capability::Perfmon]]);
    for (architecture, name) in [(Architecture::X86_64, "amd64"), (Architecture::Aarch64, "arm64")] {
        for set in &sets {
            let ours = meaning_of(profile::rules(architecture, set), architecture);
            let theirs = meaning_of(docker(&profile, name, set), architecture);
            for call in ours.keys().chain(theirs.keys()) {
                assert_eq!(ours.get(call), theirs.get(call), "{call} on {name} with {set:?}");
            }
        }
    }
}

/// As a profile of one's own, Docker's gives the verdicts of the built-in one: each call of this machine, with arguments
/// on either side of all that is compared.
#[test]
fn docker_s_profile_as_ones_own_gives_the_same_verdicts() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/seccomp/docker-default.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("left out: {} is not there", path.display());
        return;
    };
    let native = Architecture::native().unwrap();
    let arguments =
        [0, 1, 8, 37, 38, 39, 40, 41, 0x1_0000, 0x2_0000, 0x2_0008, 0x7e02_0000, 0xffff_ffff, u64::MAX];
    for set in [Vec::new(), vec![Capability::SysChroot], vec![Capability::SysAdmin], ALL.to_vec()] {
        let profile = of_docker(&text, &set.iter().copied().collect()).unwrap().unwrap();
        let theirs = compile(&profile).unwrap();
        let ours = build_default(&set).unwrap();
        for architecture in [Some(native), native.below()].into_iter().flatten() {
            let x32 = 0x4000_0000..0x4000_0250;
            for number in (0..600).chain(x32.filter(|_| architecture == Architecture::X86_64)) {
                for argument in arguments {
                    let verdict = |filter: &Filter| {
                        run(&filter.program, architecture.audit(), number, [argument, 0, 0, 0, 0, 0])
                    };
                    let (ours, theirs) = (verdict(&ours), verdict(&theirs));
                    assert_eq!(ours, theirs, "{architecture:?} {number:#x}({argument:#x}) with {set:?}");
                }
            }
        }
    }
}

#[test]
fn every_name_of_the_profile_is_a_call() {
    // The one call of an architecture for which there is no table.
    for rule in profile::rules(Architecture::X86_64, &ALL) {
        assert!(numbers::is_known(&rule.name) || rule.name == "riscv_hwprobe", "{}", rule.name);
    }
}

/// A machine for the few instructions that the compiler uses.
fn run(program: &[libc::sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [0u8; 64];
    data[..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&architecture.to_le_bytes());
    for (index, argument) in arguments.iter().enumerate() {
        data[16 + 8 * index..24 + 8 * index].copy_from_slice(&argument.to_le_bytes());
    }
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let libc::sock_filter { code, jt, jf, k } = program[at];
        at += 1;
        let over = |holds: bool| usize::from(if holds { jt } else { jf });
        match u32::from(code) {
            0x20 => accumulator = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += over(accumulator == k),
            0x25 => at += over(accumulator > k),
            0x35 => at += over(accumulator >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// What a comparison of an argument with a value should say.
type Model = fn(u64, u64) -> bool;

#[test]
fn comparisons_hold_where_they_should() {
    let values = [0, 1, 7, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0007, u64::MAX - 1, u64::MAX];
    for value in values {
        let comparisons: [(Comparison, Model); 7] = [
            (Comparison::NotEqual(value), |a, b| a != b),
            (Comparison::Less(value), |a, b| a < b),
            (Comparison::LessOrEqual(value), |a, b| a <= b),
            (Comparison::Equal(value), |a, b| a == b),
            (Comparison::GreaterOrEqual(value), |a, b| a >= b),
            (Comparison::Greater(value), |a, b| a > b),
            (Comparison::Masked { mask: 0x1_0000_0007, value: value & 0x1_0000_0007 }, |a, b| {
                a & 0x1_0000_0007 == b & 0x1_0000_0007
            }),
        ];
        for (comparison, model) in comparisons {
            // Behind another condition, so that a failing one has something to jump over.
            let conditions = vec![
                Condition { argument: 0, comparison: Comparison::Equal(5) },
                Condition { argument: 3, comparison },
            ];
            let rules = vec![rules::Rule { name: "read".into(), action: Action::Allow, conditions }];
            let section = Section { architecture: Architecture::X86_64, with_x32: false, rules };
            let program = compiler::compile(&[section], Action::Errno(1)).unwrap();
            for argument in values {
                let answer = run(&program, Architecture::X86_64.audit(), 0, [5, 0, 0, argument, 0, 0]);
                let expected = if model(argument, value) { Action::Allow } else { Action::Errno(1) };
                assert_eq!(answer, expected.code(), "{comparison:?} with {argument:#x}");
                let other = run(&program, Architecture::X86_64.audit(), 0, [6, 0, 0, argument, 0, 0]);
                assert_eq!(other, Action::Errno(1).code());
            }
        }
    }
}

#[test]
fn every_number_of_every_architecture_gets_its_answer() {
    for architecture in [Architecture::X86_64, Architecture::X86, Architecture::Aarch64, Architecture::Arm] {
        let rules = profile::rules(architecture, &[]);
        let highest =
            rules.iter().filter_map(|rule| numbers::number(architecture, &rule.name)).max().unwrap();
        let section = Section { architecture, with_x32: true, rules: rules.clone() };
        let program = compiler::compile(&[section], Action::Errno(1)).unwrap();
        let x32 = architecture == Architecture::X86_64;
        let mut denied: BTreeSet<u32> =
            numbers::all(architecture).filter(|number| *number <= highest).collect();
        denied.extend(numbers::all_x32().filter(|_| x32));
        for number in (0..1000).chain([highest, highest + 1, 0x3fff_ffff]) {
            let by_number = |rule: &&rules::Rule| {
                let x32 = numbers::x32_number(&rule.name).filter(|_| x32);
                numbers::number(architecture, &rule.name) == Some(number) || x32 == Some(number)
            };
            let rule = rules.iter().find(by_number);
            if rule.is_some_and(|rule| !rule.conditions.is_empty()) {
                continue;
            }
            let expected = match rule {
                Some(rule) => rule.action,
                None if denied.contains(&number) => Action::Errno(1),
                None => Action::Errno(libc::ENOSYS as u16),
            };
            let answer = run(&program, architecture.audit(), number, [0; 6]);
            assert_eq!(answer, expected.code(), "{architecture:?} {number}");
        }
        assert_eq!(run(&program, 0xdead, 0, [0; 6]), Action::KillProcess.code());
    }
}

#[test]
fn profiles_of_the_specification() {
    let parse = |json: &str| serde_json::from_str::<LinuxSeccomp>(json).unwrap();
    let filter = compile(&parse(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS", "args": [
                {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 15, "op": "SCMP_CMP_EQ"}]},
            {"names": ["ptrace"], "action": "SCMP_ACT_TRAP"}, {"names": ["reboot"], "action": "SCMP_ACT_LOG"}]}"#,
    ))
    .unwrap();
    let native = Architecture::native().unwrap();
    let answer = |name: &str, argument: u64| {
        run(
            &filter.program,
            native.audit(),
            numbers::number(native, name).unwrap(),
            [0, argument, 0, 0, 0, 0],
        )
    };
    if native == Architecture::X86_64 {
        assert_eq!(answer("mkdir", 0), Action::Errno(28).code());
        assert_eq!(run(&filter.program, native.audit(), 0x4000_0000, [0; 6]), Action::KillProcess.code());
    }
    // Two conditions on one argument are alternatives.
    assert_eq!(
        [9, 15, 1].map(|signal| answer("kill", signal)),
        [Action::KillProcess.code(), Action::KillProcess.code(), Action::Allow.code()]
    );
    assert_eq!((answer("ptrace", 0), answer("reboot", 0)), (Action::Trap.code(), Action::Log.code()));
    assert_eq!(run(&filter.program, native.audit(), 4000, [0; 6]), Action::Allow.code());
    for refused in [
        r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    ] {
        assert!(compile(&parse(refused)).is_err(), "{refused}");
    }
}

#[test]
fn the_kernel_does_as_the_filter_says() {
    let filter = default_filter(&[]).unwrap();
    // SAFETY: the child makes plain system calls only and ends by _exit.
    let status = unsafe {
        let pid = libc::fork();
        if pid == 0 {
            if filter.install().is_err() {
                libc::_exit(100);
            }
            let errno = |result: libc::c_long| if result < 0 { *libc::__errno_location() } else { 0 };
            let tried = [
                (libc::syscall(libc::SYS_getpid), 0),
                (libc::syscall(libc::SYS_unshare, 0), libc::EPERM),
                (libc::syscall(libc::SYS_clone3, 0, 0), libc::ENOSYS),
                (libc::syscall(libc::SYS_clone, libc::CLONE_NEWNET, 0, 0, 0, 0), libc::EPERM),
                (libc::syscall(libc::SYS_keyctl, 0), libc::EPERM),
                (libc::syscall(3000), libc::ENOSYS),
                (libc::syscall(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0), libc::EPERM),
                (libc::syscall(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0), 0),
            ];
            // The errno of each is that of the last, so each is looked at by itself below.
            for (index, (result, expected)) in tried.iter().enumerate() {
                if (*result < 0) != (*expected != 0) {
                    libc::_exit(index as i32 + 1);
                }
            }
            if errno(libc::syscall(libc::SYS_unshare, 0)) != libc::EPERM {
                libc::_exit(50);
            }
            if errno(libc::syscall(libc::SYS_clone3, 0, 0)) != libc::ENOSYS {
                libc::_exit(51);
            }
            if errno(libc::syscall(3000)) != libc::ENOSYS {
                libc::_exit(52);
            }
            libc::_exit(0);
        }
        let mut status = 0;
        libc::waitpid(pid, &raw mut status, 0);
        status
    };
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
}

#[test]
fn the_profile_is_short() {
    let filter = super::build_default(&[Capability::SysChroot]).expect("a known machine");
    assert!(filter.program.len() < 350, "{} instructions", filter.program.len());
}
