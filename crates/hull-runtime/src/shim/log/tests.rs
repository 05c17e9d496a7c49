use std::collections::BTreeMap;

use super::read::{Entry, Query, Reader};
use super::*;

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn config(folder: &Path, max_size: u64, max_file: u32) -> LogFile {
    let path = folder.join("log");
    LogFile { path, max_size, max_file, attributes: BTreeMap::new(), compress: false, buffer: None }
}

fn all(log: &Log, query: Query) -> Vec<Entry> {
    let mut reader = Reader::open(log, query).unwrap().unwrap();
    std::iter::from_fn(|| reader.next_entry().unwrap()).collect()
}

fn texts(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.bytes).into_owned()).collect()
}

fn both(config: &LogFile) -> [Log; 2] {
    [Log::JsonFile(config.clone()), Log::Local(config.clone())]
}

#[test]
fn json_lines_are_docker_s() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), 0, 1);
    config.attributes.insert("tag".into(), "a<b".into());
    let mut log = Writer::open(Log::JsonFile(config.clone())).unwrap().unwrap();
    log.write(Stream::Stdout, b"one\ntwo\nhal", 1_767_323_045_123_456_789);
    log.write(Stream::Stderr, b"err\n", 1_767_323_045_120_000_000);
    log.write(Stream::Stdout, b"f\n", 1_767_323_046_000_000_000);
    log.write(Stream::Stdout, b"end", 1_767_323_046_000_000_000);
    log.end(Stream::Stdout, 1_767_323_047_000_000_000);
    let attributes = r#""attrs":{"tag":"a\u003cb"}"#;
    let line = |text: &str, stream: &str, time: &str| {
        format!("{{\"log\":\"{text}\",\"stream\":\"{stream}\",{attributes},\"time\":\"{time}\"}}\n")
    };
    let wanted = [
        line("one\\n", "stdout", "2026-01-02T03:04:05.123456789Z"),
        line("two\\n", "stdout", "2026-01-02T03:04:05.123456789Z"),
        line("err\\n", "stderr", "2026-01-02T03:04:05.12Z"),
        line("half\\n", "stdout", "2026-01-02T03:04:06Z"),
        line("end", "stdout", "2026-01-02T03:04:07Z"),
    ];
    assert_eq!(std::fs::read_to_string(config.path).unwrap(), wanted.concat());
}

#[test]
fn long_lines_are_cut_and_whole_again() {
    let folder = tempfile::tempdir().unwrap();
    for log in both(&config(folder.path(), 0, 1)) {
        let _ = std::fs::remove_file(folder.path().join("log"));
        let mut writer = Writer::open(log.clone()).unwrap().unwrap();
        let long = vec![b'x'; PIECE_MAX * 2 + 10];
        // In reads of odd lengths.
        for part in long.chunks(1000) {
            writer.write(Stream::Stdout, part, 1);
        }
        writer.write(Stream::Stdout, b"\n", 1);
        let exact = vec![b'y'; PIECE_MAX];
        writer.write(Stream::Stdout, &exact, 1);
        writer.write(Stream::Stdout, b"\nz\n", 1);
        let entries = all(&log, Query::default());
        let lengths: Vec<usize> = entries.iter().map(|entry| entry.bytes.len()).collect();
        assert_eq!(lengths, [PIECE_MAX, PIECE_MAX, 11, PIECE_MAX, 1, 2]);
        let partial: Vec<bool> = entries.iter().map(|entry| entry.partial).collect();
        assert_eq!(partial, [true, true, false, true, false, false]);
    }
}

