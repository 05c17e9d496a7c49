//! The functions of a template: Go's own and those that Docker's client adds.

use std::cmp::Ordering;

use super::eval::Refusal;
use super::printf::{print, printf};
use super::value::{Shape, Val};

/// All that there are.
const KNOWN: &[&str] = &[
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not", "or", "pad",
    "print", "printf", "println", "slice", "split", "title", "truncate", "upper",
];

/// What Go has and a command line has no use for.
const REFUSED: &[&str] = &["call", "html", "js", "urlquery"];

/// Whether a template may name this function.
///
/// # Errors
/// Go's words for one that does not exist; another for one that is not supported.
pub(super) fn check(name: &str) -> Result<(), Refusal> {
    if KNOWN.contains(&name) {
        return Ok(());
    }
    if REFUSED.contains(&name) {
        return Err(format!("function {name:?} is not supported"));
    }
    Err(format!("function {name:?} not defined"))
}

/// Calls a function. In a header, the values are titles, which only pass through.
///
/// # Errors
/// Why it cannot be called with these arguments.
pub(super) fn call<'a>(name: &str, arguments: Vec<Val<'a>>, header: bool) -> Result<Val<'a>, Refusal> {
    if header && let "json" | "split" | "join" | "title" | "lower" | "upper" | "truncate" = name {
        return arguments
            .into_iter()
            .find(|a| matches!(a, Val::Str(_)))
            .ok_or_else(|| wrong_count(name, 1, 0));
    }
    let calling = |why: Refusal| format!("error calling {name}: {why}");
    match name {
        "print" => Ok(Val::Str(print(&arguments, false))),
        "println" => Ok(Val::Str(print(&arguments, true))),
        "printf" => {
            let (format, rest) = arguments.split_first().ok_or_else(|| wrong_count_at_least(name, 1, 0))?;
            Ok(Val::Str(printf(text(format)?, rest)))
        }
        "and" | "or" => arguments.into_iter().next_back().ok_or_else(|| wrong_count_at_least(name, 1, 0)),
        "not" => exactly(name, arguments).map(|[value]| Val::Bool(!value.truth())),
        "len" => length(&exactly::<1>(name, arguments)?[0]).map(Val::Int).map_err(calling),
        "index" => {
            let mut given = arguments.into_iter();
            let item = given.next().ok_or_else(|| wrong_count_at_least(name, 1, 0))?;
            given.try_fold(item, |item, key| index(item, &key)).map_err(calling)
        }
        "slice" => slice(&arguments).map_err(calling),
        "eq" => equal(&arguments).map(Val::Bool).map_err(calling),
        "ne" => exactly::<2>(name, arguments)
            .and_then(|pair| equal(&pair).map(|e| Val::Bool(!e)).map_err(calling)),
        "lt" | "le" | "gt" | "ge" => {
            let [a, b] = exactly(name, arguments)?;
            let order = order(&a, &b).map_err(calling)?;
            Ok(Val::Bool(match name {
                "lt" => order == Some(Ordering::Less),
                "le" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                "gt" => order == Some(Ordering::Greater),
                _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            }))
        }
        "json" => exactly(name, arguments).map(|[value]| Val::Str(value.json())),
        "lower" => exactly::<1>(name, arguments).and_then(|[a]| Ok(Val::Str(text(&a)?.to_lowercase()))),
        "upper" => exactly::<1>(name, arguments).and_then(|[a]| Ok(Val::Str(text(&a)?.to_uppercase()))),
        "title" => exactly::<1>(name, arguments).and_then(|[a]| Ok(Val::Str(title(text(&a)?)))),
        "split" => {
            let [whole, separator] = exactly(name, arguments)?;
            let (whole, separator) = (text(&whole)?, text(&separator)?);
            let parts: Vec<Val<'a>> = if separator.is_empty() {
                whole.chars().map(|c| Val::Str(c.to_string())).collect()
            } else {
                whole.split(separator).map(|part| Val::Str(part.to_owned())).collect()
            };
            Ok(Val::List(parts))
        }
        "join" => {
            let [list, separator] = exactly(name, arguments)?;
            let wrong = || format!("wrong type for value; expected []string; got {}", list.type_name());
            let items = list.items().or(matches!(list, Val::Nil).then(Vec::new)).ok_or_else(wrong)?;
            let parts =
                items.iter().map(|item| text(item).map_err(|_| wrong())).collect::<Result<Vec<_>, _>>()?;
            Ok(Val::Str(parts.join(text(&separator)?)))
        }
        "pad" => {
            let [source, before, after] = exactly(name, arguments)?;
            let source = text(&source)?;
            if source.is_empty() {
                return Ok(Val::Str(String::new()));
            }
            let blanks = |count: &Val<'_>| Ok::<_, Refusal>(" ".repeat(count_of(count)?.min(MOST_BLANKS)));
            Ok(Val::Str(format!("{}{source}{}", blanks(&before)?, blanks(&after)?)))
        }
        "truncate" => {
            let [source, limit] = exactly(name, arguments)?;
            Ok(Val::Str(text(&source)?.chars().take(count_of(&limit)?).collect()))
        }
        other => Err(format!("function {other:?} not defined")),
    }
}

