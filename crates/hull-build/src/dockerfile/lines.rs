//! From physical lines to logical ones: directives, comments, continuations, heredocs.

use super::mistake::{Mistake, Position};
use super::nearest::hint;

/// One instruction's text, its continuation lines joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Logical {
    /// Without what escapes the ends of lines.
    pub(super) text: String,
    pub(super) first: u32,
    pub(super) last: u32,
    /// Where parts of the text begin: an offset in it, and the place in the file.
    pieces: Vec<(usize, Position)>,
    pub(super) heredocs: Vec<Heredoc>,
    /// The comments right above it, without an empty line between.
    pub(super) comments: Vec<String>,
}

/// A document that stands in the Dockerfile itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, without quotes.
    pub name: String,
    /// The descriptor that a shell would give it; empty: the standard one.
    pub descriptor: String,
    /// Whether variables in it are expanded: its name is not quoted.
    pub expand: bool,
    /// Leading tabs are taken away (`<<-`).
    pub chomp: bool,
    /// What stands in it.
    pub content: String,
}

/// The lines of a file, and what its first comments direct.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    pub(super) directives: Directives,
    pub(super) logical: Vec<Logical>,
    /// Lines that are empty amid an instruction.
    pub(super) empty_continuations: Vec<u32>,
}

/// The directives of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// The frontend that `# syntax=` names.
    pub syntax: Option<(String, u32)>,
    /// What escapes: a backslash or a backtick.
    pub escape: char,
    /// What `# check=` says.
    pub check: Option<(String, u32)>,
}

impl Default for Directives {
    fn default() -> Self {
        Directives { syntax: None, escape: '\\', check: None }
    }
}

impl Logical {
    /// A part of another line's text as a line of its own.
    pub(super) fn part(of: &Logical, text: &str) -> Logical {
        let Logical { first, last, heredocs, .. } = of.clone();
        Logical { text: text.to_owned(), first, last, heredocs, ..Logical::default() }
    }

    /// The place in the file of a byte of the text.
    pub(super) fn position(&self, offset: usize) -> Position {
        let piece = self.pieces.iter().rev().find(|(start, _)| *start <= offset);
        let Some((start, position)) = piece else { return Position { line: self.first, column: 1 } };
        let between = self.text.get(*start..offset).unwrap_or_default().chars().count();
        Position { line: position.line, column: position.column + u32::try_from(between).unwrap_or(0) }
    }

    /// A mistake at a byte of the text.
    pub(super) fn mistake(&self, offset: usize, message: impl Into<String>) -> Mistake {
        Mistake::at(self.position(offset), message).until(self.last)
    }

    /// A mistake where a word stands, or at the beginning.
    pub(super) fn mistake_at(&self, word: &str, message: impl Into<String>) -> Mistake {
        let offset = if word.is_empty() { None } else { self.text.find(word) };
        self.mistake(offset.unwrap_or(0), message)
    }
}

const DIRECTIVES: [&str; 3] = ["syntax", "escape", "check"];

/// Reads the lines of a file.
pub(super) fn read(text: &str) -> Result<Lines, Mistake> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Lines { directives: directives(text)?, ..Lines::default() };
    let escape = lines.directives.escape;
    let mut rest = (1u32..).zip(text.split_inclusive('\n'));
    let mut comments = Vec::new();
    while let Some((number, line)) = rest.next() {
        let line = end_cut(line);
        let start = line.trim_start();
        if let Some(comment) = start.strip_prefix('#') {
            comments.push(comment.trim().to_owned());
            continue;
        }
        let comments = std::mem::take(&mut comments);
        if start.is_empty() {
            continue;
        }
        let mut logical = Logical { first: number, last: number, comments, ..Logical::default() };
        let indent = line[..line.len() - start.len()].chars().count();
        let (part, mut goes_on) = continued(start, escape);
        logical.pieces.push((0, place(number, indent + 1)));
        logical.text.push_str(part);
        while goes_on {
            let Some((number, line)) = rest.next() else { break };
            logical.last = number;
            let line = end_cut(line);
            if line.trim_start().starts_with('#') {
                continue;
            }
            if line.trim().is_empty() {
                lines.empty_continuations.push(number);
                continue;
            }
            let (part, more) = continued(line, escape);
            logical.pieces.push((logical.text.len(), place(number, 1)));
            logical.text.push_str(part);
            goes_on = more;
        }
        if logical.text.trim().is_empty() {
            continue;
        }
        if may_have_heredocs(&logical.text) {
            for mut heredoc in heredocs(&logical.text, escape) {
                read_heredoc(&mut heredoc, &mut rest, &mut logical)?;
                logical.heredocs.push(heredoc);
            }
        }
        lines.logical.push(logical);
    }
    Ok(lines)
}