#[test]
fn a_query_selects() {
    let folder = tempfile::tempdir().unwrap();
    for log in both(&config(folder.path(), 300, 4)) {
        for number in 0..5 {
            let _ = std::fs::remove_file(numbered(&folder.path().join("log"), number));
        }
        let mut writer = Writer::open(log.clone()).unwrap().unwrap();
        for time in 1..=9 {
            writer.write(Stream::Stdout, format!("{time}\n").as_bytes(), time);
        }
        let ask = |tail, since_ns, until_ns| {
            texts(&all(&log, Query { tail, since_ns, until_ns, follow: false })).concat().replace('\n', "")
        };
        assert_eq!(ask(None, None, None), "123456789");
        for tail in 0..12 {
            let wanted: String = "123456789".chars().skip(9_usize.saturating_sub(tail)).collect();
            assert_eq!(ask(Some(tail as u64), None, None), wanted);
        }
        assert_eq!(ask(None, Some(3), Some(5)), "345");
        assert_eq!(ask(Some(3), Some(8), None), "89");
        assert_eq!(ask(None, Some(100), None), "");
    }
}

#[test]
fn files_are_rotated_and_the_oldest_go() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 1000, 3);
    let mut writer = Writer::open(Log::JsonFile(config.clone())).unwrap().unwrap();
    for number in 0..1000 {
        writer.write(Stream::Stdout, format!("{number}\n").as_bytes(), 1);
    }
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["log", "log.1", "log.2"]);
    for name in names() {
        // As in Docker, the entry that reaches the size is the file's last.
        assert!(std::fs::metadata(folder.path().join(name)).unwrap().len() < 1100);
    }
    assert_eq!(texts(&all(&Log::JsonFile(config), Query::default())).last().unwrap(), "999\n");
}

/// Whatever is written, cut and rotated, who follows sees each line once and in order; and who comes later
/// sees the end of it.
#[test]
fn following_loses_and_doubles_nothing() {
    for seed in 0..16 {
        let mut dice = Dice(seed);
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), 200 + dice.roll(3000), 8 + dice.roll(4) as u32);
        for log in both(&config) {
            for number in 0..13 {
                let _ = std::fs::remove_file(numbered(&config.path, number));
            }
            let mut writer = Writer::open(log.clone()).unwrap().unwrap();
            let mut reader = Reader::open(&log, Query::default()).unwrap().unwrap();
            let (mut wanted, mut got) = (String::new(), String::new());
            for step in 0..80 {
                let text: String = (0..dice.roll(4))
                    .map(|line| format!("{step}.{line} {}\n", "é<".repeat(dice.roll(20) as usize)))
                    .collect();
                let cut = (0..=text.len().min(dice.roll(50) as usize)).rfind(|at| text.is_char_boundary(*at));
                let (first, second) = text.split_at(cut.unwrap());
                writer.write(Stream::Stdout, first.as_bytes(), step + 1);
                if dice.roll(30) == 0 {
                    writer.rotate();
                }
                writer.write(Stream::Stdout, second.as_bytes(), step + 1);
                wanted.push_str(&text);
                // A step makes fewer files than are kept, so that none is gone before it was opened.
                loop {
                    while let Some(entry) = reader.next_entry().unwrap() {
                        got.push_str(std::str::from_utf8(&entry.bytes).unwrap());
                    }
                    if !reader.poll_more().unwrap() {
                        break;
                    }
                }
                assert_eq!(got, wanted, "seed {seed}, step {step}");
            }
            let late = texts(&all(&log, Query::default())).concat();
            assert!(wanted.ends_with(&late) && !late.is_empty(), "seed {seed}");
            let tail = 1 + dice.roll(5);
            let tail = texts(&all(&log, Query { tail: Some(tail), ..Query::default() })).concat();
            assert!(wanted.ends_with(&tail), "seed {seed}");
        }
    }
}

/// A reader that is far behind gets every line of files that are long gone, as long as its keeper looked in time.
#[test]
fn a_keeper_holds_what_rotations_take_away() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 0, 2);
    for log in both(&config) {
        let mut writer = Writer::open(log.clone()).unwrap().unwrap();
        writer.write(Stream::Stdout, b"0\n", 1);
        let mut reader = Reader::open(&log, Query::default()).unwrap().unwrap();
        let keeper = reader.keeper();
        for number in 1..20 {
            writer.rotate();
            keeper.take_up_newer().unwrap();
            writer.write(Stream::Stdout, format!("{number}\n").as_bytes(), 1);
        }
        let mut seen = Vec::new();
        loop {
            seen.extend(std::iter::from_fn(|| reader.next_entry().unwrap()));
            if !reader.poll_more().unwrap() {
                break;
            }
        }
        let expected: Vec<String> = (0..20).map(|number| format!("{number}\n")).collect();
        assert_eq!(texts(&seen), expected);
        for number in 0..3 {
            let _ = std::fs::remove_file(numbered(&config.path, number));
        }
    }
}

