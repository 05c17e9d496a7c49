//! The table, the JSON, and whether the goals are met.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Map, Value, json};

use super::rows::Row;
use crate::Result;
use crate::shell::{output, root, target};

/// The middle of the figures; 0 where there are none.
pub(crate) fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => 0.0,
        n if n % 2 == 1 => figures[n / 2],
        n => f64::midpoint(figures[n / 2 - 1], figures[n / 2]),
    }
}

/// One row's outcome.
struct Line {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    rounds: usize,
    medians: BTreeMap<&'static str, f64>,
    verdict: Verdict,
}

/// What a goal says of a row.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// There is no goal, or nobody to compare with.
    NoGoal,
    /// In words, and whether each is met.
    Goals(Vec<(String, bool)>),
}

/// All rows so far.
pub(crate) struct Report {
    contestants: Vec<&'static str>,
    lines: Vec<Line>,
    goals: Value,
}

impl Report {
    pub(crate) fn new(contestants: Vec<&'static str>) -> Self {
        let goals = fs::read(root().join("bench/goals.json")).unwrap_or_default();
        Self { contestants, lines: Vec::new(), goals: serde_json::from_slice(&goals).unwrap_or(Value::Null) }
    }

    /// Adds a row and says how it went.
    pub(crate) fn add(&mut self, row: &Row, figures: Vec<Vec<f64>>) {
        let rounds = figures.iter().map(Vec::len).max().unwrap_or(0);
        let medians: BTreeMap<&'static str, f64> = self
            .contestants
            .iter()
            .zip(figures)
            .filter(|(_, figures)| !figures.is_empty())
            .map(|(&name, mut figures)| (name, median(&mut figures)))
            .collect();
        for (name, figure) in &medians {
            println!("{name:>9} {} {}", number(*figure), row.unit);
        }
        let verdict = judge(&self.goals[row.name], &medians);
        self.lines.push(Line { name: row.name, title: row.title, unit: row.unit, rounds, medians, verdict });
    }

    /// Prints the table, writes the JSON, and fails where a goal is missed.
    pub(crate) fn finish(&self, keep: bool) -> Result<()> {
        if !self.goals.is_object() {
            return Err("bench/goals.json cannot be read".into());
        }
        println!("\n{}", self.table());
        let text = format!("{:#}\n", self.json()?);
        fs::write(target().join("bench.json"), &text)?;
        if keep {
            fs::write(root().join("docs/bench.json"), &text)?;
        }
        let missed: Vec<&str> = self
            .lines
            .iter()
            .filter(
                |line| matches!(&line.verdict, Verdict::Goals(goals) if goals.iter().any(|(_, met)| !met)),
            )
            .map(|line| line.name)
            .collect();
        if missed.is_empty() { Ok(()) } else { Err(format!("goals missed: {}", missed.join(", ")).into()) }
    }

    /// Markdown, as README shows it.
    fn table(&self) -> String {
        let mut head = vec!["what".to_owned(), "unit".to_owned()];
        head.extend(self.contestants.iter().map(|&name| name.to_owned()));
        head.extend(["to the floor", "to dockerd", "goal"].map(str::to_owned));
        let mut rows = vec![head];
        for line in &self.lines {
            let figure = |name: &str| line.medians.get(name).copied();
            let mut row = vec![line.title.to_owned(), line.unit.to_owned()];
            row.extend(self.contestants.iter().map(|name| figure(name).map_or("".to_owned(), number)));
            let hull = figure("hull");
            let ratio = |of: Option<f64>, to: Option<f64>, words: &str| match (of, to) {
                (Some(of), Some(to)) if to > 0.0 => format!("{:.1} {words}", of / to),
                _ => String::new(),
            };
            row.push(ratio(hull, figure("floor"), "times"));
            row.push(ratio(figure("dockerd"), hull, "times less"));
            row.push(match &line.verdict {
                Verdict::NoGoal => String::new(),
                Verdict::Goals(goals) => {
                    let words = goals
                        .iter()
                        .map(|(goal, met)| format!("{goal}: {}", if *met { "met" } else { "MISSED" }));
                    words.collect::<Vec<_>>().join("; ")
                }
            });
            rows.push(row);
        }
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0))
            .collect();
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        rows.insert(1, rule);
        let padded = |row: &Vec<String>| -> String {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
        };
        rows.iter().map(padded).collect()
    }

    fn json(&self) -> Result<Value> {
        let rows: Map<String, Value> = self
            .lines
            .iter()
            .map(|line| {
                let goals = match &line.verdict {
                    Verdict::NoGoal => json!([]),
                    Verdict::Goals(goals) => {
                        goals.iter().map(|(goal, met)| json!({"goal": goal, "met": met})).collect()
                    }
                };
                let row = json!({
                    "what": line.title, "unit": line.unit, "rounds": line.rounds, "median": line.medians, "goals": goals,
                });
                (line.name.to_owned(), row)
            })
            .collect();
        Ok(json!({
            "machine": {"kernel": output("uname", &["-srm"])?.trim(), "processors": std::thread::available_parallelism()?},
            "rows": rows,
        }))
    }
}

fn number(figure: f64) -> String {
    if figure >= 100.0 { format!("{figure:.0}") } else { format!("{figure:.2}") }
}

/// Compares a row's medians with its goal: `floor` (at most so many times it), `dockerd` (at least so many times
/// faster), `below` (in the row's unit).
fn judge(goal: &Value, medians: &BTreeMap<&'static str, f64>) -> Verdict {
    let Some(hull) = medians.get("hull") else { return Verdict::NoGoal };
    let mut goals = Vec::new();
    if let (Some(times), Some(floor)) = (goal["floor"].as_f64(), medians.get("floor")) {
        goals.push((format!("within {times} times the floor"), hull / floor <= times));
    }
    if let (Some(times), Some(dockerd)) = (goal["dockerd"].as_f64(), medians.get("dockerd")) {
        goals.push((format!("{times} times faster than dockerd"), dockerd / hull >= times));
    }
    // crun is the faster of the two; where it refuses the machine's cgroups, runc stands for it.
    let crun = (goal["crun"].as_f64(), medians.get("crun"));
    let runc = (goal["runc"].as_f64(), medians.get("runc"));
    match (crun, runc) {
        ((Some(times), Some(crun)), _) => {
            goals.push((format!("{times} times faster than crun"), crun / hull >= times));
        }
        (_, (Some(times), Some(runc))) => {
            goals.push((format!("{times} times faster than runc"), runc / hull >= times));
        }
        _ => {}
    }
    if let Some(most) = goal["below"].as_f64() {
        goals.push((format!("below {most}"), *hull < most));
    }
    if goals.is_empty() { Verdict::NoGoal } else { Verdict::Goals(goals) }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, judge, median};
    use serde_json::{Value, json};

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_goal_is_met_or_missed_by_ratio() {
        let medians = [("hull", 10.0), ("floor", 4.0), ("dockerd", 300.0)].into();
        let words = |goal: Value| match judge(&goal, &medians) {
            Verdict::Goals(goals) => goals.iter().map(|(_, met)| *met).collect(),
            Verdict::NoGoal => vec![],
        };
        assert_eq!(words(json!({"floor": 3.0, "dockerd": 40.0})), [true, false]);
        assert_eq!(words(json!({"below": 10.0})), [false]);
        assert!(words(Value::Null).is_empty());
    }
}
