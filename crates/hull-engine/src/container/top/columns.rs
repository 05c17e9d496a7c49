//! The columns of `ps`, read from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// So much of a command line is shown, in bytes.
const COMMAND_MAX: u64 = 128 << 10;

/// Clock ticks in a second, as the kernel shows them: the same on every machine.
const TICKS: u64 = 100;

/// What the columns need of the machine.
pub(super) struct Machine {
    /// When it started, in seconds since 1970.
    booted: i64,
    /// Seconds since then.
    uptime: f64,
    /// Bytes.
    memory: u64,
    now: i64,
    zone: TimeZone,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Machine {
    pub(super) fn read() -> io::Result<Machine> {
        let stat = fs::read_to_string("/proc/stat")?;
        let booted = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        let uptime = fs::read_to_string("/proc/uptime")?;
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let memory = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let memory = memory.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        // A machine without these files has numbers for names.
        let names = |path: &str| fs::read_to_string(path).map(|text| names(&text)).unwrap_or_default();
        Ok(Machine {
            booted: booted.unwrap_or(0),
            uptime: uptime.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0),
            memory: memory.unwrap_or(0) * 1024,
            now: Timestamp::now().as_second(),
            zone: TimeZone::system(),
            users: names("/etc/passwd"),
            groups: names("/etc/group"),
        })
    }
}

/// Names by number, from lines such as `name:x:0:…`.
fn names(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(Ok(id))) =
            (fields.next(), fields.next(), fields.next().map(str::parse))
        else {
            continue;
        };
        names.entry(id).or_insert_with(|| name.to_owned());
    }
    names
}

/// What `/proc` says of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pid: i32,
    command: String,
    arguments: String,
    state: char,
    parent: i32,
    group: i32,
    session: i32,
    terminal: u32,
    foreground: i32,
    /// User and kernel mode, in clock ticks.
    time: u64,
    priority: i64,
    nice: i64,
    threads: u64,
    /// Clock ticks after the machine's start.
    started: u64,
    /// Bytes.
    virtual_size: u64,
    /// KiB.
    resident: u64,
    locked_memory: bool,
    /// Real and effective.
    users: [u32; 2],
    groups: [u32; 2],
}

impl Process {
    /// Reads a process; none where it is gone.
    pub(super) fn read(pid: i32) -> Option<Process> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let mut line = Vec::new();
        fs::File::open(format!("/proc/{pid}/cmdline")).ok()?.take(COMMAND_MAX).read_to_end(&mut line).ok()?;
        Process::parse(&String::from_utf8_lossy(&stat), &String::from_utf8_lossy(&status), &line)
    }

    fn parse(stat: &str, status: &str, line: &[u8]) -> Option<Process> {
        let (pid, rest) = stat.split_once(" (")?;
        // The name may have brackets of its own: its end is the last one.
        let (command, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i64>().ok());
        let positive = |index: usize| number(index).and_then(|number| u64::try_from(number).ok());
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let ids = |key: &str| -> Option<[u32; 2]> {
            let mut ids = value(key)?.split_whitespace().map(str::parse);
            Some([ids.next()?.ok()?, ids.next()?.ok()?])
        };
        let state = fields.first()?.chars().next()?;
        let command = printable(command);
        let arguments = match (line.is_empty(), state) {
            (false, _) => {
                let end = line.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                let words = line[..end].split(|byte| *byte == 0).map(String::from_utf8_lossy);
                printable(&words.collect::<Vec<_>>().join(" "))
            }
            (true, 'Z') => format!("[{command}] <defunct>"),
            (true, _) => format!("[{command}]"),
        };
        // A process that is dead or the kernel's own has no memory.
        let kilobytes = |key: &str| {
            value(key).and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        Some(Process {
            pid: pid.parse().ok()?,
            command,
            arguments,
            state,
            parent: i32::try_from(number(1)?).ok()?,
            group: i32::try_from(number(2)?).ok()?,
            session: i32::try_from(number(3)?).ok()?,
            terminal: u32::try_from(number(4)?).ok()?,
            foreground: i32::try_from(number(5)?).ok()?,
            time: positive(11)? + positive(12)?,
            priority: number(15)?,
            nice: number(16)?,
            threads: positive(17)?,
            started: positive(19)?,
            virtual_size: positive(20)?,
            resident: kilobytes("VmRSS"),
            locked_memory: kilobytes("VmLck") > 0,
            users: ids("Uid")?,
            groups: ids("Gid")?,
        })
    }
}

