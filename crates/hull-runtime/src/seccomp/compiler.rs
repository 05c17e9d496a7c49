//! From rules to classic BPF. A section for each architecture; in it a binary search over the numbers, cut
//! into ranges that share what happens to them; at its leaves the comparisons of arguments.

use std::collections::BTreeMap;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};

use super::rules::{Action, Comparison, Condition, Rule};
use super::{Architecture, numbers};
use crate::{Error, Result};

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The bit that an x32 program sets in the number of a call.
const X32_BIT: u32 = 0x4000_0000;

/// The longest program that the kernel takes.
const PROGRAM_MAX: usize = 4096;

/// The rules for one architecture.
pub(super) struct Section {
    pub(super) architecture: Architecture,
    /// Whether x86_64's section is for x32 as well.
    pub(super) with_x32: bool,
    /// The first that fits a call decides.
    pub(super) rules: Vec<Rule>,
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_K | code) as u16, jt, jf, k }
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn answer(action: Action) -> sock_filter {
    statement(BPF_RET | BPF_K, action.code())
}

fn skip(instructions: usize) -> sock_filter {
    statement(BPF_JMP | BPF_JA, instructions as u32)
}

/// Compiles sections; `otherwise` happens to what no rule fits. An architecture without a section is killed:
/// its numbers mean other calls.
pub(super) fn compile(sections: &[Section], otherwise: Action) -> Result<Vec<sock_filter>> {
    let mut program = vec![load(ARCHITECTURE)];
    for section in sections {
        let body = section_body(section, otherwise)?;
        program.push(jump(BPF_JEQ, section.architecture.audit(), 1, 0));
        program.push(skip(body.len()));
        program.extend(body);
    }
    program.push(answer(Action::KillProcess));
    if program.len() > PROGRAM_MAX {
        let advice = format!("it needs {} instructions and the kernel takes {PROGRAM_MAX}", program.len());
        return Err(Error::refused("compile the seccomp profile", advice));
    }
    Ok(program)
}

fn section_body(section: &Section, otherwise: Action) -> Result<Vec<sock_filter>> {
    let mut body = vec![load(NUMBER)];
    if section.architecture == Architecture::X86_64 {
        if section.with_x32 {
            body.push(statement(BPF_ALU | BPF_AND | BPF_K, !X32_BIT));
        } else {
            body.push(jump(BPF_JGE, X32_BIT, 0, 1));
            body.push(answer(Action::KillProcess));
        }
    }
    let ranges = ranges(section, otherwise);
    body.extend(search(&ranges, otherwise));
    Ok(body)
}

/// What happens to a call, as far as its number says.
type Leaf = Vec<(Action, Vec<Condition>)>;

/// The first number of each range, and what happens from there on. Where the profile denies with an errno,
/// what it cannot have known does not exist: numbers above all that it names, and those that no call has.
fn ranges(section: &Section, otherwise: Action) -> Vec<(u32, Leaf)> {
    let architecture = section.architecture;
    let with_x32 = section.with_x32 && architecture == Architecture::X86_64;
    let mut known: BTreeMap<u32, Leaf> = BTreeMap::new();
    let mut highest = 0;
    for rule in &section.rules {
        let native = numbers::number(architecture, &rule.name);
        highest = highest.max(native.unwrap_or(0));
        let x32 = numbers::x32_number(&rule.name).filter(|_| with_x32);
        for number in native.into_iter().chain(x32) {
            known.entry(number).or_default().push((rule.action, rule.conditions.clone()));
        }
    }
    for leaf in known.values_mut() {
        simplify(leaf, otherwise);
    }
    let denied = || vec![(otherwise, Vec::new())];
    for number in numbers::all(architecture).filter(|number| *number <= highest) {
        known.entry(number).or_insert_with(denied);
    }
    for number in numbers::all_x32().filter(|_| with_x32) {
        known.entry(number).or_insert_with(denied);
    }
    let unknown = match otherwise {
        Action::Errno(_) => Action::Errno(libc::ENOSYS as u16),
        other => other,
    };
    let mut ranges: Vec<(u32, Leaf)> = Vec::new();
    let mut push = |number: u32, leaf: Leaf| {
        if ranges.last().is_none_or(|(_, last)| *last != leaf) {
            ranges.push((number, leaf));
        }
    };
    let mut next = 0;
    for (number, leaf) in known {
        if number > next {
            push(next, vec![(unknown, Vec::new())]);
        }
        push(number, leaf);
        next = number + 1;
    }
    push(next, vec![(unknown, Vec::new())]);
    ranges
}

/// A rule without conditions stands for the call as a whole, wherever it is in the list; without one, what
/// happens otherwise comes last.
fn simplify(leaf: &mut Leaf, otherwise: Action) {
    match leaf.iter().find(|(_, conditions)| conditions.is_empty()) {
        Some(whole) => *leaf = vec![whole.clone()],
        None => leaf.push((otherwise, Vec::new())),
    }
}

/// The number is in the accumulator. A binary search whose leaves are shared: the kernel translates each instruction at
/// each start of a container, which costs about 0.16 µs.
fn search(ranges: &[(u32, Leaf)], otherwise: Action) -> Vec<sock_filter> {
    let mut tree = Tree::default();
    let entry = tree.node(ranges, otherwise);
    tree.begin_at(entry);
    tree.code.reverse();
    tree.code
}

/// The farthest that a conditional jump reaches, less the instructions that may come between it and its targets.
const REACH: usize = 253;

