//! From a template's text to tokens.

/// One token, and the byte at which it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Text outside of actions, trimmed where an action asks for it.
    Text(String),
    Open,
    Close,
    Space,
    /// A keyword, a function's name, `true`, `false` or `nil`.
    Word(String),
    /// `.Name`, without the dot.
    Field(String),
    Dot,
    /// `$` or `$name`, with the dollar.
    Variable(String),
    Int(i64),
    Float(f64),
    /// A string's value.
    Str(String),
    Pipe,
    Assign,
    Declare,
    Comma,
    LeftParen,
    RightParen,
    End,
}

impl Kind {
    /// How a message names the token.
    pub(super) fn shown(&self) -> String {
        match self {
            Kind::Text(text) => format!("{text:?}"),
            Kind::Open => "\"{{\"".to_owned(),
            Kind::Close => "\"}}\"".to_owned(),
            Kind::Space => "\" \"".to_owned(),
            Kind::Word(word) if super::parse::KEYWORDS.contains(&word.as_str()) => format!("<{word}>"),
            Kind::Word(word) => format!("{word:?}"),
            Kind::Field(name) => format!("\".{name}\""),
            Kind::Dot => "<.>".to_owned(),
            Kind::Variable(name) => format!("{name:?}"),
            Kind::Int(i) => format!("\"{i}\""),
            Kind::Float(f) => format!("\"{f}\""),
            Kind::Str(text) => format!("{text:?}"),
            Kind::Pipe => "\"|\"".to_owned(),
            Kind::Assign => "\"=\"".to_owned(),
            Kind::Declare => "\":=\"".to_owned(),
            Kind::Comma => "\",\"".to_owned(),
            Kind::LeftParen => "\"(\"".to_owned(),
            Kind::RightParen => "\")\"".to_owned(),
            Kind::End => "EOF".to_owned(),
        }
    }
}

/// What is wrong, and where.
pub(super) type Fault = (usize, String);