/// The same with a writer in a thread of its own, as fast as it can.
#[test]
fn following_a_writer_that_rotates_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 20_000, 50);
    for log in both(&config) {
        for number in 0..52 {
            let _ = std::fs::remove_file(numbered(&config.path, number));
        }
        let mut writer = Writer::open(log.clone()).unwrap().unwrap();
        let mut reader = Reader::open(&log, Query::default()).unwrap().unwrap();
        let writing = std::thread::spawn(move || {
            for number in 0..10_000 {
                writer.write(Stream::Stdout, format!("{number}\n").as_bytes(), 1);
            }
        });
        let mut next = 0;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while next < 10_000 {
            while let Some(entry) = reader.next_entry().unwrap() {
                assert_eq!(entry.bytes, format!("{next}\n").into_bytes());
                next += 1;
            }
            reader.poll_more().unwrap();
            assert!(std::time::Instant::now() < deadline, "stuck at {next}");
        }
        writing.join().unwrap();
    }
}

#[test]
fn a_half_written_end_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    for log in both(&config(folder.path(), 0, 1)) {
        let path = folder.path().join("log");
        let _ = std::fs::remove_file(&path);
        let mut writer = Writer::open(log.clone()).unwrap().unwrap();
        writer.write(Stream::Stdout, b"one\ntwo\n", 1);
        drop(writer);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..10 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let tail = Query { tail: Some(1), ..Query::default() };
            assert_eq!(texts(&all(&log, tail)), ["one\n"], "cut {cut}");
            let mut writer = Writer::open(log.clone()).unwrap().unwrap();
            writer.write(Stream::Stdout, b"three\n", 1);
            assert_eq!(texts(&all(&log, Query::default())), ["one\n", "three\n"], "cut {cut}");
        }
    }
}

#[test]
fn hostile_files_are_read_without_harm() {
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice(7);
    for log in both(&config(folder.path(), 0, 1)) {
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..dice.roll(300))
                .map(|_| [b'\n', b'{', b'"', 0, 255, b'a'][dice.roll(6) as usize])
                .collect();
            std::fs::write(folder.path().join("log"), &bytes).unwrap();
            all(&log, Query::default());
            all(&log, Query { tail: Some(dice.roll(5)), ..Query::default() });
            Writer::open(log.clone()).unwrap();
        }
    }
}

#[test]
fn a_full_disk_is_told_of_when_there_is_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", folder.path(), "tmpfs", flags, Some(c"size=64k")).unwrap();
    let outcome = std::panic::catch_unwind(|| {
        for log in both(&config(folder.path(), 0, 1)) {
            let _ = std::fs::remove_file(folder.path().join("log"));
            let hog = folder.path().join("hog");
            let mut writer = Writer::open(log.clone()).unwrap().unwrap();
            writer.write(Stream::Stdout, b"before\n", 1);
            // Whatever room there is.
            let _ = std::fs::write(&hog, vec![0; 100_000]);
            let line = [&vec![b'x'; 5000][..], b"\n"].concat();
            for _ in 0..3 {
                writer.write(Stream::Stdout, &line, 2);
            }
            std::fs::remove_file(&hog).unwrap();
            writer.write(Stream::Stdout, b"after\n", 3);
            let entries = all(&log, Query::default());
            let lost = "hull: 3 log entries were lost here: the disk took no more\n";
            assert_eq!(texts(&entries), ["before\n", lost, "after\n"]);
        }
    });
    rustix::mount::unmount(folder.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    outcome.unwrap();
}

