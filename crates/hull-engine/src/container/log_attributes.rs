//! What stands beside each line of a json-file log: labels and variables of the container, and its tag.

use std::collections::BTreeMap;

use regex::Regex;

use super::Record;
use crate::{Error, Result};

/// Whether what the options `labels-regex`, `env-regex` and `tag` say can be understood.
///
/// # Errors
/// It cannot; the sentence names the option.
pub(super) fn check(options: &BTreeMap<String, String>) -> Result<()> {
    for name in ["labels-regex", "env-regex"] {
        pattern(options, name)?;
    }
    match options.get("tag") {
        Some(template) => rendered(template, None).map(drop),
        None => Ok(()),
    }
}

/// The labels and variables that `labels`, `labels-regex`, `env` and `env-regex` choose, and `tag`.
pub(super) fn attributes(record: &Record) -> BTreeMap<String, String> {
    let options = &record.host_config.log_config.config;
    // They were looked at when the container was made.
    let chosen = |list: &str, regex: &str, name: &str| {
        options.get(list).is_some_and(|names| names.split(',').any(|listed| listed == name))
            || pattern(options, regex).is_ok_and(|pattern| pattern.is_some_and(|regex| regex.is_match(name)))
    };
    let mut attributes = BTreeMap::new();
    for (label, value) in record.config.labels.iter().flatten() {
        if chosen("labels", "labels-regex", label) {
            attributes.insert(label.clone(), value.clone());
        }
    }
    for (name, value) in record.config.env.iter().flatten().filter_map(|entry| entry.split_once('=')) {
        if chosen("env", "env-regex", name) {
            attributes.insert(name.to_owned(), value.to_owned());
        }
    }
    let tag = options.get("tag").and_then(|template| rendered(template, Some(record)).ok());
    if let Some(tag) = tag.filter(|tag| !tag.is_empty()) {
        attributes.insert("tag".to_owned(), tag);
    }
    attributes
}

fn pattern(options: &BTreeMap<String, String>, name: &str) -> Result<Option<Regex>> {
    let Some(text) = options.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    Regex::new(text)
        .map(Some)
        .map_err(|error| Error::invalid(format!("invalid value {text:?} of the log option {name}: {error}")))
}

/// A field's name, and what it is of a container.
type Field = (&'static str, fn(&Record) -> String);

/// The fields that a tag's template may have.
const FIELDS: [Field; 12] = [
    ("ID", |record| short(&record.id)),
    ("FullID", |record| record.id.clone()),
    ("Name", |record| record.name.clone()),
    ("ImageID", |record| short(record.image_id.strip_prefix("sha256:").unwrap_or(&record.image_id))),
    ("ImageFullID", |record| record.image_id.clone()),
    ("ImageName", |record| record.config.image.clone()),
    ("Command", |record| record.command.join(" ")),
    ("DaemonName", |_| "hull".to_owned()),
    ("ContainerID", |record| record.id.clone()),
    ("ContainerName", |record| format!("/{}", record.name)),
    ("ContainerImageID", |record| record.image_id.clone()),
    ("ContainerImageName", |record| record.config.image.clone()),
];

fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

/// The functions of a tag.
const FUNCTIONS: [&str; 6] = ["upper", "lower", "title", "json", "print", "truncate"];

/// A template with its actions in place: fields, `{{.Name}}`, and functions of them, `{{upper .Name}}` or
/// `{{.Name | upper}}`.
fn rendered(template: &str, record: Option<&Record>) -> Result<String> {
    let invalid = |why: String| Error::invalid(format!("invalid log tag {template:?}: {why}"));
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, opened)) = rest.split_once("{{") {
        out.push_str(before);
        let action = Action { end: end(opened).ok_or_else(|| invalid("a {{ has no }}".to_owned()))?, opened };
        out.push_str(&action.evaluate(record).map_err(invalid)?);
        rest = &opened[action.end + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the braces close that are open: not within a quoted text.
fn end(opened: &str) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, letter) in opened.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '}' if !is_quoted && opened[at..].starts_with("}}") => return Some(at),
            _ => {}
        }
    }
    None
}

