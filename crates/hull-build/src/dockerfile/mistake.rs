//! What is wrong with a Dockerfile, and where.

use std::fmt;

/// The text of a Dockerfile and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name, as whoever builds knows it.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// A place in a Dockerfile; both numbers begin with 1, columns are characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// An error in a Dockerfile: a sentence, in BuildKit's words where it has them, and the lines that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong.
    pub message: String,
    /// Where; none where it is about the file as a whole.
    pub at: Option<Position>,
    /// The last line that it is about.
    pub last_line: u32,
}

impl Mistake {
    /// A mistake at a place of one line.
    pub fn at(position: Position, message: impl Into<String>) -> Mistake {
        Mistake { message: message.into(), at: Some(position), last_line: position.line }
    }

    /// One that no line shows.
    pub fn of_file(message: impl Into<String>) -> Mistake {
        Mistake { message: message.into(), at: None, last_line: 0 }
    }

    /// The same, about all lines until `last`.
    pub fn until(mut self, last: u32) -> Mistake {
        self.last_line = self.last_line.max(last);
        self
    }

    /// The sentence with the file, the place and the lines around it, as a person reads it.
    pub fn shown(&self, source: &Source) -> String {
        match self.at {
            Some(at) => format!("{self}\n{}", source.excerpt(at, self.last_line)),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "dockerfile parse error on line {}: {}", at.line, self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Mistake {}

/// So many lines are shown before and behind.
const AROUND: u32 = 3;

impl Source {
    /// The lines from `at` to `last` with those around them; the ones meant are marked, a single one by its column too.
    pub fn excerpt(&self, at: Position, last: u32) -> String {
        let last = last.max(at.line);
        let rule = "-".repeat(20);
        let mut out = format!("{}:{}:{}\n{rule}\n", self.name, at.line, at.column.max(1));
        for (number, line) in (1u32..).zip(self.text.lines()) {
            if number + AROUND < at.line {
                continue;
            }
            if number > last.saturating_add(AROUND) {
                break;
            }
            let meant = (at.line..=last).contains(&number);
            let mark = if meant { ">>>" } else { "   " };
            let line: String =
                line.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
            out.push_str(format!("{number:>4} | {mark} {line}").trim_end());
            out.push('\n');
            if meant && at.line == last && at.column > 1 {
                // Tabs stay tabs, so that the mark is beneath what it marks.
                let before: String = line
                    .chars()
                    .take(at.column as usize - 1)
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                out.push_str(&format!("     |     {before}^\n"));
            }
        }
        out + &rule
    }
}