/// Code that is written from its end to its beginning, for jumps only go forward: what is jumped to is there already.
#[derive(Default)]
struct Tree {
    /// The last instruction comes first.
    code: Vec<sock_filter>,
    /// Where each answer was written last.
    answers: Vec<(Action, usize)>,
}

impl Tree {
    /// Writes what decides between the ranges; where that begins.
    fn node(&mut self, ranges: &[(u32, Leaf)], otherwise: Action) -> usize {
        let (lower, upper) = match ranges {
            [] => return self.answer(otherwise),
            [(_, leaf)] => return self.leaf(leaf),
            _ => ranges.split_at(ranges.len() / 2),
        };
        let (if_at_least, if_less) = (self.node(upper, otherwise), self.node(lower, otherwise));
        let if_at_least = self.near(if_at_least);
        let if_less = self.near(if_less);
        let (over, under) = (self.distance(if_at_least) as u8, self.distance(if_less) as u8);
        self.write(jump(BPF_JGE, upper[0].0, over, under))
    }

    fn leaf(&mut self, leaf: &Leaf) -> usize {
        if let [(action, conditions)] = leaf.as_slice()
            && conditions.is_empty()
        {
            return self.answer(*action);
        }
        self.code.extend(decide(leaf).into_iter().rev());
        self.code.len() - 1
    }

    /// An answer that is near enough already, or a new one.
    fn answer(&mut self, action: Action) -> usize {
        let known = self.answers.iter().position(|(known, _)| *known == action);
        match known {
            Some(index) if self.distance(self.answers[index].1) < REACH => self.answers[index].1,
            _ => {
                let at = self.write(answer(action));
                self.answers.retain(|(known, _)| *known != action);
                self.answers.push((action, at));
                at
            }
        }
    }

    fn write(&mut self, instruction: sock_filter) -> usize {
        self.code.push(instruction);
        self.code.len() - 1
    }

    /// How many instructions the next one would have to jump over.
    fn distance(&self, target: usize) -> usize {
        self.code.len() - target - 1
    }

    /// A place within reach that leads to `target`: itself, or an unconditional jump, which reaches everything.
    fn near(&mut self, target: usize) -> usize {
        let distance = self.distance(target);
        if distance < REACH { target } else { self.write(skip(distance)) }
    }

    /// The first instruction is that at `entry`, or leads to it.
    fn begin_at(&mut self, entry: usize) {
        let distance = self.distance(entry);
        if distance > 0 {
            self.write(skip(distance));
        }
    }
}

fn decide(leaf: &Leaf) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for (action, conditions) in leaf {
        // Backwards: each condition that fails jumps over what follows of this rule.
        let mut block = vec![answer(*action)];
        for condition in conditions.iter().rev() {
            let mut test = compare(condition, block.len());
            test.extend(block);
            block = test;
        }
        code.extend(block);
    }
    code
}

/// Falls through when the condition holds, and jumps over `rest` more instructions when it does not. The
/// halves of the argument are compared one after the other: both kinds of machine are little-endian.
fn compare(condition: &Condition, rest: usize) -> Vec<sock_filter> {
    let low = ARGUMENTS + 8 * u32::from(condition.argument);
    let high = low + 4;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    // At most six conditions of at most six instructions each, and an answer.
    let rest = rest as u8;
    match condition.comparison {
        Comparison::Equal(value) => {
            let (value_high, value_low) = halves(value);
            vec![
                load(high),
                jump(BPF_JEQ, value_high, 0, rest + 2),
                load(low),
                jump(BPF_JEQ, value_low, 0, rest),
            ]
        }
        Comparison::NotEqual(value) => {
            let (value_high, value_low) = halves(value);
            vec![load(high), jump(BPF_JEQ, value_high, 0, 2), load(low), jump(BPF_JEQ, value_low, rest, 0)]
        }
        Comparison::Masked { mask, value } => {
            let ((mask_high, mask_low), (value_high, value_low)) = (halves(mask), halves(value));
            let and = |mask| statement(BPF_ALU | BPF_AND | BPF_K, mask);
            vec![
                load(high),
                and(mask_high),
                jump(BPF_JEQ, value_high, 0, rest + 3),
                load(low),
                and(mask_low),
                jump(BPF_JEQ, value_low, 0, rest),
            ]
        }
        Comparison::Greater(value) => ordered(low, value, BPF_JGT, true, rest),
        Comparison::GreaterOrEqual(value) => ordered(low, value, BPF_JGE, true, rest),
        Comparison::Less(value) => ordered(low, value, BPF_JGE, false, rest),
        Comparison::LessOrEqual(value) => ordered(low, value, BPF_JGT, false, rest),
    }
}

/// Holds when the low half fulfils `code` against the value as `wanted`, or the high half has decided so: a
/// greater one for "greater" (`wanted`), a smaller one for "less".
fn ordered(low: u32, value: u64, code: u32, wanted: bool, rest: u8) -> Vec<sock_filter> {
    let (value_high, value_low) = ((value >> 32) as u32, value as u32);
    // Over what is left of these five instructions, and over `rest` as well where the condition fails.
    let (if_greater, if_smaller) = if wanted { (3, rest + 2) } else { (rest + 3, 2) };
    let (if_fulfilled, if_not) = if wanted { (0, rest) } else { (rest, 0) };
    vec![
        load(low + 4),
        jump(BPF_JGT, value_high, if_greater, 0),
        jump(BPF_JEQ, value_high, 0, if_smaller),
        load(low),
        jump(code, value_low, if_fulfilled, if_not),
    ]
}
