//! Variables, quotes and escapes in the words of instructions, as a shell that knows no more than that.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use regex::Regex;

/// So many bytes of values one instruction's words may come to, and so many the variables of a stage: a variable is no place
/// for a file, and what doubles with each line has no other end.
pub const LONGEST: usize = 1 << 20;

/// An error where these texts together are longer than [`LONGEST`].
///
/// # Errors
/// They are.
pub fn fits<'t>(what: &str, texts: impl IntoIterator<Item = &'t str>) -> Result<(), String> {
    let length: usize = texts.into_iter().map(str::len).sum();
    match length > LONGEST {
        true => Err(format!("{what} come to {length} bytes: more than {LONGEST} are no environment")),
        false => Ok(()),
    }
}

/// How words are expanded, and what was asked for that has no value.
pub struct Expander<'a> {
    escape: char,
    value: &'a dyn Fn(&str) -> Option<String>,
    /// Names without a value, which were used without an alternative.
    missing: RefCell<BTreeSet<String>>,
    /// The length of all values that were put in so far.
    spent: Cell<usize>,
}

impl<'a> Expander<'a> {
    /// Expands with the values that `value` knows.
    pub fn new(escape: char, value: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Expander { escape, value, missing: RefCell::default(), spent: Cell::new(0) }
    }

    /// The same for further words of an instruction, where others came to so much.
    #[must_use]
    pub fn after(self, spent: usize) -> Self {
        self.spent.set(spent);
        self
    }

    /// What the words came to, in bytes of values.
    pub fn spent(&self) -> usize {
        self.spent.get()
    }

    /// The names that were used and have no value.
    pub fn missing(&self) -> BTreeSet<String> {
        self.missing.borrow().clone()
    }

    /// One word: quotes go, variables are replaced, white space stays.
    ///
    /// # Errors
    /// A quote or a brace is not closed, or a variable is required and not set.
    pub fn word(&self, text: &str) -> Result<String, String> {
        let mut lexer = Lexer::new(self, text);
        let (word, _) = lexer.until(None, false)?;
        Ok(word)
    }

    /// Several: white space outside of quotes, also that of values, divides.
    ///
    /// # Errors
    /// As of [`Expander::word`].
    pub fn words(&self, text: &str) -> Result<Vec<String>, String> {
        let mut lexer = Lexer::new(self, text);
        let (_, words) = lexer.until(None, false)?;
        Ok(words)
    }

    /// Variables are replaced, quotes stay: a document.
    ///
    /// # Errors
    /// As of [`Expander::word`].
    pub fn document(&self, text: &str) -> Result<String, String> {
        let mut lexer = Lexer::new(self, text);
        lexer.quotes_stay = true;
        let (word, _) = lexer.until(None, false)?;
        Ok(word)
    }

    fn get(&self, name: &str) -> Result<Option<String>, String> {
        let value = (self.value)(name);
        self.spend(value.as_ref().map_or(0, String::len))?;
        Ok(value)
    }

    /// Counts a value, before it is put in.
    fn spend(&self, length: usize) -> Result<(), String> {
        self.spent.set(self.spent.get().saturating_add(length));
        match self.spent.get() > LONGEST {
            true => Err(format!("the values of its variables come to more than {LONGEST} bytes")),
            false => Ok(()),
        }
    }
}

/// Words that are being put together.
#[derive(Default)]
struct Words {
    all: String,
    words: Vec<String>,
    word: String,
    open: bool,
}

impl Words {
    fn divided(&mut self, letter: char) {
        self.all.push(letter);
        if letter.is_whitespace() {
            if self.open {
                self.words.push(std::mem::take(&mut self.word));
                self.open = false;
            }
        } else {
            self.word.push(letter);
            self.open = true;
        }
    }

    fn raw(&mut self, letter: char) {
        self.all.push(letter);
        self.word.push(letter);
        self.open = true;
    }

    fn finish(mut self) -> (String, Vec<String>) {
        if self.open {
            self.words.push(self.word);
        }
        (self.all, self.words)
    }
}

struct Lexer<'e, 'a, 't> {
    expander: &'e Expander<'a>,
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    quotes_stay: bool,
    depth: usize,
}

/// Alternatives within alternatives end somewhere.
const DEEPEST: usize = 64;

impl<'e, 'a, 't> Lexer<'e, 'a, 't> {
    fn new(expander: &'e Expander<'a>, text: &'t str) -> Self {
        Lexer { expander, rest: text.chars().peekable(), quotes_stay: false, depth: 0 }
    }

