//! Which devices the processes of a cgroup may open and make: rules of the configuration, written one by one
//! on v1, compiled to an eBPF program on v2.

use std::os::fd::AsFd;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::figures::Folders as _;
use super::{Cgroup, files, open_folder};
use crate::error::Context;
use crate::{Result, sys};

/// One rule; a later one is stronger than an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `b`, `c`, or `a` for both.
    kind: char,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

/// What every container's own `/dev` needs, allowed wherever the rules begin with forbidding everything:
/// making device files, the default devices, and terminals.
const OWN: [(char, Option<u32>, Option<u32>, u32); 11] = [
    ('c', None, None, MKNOD),
    ('b', None, None, MKNOD),
    ('c', Some(1), Some(3), ALL),
    ('c', Some(1), Some(5), ALL),
    ('c', Some(1), Some(7), ALL),
    ('c', Some(1), Some(8), ALL),
    ('c', Some(1), Some(9), ALL),
    ('c', Some(5), Some(0), ALL),
    ('c', Some(5), Some(1), ALL),
    ('c', Some(5), Some(2), ALL),
    ('c', Some(136), None, ALL),
];

impl Rule {
    fn of(rule: &LinuxDeviceCgroup) -> Rule {
        let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        let access = rule.access().as_deref().unwrap_or("rwm").chars().fold(0, |access, letter| {
            access
                | match letter {
                    'm' => MKNOD,
                    'r' => READ,
                    'w' => WRITE,
                    _ => 0,
                }
        });
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => 'b',
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
            _ => 'a',
        };
        Rule { allow: rule.allow(), kind, major: number(rule.major()), minor: number(rule.minor()), access }
    }

    fn is_everything(&self) -> bool {
        self.kind == 'a' && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }

    /// As the v1 files take it.
    fn line(&self) -> String {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.letters())
    }

    fn letters(&self) -> String {
        let all = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
        all.into_iter().filter(|(bit, _)| self.access & bit != 0).map(|(_, letter)| letter).collect()
    }

    /// Its devices as systemd names them. One of a driver that is not there cannot be used anyway.
    fn for_systemd(&self, drivers: &str) -> Vec<String> {
        let kinds: &[(char, &str)] = match self.kind {
            'c' => &[('c', "char")],
            'b' => &[('b', "block")],
            _ => &[('c', "char"), ('b', "block")],
        };
        let name = |&(kind, word): &(char, &str)| match (self.major, self.minor) {
            (None, _) => Some(format!("{word}-*")),
            (Some(major), Some(minor)) => Some(format!("/dev/{word}/{major}:{minor}")),
            (Some(major), None) => driver(drivers, kind, major).map(|driver| format!("{word}-{driver}")),
        };
        kinds.iter().filter_map(name).collect()
    }
}

/// All rules: the configuration's, and what a container's own `/dev` needs right after all was forbidden.
fn complete(rules: &[LinuxDeviceCgroup]) -> Vec<Rule> {
    let mut complete = Vec::with_capacity(rules.len() + OWN.len());
    for rule in rules.iter().map(Rule::of) {
        complete.push(rule);
        if rule.is_everything() && !rule.allow {
            let own = |&(kind, major, minor, access)| Rule { allow: true, kind, major, minor, access };
            complete.extend(OWN.iter().map(own));
        }
    }
    // What a new cgroup of an unrestricted parent begins with need not be said.
    while complete.first().is_some_and(|rule| rule.is_everything() && rule.allow) {
        complete.remove(0);
    }
    complete
}

/// The rules as systemd takes them (`DeviceAllow=`): devices with how they may be used, all others being forbidden. None
/// where all are allowed; what is forbidden besides is in the cgroup's own rules alone.
pub(crate) fn for_systemd(rules: &[LinuxDeviceCgroup]) -> Option<Vec<(String, String)>> {
    let mut allowed: Option<Vec<Rule>> = None;
    for rule in complete(rules) {
        match &mut allowed {
            _ if rule.is_everything() => allowed = (!rule.allow).then(Vec::new),
            Some(allowed) if rule.allow => allowed.push(rule),
            Some(allowed) => allowed.retain(|other| Rule { allow: false, ..*other } != rule),
            None => {}
        }
    }
    let drivers = std::fs::read_to_string("/proc/devices").unwrap_or_default();
    let named =
        |rule: Rule| rule.for_systemd(&drivers).into_iter().map(move |device| (device, rule.letters()));
    allowed.map(|allowed| allowed.into_iter().flat_map(named).collect())
}

/// The name of a driver in `/proc/devices`.
fn driver(drivers: &str, kind: char, major: u32) -> Option<&str> {
    let (character, block) = drivers.split_once("Block devices:")?;
    let lines = if kind == 'c' { character } else { block }.lines();
    let mut pairs = lines.filter_map(|line| line.trim().split_once(' '));
    pairs.find(|(number, _)| number.parse() == Ok(major)).map(|(_, name)| name.trim())
}

