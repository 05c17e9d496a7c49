//! JSON as Go's parser reads it: of an object every member stays, also one that is there twice, and what is wrong with a
//! text is told in the words that scripts look for.

use std::cell::RefCell;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// The deepest that values may be nested: they are read, and dropped, by recursion.
const DEPTH_MAX: usize = 128;

/// The most values in one text: each takes tens of bytes of memory, be it two in the text. No body that means something has
/// nearly so many.
const VALUES_MAX: usize = 100_000;

/// A value as it stands in the text. A clone has what is in it in common.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number's digits.
    Number(String),
    /// A text, its escapes read.
    Text(String),
    /// The elements of an array.
    List(Arc<Vec<Node>>),
    /// The members of an object, in their order.
    Object(Arc<Vec<(String, Node)>>),
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        *self == Node::Null
    }
}

/// Reads a text that is one value, and gives back how many bytes of it that took.
///
/// # Errors
/// It is none: why, in Go's words; nothing, where there is no value at all.
pub(super) fn parse(text: &[u8]) -> Result<(Node, usize), Option<String>> {
    let mut parser = Parser { text, at: 0, depth: 0, values: 0 };
    if parser.peek().is_none() {
        return Err(None);
    }
    let node = parser.value().map_err(Some)?;
    Ok((node, parser.at))
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    values: usize,
}

type Parsed<T> = Result<T, String>;

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