    /// Reads until a letter, which is taken, or to the end; `raw`: escapes stay, for a pattern.
    fn until(&mut self, stop: Option<char>, raw: bool) -> Result<(String, Vec<String>), String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("substitutions are nested too deep".to_owned());
        }
        let mut out = Words::default();
        let escape = self.expander.escape;
        loop {
            let Some(letter) = self.rest.next() else {
                if let Some(stop) = stop {
                    return Err(format!("unexpected end of statement while looking for matching {stop}"));
                }
                break;
            };
            if Some(letter) == stop {
                break;
            }
            match letter {
                '\'' if !self.quotes_stay => self.single_quoted(&mut out)?,
                '"' if !self.quotes_stay => self.double_quoted(&mut out)?,
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|letter| out.divided(letter));
                }
                _ if letter == escape => match self.rest.next() {
                    Some(next) if raw || (self.quotes_stay && next != '$' && next != escape) => {
                        out.raw(letter);
                        out.raw(next);
                    }
                    Some(next) => out.raw(next),
                    None => break,
                },
                _ => out.divided(letter),
            }
        }
        self.depth -= 1;
        Ok(out.finish())
    }

    fn single_quoted(&mut self, out: &mut Words) -> Result<(), String> {
        out.open = true;
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(()),
                Some(letter) => out.raw(letter),
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching single-quote".to_owned()
                    );
                }
            }
        }
    }

    fn double_quoted(&mut self, out: &mut Words) -> Result<(), String> {
        out.open = true;
        let escape = self.expander.escape;
        loop {
            let Some(letter) = self.rest.next() else {
                return Err("unexpected end of statement while looking for matching double-quote".to_owned());
            };
            match letter {
                '"' => return Ok(()),
                '$' => self.dollar()?.chars().for_each(|letter| out.raw(letter)),
                _ if letter == escape => match self.rest.next() {
                    Some(next) if matches!(next, '"' | '$') || next == escape => out.raw(next),
                    Some(next) => {
                        out.raw(letter);
                        out.raw(next);
                    }
                    None => {
                        return Err(
                            "unexpected end of statement while looking for matching double-quote".to_owned()
                        );
                    }
                },
                _ => out.raw(letter),
            }
        }
    }

    /// What stands behind a dollar sign.
    fn dollar(&mut self) -> Result<String, String> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            return if name.is_empty() { Ok("$".to_owned()) } else { self.value_of(&name) };
        }
        match self.rest.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        if name.is_empty() {
            return Err("syntax error: bad substitution".to_owned());
        }
        match self.rest.next() {
            None => Err("syntax error: missing '}'".to_owned()),
            Some('}') => self.value_of(&name),
            Some(':') => match self.rest.next() {
                Some(modifier @ ('-' | '+' | '?')) => self.alternative(&name, modifier, true),
                Some(other) => Err(format!("unsupported modifier ({other}) in substitution")),
                None => Err("syntax error: missing '}'".to_owned()),
            },
            Some(modifier @ ('-' | '+' | '?')) => self.alternative(&name, modifier, false),
            Some(end @ ('#' | '%')) => {
                let longest = self.rest.next_if_eq(&end).is_some();
                let (pattern, _) = self.until(Some('}'), true)?;
                trimmed(&self.value_of(&name)?, &pattern, end == '#', longest)
            }
            Some('/') => {
                let all = self.rest.next_if_eq(&'/').is_some();
                let (pattern, _) = self.until(Some('/'), true)?;
                let (replacement, _) = self.until(Some('}'), true)?;
                self.replaced(&self.value_of(&name)?, &pattern, &replacement, all)
            }
            Some(other) => Err(format!("unsupported modifier ({other}) in substitution")),
        }
    }

    fn alternative(&mut self, name: &str, modifier: char, empty_is_unset: bool) -> Result<String, String> {
        let (word, _) = self.until(Some('}'), false)?;
        let value = self.expander.get(name)?.filter(|value| !(empty_is_unset && value.is_empty()));
        match (modifier, value) {
            ('-', value) => Ok(value.unwrap_or(word)),
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) => {
                let what = if empty_is_unset { "empty" } else { "unset" };
                let message = if word.is_empty() { format!("is not allowed to be {what}") } else { word };
                Err(format!("{name}: {message}"))
            }
        }
    }

    fn value_of(&self, name: &str) -> Result<String, String> {
        Ok(self.expander.get(name)?.unwrap_or_else(|| {
            self.expander.missing.borrow_mut().insert(name.to_owned());
            String::new()
        }))
    }

    /// A value with a pattern's first place, or all of them, replaced.
    fn replaced(&self, value: &str, pattern: &str, replacement: &str, all: bool) -> Result<String, String> {
        let expression = compiled(&translated(pattern, ".*")?, value)?;
        let (mut out, mut done) = (String::new(), 0);
        for found in expression.find_iter(value).take(if all { usize::MAX } else { 1 }) {
            self.expander.spend(replacement.len())?;
            out.push_str(&value[done..found.start()]);
            out.push_str(replacement);
            done = found.end();
        }
        out.push_str(&value[done..]);
        Ok(out)
    }

    /// A name, a number, or one of the shell's own.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.rest.peek() {
            Some(first) if first.is_ascii_digit() => {
                while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
                    name.push(digit);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.rest.next()),
            _ => {
                while let Some(letter) = self.rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(letter);
                }
            }
        }
        name
    }
}