/// More would be a mistake, and could fill the memory.
const MOST_BLANKS: usize = 10_000;

fn exactly<'a, const N: usize>(name: &str, arguments: Vec<Val<'a>>) -> Result<[Val<'a>; N], Refusal> {
    arguments.try_into().map_err(|given: Vec<Val<'a>>| wrong_count(name, N, given.len()))
}

fn wrong_count(name: &str, wanted: usize, given: usize) -> Refusal {
    format!("wrong number of args for {name}: want {wanted} got {given}")
}

fn wrong_count_at_least(name: &str, wanted: usize, given: usize) -> Refusal {
    format!("wrong number of args for {name}: want at least {wanted} got {given}")
}

fn text<'v>(value: &'v Val<'_>) -> Result<&'v str, Refusal> {
    match value {
        Val::Str(text) => Ok(text),
        Val::Missing | Val::Nil => Err("invalid value; expected string".to_owned()),
        other => Err(format!("wrong type for value; expected string; got {}", other.type_name())),
    }
}

fn count_of(value: &Val<'_>) -> Result<usize, Refusal> {
    match value {
        Val::Int(i) => Ok(usize::try_from(*i).unwrap_or(0)),
        other => Err(format!("wrong type for value; expected int; got {}", other.type_name())),
    }
}

/// Each word's first letter in upper case.
fn title(text: &str) -> String {
    let mut within_word = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if within_word {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        within_word = c.is_alphanumeric() || matches!(c, '_' | '\'');
    }
    out
}

fn length(value: &Val<'_>) -> Result<i64, Refusal> {
    let length = match value {
        Val::Str(text) => text.len(),
        Val::Array(items, _) => items.len(),
        Val::List(items) => items.len(),
        Val::Object(map, shape) if *shape != Shape::Row => map.len(),
        Val::EmptyMap(_) => 0,
        Val::Missing | Val::Nil => return Err("len of nil pointer".to_owned()),
        other => return Err(format!("len of type {}", other.type_name())),
    };
    Ok(i64::try_from(length).unwrap_or(i64::MAX))
}

/// One step of `index`.
fn index<'a>(item: Val<'a>, key: &Val<'a>) -> Result<Val<'a>, Refusal> {
    let position = |count: usize| match key {
        Val::Int(i) => {
            usize::try_from(*i).ok().filter(|i| *i < count).ok_or(format!("index out of range: {i}"))
        }
        Val::Missing | Val::Nil => Err("cannot index slice/array with nil".to_owned()),
        other => Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    match item {
        Val::Missing | Val::Nil => Err("index of untyped nil".to_owned()),
        Val::Object(map, shape) => {
            let Val::Str(key) = key else { return Err(wrong_key(key)) };
            Ok(Val::get(map, shape, key).unwrap_or_else(|| absent(shape)))
        }
        Val::EmptyMap(shape) => match key {
            Val::Str(_) => Ok(absent(shape)),
            other => Err(wrong_key(other)),
        },
        Val::Array(items, shape) => Ok(Val::shaped(&items[position(items.len())?], shape)),
        Val::List(mut items) => {
            let position = position(items.len())?;
            Ok(items.swap_remove(position))
        }
        Val::Str(text) => Ok(Val::Int(i64::from(text.as_bytes()[position(text.len())?]))),
        other => Err(format!("can't index item of type {}", other.type_name())),
    }
}

fn wrong_key(key: &Val<'_>) -> Refusal {
    match key {
        Val::Missing | Val::Nil => "value is nil; should be of type string".to_owned(),
        other => format!("value has type {}; should be string", other.type_name()),
    }
}

/// What `index` gives for a key that is not there: the zero value of the map's elements.
fn absent(shape: Shape) -> Val<'static> {
    match shape {
        Shape::Strings => Val::Str(String::new()),
        Shape::Set => Val::Unit,
        Shape::Map => Val::Array(&[], Shape::Struct),
        Shape::Struct | Shape::HealthCheck | Shape::Ulimit | Shape::Row => Val::Missing,
    }
}

fn slice<'a>(arguments: &[Val<'a>]) -> Result<Val<'a>, Refusal> {
    let Some((item, bounds)) = arguments.split_first() else {
        return Err("want at least 1 argument".to_owned());
    };
    if bounds.len() > 2 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let length = match item {
        Val::Str(text) => text.len(),
        Val::Array(items, _) => items.len(),
        Val::List(items) => items.len(),
        Val::Missing | Val::Nil => return Err("slice of untyped nil".to_owned()),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    let mut range = [0, length];
    for (slot, bound) in range.iter_mut().zip(bounds) {
        *slot = match bound {
            Val::Int(i) => {
                usize::try_from(*i).ok().filter(|i| *i <= length).ok_or(format!("index out of range: {i}"))?
            }
            other => return Err(format!("cannot index slice/array with type {}", other.type_name())),
        };
    }
    let [from, to] = range;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    match item {
        Val::Array(items, shape) => Ok(Val::Array(&items[from..to], *shape)),
        Val::List(items) => Ok(Val::List(items[from..to].to_vec())),
        // Bytes, as in Go; a character cut in two becomes a replacement character.
        Val::Str(text) => Ok(Val::Str(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned())),
        _ => Err("can't slice".to_owned()),
    }
}