/// What a terminal or a table would stumble over becomes a question mark, as in `ps`.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Pid,
    ParentPid,
    Group,
    Session,
    EffectiveUser,
    RealUser,
    EffectiveUserId,
    RealUserId,
    EffectiveGroup,
    RealGroup,
    EffectiveGroupId,
    RealGroupId,
    Command,
    Arguments,
    /// Whole percents.
    Share,
    ProcessorPercent,
    MemoryPercent,
    StartTime,
    Start,
    Terminal,
    Time,
    ShortTime,
    Elapsed,
    ElapsedSeconds,
    State,
    States,
    Resident,
    Virtual,
    Nice,
    Priority,
    Threads,
}

/// Every name that `-o` takes here: the name, its head, what it shows.
const NAMES: &[(&str, &str, Column)] = &[
    ("pid", "PID", Column::Pid),
    ("ppid", "PPID", Column::ParentPid),
    ("pgid", "PGID", Column::Group),
    ("pgrp", "PGRP", Column::Group),
    ("sid", "SID", Column::Session),
    ("sess", "SESS", Column::Session),
    ("user", "USER", Column::EffectiveUser),
    ("euser", "EUSER", Column::EffectiveUser),
    ("ruser", "RUSER", Column::RealUser),
    ("uid", "UID", Column::EffectiveUserId),
    ("euid", "EUID", Column::EffectiveUserId),
    ("ruid", "RUID", Column::RealUserId),
    ("group", "GROUP", Column::EffectiveGroup),
    ("egroup", "EGROUP", Column::EffectiveGroup),
    ("rgroup", "RGROUP", Column::RealGroup),
    ("gid", "GID", Column::EffectiveGroupId),
    ("egid", "EGID", Column::EffectiveGroupId),
    ("rgid", "RGID", Column::RealGroupId),
    ("comm", "COMMAND", Column::Command),
    ("ucmd", "CMD", Column::Command),
    ("args", "COMMAND", Column::Arguments),
    ("command", "COMMAND", Column::Arguments),
    ("cmd", "CMD", Column::Arguments),
    ("c", "C", Column::Share),
    ("pcpu", "%CPU", Column::ProcessorPercent),
    ("%cpu", "%CPU", Column::ProcessorPercent),
    ("pmem", "%MEM", Column::MemoryPercent),
    ("%mem", "%MEM", Column::MemoryPercent),
    ("stime", "STIME", Column::StartTime),
    ("start_time", "START", Column::StartTime),
    ("tty", "TT", Column::Terminal),
    ("tt", "TT", Column::Terminal),
    ("tname", "TTY", Column::Terminal),
    ("time", "TIME", Column::Time),
    ("cputime", "TIME", Column::Time),
    ("etime", "ELAPSED", Column::Elapsed),
    ("etimes", "ELAPSED", Column::ElapsedSeconds),
    ("s", "S", Column::State),
    ("state", "S", Column::State),
    ("stat", "STAT", Column::States),
    ("rss", "RSS", Column::Resident),
    ("rssize", "RSS", Column::Resident),
    ("vsz", "VSZ", Column::Virtual),
    ("vsize", "VSZ", Column::Virtual),
    ("ni", "NI", Column::Nice),
    ("nice", "NI", Column::Nice),
    ("pri", "PRI", Column::Priority),
    ("nlwp", "NLWP", Column::Threads),
    ("thcount", "THCNT", Column::Threads),
];

const FULL: &[(&str, Column)] = &[
    ("UID", Column::EffectiveUser),
    ("PID", Column::Pid),
    ("PPID", Column::ParentPid),
    ("C", Column::Share),
    ("STIME", Column::StartTime),
    ("TTY", Column::Terminal),
    ("TIME", Column::Time),
    ("CMD", Column::Arguments),
];

const BSD: &[(&str, Column)] = &[
    ("USER", Column::EffectiveUser),
    ("PID", Column::Pid),
    ("%CPU", Column::ProcessorPercent),
    ("%MEM", Column::MemoryPercent),
    ("VSZ", Column::Virtual),
    ("RSS", Column::Resident),
    ("TTY", Column::Terminal),
    ("STAT", Column::States),
    ("START", Column::Start),
    ("TIME", Column::ShortTime),
    ("COMMAND", Column::Arguments),
];

/// Which columns are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout(Vec<(&'static str, Column)>);

