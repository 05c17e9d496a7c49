//! Resets: a machine that works loses its power at some moment, and with it what its kernel had not written yet. The
//! next one finds every layer whole or absent, every container that was said to be made, and nothing that fsck does not
//! know of. Every other time that is amid a pull from a registry in the machine, which the next one completes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use super::kernel::Kernel;
use super::machine::Machine;
use crate::Result;
use crate::shell::{find, run_command};

/// The containers that must be there: from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Made {
    first: u64,
    last: u64,
}

impl Made {
    /// Takes one line of the guest's in; the moment that it tells of.
    fn hear(&mut self, line: &str) -> Result<Option<Moment>> {
        if let Some(reason) = line.strip_prefix("bad: ") {
            return Err(reason.to_owned().into());
        }
        if let Some(number) = line.strip_prefix("made ").and_then(|text| text.parse().ok()) {
            self.last = number;
            return Ok(Some(Moment::Made));
        }
        if line == "pulling" {
            return Ok(Some(Moment::Pulling));
        }
        if let Some(number) = line.strip_prefix("removing ").and_then(|text| text.parse::<u64>().ok()) {
            *self = Self { first: number + 1, last: number };
        }
        Ok(None)
    }
}

/// What a machine does when its plug is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// It has made containers.
    Made,
    /// It begins a pull.
    Pulling,
}

/// Makes this many resets, on one disk.
pub(super) fn run(folder: &Path, kernel: &Kernel, root: &Path, resets: u32) -> Result<()> {
    let disk = folder.join("data.img");
    if disk.exists() {
        fs::remove_file(&disk)?;
    }
    let mut mke2fs = Command::new(find("mke2fs").ok_or("mke2fs is missing: apt-get install e2fsprogs")?);
    run_command(mke2fs.args(["-q", "-t", "ext4"]).arg(&disk).arg("1G"))?;
    let mut made = Made { first: 1, last: 0 };
    for reset in 1..=resets {
        let step = format!("{}-{}", made.first, made.last);
        let machine = boot(kernel, root, &disk, &step)?;
        let (mut wanted, delay) = moment()?;
        // Whether there is a registry in the machine, this one knows: without one all are of the other kind.
        let amid = match (reset % 2, find("docker-registry")) {
            (0, Some(_)) => Moment::Pulling,
            _ => Moment::Made,
        };
        if amid == Moment::Pulling {
            wanted = 1;
        }
        let mut seen = 0;
        while seen < wanted {
            let line =
                machine.line(Instant::now() + super::SILENCE)?.ok_or("the machine stopped by itself")?;
            println!("  {line}");
            seen += u64::from(made.hear(&line)? == Some(amid));
        }
        // Nothing is awaited: the plug is pulled amid whatever is being done then. What is said until then counts.
        let pulled = Instant::now() + delay;
        while let Some(line) = machine.line_before(pulled) {
            println!("  {line}");
            made.hear(&line)?;
        }
        machine.reset();
        println!("reset {reset}: {} ms after {amid:?} {wanted} of this boot", delay.as_millis());
    }
    let step = format!("{}-{}-look", made.first, made.last);
    boot(kernel, root, &disk, &step)?.run_to_its_end(super::SILENCE)?;
    fs::remove_file(&disk)?;
    Ok(())
}

fn boot(kernel: &Kernel, root: &Path, disk: &Path, step: &str) -> Result<Machine> {
    Machine::boot(kernel, root, Some(disk), &format!("hull.cgroup=v2 hull.job=reset hull.step={step}"))
}

/// When the plug is pulled: behind how many containers, and how long after; another moment each time.
fn moment() -> Result<(u64, Duration)> {
    let nanoseconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos();
    Ok((u64::from(nanoseconds / 1000 % 7) + 1, Duration::from_millis(u64::from(nanoseconds / 7 % 1500))))
}

#[cfg(test)]
mod tests {
    use super::{Made, Moment};

    #[test]
    fn what_was_made_is_what_was_said() {
        let mut made = Made { first: 1, last: 0 };
        let (of_made, of_pull) = (Some(Moment::Made), Some(Moment::Pulling));
        for (line, tells) in [
            ("made 1", of_made),
            ("made 2", of_made),
            ("removing 2", None),
            ("pulling", of_pull),
            ("made 3", of_made),
        ] {
            assert_eq!(made.hear(line).expect("nothing is bad"), tells, "{line}");
        }
        assert_eq!(made, Made { first: 3, last: 3 });
        assert!(made.hear("bad: image x: no such file").is_err());
    }
}