/// Whether the first equals any of the others.
fn equal(arguments: &[Val<'_>]) -> Result<bool, Refusal> {
    let Some((first, others)) = arguments.split_first() else {
        return Err("missing argument for comparison".to_owned());
    };
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        let same = match (first, other) {
            (Val::Missing | Val::Nil, Val::Missing | Val::Nil) => true,
            (Val::Missing | Val::Nil, _) | (_, Val::Missing | Val::Nil) => false,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Str(a), Val::Str(b)) => a == b,
            (Val::Int(a) | Val::Duration(a), Val::Int(b) | Val::Duration(b)) => a == b,
            (Val::Float(a), Val::Float(b)) => a == b,
            // A number of JSON is not known to be an integer or a float; the template's author means its value.
            (Val::Float(a), Val::Int(b)) | (Val::Int(b), Val::Float(a)) => *a == *b as f64,
            (Val::Array(..) | Val::List(_) | Val::Object(..) | Val::EmptyMap(_), _) => {
                return Err(format!("non-comparable type {}: {}", first.print(), first.type_name()));
            }
            _ => return Err("incompatible types for comparison".to_owned()),
        };
        if same {
            return Ok(true);
        }
    }
    Ok(false)
}

fn order(a: &Val<'_>, b: &Val<'_>) -> Result<Option<Ordering>, Refusal> {
    match (a, b) {
        (Val::Str(a), Val::Str(b)) => Ok(Some(a.cmp(b))),
        (Val::Int(a) | Val::Duration(a), Val::Int(b) | Val::Duration(b)) => Ok(Some(a.cmp(b))),
        (Val::Float(a), Val::Float(b)) => Ok(a.partial_cmp(b)),
        (Val::Float(a), Val::Int(b)) => Ok(a.partial_cmp(&(*b as f64))),
        (Val::Int(a), Val::Float(b)) => Ok((*a as f64).partial_cmp(b)),
        (Val::Bool(_), Val::Bool(_)) => Err("invalid type for comparison".to_owned()),
        (Val::Str(_) | Val::Int(_) | Val::Duration(_) | Val::Float(_), _)
        | (_, Val::Str(_) | Val::Int(_) | Val::Duration(_) | Val::Float(_)) => {
            Err("incompatible types for comparison".to_owned())
        }
        _ => Err("invalid type for comparison".to_owned()),
    }
}