/// The tokens of `source`, the last of them [`Kind::End`].
///
/// # Errors
/// The byte and what is wrong there.
pub(super) fn lex(source: &str) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { source, at: 0, tokens: Vec::new() };
    lexer.text()?;
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    tokens: Vec<Token>,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: Kind, length: usize) {
        self.tokens.push(Token { kind, at: self.at });
        self.at += length;
    }

    /// Text and actions, until the end.
    fn text(&mut self) -> Result<(), Fault> {
        let mut trim_left = false;
        loop {
            let rest = self.rest();
            let end = rest.find("{{").unwrap_or(rest.len());
            let trim_right = starts_trim(&rest[end..]);
            let mut text = &rest[..end];
            if trim_left {
                text = text.trim_start_matches(is_space);
            }
            if trim_right {
                text = text.trim_end_matches(is_space);
            }
            if text.is_empty() {
                self.at += end;
            } else {
                self.push(Kind::Text(text.to_owned()), end);
            }
            if self.rest().is_empty() {
                self.push(Kind::End, 0);
                return Ok(());
            }
            let opening = if trim_right { 4 } else { 2 };
            trim_left = if self.rest()[opening..].starts_with("/*") {
                self.comment()?
            } else {
                self.push(Kind::Open, opening);
                self.action()?
            };
        }
    }

    /// Passes over a comment; whether the text after it is trimmed.
    fn comment(&mut self) -> Result<bool, Fault> {
        let start = self.at;
        let Some(end) = self.rest().find("*/") else { return Err((start, "unclosed comment".to_owned())) };
        self.at += end + 2;
        if self.rest().starts_with("}}") {
            self.at += 2;
            return Ok(false);
        }
        if ends_trim(self.rest()) {
            self.at += 4;
            return Ok(true);
        }
        Err((start, "comment ends before closing delimiter".to_owned()))
    }

    /// The tokens of one action; whether the text after it is trimmed.
    fn action(&mut self) -> Result<bool, Fault> {
        let start = self.at;
        let mut open_parens = 0usize;
        loop {
            let rest = self.rest();
            let trims = ends_trim(rest);
            if trims || rest.starts_with("}}") {
                if open_parens > 0 {
                    return Err((self.at, "unclosed left paren".to_owned()));
                }
                self.at += if trims { 2 } else { 0 };
                self.push(Kind::Close, 2);
                return Ok(trims);
            }
            let Some(first) = rest.chars().next() else { return Err((start, "unclosed action".to_owned())) };
            match first {
                c if is_space(c) => {
                    let mut length = rest.len() - rest.trim_start_matches(is_space).len();
                    // The blank before a trimming end belongs to that end.
                    if length > 1 && ends_trim(&rest[length - 1..]) {
                        length -= 1;
                    }
                    self.push(Kind::Space, length);
                }
                '|' => self.push(Kind::Pipe, 1),
                ',' => self.push(Kind::Comma, 1),
                '(' => {
                    open_parens += 1;
                    self.push(Kind::LeftParen, 1);
                }
                ')' => {
                    let Some(fewer) = open_parens.checked_sub(1) else {
                        return Err((self.at, "unexpected right paren".to_owned()));
                    };
                    open_parens = fewer;
                    self.push(Kind::RightParen, 1);
                }
                '=' => self.push(Kind::Assign, 1),
                ':' if rest.starts_with(":=") => self.push(Kind::Declare, 2),
                ':' => return Err((self.at, "expected :=".to_owned())),
                '"' | '`' | '\'' => self.quoted(first)?,
                '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                    let name = word(&rest[1..]);
                    if name.is_empty() {
                        self.push(Kind::Dot, 1);
                    } else {
                        self.push(Kind::Field(name.to_owned()), 1 + name.len());
                    }
                }
                '$' => {
                    let length = 1 + word(&rest[1..]).len();
                    self.push(Kind::Variable(rest[..length].to_owned()), length);
                }
                '+' | '-' | '.' | '0'..='9' => self.number()?,
                c if c == '_' || c.is_alphabetic() => {
                    let name = word(rest);
                    self.push(Kind::Word(name.to_owned()), name.len());
                }
                c => return Err((self.at, format!("unexpected {c:?} in command"))),
            }
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        let rest = self.rest();
        let length = rest
            .char_indices()
            .take_while(|&(at, c)| {
                c.is_ascii_alphanumeric()
                    || c == '_'
                    || c == '.'
                    || (matches!(c, '+' | '-')
                        && (at == 0 || rest[..at].ends_with(['e', 'E']) && !is_hexadecimal(rest)))
            })
            .count();
        let text = &rest[..length];
        let kind = number(text).ok_or_else(|| (self.at, format!("bad number syntax: {text:?}")))?;
        self.push(kind, length);
        Ok(())
    }

    /// A string in quotes or backquotes, or a character.
    fn quoted(&mut self, quote: char) -> Result<(), Fault> {
        let fault = |what: &str| (self.at, what.to_owned());
        let body = &self.rest()[1..];
        if quote == '`' {
            let end = body.find('`').ok_or_else(|| fault("unterminated raw quoted string"))?;
            self.push(Kind::Str(body[..end].to_owned()), end + 2);
            return Ok(());
        }
        let unterminated =
            if quote == '"' { "unterminated quoted string" } else { "unterminated character constant" };
        let mut end = None;
        let mut escaped = false;
        for (at, c) in body.char_indices() {
            match c {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let end = end.ok_or_else(|| fault(unterminated))?;
        let value = unescape(&body[..end]).ok_or_else(|| fault("invalid syntax in quoted string"))?;
        let kind = if quote == '"' {
            Kind::Str(value)
        } else {
            let mut characters = value.chars();
            match (characters.next(), characters.next()) {
                (Some(c), None) => Kind::Int(i64::from(u32::from(c))),
                _ => return Err(fault("malformed character constant")),
            }
        };
        self.push(kind, end + 2);
        Ok(())
    }
}

/// Whether the action that begins here trims the text before it: `{{- `.
fn starts_trim(rest: &str) -> bool {
    rest.strip_prefix("{{-").is_some_and(|after| after.starts_with(is_space))
}

/// Whether here is the end of an action that trims the text after it: ` -}}`.
fn ends_trim(rest: &str) -> bool {
    let mut characters = rest.chars();
    characters.next().is_some_and(is_space) && characters.as_str().starts_with("-}}")
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The letters, digits and underscores with which `text` begins.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c == '_' || c.is_alphanumeric())).unwrap_or(text.len());
    &text[..end]
}