impl Parser<'_> {
    /// The next byte that is no space, which is not taken.
    fn peek(&mut self) -> Option<u8> {
        while self.here().is_some_and(is_space) {
            self.at += 1;
        }
        self.here()
    }

    fn here(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// What is wrong with the byte that stands here.
    fn wrong(&self, where_: &str) -> String {
        match self.here() {
            None => "unexpected EOF".to_owned(),
            Some(b'\'') => format!(r"invalid character '\'' {where_}"),
            Some(b'"') => format!("invalid character '\"' {where_}"),
            Some(byte) if byte.is_ascii() => format!("invalid character '{}' {where_}", byte.escape_ascii()),
            // Go shows a byte of a longer character as the character of that number.
            Some(byte) => format!("invalid character '{}' {where_}", char::from(byte)),
        }
    }

    fn value(&mut self) -> Parsed<Node> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(format!(
                "more than {VALUES_MAX} values, which are not read in one text: leave some out"
            ));
        }
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(b'"') => Ok(Node::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Node::Bool(true)),
            Some(b'f') => self.literal("false", Node::Bool(false)),
            Some(b'n') => self.literal("null", Node::Null),
            _ => Err(self.wrong("looking for beginning of value")),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Parsed<Node>) -> Parsed<Node> {
        if self.depth == DEPTH_MAX {
            return Err(format!("exceeded max depth: {DEPTH_MAX} values may be within one another"));
        }
        self.depth += 1;
        self.at += 1;
        let node = read(self)?;
        self.depth -= 1;
        Ok(node)
    }

    fn object(&mut self) -> Parsed<Node> {
        let mut members = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Node::Object(members.into()));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.wrong("looking for beginning of object key string"));
            }
            let name = self.string()?;
            if self.peek() != Some(b':') {
                return Err(self.wrong("after object key"));
            }
            self.at += 1;
            members.push((name, self.value()?));
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.wrong("after object key:value pair")),
            }
        }
        self.at += 1;
        Ok(Node::Object(members.into()))
    }

    fn list(&mut self) -> Parsed<Node> {
        let mut elements = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Node::List(elements.into()));
        }
        loop {
            elements.push(self.value()?);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.wrong("after array element")),
            }
        }
        self.at += 1;
        Ok(Node::List(elements.into()))
    }

    fn literal(&mut self, word: &str, node: Node) -> Parsed<Node> {
        for letter in word.bytes() {
            if self.here() != Some(letter) {
                let expecting = char::from(letter);
                return Err(self.wrong(&format!("in literal {word} (expecting '{expecting}')")));
            }
            self.at += 1;
        }
        Ok(node)
    }

    fn number(&mut self) -> Parsed<Node> {
        let start = self.at;
        if self.here() == Some(b'-') {
            self.at += 1;
        }
        match self.here() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits("in numeric literal")?,
            _ => return Err(self.wrong("in numeric literal")),
        }
        if self.here() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.here(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.here(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(Node::Number(String::from_utf8_lossy(&self.text[start..self.at]).into_owned()))
    }

    /// One digit and as many as follow.
    fn digits(&mut self, where_: &str) -> Parsed<()> {
        if !self.here().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.wrong(where_));
        }
        while self.here().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Parsed<String> {
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            match self.here() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    let character = self.escape()?;
                    bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(byte) if byte >= b' ' => {
                    bytes.push(byte);
                    self.at += 1;
                }
                _ => return Err(self.wrong("in string literal")),
            }
        }
        self.at += 1;
        Ok(String::from_utf8(bytes).unwrap_or_else(|no| String::from_utf8_lossy(no.as_bytes()).into_owned()))
    }

    /// The character behind a backslash.
    fn escape(&mut self) -> Parsed<char> {
        let character = match self.here() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.wrong("in string escape code")),
        };
        self.at += 1;
        Ok(character)
    }

    /// What four digits stand for, or eight in two halves; half a character is none.
    fn unicode(&mut self) -> Parsed<char> {
        let first = self.hexadecimal()?;
        if !(0xd800..0xdc00).contains(&first) || !self.text[self.at..].starts_with(b"\\u") {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let behind_first = self.at;
        self.at += 2;
        let second = self.hexadecimal()?;
        if !(0xdc00..0xe000).contains(&second) {
            // It is a character of its own.
            self.at = behind_first;
            return Ok(char::REPLACEMENT_CHARACTER);
        }
        let character = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        Ok(char::from_u32(character).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hexadecimal(&mut self) -> Parsed<u32> {
        let mut value = 0;
        for _ in 0..4 {
            let digit = self.here().and_then(|byte| char::from(byte).to_digit(16));
            value = value * 16 + digit.ok_or_else(|| self.wrong(r"in \u hexadecimal character escape"))?;
            self.at += 1;
        }
        Ok(value)
    }
}

/// By this name a [`Node`] is asked for: who has one [lends](lend) it.
pub(super) const LENT: &str = "$hull::model::json::Node";

thread_local! {
    /// A value on its way to who asked for it: serde lets no other than its own kinds through.
    static ON_ITS_WAY: RefCell<Option<Node>> = const { RefCell::new(None) };
}

/// Hands on a value as it is, by a visitor which came with the name [`LENT`].
pub(super) fn lend<'de, V: Visitor<'de>, D: Deserializer<'de>>(
    node: Node,
    visitor: V,
    deserializer: D,
) -> Result<V::Value, D::Error> {
    ON_ITS_WAY.set(Some(node));
    let taken = visitor.visit_newtype_struct(deserializer);
    ON_ITS_WAY.take();
    taken
}

/// What is read of another format, or lent by [`super::decode::Folding`].
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a value")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                match ON_ITS_WAY.take() {
                    Some(node) => Ok(node),
                    None => deserializer.deserialize_any(Any),
                }
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Number(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Number(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Number(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    list.push(element);
                }
                Ok(Node::List(list.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
                let mut object = Vec::new();
                while let Some(member) = members.next_entry()? {
                    object.push(member);
                }
                Ok(Node::Object(object.into()))
            }
        }
        deserializer.deserialize_newtype_struct(LENT, Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().unwrap_or_default()
    }

    #[test]
    fn what_is_wrong_is_told_in_gos_words() {
        for (text, why) in [
            ("", ""),
            (" \n", ""),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{ invalid", "invalid character 'i' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{'a':1}", r"invalid character '\'' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":}", "invalid character '}' looking for beginning of value"),
            ("{\"a\":1 \"b\":2}", "invalid character '\"' after object key:value pair"),
            ("{\"a\":01}", "invalid character '1' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("[tru]", "invalid character ']' in literal true (expecting 'e')"),
            ("[-]", "invalid character ']' in numeric literal"),
            ("[1.]", "invalid character ']' after decimal point in numeric literal"),
            ("[1e]", "invalid character ']' in exponent of numeric literal"),
            ("\"\n\"", r"invalid character '\n' in string literal"),
            (r#""\x""#, "invalid character 'x' in string escape code"),
            (r#""\u12""#, "invalid character '\"' in \\u hexadecimal character escape"),
            ("nul", "unexpected EOF"),
            ("{\"a\":\"b", "unexpected EOF"),
            ("\u{ff}", "invalid character 'Ã' looking for beginning of value"),
        ] {
            assert_eq!(wrong(text), why, "{text}");
        }
        assert!(wrong(&"[".repeat(100_000)).starts_with("exceeded max depth: 128 "));
    }

    #[test]
    fn so_many_values_are_read_and_no_more() {
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert!(parse(list(VALUES_MAX - 1).as_bytes()).is_ok());
        assert!(wrong(&list(VALUES_MAX)).starts_with("more than 100000 values"));
    }

    #[test]
    fn a_value_is_read_as_it_stands() {
        let text = br#" {"a": [1, -2.5e3, null], "a": true, "b": "\u00e4\ud83d\udc33\ud83dx\n"} {}"#;
        let (node, length) = parse(text).unwrap();
        let numbers = ["1", "-2.5e3"].map(|digits| Node::Number(digits.to_owned()));
        let [one, other] = numbers;
        assert_eq!(
            node,
            Node::Object(Arc::new(vec![
                ("a".to_owned(), Node::List(Arc::new(vec![one, other, Node::Null]))),
                ("a".to_owned(), Node::Bool(true)),
                ("b".to_owned(), Node::Text("ä🐳\u{fffd}x\n".to_owned())),
            ]))
        );
        assert_eq!(&text[length..], b" {}");
    }
}
