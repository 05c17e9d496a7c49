//! Go's `text/template`, as far as `--format` uses it, over JSON values.
//!
//! A template is parsed once ([`lex`], [`parse`]) and rendered for each value ([`eval`]). Messages are Go's, with the
//! line and column where something is wrong. Deliberately absent: methods of Go's types (`.Created.Unix`).

mod eval;
mod functions;
mod lex;
mod parse;
mod printf;
mod value;

use serde_json::Value;

use eval::Evaluation;
use value::{Shape, Val};

/// What precedes every message about a template.
const FAULT: &str = "template parsing error: template: ";

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template {
    source: String,
    tree: parse::Tree,
}

impl Template {
    /// Parses `source`. `json` alone stands for `{{json .}}`, as for every `--format` of Docker's client.
    ///
    /// # Errors
    /// What is wrong and on which line: `template parsing error: template: :1: unclosed action`.
    pub(crate) fn parse(source: &str) -> Result<Self, String> {
        let source = if source == "json" { "{{json .}}" } else { source };
        let tree = parse::parse(source)
            .map_err(|(at, what)| format!("{FAULT}:{}: {what}", position(source, at).0))?;
        Ok(Self { source: source.to_owned(), tree })
    }

    /// The text for `value`, an answer of the API; without a newline at its end.
    ///
    /// # Errors
    /// What is wrong and where: a field that `value` does not have, a function called with what it cannot take.
    pub(crate) fn render(&self, value: &Value) -> Result<String, String> {
        self.evaluate(Val::named("", value), false)
    }

    /// The text for one row of a listing command.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub(super) fn render_row(&self, row: &Value) -> Result<String, String> {
        self.evaluate(Val::shaped(row, Shape::Row), false)
    }

    /// The header of a table whose rows this template renders: each field prints its title, functions change nothing.
    ///
    /// # Errors
    /// A field that has no title.
    pub(super) fn render_header(&self, headers: &[(&str, &str)]) -> Result<String, String> {
        let titles: Value =
            headers.iter().map(|(field, title)| ((*field).to_owned(), Value::from(*title))).collect();
        self.evaluate(Val::shaped(&titles, Shape::Row), true)
    }

    fn evaluate(&self, value: Val<'_>, header: bool) -> Result<String, String> {
        Evaluation::run(&self.tree, value, header).map_err(|(at, what)| {
            let (line, column) = position(&self.source, at);
            format!("{FAULT}:{line}:{column}: executing \"\" at {what}")
        })
    }
}

/// The line, from one, and the byte in it, from zero: Go counts so.
fn position(source: &str, at: usize) -> (usize, usize) {
    let before = &source.as_bytes()[..at.min(source.len())];
    let line = 1 + before.iter().filter(|b| **b == b'\n').count();
    let start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    (line, before.len() - start)
}

#[cfg(test)]
mod tests;
