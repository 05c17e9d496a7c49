//! Images in the API's shapes, which differ by its version; and what their names are compared with.

use hull_image::reference::Reference;
use hull_image::{ContainerConfig, Image, Removed};
use serde_json::{Map, Value, json};

use crate::container::rfc3339;

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What of a configuration only containers have: texts, and yes or no.
const CONTAINERS_TEXTS: [&str; 3] = ["Hostname", "Domainname", "Image"];
/// See [`CONTAINERS_TEXTS`].
const CONTAINERS_SWITCHES: [&str; 6] =
    ["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"];

/// One line of `GET /images/json`. `shared` and `containers` are -1 on the wire where they were not counted.
pub(super) fn summary(
    image: &Image,
    (tags, digests): (Vec<String>, Vec<String>),
    shared: Option<u64>,
    containers: Option<usize>,
    version: u32,
) -> Value {
    let named = |names: Vec<String>, none: &str| {
        // Before 1.43 an image without a name was shown with this one.
        if names.is_empty() && version < 43 { vec![none.to_owned()] } else { names }
    };
    let dangling = tags.is_empty() && digests.is_empty();
    let mut value = json!({
        "Id": image.id,
        "ParentId": image.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        "RepoTags": if dangling { named(tags, "<none>:<none>") } else { tags },
        "RepoDigests": if dangling { named(digests, "<none>@<none>") } else { digests },
        "Created": image.created,
        "Size": image.size,
        "SharedSize": shared.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        "Labels": image.container_config().labels,
        "Containers": containers.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX)),
    });
    if version < 44 {
        value["VirtualSize"] = json!(image.size);
    }
    value
}

/// The body of `GET /images/{}/json`.
pub(super) fn inspect(image: &Image, version: u32) -> Value {
    let config = &image.config;
    let tagged = if image.last_tagged == 0 { NEVER.to_owned() } else { rfc3339(image.last_tagged) };
    let mut value = json!({
        "Id": image.id,
        "RepoTags": image.repo_tags,
        "RepoDigests": image.repo_digests,
        "Comment": config.comment,
        "Created": config.created.as_deref().unwrap_or(NEVER),
        "Author": config.author,
        "Config": container_config(&image.container_config(), version),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size,
        "GraphDriver": { "Name": crate::system::STORAGE_DRIVER, "Data": {} },
        "RootFS": {
            "Type": "layers",
            "Layers": image.layers.iter().map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>(),
        },
        "Metadata": { "LastTagTime": tagged },
    });
    for (name, text) in [("Variant", &config.variant), ("OsVersion", &config.os_version)] {
        if !text.is_empty() {
            value[name] = json!(text);
        }
    }
    if version >= 44
        && config.created.is_none()
        && let Value::Object(members) = &mut value
    {
        members.shift_remove("Created");
    }
    if version < 52 {
        value["Parent"] = json!(image.parent.map(|parent| parent.to_string()).unwrap_or_default());
        value["DockerVersion"] = json!(config.docker_version);
    }
    if version < 45 {
        value["Container"] = json!(config.container);
        value["ContainerConfig"] = container_config(&config.made_of_config().unwrap_or_default(), version);
    }
    if version < 44 {
        value["VirtualSize"] = json!(image.size);
    }
    value
}

/// The configuration: what clients ask for by name is always there; before 1.50 so is what only containers have.
fn container_config(config: &ContainerConfig, version: u32) -> Value {
    let mut members = Map::new();
    if version < 50 {
        for name in CONTAINERS_TEXTS {
            members.insert(name.to_owned(), json!(""));
        }
        for name in CONTAINERS_SWITCHES {
            members.insert(name.to_owned(), json!(false));
        }
    }
    members.insert("User".to_owned(), json!(""));
    members.insert("WorkingDir".to_owned(), json!(""));
    for name in ["Env", "Cmd", "Entrypoint", "Volumes", "OnBuild", "Labels"] {
        members.insert(name.to_owned(), Value::Null);
    }
    if let Ok(Value::Object(known)) = serde_json::to_value(config) {
        members.extend(known);
    }
    if version >= 50 {
        for name in CONTAINERS_TEXTS.into_iter().chain(CONTAINERS_SWITCHES) {
            members.remove(name);
        }
    }
    Value::Object(members)
}

/// One thing that a removal removed.
pub(super) fn removed(removed: &Removed) -> Value {
    match removed {
        Removed::Untagged(name) => json!({ "Untagged": name }),
        Removed::Deleted(id) => json!({ "Deleted": id }),
    }
}

/// Whether an image's name is such as the pattern of a `reference` filter: the whole name or the repository, as people
/// write them.
pub(super) fn is_called(name: &str, pattern: &str) -> bool {
    let matches = |text: &str| matches(pattern.as_bytes(), text.as_bytes());
    match Reference::parse(name) {
        Ok(reference) => matches(&reference.familiar()) || matches(&reference.familiar_name()),
        Err(_) => matches(name),
    }
}

