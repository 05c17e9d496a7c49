//! D-Bus's wire format, as far as a client of systemd's speaks it: values, little-endian, each aligned to its own size
//! from the message's begin.
//!
//! Source: the D-Bus specification, "Message Protocol".

/// A value of one of D-Bus's types.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    Double(f64),
    /// `s`
    Text(String),
    /// `o`
    Path(String),
    /// `g`
    Signature(String),
    /// `a`: the signature of its elements, which an empty one has as well, and they.
    Array(String, Vec<Value>),
    /// `(...)`
    Struct(Vec<Value>),
    /// `v`
    Variant(Box<Value>),
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    pub(crate) fn variant(value: Value) -> Value {
        Value::Variant(Box::new(value))
    }

    /// `as`
    pub(crate) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Value {
        Value::Array("s".into(), texts.into_iter().map(Value::text).collect())
    }

    /// `ay`
    pub(crate) fn bytes(bytes: &[u8]) -> Value {
        Value::Array("y".into(), bytes.iter().copied().map(Value::Byte).collect())
    }

    /// Its text, where it is one of the three that are text.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Path(text) | Value::Signature(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn signature(&self) -> String {
        match self {
            Value::Byte(_) => "y".into(),
            Value::Bool(_) => "b".into(),
            Value::I32(_) => "i".into(),
            Value::U32(_) => "u".into(),
            Value::I64(_) => "x".into(),
            Value::U64(_) => "t".into(),
            Value::Double(_) => "d".into(),
            Value::Text(_) => "s".into(),
            Value::Path(_) => "o".into(),
            Value::Signature(_) => "g".into(),
            Value::Array(element, _) => format!("a{element}"),
            Value::Struct(fields) => format!("({})", signature_of(fields)),
            Value::Variant(_) => "v".into(),
        }
    }

    /// Puts it behind what is in `out`, which begins where the message, or a part aligned to eight, does.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        pad(out, alignment(self.signature().as_bytes().first().copied().unwrap_or(b'y')));
        match self {
            Value::Byte(byte) => out.push(*byte),
            Value::Bool(yes) => out.extend(u32::from(*yes).to_le_bytes()),
            Value::I32(number) => out.extend(number.to_le_bytes()),
            Value::U32(number) => out.extend(number.to_le_bytes()),
            Value::I64(number) => out.extend(number.to_le_bytes()),
            Value::U64(number) => out.extend(number.to_le_bytes()),
            Value::Double(number) => out.extend(number.to_le_bytes()),
            Value::Text(text) | Value::Path(text) => {
                out.extend(length(text.len()).to_le_bytes());
                out.extend(text.as_bytes());
                out.push(0);
            }
            Value::Signature(text) => put_signature(text, out),
            Value::Array(element, values) => {
                let at = out.len();
                out.extend([0; 4]);
                // The space before the first element is not part of the length.
                pad(out, alignment(element.as_bytes().first().copied().unwrap_or(b'y')));
                let begin = out.len();
                values.iter().for_each(|value| value.put(out));
                let length = length(out.len() - begin);
                out[at..at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Value::Struct(fields) => fields.iter().for_each(|field| field.put(out)),
            Value::Variant(value) => {
                put_signature(&value.signature(), out);
                value.put(out);
            }
        }
    }
}