fn place(line: u32, column: usize) -> Position {
    Position { line, column: u32::try_from(column).unwrap_or(u32::MAX) }
}

/// The directives stand before everything else; the first line that is none ends them.
fn directives(text: &str) -> Result<Directives, Mistake> {
    let mut directives = Directives::default();
    let mut seen: Vec<&str> = Vec::new();
    for (number, line) in (1u32..).zip(text.lines()) {
        let Some((name, value)) = directive(line) else { break };
        let lower = name.to_ascii_lowercase();
        let Some(known) = DIRECTIVES.into_iter().find(|known| *known == lower) else { break };
        let wrong = |message: String| Err(Mistake::at(place(number, 1), message));
        if seen.contains(&known) {
            return wrong(format!("only one {known} parser directive can be used"));
        }
        seen.push(known);
        match known {
            "syntax" => directives.syntax = Some((value.to_owned(), number)),
            "check" => directives.check = Some((value.to_owned(), number)),
            _ => {
                directives.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        return wrong(format!("invalid escape token '{other}' does not match ` or \\"));
                    }
                }
            }
        }
    }
    Ok(directives)
}

/// `# name = value`.
fn directive(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    (plain && !value.is_empty()).then_some((name, value))
}

fn end_cut(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// A line without the escape at its end, and whether it had one: an escaped escape is none.
fn continued(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

/// Only what writes files or runs takes documents.
fn may_have_heredocs(text: &str) -> bool {
    let mut words = text.split_whitespace().map(str::to_ascii_uppercase);
    let mut word = words.next();
    if word.as_deref() == Some("ONBUILD") {
        word = words.next();
    }
    text.contains("<<") && matches!(word.as_deref(), Some("RUN" | "COPY" | "ADD"))
}

/// The documents that a line announces, without their contents.
pub(super) fn heredocs(text: &str, escape: char) -> Vec<Heredoc> {
    raw_words(text, escape).iter().filter_map(|word| heredoc(word)).collect()
}

/// `<<NAME`, `3<<-"NAME"`.
pub(super) fn heredoc(word: &str) -> Option<Heredoc> {
    let (descriptor, rest) = word.split_once("<<")?;
    if !descriptor.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let (rest, chomp) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    if rest.is_empty() || rest.contains('<') || rest.contains(char::is_whitespace) {
        return None;
    }
    let name: String = rest.chars().filter(|c| !matches!(c, '"' | '\'')).collect();
    // Quotes come in pairs, around all of it.
    let quoted = name != rest;
    let paired = ['"', '\''].iter().any(|quote| {
        rest.len() > 2 && rest.starts_with(*quote) && rest.ends_with(*quote) && name.len() == rest.len() - 2
    });
    if name.is_empty() || (quoted && !paired) {
        return None;
    }
    Some(Heredoc { name, descriptor: descriptor.to_owned(), expand: !quoted, chomp, content: String::new() })
}

/// Words with their quotes and escapes as they are.
pub(super) fn raw_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match quote {
            None if letter.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(letter, '"' | '\'') => quote = Some(letter),
            Some(open) if open == letter => quote = None,
            _ => {}
        }
        word.push(letter);
        if letter == escape && quote != Some('\'') {
            word.extend(letters.next());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn read_heredoc<'a>(
    heredoc: &mut Heredoc,
    rest: &mut impl Iterator<Item = (u32, &'a str)>,
    logical: &mut Logical,
) -> Result<(), Mistake> {
    for (number, line) in rest {
        logical.last = number;
        let line = if heredoc.chomp { line.trim_start_matches('\t') } else { line };
        if end_cut(line) == heredoc.name {
            return Ok(());
        }
        heredoc.content.push_str(line);
    }
    Err(logical.mistake_at("<<", format!("unterminated heredoc: no line is {:?}", heredoc.name)))
}

/// The first word of a line, and where the rest begins.
pub(super) fn keyword(text: &str) -> (&str, usize) {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let rest = &text[end..];
    (&text[..end], end + rest.len() - rest.trim_start().len())
}

/// What is wrong with an instruction that there is not.
pub(super) fn unknown_instruction(word: &str, known: &[&str]) -> String {
    format!("unknown instruction: {word}{}", hint(word, known.iter().copied()))
}