/// Sets the rules of a new cgroup.
pub(super) fn set(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    let rules = complete(rules);
    if rules.is_empty() {
        return Ok(());
    }
    if let Some(folder) = cgroup.v1("devices") {
        for rule in &rules {
            let file = folder.join(if rule.allow { "devices.allow" } else { "devices.deny" });
            let line = if rule.is_everything() { "a".to_owned() } else { rule.line() };
            files::write(&file, &line).context(|| format!("write {line:?} to {}", file.display()))?;
        }
        return Ok(());
    }
    let Some(folder) = cgroup.unified() else { return Ok(()) };
    let doing = || format!("set the device rules of {}", folder.display());
    let program = sys::load_device_program(&compile(&rules)).context(doing)?;
    let folder = open_folder(&folder)?;
    sys::attach_device_program(folder.as_fd(), program.as_fd()).context(doing)
}

/// eBPF opcodes, as far as they are used here; all compare 32 bits.
mod op {
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE: u8 = 0xb4;
    pub(super) const MOVE_REGISTER: u8 = 0xbc;
    pub(super) const AND: u8 = 0x54;
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    pub(super) const JUMP_IF_NOT: u8 = 0x56;
    pub(super) const JUMP_IF_NOT_REGISTER: u8 = 0x5e;
    pub(super) const JUMP_IF: u8 = 0x16;
    pub(super) const EXIT: u8 = 0x95;
}

fn instruction(op: u8, to: u8, from: u8, offset: i16, value: u32) -> u64 {
    u64::from(op)
        | u64::from(to & 0xf) << 8
        | u64::from(from & 0xf) << 12
        | u64::from(offset as u16) << 16
        | u64::from(value) << 32
}

/// A program that returns 1 for an access that is allowed. The kernel passes `bpf_cgroup_dev_ctx`: access and
/// type in one word, major, minor. The strongest rule, the last, is asked first; what no rule speaks of is
/// allowed, as in the v1 hierarchy's root.
fn compile(rules: &[Rule]) -> Vec<u64> {
    const KIND: u8 = 2;
    const ACCESS: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    const SCRATCH: u8 = 6;
    let mut program = vec![
        instruction(op::LOAD_WORD, KIND, 1, 0, 0),
        instruction(op::MOVE_REGISTER, ACCESS, KIND, 0, 0),
        instruction(op::AND, KIND, 0, 0, 0xffff),
        instruction(op::SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(op::LOAD_WORD, MAJOR, 1, 4, 0),
        instruction(op::LOAD_WORD, MINOR, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        // Each test jumps to the next rule when it fails; the jumps are patched when its length is known.
        let mut block: Vec<(u8, u8, u8, u32, bool)> = Vec::new();
        match rule.kind {
            'b' => block.push((op::JUMP_IF_NOT, KIND, 0, 1, true)),
            'c' => block.push((op::JUMP_IF_NOT, KIND, 0, 2, true)),
            _ => {}
        }
        if rule.access != ALL {
            block.push((op::MOVE_REGISTER, SCRATCH, ACCESS, 0, false));
            block.push((op::AND, SCRATCH, 0, rule.access, false));
            if rule.allow {
                // All of what is asked for must be allowed,
                block.push((op::JUMP_IF_NOT_REGISTER, SCRATCH, ACCESS, 0, true));
            } else {
                // and any of it may be forbidden.
                block.push((op::JUMP_IF, SCRATCH, 0, 0, true));
            }
        }
        if let Some(major) = rule.major {
            block.push((op::JUMP_IF_NOT, MAJOR, 0, major, true));
        }
        if let Some(minor) = rule.minor {
            block.push((op::JUMP_IF_NOT, MINOR, 0, minor, true));
        }
        let answer =
            [instruction(op::MOVE, 0, 0, 0, u32::from(rule.allow)), instruction(op::EXIT, 0, 0, 0, 0)];
        let length = block.len() + answer.len();
        let ends = block.is_empty();
        for (index, (op, to, from, value, jumps)) in block.into_iter().enumerate() {
            let offset = if jumps { (length - index - 1) as i16 } else { 0 };
            program.push(instruction(op, to, from, offset, value));
        }
        program.extend(answer);
        if ends {
            // A rule for everything: nothing after it is reached, and the verifier refuses dead code.
            return program;
        }
    }
    program.push(instruction(op::MOVE, 0, 0, 0, 1));
    program.push(instruction(op::EXIT, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn lines_of_v1() {
        let rules = complete(&rules(
            r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]"#,
        ));
        assert_eq!(rules.len(), 2 + OWN.len());
        assert!(rules[0].is_everything() && !rules[0].allow);
        assert_eq!(rules[1].line(), "c *:* m");
        assert_eq!(rules.last().unwrap().line(), "c 10:229 rw");
        assert_eq!(complete(&self::rules(r#"[{"allow": true, "access": "rwm"}]"#)), []);
    }

    #[test]
    fn the_program_is_taken_by_the_kernel_and_answers() {
        let forbidding = complete(&rules(
            r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]"#,
        ));
        sys::load_device_program(&compile(&forbidding)).unwrap();
        // Ends with what no rule speaks of.
        let open = complete(&rules(r#"[{"allow": false, "type": "b", "access": "w"}]"#));
        sys::load_device_program(&compile(&open)).unwrap();
    }
}