/// What stands between the braces: commands, each of which has the result of the one before as its last argument.
struct Action<'a> {
    opened: &'a str,
    end: usize,
}

impl Action<'_> {
    fn inside(&self) -> &str {
        &self.opened[..self.end]
    }

    /// The text in its place; where only the template is looked at, each field is empty.
    fn evaluate(&self, record: Option<&Record>) -> std::result::Result<String, String> {
        let mut result: Option<String> = None;
        for command in self.commands()? {
            let (first, words) = command.split_first().ok_or_else(|| self.wrong("has an empty command"))?;
            let mut arguments: Vec<String> =
                words.iter().map(|word| self.operand(word, record)).collect::<std::result::Result<_, _>>()?;
            arguments.extend(result.take());
            result = Some(match function(first, &arguments) {
                Some(text) => text?,
                None if arguments.is_empty() => self.operand(first, record)?,
                None if first.starts_with(['.', '"']) => {
                    return Err(self.wrong(&format!("gives an argument to {first}, which is no function")));
                }
                None => return Err(self.unknown(first)),
            });
        }
        Ok(result.unwrap_or_default())
    }

    /// The words of each command; a quoted text is one, whatever is in it.
    fn commands(&self) -> std::result::Result<Vec<Vec<String>>, String> {
        let mut commands = vec![Vec::new()];
        let mut rest = self.inside().trim_start();
        while let Some(letter) = rest.chars().next() {
            let word = match letter {
                '|' => {
                    commands.push(Vec::new());
                    rest = rest[1..].trim_start();
                    continue;
                }
                '"' => {
                    let mut texts = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                    if !matches!(texts.next(), Some(Ok(_))) {
                        return Err(self.wrong("has a quoted text that cannot be read"));
                    }
                    texts.byte_offset()
                }
                _ => rest.find(|letter: char| letter.is_whitespace() || letter == '|').unwrap_or(rest.len()),
            };
            if let Some(command) = commands.last_mut() {
                command.push(rest[..word].to_owned());
            }
            rest = rest[word..].trim_start();
        }
        Ok(commands)
    }

    fn operand(&self, word: &str, record: Option<&Record>) -> std::result::Result<String, String> {
        if word.starts_with('"') {
            return serde_json::from_str(word)
                .map_err(|_| self.wrong("has a quoted text that cannot be read"));
        }
        if word.parse::<usize>().is_ok() {
            return Ok(word.to_owned());
        }
        let field = word.strip_prefix('.').and_then(|name| FIELDS.iter().find(|(field, _)| *field == name));
        match field {
            Some((_, value)) => Ok(record.map(value).unwrap_or_default()),
            None => Err(self.unknown(word)),
        }
    }

    /// That a word is none which a tag knows, and which those are.
    fn unknown(&self, word: &str) -> String {
        let fields: Vec<String> = FIELDS.iter().map(|(field, _)| format!(".{field}")).collect();
        let known =
            format!("a tag has the fields {} and the functions {}", fields.join(", "), FUNCTIONS.join(", "));
        match word {
            "if" | "else" | "end" | "range" | "with" | "define" | "template" | "block" => {
                self.wrong(&format!("is a condition or a block, which hull's log tags do not have: {known}"))
            }
            _ if word.starts_with('.') => self.wrong(&format!("names {word}: {known}")),
            _ => self.wrong(&format!("has {word:?}, which is no function of log tags in hull: {known}")),
        }
    }

    fn wrong(&self, why: &str) -> String {
        format!("{{{{{}}}}} {why}", self.inside())
    }
}