fn is_hexadecimal(number: &str) -> bool {
    number.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("0x")
}

fn number(text: &str) -> Option<Kind> {
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    let (negative, digits) = match plain.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some(octal) if octal.starts_with('0') && lower.bytes().all(|b| b.is_ascii_digit()) => {
            (8, &lower[1..])
        }
        _ => (10, lower.as_str()),
    };
    let sign = if negative { "-" } else { "" };
    if let Ok(i) = i64::from_str_radix(&format!("{sign}{digits}"), radix) {
        return Some(Kind::Int(i));
    }
    if radix != 10 || !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let f: f64 = format!("{sign}{digits}").parse().ok()?;
    // As Go's constants: 1e3 is the integer 1000.
    let whole = f.fract() == 0.0 && f.abs() < 9e18;
    Some(if whole { Kind::Int(f as i64) } else { Kind::Float(f) })
}

/// The value of a quoted string's inside, with Go's escapes; none where an escape is no escape.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = characters.next()?;
        let mut coded = |first: Option<char>, digits: usize, radix: u32| {
            let text: String = first.into_iter().chain(characters.by_ref().take(digits)).collect();
            let complete = text.chars().count() == digits + usize::from(first.is_some());
            complete.then(|| u32::from_str_radix(&text, radix).ok()).flatten()
        };
        match escape {
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            'r' => bytes.push(b'\r'),
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'v' => bytes.push(11),
            '\\' | '"' | '\'' => bytes.push(escape as u8),
            'x' => bytes.push(u8::try_from(coded(None, 2, 16)?).ok()?),
            '0'..='7' => bytes.push(u8::try_from(coded(Some(escape), 2, 8)?).ok()?),
            'u' | 'U' => {
                let c = char::from_u32(coded(None, if escape == 'u' { 4 } else { 8 }, 16)?)?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<Kind> {
        lex(source).unwrap().into_iter().map(|t| t.kind).collect()
    }

    #[test]
    fn tokens() {
        assert_eq!(
            kinds("a{{ .B.C | f $x `r` \"q\\n\" -3 0x10 1.5 'a' }}"),
            [
                Kind::Text("a".into()),
                Kind::Open,
                Kind::Space,
                Kind::Field("B".into()),
                Kind::Field("C".into()),
                Kind::Space,
                Kind::Pipe,
                Kind::Space,
                Kind::Word("f".into()),
                Kind::Space,
                Kind::Variable("$x".into()),
                Kind::Space,
                Kind::Str("r".into()),
                Kind::Space,
                Kind::Str("q\n".into()),
                Kind::Space,
                Kind::Int(-3),
                Kind::Space,
                Kind::Int(16),
                Kind::Space,
                Kind::Float(1.5),
                Kind::Space,
                Kind::Int(97),
                Kind::Space,
                Kind::Close,
                Kind::End,
            ]
        );
    }

    #[test]
    fn trimming() {
        let texts = |source: &str| -> String {
            kinds(source)
                .into_iter()
                .filter_map(|k| if let Kind::Text(t) = k { Some(t) } else { None })
                .collect()
        };
        assert_eq!(texts("a  {{- .X -}}  b"), "ab");
        assert_eq!(texts("a  {{ .X }}  b"), "a    b");
        assert_eq!(texts("a  {{- /* note */ -}}  b"), "ab");
        assert_eq!(texts("a {{/* note */}} b"), "a  b");
        assert_eq!(texts("a {{-3}} b"), "a  b");
    }

    #[test]
    fn faults() {
        for (source, at, what) in [
            ("{{.A", 2, "unclosed action"),
            ("{{\"a}}", 2, "unterminated quoted string"),
            ("{{`a}}", 2, "unterminated raw quoted string"),
            ("{{'ab'}}", 2, "malformed character constant"),
            ("{{/* a }}", 0, "unclosed comment"),
            ("{{3x}}", 2, "bad number syntax: \"3x\""),
            ("{{.A ? 3}}", 5, "unexpected '?' in command"),
            ("{{.A : 3}}", 5, "expected :="),
            ("{{\"\\q\"}}", 2, "invalid syntax in quoted string"),
        ] {
            assert_eq!(lex(source), Err((at, what.to_owned())), "{source}");
        }
    }
}