/// The signature of several values, one behind the other.
pub(crate) fn signature_of(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

fn put_signature(text: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend(text.as_bytes());
    out.push(0);
}

/// What is longer than this no bus takes, and it is told so when it is sent.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

pub(super) fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn alignment(kind: u8) -> usize {
    match kind {
        b'y' | b'g' | b'v' => 1,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

/// How deep values may be in each other; the specification's bound for a message is 64.
const DEPTH: usize = 64;

/// Reads values one after the other. Every read is none where the bytes are not what the signature says.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// `bytes` begin where the message, or a part aligned to eight, does.
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// All values of a signature.
    pub(crate) fn values(&mut self, signature: &str) -> Option<Vec<Value>> {
        self.several(signature.as_bytes(), DEPTH)
    }

    fn several(&mut self, mut signature: &[u8], depth: usize) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (one, rest) = signature.split_at_checked(one_type(signature)?)?;
            values.push(self.value(one, depth)?);
            signature = rest;
        }
        Some(values)
    }

    fn value(&mut self, signature: &[u8], depth: usize) -> Option<Value> {
        let (kind, depth) = (*signature.first()?, depth.checked_sub(1)?);
        self.at = self.at.checked_next_multiple_of(alignment(kind))?;
        Some(match kind {
            b'y' => Value::Byte(self.take::<1>()?[0]),
            b'b' => Value::Bool(self.number()? != 0),
            b'i' => Value::I32(i32::from_le_bytes(self.take()?)),
            // A descriptor is an index into those that came along.
            b'u' | b'h' => Value::U32(self.number()?),
            b'x' => Value::I64(i64::from_le_bytes(self.take()?)),
            b't' => Value::U64(u64::from_le_bytes(self.take()?)),
            b'd' => Value::Double(f64::from_le_bytes(self.take()?)),
            b's' | b'o' => {
                let length = self.number()?;
                let text = self.string(length as usize)?;
                if kind == b's' { Value::Text(text) } else { Value::Path(text) }
            }
            b'g' => Value::Signature(self.short_string()?),
            b'v' => {
                let inner = self.short_string()?;
                if one_type(inner.as_bytes())? != inner.len() {
                    return None;
                }
                Value::variant(self.value(inner.as_bytes(), depth)?)
            }
            b'a' => {
                let element = signature.get(1..)?;
                let length = self.number()? as usize;
                self.at = self.at.checked_next_multiple_of(alignment(*element.first()?))?;
                let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
                let mut values = Vec::new();
                while self.at < end {
                    values.push(self.value(element, depth)?);
                }
                Value::Array(String::from_utf8(element.to_vec()).ok()?, values)
            }
            b'(' | b'{' => Value::Struct(self.several(signature.get(1..signature.len() - 1)?, depth)?),
            _ => return None,
        })
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(N)?)?.try_into().ok()?;
        self.at += N;
        Some(taken)
    }

    fn short_string(&mut self) -> Option<String> {
        let [length] = self.take::<1>()?;
        self.string(usize::from(length))
    }

    fn string(&mut self, length: usize) -> Option<String> {
        let text = self.bytes.get(self.at..self.at.checked_add(length)?)?.to_vec();
        self.at += length;
        (self.take::<1>()? == [0]).then_some(())?;
        String::from_utf8(text).ok()
    }
}

/// How long the first whole type of a signature is.
fn one_type(signature: &[u8]) -> Option<usize> {
    match signature.first()? {
        b'a' => Some(1 + one_type(&signature[1..])?),
        b'(' | b'{' => {
            let mut depth = 0_usize;
            for (at, letter) in signature.iter().enumerate() {
                match letter {
                    b'(' | b'{' => depth += 1,
                    b')' | b'}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    // An empty one is no type.
                    return (at > 1).then_some(at + 1);
                }
            }
            None
        }
        _ => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[Value]) -> Vec<u8> {
        let mut out = Vec::new();
        values.iter().for_each(|value| value.put(&mut out));
        out
    }

    #[test]
    fn values_are_aligned_to_their_own_size() {
        // By hand, from the specification's rules.
        assert_eq!(bytes(&[Value::Byte(7), Value::U32(1)]), [7, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes(&[Value::text("ab")]), [2, 0, 0, 0, b'a', b'b', 0]);
        assert_eq!(bytes(&[Value::variant(Value::Bool(true))]), [1, b'b', 0, 0, 1, 0, 0, 0]);
        let array = Value::Array("t".into(), vec![Value::U64(5)]);
        assert_eq!(bytes(&[array]), [8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(&[Value::Array("(s)".into(), vec![])]), [0; 8]);
    }

    #[test]
    fn what_was_written_is_read() {
        let property = |name: &str, value| Value::Struct(vec![Value::text(name), Value::variant(value)]);
        let values = vec![
            Value::text("hull-a.scope"),
            Value::Array(
                "(sv)".into(),
                vec![
                    property("Delegate", Value::Bool(true)),
                    property("PIDs", Value::Array("u".into(), vec![Value::U32(42)])),
                    property("MemoryMax", Value::U64(u64::MAX)),
                    property("AllowedCPUs", Value::bytes(&[3])),
                    property("Wants", Value::texts(["a.slice"])),
                    property("Ratio", Value::Double(0.5)),
                    property("Left", Value::I64(-1)),
                ],
            ),
            Value::I32(-2),
            Value::Path("/org".into()),
            Value::Signature("a(sv)".into()),
        ];
        let signature = signature_of(&values);
        assert_eq!(signature, "sa(sv)iog");
        let written = bytes(&values);
        assert_eq!(Reader::new(&written).values(&signature).unwrap(), values);
        // Cut off anywhere it is no message, and never a panic.
        for length in 0..written.len() {
            assert_eq!(Reader::new(&written[..length]).values(&signature), None, "{length}");
        }
    }

    #[test]
    fn what_is_no_value_is_none() {
        for signature in ["(", "()", "a", "?", "a{sv"] {
            assert_eq!(Reader::new(&[0; 64]).values(signature), None, "{signature}");
        }
        // A variant in a variant in a variant...
        let deep: Vec<u8> = [1, b'v', 0].repeat(200);
        assert_eq!(Reader::new(&deep).values("v"), None);
    }
}