/// The result of a function; none: it is not one.
fn function(name: &str, arguments: &[String]) -> Option<std::result::Result<String, String>> {
    let one = |of: fn(&str) -> String| match arguments {
        [text] => Ok(of(text)),
        _ => Err(format!("{name} has one argument")),
    };
    Some(match name {
        "upper" => one(str::to_uppercase),
        "lower" => one(str::to_lowercase),
        "title" => one(title),
        "json" => one(|text| serde_json::Value::from(text).to_string()),
        "print" => Ok(arguments.concat()),
        "truncate" => match arguments {
            [text, length] => match length.parse() {
                Ok(length) => Ok(text.chars().take(length).collect()),
                Err(_) => Err(format!("truncate: {length:?} is no length")),
            },
            _ => Err("truncate has two arguments, a text and a length".to_owned()),
        },
        _ => return None,
    })
}

/// Each word's first letter is a capital one.
fn title(text: &str) -> String {
    let mut titled = String::new();
    let mut behind_space = true;
    for letter in text.chars() {
        if std::mem::replace(&mut behind_space, letter.is_whitespace()) {
            titled.extend(letter.to_uppercase());
        } else {
            titled.push(letter);
        }
    }
    titled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Config;

    fn of(template: &str) -> Result<String> {
        let record = Record {
            name: "web éa".to_owned(),
            image_id: "sha256:fedcba9876543210".to_owned(),
            command: vec!["sleep".to_owned(), "1".to_owned()],
            config: Config { image: "busybox".to_owned(), ..Config::default() },
            ..Record::named("0123456789abcdef")
        };
        rendered(template, Some(&record))
    }

    #[test]
    fn a_tag_has_fields() {
        for (template, tag) in [
            ("plain", "plain"),
            ("{{.ImageName}}/{{ .Name }}-{{.ID}}", "busybox/web éa-0123456789ab"),
            ("{{upper .Name}}", "WEB ÉA"),
            ("{{.Name | upper | json}}", "\"WEB ÉA\""),
            ("{{truncate .ImageName 4}}-{{print .ID \"x\"}}", "busy-0123456789abx"),
            ("{{.Name | title}}|{{.Command}}", "Web Éa|sleep 1"),
            (r#"{{print "a b" "c|d" "}}" "\"\u0041"}}"#, "a bc|d}}\"A"),
            (r#"{{"a b"|upper}}{{.ImageID}}"#, "A Bfedcba987654"),
        ] {
            assert_eq!(of(template).unwrap(), tag, "{template}");
        }
        for (field, _) in FIELDS {
            assert!(!of(&format!("{{{{.{field}}}}}")).unwrap().is_empty(), "{field}");
        }
        for name in FUNCTIONS {
            assert!(function(name, &[]).is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_tag_is_told() {
        for (bad, why) in [
            ("{{.Name", "a {{ has no }}"),
            ("{{print \"}}", "a {{ has no }}"),
            (r#"{{print "\x"}}"#, "has a quoted text that cannot be read"),
            ("{{.Nothing}}", "{{.Nothing}} names .Nothing: a tag has the fields .ID, "),
            ("{{Name}}", "{{Name}} has \"Name\", which is no function"),
            (
                "{{if .Name}}x{{end}}",
                "{{if .Name}} is a condition or a block, which hull's log tags do not have",
            ),
            ("{{index .ContainerLabels \"a\"}}", "names .ContainerLabels: a tag has"),
            ("{{printf \"%s\" .Name}}", "has \"printf\", which is no function of log tags in hull"),
            ("{{}}", "{{}} has an empty command"),
            ("{{.Name |}}", "has an empty command"),
            ("{{upper}}", "upper has one argument"),
            ("{{.ID | truncate 5}}", "is no length"),
            ("{{.Name | .ID}}", "gives an argument to .ID, which is no function"),
        ] {
            let message = of(bad).unwrap_err().message;
            assert!(message.starts_with("invalid log tag ") && message.contains(why), "{message}");
        }
    }

    #[test]
    fn a_pattern_is_one() {
        let options = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        check(&options("env-regex", "^A")).unwrap();
        let error = check(&options("labels-regex", "(")).unwrap_err();
        assert!(error.message.contains("labels-regex"), "{error}");
    }
}