impl Layout {
    /// The columns of `ps` with these arguments; none: they are not among those known here.
    pub(super) fn of(ps_args: &str) -> Option<Layout> {
        let words: Vec<&str> = ps_args.split_ascii_whitespace().collect();
        let list = match words[..] {
            ["-ef" | "-f"] | ["-e", "-f"] => return Some(Layout(FULL.to_vec())),
            ["aux" | "-aux" | "u" | "axu"] => return Some(Layout(BSD.to_vec())),
            ["-eo" | "-o" | "o" | "axo", list] | ["-e", "-o", list] => list.to_owned(),
            // `-o pid -o cmd`
            _ if !words.is_empty()
                && words.len().is_multiple_of(2)
                && words.iter().step_by(2).all(|word| *word == "-o") =>
            {
                words.iter().skip(1).step_by(2).copied().collect::<Vec<_>>().join(",")
            }
            _ => match words[..] {
                // `-opid,cmd`
                [word] => word.strip_prefix("-eo").or_else(|| word.strip_prefix("-o"))?.to_owned(),
                _ => return None,
            },
        };
        let column = |name: &str| {
            NAMES.iter().find(|(known, ..)| *known == name).map(|(_, head, column)| (*head, *column))
        };
        let columns: Vec<_> = list.split(',').map(column).collect::<Option<_>>()?;
        // Without ids there is nothing to choose the rows by: `ps` and its parser say so.
        columns.iter().any(|(_, column)| *column == Column::Pid).then_some(Layout(columns))
    }

    pub(super) fn titles(&self) -> Vec<String> {
        self.0.iter().map(|(head, _)| (*head).to_owned()).collect()
    }

    pub(super) fn row(&self, process: &Process, machine: &Machine) -> Vec<String> {
        self.0.iter().map(|(_, column)| cell(*column, process, machine)).collect()
    }
}

fn cell(column: Column, process: &Process, machine: &Machine) -> String {
    let seconds = process.time / TICKS;
    let started = process.started / TICKS;
    let elapsed = (machine.uptime - process.started as f64 / TICKS as f64).max(0.0);
    // In thousandths.
    let share = if elapsed > 0.0 { process.time as f64 / TICKS as f64 * 1000.0 / elapsed } else { 0.0 };
    let tenths = |thousandths: f64| format!("{}.{}", thousandths as u64 / 10, thousandths as u64 % 10);
    match column {
        Column::Pid => process.pid.to_string(),
        Column::ParentPid => process.parent.to_string(),
        Column::Group => process.group.to_string(),
        Column::Session => process.session.to_string(),
        Column::RealUser => name(&machine.users, process.users[0]),
        Column::EffectiveUser => name(&machine.users, process.users[1]),
        Column::RealUserId => process.users[0].to_string(),
        Column::EffectiveUserId => process.users[1].to_string(),
        Column::RealGroup => name(&machine.groups, process.groups[0]),
        Column::EffectiveGroup => name(&machine.groups, process.groups[1]),
        Column::RealGroupId => process.groups[0].to_string(),
        Column::EffectiveGroupId => process.groups[1].to_string(),
        Column::Command => process.command.clone(),
        Column::Arguments => process.arguments.clone(),
        Column::Share => ((share / 10.0) as u64).min(99).to_string(),
        Column::ProcessorPercent => tenths(share),
        Column::MemoryPercent => {
            let share = process.resident.saturating_mul(1_024_000) / machine.memory.max(1);
            tenths(share.min(999) as f64)
        }
        Column::StartTime => start(machine, started, |now, then| {
            if now.year() != then.year() {
                "%Y"
            } else if now.date() != then.date() {
                "%b%d"
            } else {
                "%H:%M"
            }
        }),
        Column::Start => start(machine, started, |now, then| {
            match now.timestamp().as_second() - then.timestamp().as_second() {
                ..86_400 => "%H:%M",
                86_400..31_536_000 => "%b%d",
                _ => "%Y",
            }
        }),
        Column::Terminal => terminal(process.terminal),
        Column::Time => {
            let clock = format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
            if seconds >= 86_400 { format!("{}-{clock}", seconds / 86_400) } else { clock }
        }
        Column::ShortTime => format!("{}:{:02}", seconds / 60, seconds % 60),
        Column::Elapsed => {
            let seconds = elapsed as u64;
            match seconds {
                86_400.. => {
                    let (days, rest) = (seconds / 86_400, seconds % 86_400);
                    format!("{days}-{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
                }
                3600.. => format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
                _ => format!("{:02}:{:02}", seconds / 60, seconds % 60),
            }
        }
        Column::ElapsedSeconds => (elapsed as u64).to_string(),
        Column::State => process.state.to_string(),
        Column::States => states(process),
        Column::Resident => process.resident.to_string(),
        Column::Virtual => (process.virtual_size / 1024).to_string(),
        Column::Nice => process.nice.to_string(),
        Column::Priority => (39 - process.priority).to_string(),
        Column::Threads => process.threads.to_string(),
    }
}

/// A name, cut to eight characters, or the number where it has none.
fn name(names: &HashMap<u32, String>, id: u32) -> String {
    match names.get(&id) {
        None => id.to_string(),
        Some(name) if name.chars().count() > 8 => name.chars().take(7).chain(['+']).collect(),
        Some(name) => name.clone(),
    }
}

fn start(
    machine: &Machine,
    after_boot: u64,
    format: impl Fn(&jiff::Zoned, &jiff::Zoned) -> &'static str,
) -> String {
    let at =
        |second: i64| Timestamp::from_second(second).ok().map(|moment| moment.to_zoned(machine.zone.clone()));
    let then = machine.booted.saturating_add(i64::try_from(after_boot).unwrap_or(i64::MAX));
    match (at(machine.now), at(then)) {
        (Some(now), Some(then)) => then.strftime(format(&now, &then)).to_string(),
        _ => "?".to_owned(),
    }
}

/// A terminal by its device number.
fn terminal(device: u32) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    match (major, minor) {
        (136..=143, _) => format!("pts/{}", minor + (major - 136) * 256),
        (4, 0..64) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".to_owned(),
        _ => "?".to_owned(),
    }
}