fn trimmed(value: &str, pattern: &str, prefix: bool, longest: bool) -> Result<String, String> {
    let many = if longest { ".*" } else { ".*?" };
    if prefix {
        let found =
            compiled(&format!("^{}", translated(pattern, many)?), value)?.find(value).map(|m| m.end());
        return Ok(value[found.unwrap_or(0)..].to_owned());
    }
    // The shortest at the end is the shortest at the beginning of both reversed.
    let reversed: String = value.chars().rev().collect();
    let pieces = pieces(pattern)?;
    let expression: String = pieces.iter().rev().map(|piece| piece.expression(many)).collect();
    let found = compiled(&format!("^{expression}"), value)?.find(&reversed).map(|m| m.end());
    Ok(reversed[found.unwrap_or(0)..].chars().rev().collect())
}

fn compiled(expression: &str, value: &str) -> Result<Regex, String> {
    if value.len() > LONGEST || expression.len() > LONGEST {
        return Err("a value or a pattern is too long for a substitution".to_owned());
    }
    Regex::new(&format!("(?s){expression}"))
        .map_err(|error| format!("bad pattern in a substitution: {error}"))
}

enum Piece {
    Many,
    One,
    Letter(char),
}

impl Piece {
    fn expression(&self, many: &str) -> String {
        match self {
            Piece::Many => many.to_owned(),
            Piece::One => ".".to_owned(),
            Piece::Letter(letter) => regex::escape(&letter.to_string()),
        }
    }
}

/// A shell's pattern: `*`, `?`, and escaped letters.
fn pieces(pattern: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        pieces.push(match letter {
            '*' => Piece::Many,
            '?' => Piece::One,
            '\\' => match letters.next() {
                Some(next) => Piece::Letter(next),
                None => return Err("invalid escape at the end of a pattern".to_owned()),
            },
            letter => Piece::Letter(letter),
        });
    }
    Ok(pieces)
}

fn translated(pattern: &str, many: &str) -> Result<String, String> {
    Ok(pieces(pattern)?.iter().map(|piece| piece.expression(many)).collect())
}

#[cfg(test)]
mod tests {
    use super::{Expander, LONGEST, fits};

