//! Resets: a machine that works loses its power at some moment, and with it what its kernel had not written yet. The
//! next one finds every layer whole or absent, every container that was said to be made, and nothing that fsck does not
//! know of. What it does at that moment is another each time: a pull from a registry in the machine, a load, a commit, a
//! prune, the removal of containers and their image.

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
        if let Some(number) = line.strip_prefix("removing ").and_then(|text| text.parse::<u64>().ok()) {
            *self = Self { first: number + 1, last: number };
            return Ok(Some(Moment::Removing));
        }
        Ok(Moment::ALL.into_iter().find(|moment| moment.word() == line))
    }
}

/// What a machine does when its plug is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// It has made containers.
    Made,
    /// It begins a pull.
    Pulling,
    /// It begins to load an archive.
    Loading,
    /// It begins to commit a container.
    Committing,
    /// It begins a prune of images.
    Pruning,
    /// It begins to remove all containers, and their image.
    Removing,
}

impl Moment {
    const ALL: [Self; 6] =
        [Self::Made, Self::Pulling, Self::Loading, Self::Committing, Self::Pruning, Self::Removing];

    /// The guest's word for it; the first and the last come with a number.
    fn word(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Pulling => "pulling",
            Self::Loading => "loading",
            Self::Committing => "committing",
            Self::Pruning => "pruning",
            Self::Removing => "removing",
        }
    }
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
    // Whether there is a registry in the machine, this one knows: without one nothing is pulled.
    let moments = Moment::ALL
        .into_iter()
        .filter(|moment| *moment != Moment::Pulling || find("docker-registry").is_some());
    let moments: Vec<Moment> = moments.collect();
    // As many resets as there are moments meet each of them, beginning anywhere.
    let from = random()? as usize;
    for reset in 1..=resets {
        let step = format!("{}-{}", made.first, made.last);
        let machine = boot(kernel, root, &disk, &step)?;
        let amid = moments[(from + reset as usize) % moments.len()];
        let (wanted, delay) = (random()? % 2 + 1, delay()?);
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

/// How long after the moment the plug is pulled: soon, or when the disk has taken a part of what was written.
fn delay() -> Result<Duration> {
    let most = if random()? % 2 == 0 { 1500 } else { 8000 };
    Ok(Duration::from_millis(random()? % most))
}

/// Another number each time.
fn random() -> Result<u64> {
    let nanoseconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos();
    // Its last digits are the clock's, which may stand for some hundred nanoseconds.
    Ok(u64::from(nanoseconds).wrapping_mul(6_364_136_223_846_793_005) >> 33)
}

#[cfg(test)]
mod tests {
    use super::{Made, Moment};

    #[test]
    fn what_was_made_is_what_was_said() {
        let mut made = Made { first: 1, last: 0 };
        let of_made = Some(Moment::Made);
        for (line, tells) in [
            ("made 1", of_made),
            ("made 2", of_made),
            ("removing 2", Some(Moment::Removing)),
            ("pulling", Some(Moment::Pulling)),
            ("pruning", Some(Moment::Pruning)),
            ("looked: 2 images", None),
            ("made 3", of_made),
        ] {
            assert_eq!(made.hear(line).expect("nothing is bad"), tells, "{line}");
        }
        assert_eq!(made, Made { first: 3, last: 3 });
        assert!(made.hear("bad: image x: no such file").is_err());
    }
}