#[test]
fn a_reader_stops_at_a_place_and_goes_on_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    for log in both(&config(folder.path(), 400, 5)) {
        let mut writer = Writer::open(log.clone()).unwrap().unwrap();
        let mut write = |from: u32, to: u32| {
            for number in from..to {
                writer.write(Stream::Stdout, format!("{number}\n").as_bytes(), 1_700_000_000_000_000_000);
            }
            writer.place_and_begun().unwrap().0
        };
        // A place in the current file, which is a rotated one by the time that it is read; and one at a file's start.
        let place = write(0, 7);
        write(7, 12);
        let mut reader = Reader::open(&log, Query::default()).unwrap().unwrap();
        let mut read = |end: Option<LogPlace>| {
            reader.end_at(end);
            let mut entries = Vec::new();
            loop {
                match reader.next_entry().unwrap() {
                    Some(entry) => entries.push(entry),
                    None if reader.poll_more().unwrap() => {}
                    None => break,
                }
            }
            (texts(&entries).concat().lines().map(|line| line.parse().unwrap()).collect(), reader.is_over())
        };
        let numbers = |from: u32, to: u32| (from..to).collect::<Vec<_>>();
        assert_eq!(read(Some(place)), (numbers(0, 7), true));
        let place = write(12, 14);
        assert_eq!(read(Some(place)), (numbers(7, 14), true));
        assert_eq!(read(Some(place)), (vec![], true));
        write(14, 16);
        assert_eq!(read(None), (numbers(14, 16), false));
        drop(writer);
        std::fs::read_dir(folder.path())
            .unwrap()
            .flatten()
            .for_each(|file| drop(std::fs::remove_file(file.path())));
    }
}

/// Waits until this holds, which another process brings about.
fn await_that(mut what: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not come");
        std::thread::yield_now();
    }
}

#[test]
fn rotated_files_are_compressed_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let config = LogFile { compress: true, ..config(folder.path(), 1000, 4) };
    for log in both(&config) {
        let mut writer = Writer::open(log.clone()).unwrap().unwrap();
        let mut follower = Reader::open(&log, Query { follow: true, ..Query::default() }).unwrap().unwrap();
        let (mut followed, mut written) = (Vec::new(), Vec::new());
        for number in 0..60 {
            let line = format!("line {number} {}\n", "x".repeat(80));
            writer.write(Stream::Stdout, line.as_bytes(), number);
            written.push(line);
            while follower.poll_more().unwrap() {
                followed.extend(std::iter::from_fn(|| follower.next_entry().unwrap()));
            }
            // Each has its turn before the next is due.
            let plain = || (1..=4).any(|number| numbered(&config.path, number).exists());
            await_that(|| !plain());
        }
        assert_eq!(texts(&followed), written, "what was compressed is no other file to who follows");
        assert_eq!((1..=4).filter(|number| packed(&config.path, *number).exists()).count(), 3);
        let kept = texts(&all(&log, Query::default()));
        assert!(kept.len() > 20 && written.ends_with(&kept), "{kept:?}");
        let tail = texts(&all(&log, Query { tail: Some(15), ..Query::default() }));
        assert!(written.ends_with(&tail) && tail.len() == 15, "{tail:?}");
        // What is no archive is read as far as it goes, which is not at all.
        std::fs::write(packed(&config.path, 3), "no archive").unwrap();
        assert!(written.ends_with(&texts(&all(&log, Query::default()))));
        drop(writer);
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

#[test]
fn another_process_writes_and_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let plain = config(folder.path(), 0, 1);
    let log = Log::JsonFile(LogFile { buffer: Some(100_000), ..plain.clone() });
    let mut sink = Sink::open(log.clone()).unwrap().unwrap();
    sink.write(Stream::Stdout, b"one\ntw", 1);
    let (place, begun) = sink.place().unwrap();
    assert_eq!(place.offset, std::fs::metadata(&plain.path).unwrap().len());
    assert_eq!(begun, [b"tw".to_vec(), Vec::new()]);
    // The process stands still: it is the one that has the file open.
    let writer = writer_of(&plain.path);
    rustix::process::kill_process(writer, rustix::process::Signal::STOP).unwrap();
    let piece = [&[b'x'; 9_999][..], b"\n"].concat();
    for _ in 0..200 {
        sink.write(Stream::Stdout, &piece, 2);
        let Sink::Behind(behind) = &sink else { unreachable!() };
        assert!(behind.held() <= 120_000, "{}", behind.held());
    }
    rustix::process::kill_process(writer, rustix::process::Signal::CONT).unwrap();
    sink.close();
    let lines = texts(&all(&log, Query::default()));
    assert_eq!(lines[0], "one\n");
    let told = lines.last().unwrap();
    assert!(told.contains("bytes of output were dropped here"), "{told}");
    let dropped: usize = told.split(' ').nth(1).unwrap().parse().unwrap();
    let logged: usize = lines.iter().filter(|line| line.contains('x')).map(String::len).sum();
    // The first line had begun.
    assert_eq!(logged + dropped, 200 * piece.len() + 2);
}

