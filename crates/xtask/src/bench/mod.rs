//! `cargo xtask bench`: hull, the kernel's floor and the other engines, measured in turn in one run on one machine.
//!
//! Each round measures every contestant once, so that what else the machine does falls on all of them alike; a figure
//! is the median over the rounds. The daemons run with roots and a network namespace of their own, which end with them.

mod build;
mod contestants;
pub(crate) mod floor;
mod registry;
mod report;
mod rows;
mod runtime;

use crate::Result;
use crate::shell::heading;
use contestants::{Contestant, Scene};
use report::Report;
use rows::{ROWS, Row};

/// What the person asked for.
struct Options {
    only: Vec<String>,
    rounds: usize,
    long: bool,
    keep: bool,
}

impl Options {
    fn parse(args: &[&str]) -> Result<Self> {
        let mut options = Self { only: Vec::new(), rounds: 20, long: false, keep: false };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match *arg {
                "--only" => options.only.push((*value()?).to_owned()),
                "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
                "--long" => options.long = true,
                "--keep" => options.keep = true,
                other => return Err(format!("bench: there is no option {other}").into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, row: &Row) -> bool {
        let named = self.only.iter().any(|word| row.name.contains(word.as_str()));
        if self.only.is_empty() { self.long || !row.long } else { named }
    }
}

/// Measures, prints, writes, and fails where a goal is missed.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let options = Options::parse(args)?;
    heading("building hull");
    // Against what is built already, an engineer measures while the tree does not build.
    if std::env::var_os("HULL_BIN").is_none() {
        crate::shell::run("cargo", &["build", "--release", "--package", "hull"])?;
    }
    hull_tests::private_network();
    let scene = Scene::set()?;
    let mut contestants = contestants::all(&scene)?;
    let mut report = Report::new(contestants.iter().map(Contestant::name).collect());
    for row in ROWS.iter().filter(|row| options.wants(row)) {
        heading(row.title);
        measure(row, &options, &mut contestants, &mut report);
    }
    drop(contestants);
    report.finish(options.keep)
}

/// All rounds of one row. A contestant that fails is out of the row, and said so.
fn measure(row: &Row, options: &Options, contestants: &mut [Contestant], report: &mut Report) {
    let rounds = row.rounds(options.rounds);
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); contestants.len()];
    let mut out: Vec<bool> = vec![false; contestants.len()];
    for round in 0..rounds {
        for (n, contestant) in contestants.iter_mut().enumerate() {
            if out[n] {
                continue;
            }
            match (row.measure)(contestant) {
                Ok(Some(figure)) => figures[n].push(figure),
                Ok(None) => out[n] = true,
                Err(error) => {
                    println!("{} is out in round {}: {error}", contestant.name(), round + 1);
                    out[n] = true;
                    figures[n].clear();
                }
            }
        }
    }
    report.add(row, figures);
}