    fn value(name: &str) -> Option<String> {
        let value = match name {
            "A" => "one",
            "TWO" => "two words",
            "EMPTY" => "",
            "PATH" => "/usr/local/lib/x.tar.gz",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn word(text: &str) -> Result<String, String> {
        Expander::new('\\', &value).word(text)
    }

    #[test]
    fn every_substitution() {
        for (text, want) in [
            ("$A", "one"),
            ("${A}", "one"),
            ("x${A}y", "xoney"),
            ("$NO", ""),
            ("${NO:-else}", "else"),
            ("${EMPTY:-else}", "else"),
            ("${EMPTY-else}", ""),
            ("${A:-else}", "one"),
            ("${NO-else}", "else"),
            ("${NO:-$A-$TWO}", "one-two words"),
            ("${NO:-${EMPTY:-deep}}", "deep"),
            ("${A:+set}", "set"),
            ("${NO:+set}", ""),
            ("${EMPTY:+set}", ""),
            ("${EMPTY+set}", "set"),
            ("${A:?why}", "one"),
            ("${EMPTY?why}", ""),
            ("${PATH#*/}", "usr/local/lib/x.tar.gz"),
            ("${PATH##*/}", "x.tar.gz"),
            ("${PATH%.*}", "/usr/local/lib/x.tar"),
            ("${PATH%%.*}", "/usr/local/lib/x"),
            ("${PATH%nothing}", "/usr/local/lib/x.tar.gz"),
            ("${PATH#/us?}", "/local/lib/x.tar.gz"),
            ("${PATH/l/L}", "/usr/Local/lib/x.tar.gz"),
            ("${PATH//l/L}", "/usr/LocaL/Lib/x.tar.gz"),
            ("${PATH//\\//:}", ":usr:local:lib:x.tar.gz"),
            ("${PATH/x*/$A}", "/usr/local/lib/one"),
            ("${PATH/./}", "/usr/local/lib/xtar.gz"),
            ("\\$A", "$A"),
            ("\\${A}", "${A}"),
            ("'$A'", "$A"),
            ("\"$A\"", "one"),
            ("\"\\$A \\\"q\\\" \\n\"", "$A \"q\" \\n"),
            ("a\\ b", "a b"),
            ("'it'\"'s\"", "it's"),
            ("$", "$"),
            ("$.x", "$.x"),
            ("5$", "5$"),
            ("${A}\\", "one"),
            ("é$A", "éone"),
        ] {
            assert_eq!(word(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_wrong() {
        for (text, want) in [
            ("'x", "unexpected end of statement while looking for matching single-quote"),
            ("\"x", "unexpected end of statement while looking for matching double-quote"),
            ("${", "syntax error: missing '}'"),
            ("${A", "syntax error: missing '}'"),
            ("${}", "syntax error: bad substitution"),
            ("${:x}", "syntax error: bad substitution"),
            ("${A:x}", "unsupported modifier (x) in substitution"),
            ("${A!x}", "unsupported modifier (!) in substitution"),
            ("${NO:?}", "NO: is not allowed to be empty"),
            ("${NO?}", "NO: is not allowed to be unset"),
            ("${EMPTY:?give one}", "EMPTY: give one"),
            ("${A:-x", "unexpected end of statement while looking for matching }"),
        ] {
            assert_eq!(word(text).unwrap_err(), want, "{text}");
        }
        assert!(word(&"${A:-".repeat(200)).is_err());
    }

    #[test]
    fn words_are_divided_where_they_are_not_quoted() {
        let expander = Expander::new('\\', &value);
        assert_eq!(
            expander.words("a $TWO \"$TWO\" '' b\\ c").unwrap(),
            ["a", "two", "words", "two words", "", "b c"]
        );
        assert_eq!(expander.words(" ").unwrap(), [""; 0]);
    }

    #[test]
    fn documents_keep_their_quotes() {
        let expander = Expander::new('\\', &value);
        assert_eq!(expander.document("'$A' \"x\" \\$A \\n $NO.").unwrap(), "'one' \"x\" $A \\n .");
        assert_eq!(expander.missing().into_iter().collect::<Vec<_>>(), ["NO"]);
    }

    #[test]
    fn what_words_come_to_has_an_end() {
        let long = "x".repeat(LONGEST / 2);
        let value = |name: &str| (name == "L").then(|| long.clone());
        let word = |text: &str| Expander::new('\\', &value).word(text).map(|word| word.len());
        let refused = Err(format!("the values of its variables come to more than {LONGEST} bytes"));
        assert_eq!(word("$L$L"), Ok(LONGEST));
        for text in [
            "$L$L$L",
            "\"$L${L}\"$L",
            "${L:+$L$L}",
            "${L#x}${L%x}$L",
            "${L//x/12}",
            "${L//x*/$L}$L",
            "${N:-$L$L$L}",
        ] {
            assert_eq!(word(text), refused, "{text}");
        }
        assert_eq!(Expander::new('\\', &value).document("$L$L$L").map(|text| text.len()), refused);
        // All words of an instruction together.
        let expander = Expander::new('\\', &value);
        assert!(expander.word("$L").is_ok() && expander.word("$L").is_ok());
        assert!(expander.word("$L").is_err() && expander.words("$L").is_err());
        assert!(Expander::new('\\', &value).after(LONGEST).word("$L").is_err());
        assert!(fits("x", ["a", &long, &long]).is_err());
        assert_eq!(fits("x", [long.as_str(), &long]), Ok(()));
    }

    #[test]
    fn another_escape() {
        let expander = Expander::new('`', &value);
        assert_eq!(expander.word("C:\\$A`$A").unwrap(), "C:\\one$A");
    }
}