/// The state and what else there is to say, as BSD's `ps` does.
fn states(process: &Process) -> String {
    let more = [
        ('<', process.nice < 0),
        ('N', process.nice > 0),
        ('L', process.locked_memory),
        ('s', process.session == process.pid),
        ('l', process.threads > 1),
        ('+', process.foreground == process.group),
    ];
    let more = more.iter().filter(|(_, holds)| *holds).map(|(letter, _)| *letter);
    std::iter::once(process.state).chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) (b) S 1 42 42 34816 42 4194304 9 0 0 0 250 50 0 0 20 0 2 0 1000 1048576 25 184467 1 1 \
                        0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0";
    const STATUS: &str =
        "Name:\ta\nUid:\t0\t1000\t1000\t1000\nGid:\t0\t7\t7\t7\nVmLck:\t       0 kB\nVmRSS:\t     100 kB\n";

    fn machine() -> Machine {
        Machine {
            booted: 1_700_000_000,
            uptime: 110.0,
            memory: 1 << 20,
            now: 1_700_000_110,
            zone: TimeZone::UTC,
            users: HashMap::from([(0, "root".to_owned()), (1000, "systemd-network".to_owned())]),
            groups: HashMap::from([(0, "root".to_owned())]),
        }
    }

    fn row(ps_args: &str, line: &[u8]) -> Vec<String> {
        let process = Process::parse(STAT, STATUS, line).unwrap();
        Layout::of(ps_args).unwrap().row(&process, &machine())
    }

    #[test]
    fn columns_of_the_usual_arguments() {
        let full = row("-ef", b"sleep\x00600\n\x00");
        assert_eq!(full, ["systemd+", "42", "1", "3", "22:13", "pts/0", "00:00:03", "sleep 600?"]);
        let bsd = row("aux", b"");
        assert_eq!(
            bsd,
            ["systemd+", "42", "3.0", "9.7", "1024", "100", "pts/0", "Ssl+", "22:13", "0:03", "[a) (b]"]
        );
        let own = row("-o pid,ruser,group,comm,etime,ni,pri,nlwp,state", b"x");
        assert_eq!(own, ["42", "root", "7", "a) (b", "01:40", "0", "19", "2", "S"]);
    }

    #[test]
    fn arguments_are_known_or_not() {
        let titles = |text: &str| Layout::of(text).map(|layout| layout.titles().join(" "));
        assert_eq!(titles("-ef").unwrap(), "UID PID PPID C STIME TTY TIME CMD");
        assert_eq!(titles("aux").unwrap(), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        for same in ["-eo pid,cmd", "-e -o pid,cmd", "-opid,cmd", "-o pid -o cmd", "o pid,cmd"] {
            assert_eq!(titles(same).as_deref(), Some("PID CMD"), "{same}");
        }
        for other in ["-eo pid,wchan", "-o cmd", "-eL", "-o pid=X,cmd", "-o", "f"] {
            assert_eq!(titles(other), None, "{other}");
        }
    }

    #[test]
    fn terminals_have_names() {
        let names = [0x8803, 0x0401, 0x0440, 0x0501, 0, 0x8900].map(terminal);
        assert_eq!(names, ["pts/3", "tty1", "ttyS0", "console", "?", "pts/256"]);
    }

    #[test]
    fn what_is_no_process_is_none() {
        assert_eq!(Process::parse("", STATUS, b""), None);
        assert_eq!(Process::parse("1 (x) S 1", STATUS, b""), None);
        let zombie = STAT.replace(" S 1 ", " Z 1 ");
        assert_eq!(Process::parse(&zombie, STATUS, b"").unwrap().arguments, "[a) (b] <defunct>");
    }
}
