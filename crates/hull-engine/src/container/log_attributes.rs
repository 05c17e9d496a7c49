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
        Some(template) => rendered(template, |_| Some(String::new())).map(drop),
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
    let tag = options.get("tag").and_then(|template| rendered(template, |field| value(record, field)).ok());
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

/// The value of a field of a tag's template.
fn value(record: &Record, field: &str) -> Option<String> {
    let image = record.image_id.strip_prefix("sha256:").unwrap_or(&record.image_id);
    let short = |id: &str| id.chars().take(12).collect::<String>();
    Some(match field {
        "ID" => short(&record.id),
        "FullID" => record.id.clone(),
        "Name" => record.name.clone(),
        "ImageID" => short(image),
        "ImageFullID" => record.image_id.clone(),
        "ImageName" => record.config.image.clone(),
        "Command" => record.command.join(" "),
        "DaemonName" => "hull".to_owned(),
        "ContainerID" => record.id.clone(),
        "ContainerName" => format!("/{}", record.name),
        "ContainerImageID" => record.image_id.clone(),
        "ContainerImageName" => record.config.image.clone(),
        _ => return None,
    })
}

/// The fields that a tag may have.
const FIELDS: [&str; 12] = [
    "ID",
    "FullID",
    "Name",
    "ImageID",
    "ImageFullID",
    "ImageName",
    "Command",
    "DaemonName",
    "ContainerID",
    "ContainerName",
    "ContainerImageID",
    "ContainerImageName",
];

/// A template with its actions in place: fields, `{{.Name}}`, and functions of them, `{{upper .Name}}` or
/// `{{.Name | upper}}`.
fn rendered(template: &str, value: impl Fn(&str) -> Option<String>) -> Result<String> {
    let invalid = |why: String| Error::invalid(format!("invalid log tag {template:?}: {why}"));
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, opened)) = rest.split_once("{{") {
        let (inside, after) = opened.split_once("}}").ok_or_else(|| invalid("a {{ has no }}".to_owned()))?;
        out.push_str(before);
        out.push_str(&action(inside, &value).map_err(invalid)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// What stands between the braces: commands, each of which has the result of the one before as its last argument.
fn action(inside: &str, value: &impl Fn(&str) -> Option<String>) -> std::result::Result<String, String> {
    let operand = |word: &str| {
        if let Some(field) = word.strip_prefix('.').filter(|field| FIELDS.contains(field)) {
            return Ok(value(field).unwrap_or_default());
        }
        let quoted = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
        match quoted {
            Some(text) => Ok(text.to_owned()),
            None if word.parse::<usize>().is_ok() => Ok(word.to_owned()),
            None => Err(format!("{{{{{inside}}}}} is none of .{}", FIELDS.join(", ."))),
        }
    };
    let mut result: Option<String> = None;
    for command in inside.split('|') {
        let mut words = command.split_whitespace();
        let first = words.next().ok_or_else(|| format!("{{{{{inside}}}}} has an empty command"))?;
        let mut arguments = words.map(operand).collect::<std::result::Result<Vec<String>, String>>()?;
        arguments.extend(result.take());
        result = Some(match function(first, &arguments) {
            Some(text) => text?,
            None if arguments.is_empty() => operand(first)?,
            None => return Err(format!("{{{{{inside}}}}}: function {first:?} not defined")),
        });
    }
    Ok(result.unwrap_or_default())
}

/// The result of a function; none: it is not one.
fn function(name: &str, arguments: &[String]) -> Option<std::result::Result<String, String>> {
    let one = |of: fn(&str) -> String| match arguments {
        [text] => Ok(of(text)),
        _ => Err(format!("{name} has one argument")),
    };
    let title = |text: &str| {
        let mut behind_space = true;
        let titled = text.chars().map(|letter| {
            let first = std::mem::replace(&mut behind_space, letter.is_whitespace());
            if first { letter.to_ascii_uppercase() } else { letter }
        });
        titled.collect::<String>()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_fields() {
        let of = |template: &str| rendered(template, |field| Some(field.to_lowercase()));
        assert_eq!(of("plain").unwrap(), "plain");
        assert_eq!(of("{{.ImageName}}/{{ .Name }}-{{.ID}}").unwrap(), "imagename/name-id");
        for (template, tag) in [
            ("{{upper .Name}}", "NAME"),
            ("{{.Name | upper | json}}", "\"NAME\""),
            ("{{truncate .ImageName 5}}-{{print .ID \"x\"}}", "image-idx"),
            ("{{.Name | title}}", "Name"),
        ] {
            assert_eq!(of(template).unwrap(), tag, "{template}");
        }
        for bad in [
            "{{.Name",
            "{{.Nothing}}",
            "{{Name}}",
            "{{if .Name}}x{{end}}",
            "{{}}",
            "{{upper}}",
            "{{.ID | truncate 5}}",
            "{{.Name | .ID}}",
        ] {
            assert!(of(bad).unwrap_err().message.contains("invalid log tag"), "{bad}");
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