/// An answer that came too late is not taken for that of the next question, and its lateness is told at once.
#[test]
fn a_late_answer_is_not_taken_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let plain = config(folder.path(), 0, 1);
    let log = Log::JsonFile(LogFile { buffer: Some(100_000), ..plain.clone() });
    let mut sink = Sink::open(log.clone()).unwrap().unwrap();
    sink.write(Stream::Stdout, b"one\n", 1);
    sink.place().unwrap();
    let writer = writer_of(&plain.path);
    rustix::process::kill_process(writer, rustix::process::Signal::STOP).unwrap();
    assert!(sink.place().is_err());
    sink.write(Stream::Stdout, b"two\n", 1);
    let begun = std::time::Instant::now();
    let refused = sink.place().unwrap_err().to_string();
    assert!(refused.contains("takes nothing at this moment"), "{refused}");
    assert!(begun.elapsed() < std::time::Duration::from_millis(900), "{:?}", begun.elapsed());
    rustix::process::kill_process(writer, rustix::process::Signal::CONT).unwrap();
    let mut place = None;
    await_that(|| {
        place = sink.place().ok();
        place.is_some()
    });
    assert_eq!(place.unwrap().0.offset, std::fs::metadata(&plain.path).unwrap().len());
    sink.close();
    assert_eq!(texts(&all(&log, Query::default())), ["one\n", "two\n"]);
}

/// A process that was killed is replaced, and the log says that something may be missing.
#[test]
fn another_process_follows_one_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let plain = config(folder.path(), 0, 1);
    let log = Log::JsonFile(LogFile { buffer: Some(100_000), ..plain.clone() });
    let mut sink = Sink::open(log.clone()).unwrap().unwrap();
    sink.write(Stream::Stdout, b"one\n", 1);
    sink.place().unwrap();
    let writer = writer_of(&plain.path);
    rustix::process::kill_process(writer, rustix::process::Signal::KILL).unwrap();
    let open = format!("/proc/{}/fd", writer.as_raw_nonzero());
    await_that(|| std::fs::read_dir(&open).map_or(0, Iterator::count) == 0);
    // One byte at a time: no more waits than may, heads and all.
    for _ in 0..20_000 {
        sink.write(Stream::Stdout, b"x", 2);
        let Sink::Behind(behind) = &sink else { unreachable!() };
        assert!(behind.held() <= 101_000, "{}", behind.held());
    }
    // Its newline may be dropped, but not its end.
    sink.end(Stream::Stdout, 3);
    sink.close();
    let lines = texts(&all(&log, Query::default())).concat();
    assert!(lines.starts_with("one\n"), "{lines}");
    assert!(lines.contains("the process that writes the log was killed"), "{lines}");
    assert!(lines.contains('x'), "{lines}");
}

/// The process that has this log open.
fn writer_of(log: &std::path::Path) -> rustix::process::Pid {
    let has_it = |pid: &rustix::process::Pid| {
        let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).into_iter().flatten();
        open.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == log))
    };
    children_called("hull-log").into_iter().find(has_it).unwrap()
}

/// Children of this process by that name.
fn children_called(name: &str) -> Vec<rustix::process::Pid> {
    let children = std::fs::read_dir("/proc/self/task").unwrap().flat_map(|task| {
        let children = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let called = |pid: &String| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let pid = |pid: String| rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    children.filter(called).map(pid).collect()
}