/// Whether a pattern is one: its brackets are closed, and something stands behind each `\`.
pub(super) fn is_pattern(pattern: &str) -> bool {
    let mut rest = pattern.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let length = match first {
            b'[' => class(behind, 0).map(|(_, length)| length),
            b'\\' => behind.first().map(|_| 1),
            _ => Some(0),
        };
        let Some(behind) = length.and_then(|length| behind.get(length..)) else { return false };
        rest = behind;
    }
    true
}

/// Go's `path.Match`: `*` and `?` do not cross a slash, `[a-z]` and `[^a]` are one character, `\` takes away a
/// meaning. A malformed pattern matches nothing. On a mismatch only the last star takes one character more: what an
/// earlier one could take, the last one can; so the time is at most the product of the lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, read));
            continue;
        }
        let next = text.get(read).and_then(|byte| one(&pattern[at..], *byte));
        if read == text.len() && at == pattern.len() {
            return true;
        }
        if let Some(length) = next {
            (at, read) = (at + length, read + 1);
            continue;
        }
        match star {
            Some((behind, taken)) if text.get(taken).is_some_and(|byte| *byte != b'/') => {
                star = Some((behind, taken + 1));
                (at, read) = (behind, taken + 1);
            }
            _ => return false,
        }
    }
}

/// Whether the pattern's beginning takes that character, and how long that beginning is.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => (byte != b'/').then_some(1),
        b'[' => {
            let (is_in, length) = class(&pattern[1..], byte)?;
            (is_in && byte != b'/').then_some(1 + length)
        }
        b'\\' => (*pattern.get(1)? == byte).then_some(2),
        plain => (plain == byte).then_some(1),
    }
}

/// Whether a character is in the brackets, whose beginning is taken off already, and how long they are.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = pattern.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let first = at;
    let mut is_in = false;
    let character = |at: &mut usize| -> Option<u8> {
        *at += usize::from(*pattern.get(*at)? == b'\\') + 1;
        pattern.get(*at - 1).copied()
    };
    while at == first || *pattern.get(at)? != b']' {
        if matches!(*pattern.get(at)?, b']' | b'-') {
            return None;
        }
        let low = character(&mut at)?;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') {
            at += 1;
            high = Some(character(&mut at)?).filter(|high| *high != b']')?;
        }
        is_in |= (low..=high).contains(&byte);
    }
    Some((is_in != negated, at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_gos() {
        let of = |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes());
        for (pattern, text) in [
            ("busybox", "busybox"),
            ("busy*", "busybox"),
            ("*", "busybox:1"),
            ("*/*", "workshop/busybox"),
            ("b?s*x", "busybox"),
            ("[a-c]usybox", "busybox"),
            ("[^x]usybox", "busybox"),
            ("a\\*", "a*"),
            ("", ""),
        ] {
            assert!(of(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("busy", "busybox"),
            ("*", "workshop/busybox"),
            ("[x]usybox", "busybox"),
            ("[", "b"),
            ("[]", "]"),
            ("[a-", "a"),
            ("\\", "\\"),
            ("a?", "a"),
        ] {
            assert!(!of(pattern, text), "{pattern} {text}");
        }
        // Exponential where every star is tried again.
        assert!(!of(&("*a".repeat(100) + "b"), &"a".repeat(200)));
        assert!(of(&"*a".repeat(100), &"a".repeat(200)));
        assert!(of("a/*/c*", "a/b/cd") && !of("a/*/c", "a/b/d/c"));
    }

    #[test]
    fn patterns_are_told_from_what_is_none() {
        for pattern in ["", "busy*", "[a-c]x", "[^a]", "a\\*", "*/*:?"] {
            assert!(is_pattern(pattern), "{pattern}");
        }
        for pattern in ["[", "a[", "[]", "[a-", "x\\"] {
            assert!(!is_pattern(pattern), "{pattern}");
        }
    }

    #[test]
    fn names_are_compared_as_people_write_them() {
        assert!(is_called("busybox:latest", "busybox"));
        assert!(is_called("busybox:1", "busybox:*"));
        assert!(is_called("workshop/busybox:1", "workshop/*"));
        assert!(!is_called("workshop/busybox:1", "busybox"));
    }

    #[test]
    fn a_configuration_shows_what_clients_ask_for() {
        let shown =
            container_config(&ContainerConfig { env: vec!["A=1".into()], ..ContainerConfig::default() }, 56);
        assert_eq!(shown["Env"], json!(["A=1"]));
        assert_eq!(shown["Cmd"], Value::Null);
        assert!(shown.get("Hostname").is_none());
        assert_eq!(container_config(&ContainerConfig::default(), 41)["Tty"], json!(false));
    }
}
