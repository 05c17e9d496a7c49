//! Go's `fmt`: `print`, `println` and `printf`.

use super::super::human;
use super::value::Val;

/// More than this as a width or precision is refused by Go as well.
const WIDEST: i64 = 1_000_000;

/// Go's Sprint: a blank between two neighbours of which neither is a string; Sprintln: between all, and a newline.
pub(super) fn print(arguments: &[Val<'_>], line: bool) -> String {
    let mut out = String::new();
    let mut previous_is_text = true;
    for (index, value) in arguments.iter().enumerate() {
        let is_text = matches!(value, Val::Str(_));
        if index > 0 && (line || (!is_text && !previous_is_text)) {
            out.push(' ');
        }
        out.push_str(&value.verb_v(false));
        previous_is_text = is_text;
    }
    if line {
        out.push('\n');
    }
    out
}

/// The flags, width and precision of one verb.
#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Go's Sprintf.
pub(super) fn printf(format: &str, arguments: &[Val<'_>]) -> String {
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    let mut next = 0;
    // Once arguments are chosen by number, none counts as left over.
    let mut reordered = false;
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = rest.next_if(|c| matches!(c, '-' | '+' | '#' | ' ' | '0')) {
            match flag {
                '-' => spec.minus = true,
                '+' => spec.plus = true,
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                _ => spec.zero = true,
            }
        }
        let mut bad_index = false;
        let mut chosen = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>, next: &mut usize| {
            if rest.next_if_eq(&'[').is_none() {
                return;
            }
            let number: String = std::iter::from_fn(|| rest.next_if(|c| *c != ']')).collect();
            rest.next();
            reordered = true;
            match number.parse::<usize>() {
                Ok(n) if (1..=arguments.len()).contains(&n) => *next = n - 1,
                _ => bad_index = true,
            }
        };
        chosen(&mut rest, &mut next);
        match size(&mut rest, arguments, &mut next) {
            Size::None => {}
            Size::Bad => out.push_str("%!(BADWIDTH)"),
            Size::Value(width) => {
                spec.minus |= width < 0;
                spec.width = usize::try_from(width.unsigned_abs()).ok();
            }
        }
        if rest.next_if_eq(&'.').is_some() {
            spec.precision = Some(0);
            chosen(&mut rest, &mut next);
            match size(&mut rest, arguments, &mut next) {
                Size::None => {}
                Size::Bad => out.push_str("%!(BADPREC)"),
                Size::Value(precision) => spec.precision = usize::try_from(precision).ok(),
            }
        }
        chosen(&mut rest, &mut next);
        match rest.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) if bad_index => {
                out.push_str(&format!("%!{verb}(BADINDEX)"));
            }
            Some(verb) => match arguments.get(next) {
                None => out.push_str(&format!("%!{verb}(MISSING)")),
                Some(value) => {
                    next += 1;
                    out.push_str(&one(&spec, verb, value));
                }
            },
        }
    }
    if !reordered && next < arguments.len() {
        let extra: Vec<String> = arguments[next..].iter().map(typed).collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

enum Size {
    None,
    Bad,
    Value(i64),
}

/// A width or precision: digits, or `*` for the next argument.
fn size(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
    arguments: &[Val<'_>],
    next: &mut usize,
) -> Size {
    if rest.next_if_eq(&'*').is_some() {
        let value = arguments.get(*next);
        *next += 1;
        return match value {
            Some(Val::Int(i)) if (-WIDEST..=WIDEST).contains(i) => Size::Value(*i),
            _ => Size::Bad,
        };
    }
    let digits: String = std::iter::from_fn(|| rest.next_if(char::is_ascii_digit)).collect();
    match digits.parse::<i64>() {
        Ok(value) if value <= WIDEST => Size::Value(value),
        Ok(_) => Size::Bad,
        Err(_) if digits.is_empty() => Size::None,
        Err(_) => Size::Bad,
    }
}

/// `type=value`, as a message about a wrong verb shows it.
fn typed(value: &Val<'_>) -> String {
    match value {
        Val::Missing | Val::Nil => "<nil>".to_owned(),
        other => format!("{}={}", other.type_name(), other.verb_v(false)),
    }
}

fn bad_verb(verb: char, value: &Val<'_>) -> String {
    format!("%!{verb}({})", typed(value))
}

/// One verb applied to one value.
fn one(spec: &Spec, verb: char, value: &Val<'_>) -> String {
    match verb {
        'T' => return pad(spec, value.type_name().to_owned()),
        'v' if spec.sharp => return pad(spec, go_syntax(value)),
        'v' if spec.plus && matches!(value, Val::Object(..) | Val::Array(..)) => {
            return pad(spec, value.verb_v(true));
        }
        _ => {}
    }
    if let Some(items) = value.items() {
        let inner: Vec<String> = items.iter().map(|item| one(spec, verb, item)).collect();
        return format!("[{}]", inner.join(" "));
    }
    match (value, verb) {
        (Val::Missing | Val::Nil, 'v') => pad(spec, "<nil>".to_owned()),
        (Val::Missing | Val::Nil, _) => bad_verb(verb, value),
        (Val::Str(text), _) => string(spec, verb, text).unwrap_or_else(|| bad_verb(verb, value)),
        (Val::Bool(b), 't' | 'v') => pad(spec, b.to_string()),
        (Val::Int(i), 'v') => integer(spec, 'd', *i).unwrap_or_default(),
        (Val::Int(i), _) => integer(spec, verb, *i).unwrap_or_else(|| bad_verb(verb, value)),
        (Val::Duration(_), 'v' | 's') => string(spec, 's', &value.verb_v(false)).unwrap_or_default(),
        (Val::Duration(d), _) => integer(spec, verb, *d).unwrap_or_else(|| bad_verb(verb, value)),
        (Val::Float(f), _) => float(spec, verb, *f).unwrap_or_else(|| bad_verb(verb, value)),
        (Val::Object(..) | Val::EmptyMap(_) | Val::Unit, 'v' | 's') => pad(spec, value.verb_v(false)),
        _ => bad_verb(verb, value),
    }
}

fn string(spec: &Spec, verb: char, text: &str) -> Option<String> {
    let cut: String = match spec.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text.to_owned(),
    };
    let shown = match verb {
        's' | 'v' => cut,
        'q' => quoted(&cut),
        'x' => cut.bytes().map(|b| format!("{b:02x}")).collect(),
        'X' => cut.bytes().map(|b| format!("{b:02X}")).collect(),
        _ => return None,
    };
    Some(pad(spec, shown))
}

fn integer(spec: &Spec, verb: char, i: i64) -> Option<String> {
    let magnitude = i.unsigned_abs();
    let digits = match verb {
        'd' => magnitude.to_string(),
        'x' => format!("{}{magnitude:x}", if spec.sharp { "0x" } else { "" }),
        'X' => format!("{}{magnitude:X}", if spec.sharp { "0X" } else { "" }),
        'o' => format!("{}{magnitude:o}", if spec.sharp { "0" } else { "" }),
        'O' => format!("0o{magnitude:o}"),
        'b' => format!("{}{magnitude:b}", if spec.sharp { "0b" } else { "" }),
        'U' => return Some(pad(spec, format!("U+{magnitude:04X}"))),
        'c' | 'q' => {
            let c = u32::try_from(i).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
            return Some(pad(spec, if verb == 'c' { c.to_string() } else { format!("{c:?}") }));
        }
        _ => return None,
    };
    let digits = match spec.precision {
        Some(precision) => format!("{digits:0>precision$}"),
        None => digits,
    };
    Some(signed(spec, i < 0, digits, spec.precision.is_none()))
}

fn float(spec: &Spec, verb: char, f: f64) -> Option<String> {
    let magnitude = f.abs();
    let digits = match (verb, spec.precision) {
        _ if !f.is_finite() => human::go_infinite(magnitude).trim_start_matches('+').to_owned(),
        ('f' | 'F', precision) => format!("{magnitude:.*}", precision.unwrap_or(6)),
        ('e' | 'E', precision) => {
            let text = format!("{magnitude:.*e}", precision.unwrap_or(6));
            let (mantissa, exponent) = text.split_once('e')?;
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
            format!("{mantissa}{verb}{sign}{exponent:0>2}")
        }
        ('g' | 'G' | 'v', None) => super::value::go_float(magnitude),
        ('g' | 'G' | 'v', Some(precision)) => human::general(magnitude, precision),
        _ => return None,
    };
    Some(signed(spec, f.is_sign_negative() && f != 0.0, digits, f.is_finite()))
}

/// A number with its sign, filled with zeros between the two where that was asked for.
fn signed(spec: &Spec, negative: bool, digits: String, may_fill: bool) -> String {
    let sign = match () {
        () if negative => "-",
        () if spec.plus => "+",
        () if spec.space => " ",
        () => "",
    };
    match spec.width {
        Some(width) if spec.zero && !spec.minus && may_fill => {
            format!("{sign}{digits:0>fill$}", fill = width.saturating_sub(sign.len()))
        }
        _ => pad(spec, format!("{sign}{digits}")),
    }
}

fn pad(spec: &Spec, text: String) -> String {
    match spec.width {
        Some(width) if spec.minus => format!("{text:<width$}"),
        Some(width) => format!("{text:>width$}"),
        None => text,
    }
}

/// Go's strconv.Quote.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_control() && u32::from(c) < 0x80 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `%#v`.
fn go_syntax(value: &Val<'_>) -> String {
    match value {
        Val::Str(text) => quoted(text),
        Val::Object(map, shape) => {
            let entries: Vec<String> = Val::sorted(map, *shape)
                .iter()
                .map(|(k, v)| format!("{}:{}", quoted(k), go_syntax(v)))
                .collect();
            format!("{}{{{}}}", value.type_name(), entries.join(", "))
        }
        Val::EmptyMap(_) => format!("{}{{}}", value.type_name()),
        Val::Unit => "struct {}{}".to_owned(),
        Val::Duration(d) => d.to_string(),
        other => match other.items() {
            Some(items) => {
                let inner: Vec<String> = items.iter().map(go_syntax).collect();
                format!("{}{{{}}}", other.type_name(), inner.join(", "))
            }
            None => other.verb_v(false),
        },
    }
}
