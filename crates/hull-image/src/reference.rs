//! References: the names of images, as people write them and in full, by the grammar of Docker's references.

use std::fmt;

use crate::{Error, Result};

pub(crate) const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL: &str = "library/";
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

/// A parsed and normalised reference. It prints in full: `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The registry: `docker.io`, `localhost:5000`.
    pub domain: String,
    /// The repository within it: `library/busybox`.
    pub path: String,
    /// The tag, where one was given.
    pub tag: Option<String>,
    /// The digest, where one was given: `sha256:…`.
    pub digest: Option<String>,
}

impl Reference {
    /// Parses a reference; `docker.io` and `library/` are added where they are left out, a tag is not.
    pub fn parse(text: &str) -> Result<Reference> {
        let wrong = || Error::invalid("invalid reference format");
        if is_hexadecimal(text) {
            return Err(Error::invalid(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let slash = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[slash..].split_once(':') {
            Some((last, tag)) => (&rest[..slash + last.len()], Some(tag)),
            None => (rest, None),
        };
        let (domain, path) = split_domain(name);
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(Error::invalid(format!(
                "invalid reference format: repository name ({path}) must be lowercase"
            )));
        }
        if !is_domain(&domain) || !is_path(&path) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong());
        }
        if domain.len() + 1 + path.len() > NAME_LIMIT {
            return Err(Error::invalid(format!(
                "repository name must not be more than {NAME_LIMIT} characters"
            )));
        }
        if let Some(digest) = digest {
            check_digest(digest)?;
        }
        Ok(Reference { domain, path, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
    }

    /// Parses what a new name may be: a repository with a tag (`latest` where it has none), without a digest.
    pub fn parse_tag(text: &str) -> Result<Reference> {
        let reference = Reference::parse(text)?;
        if reference.digest.is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        // It could never be told from the digest that an image is named by.
        if reference.domain == DEFAULT_DOMAIN && reference.path == "library/sha256" {
            return Err(Error::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
        }
        Ok(reference.or_latest())
    }

    /// The repository as people write it: `busybox`, `user/name`, `localhost:5000/name`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.split_once('/') {
            // Without its registry it would be read as an id, or as a name of another.
            Some(("library", name)) if is_hexadecimal(name) => self.name(),
            Some((first, _)) if is_registry(first) => self.name(),
            Some(("library", name)) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The reference as people write it, with its tag and digest: `busybox:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The repository in full: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same with the tag `latest` where it has neither tag nor digest.
    pub fn or_latest(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text = text + ":" + tag;
        }
        if let Some(digest) = &self.digest {
            text = text + "@" + digest;
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.name()))
    }
}

/// The first part is a registry only where it looks like one: with a dot, a port, capitals, or `localhost`.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => {
            (if first == "index.docker.io" { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL}{path}"));
    }
    (domain.to_owned(), path.to_owned())
}

/// Whether a name could be an image's id.
fn is_hexadecimal(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether the first part of a name is taken for a registry.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

pub(crate) fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.is_empty() || !address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':') {
                return false;
            }
            match rest.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if rest.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.is_none_or(|host| host.split('.').all(is_label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Components of lower-case letters and digits, within which `.`, `_`, `__` or dashes separate.
fn is_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    path.split('/').all(|component| {
        let bytes = component.as_bytes();
        let ends_well =
            bytes.first().is_some_and(|&byte| plain(byte)) && bytes.last().is_some_and(|&byte| plain(byte));
        let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends_well
            && separators.into_iter().all(|separator| {
                matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
            })
    })
}

pub(crate) fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= TAG_LIMIT
        && word(bytes[0])
        && bytes.iter().all(|&byte| word(byte) || byte == b'.' || byte == b'-')
}

fn check_digest(digest: &str) -> Result<()> {
    let wrong = || Error::invalid("invalid reference format");
    let (algorithm, hex) = digest.split_once(':').ok_or_else(wrong)?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(Error::invalid(format!("unsupported digest algorithm {algorithm:?}"))),
    };
    if hex.len() != length || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(wrong());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_normalised_and_printed_familiarly() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox", "busybox"),
            ("busybox:1", "docker.io/library/busybox:1", "busybox:1"),
            ("docker.io/library/busybox:1", "docker.io/library/busybox:1", "busybox:1"),
            ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
            ("user/name", "docker.io/user/name", "user/name"),
            ("hull/host:latest", "docker.io/hull/host:latest", "hull/host:latest"),
            ("localhost/name", "localhost/name", "localhost/name"),
            ("localhost:5000/name:t", "localhost:5000/name:t", "localhost:5000/name:t"),
            ("[::1]:5000/name", "[::1]:5000/name", "[::1]:5000/name"),
            ("a.example/b/c/d:x.y-z", "a.example/b/c/d:x.y-z", "a.example/b/c/d:x.y-z"),
            ("a__b/c--d.e", "docker.io/a__b/c--d.e", "a__b/c--d.e"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!((reference.to_string(), reference.familiar()), (full.to_owned(), familiar.to_owned()));
        }
        // What would be read as something else is written in full.
        let hexadecimal = format!("docker.io/library/{}", "a".repeat(64));
        for text in ["docker.io/docker.io/library/x", "docker.io/localhost/x:1", &hexadecimal] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.familiar(), text);
        }
        let reference = Reference::parse(&format!("busybox:1@{digest}")).unwrap();
        assert_eq!(reference.familiar(), format!("busybox:1@{digest}"));
        assert_eq!(Reference::parse("busybox").unwrap().or_latest().familiar(), "busybox:latest");
    }

    #[test]
    fn malformed_references_are_refused_in_dockers_words() {
        let long = format!("{}/b", "a/".repeat(127));
        for (text, words) in [
            ("", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("a:", "invalid reference format"),
            (":a", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("a@sha256:12", "invalid reference format"),
            ("a\n", "invalid reference format"),
            ("ä", "invalid reference format"),
            ("a:-x", "invalid reference format"),
            ("[x]/a", "invalid reference format"),
            ("Busybox", "must be lowercase"),
            ("a/B", "must be lowercase"),
            (&"a".repeat(64), "cannot specify 64-byte hexadecimal strings"),
            (&"z".repeat(256), "must not be more than 255 characters"),
            (&long, "invalid reference format"),
        ] {
            let error = Reference::parse(text).unwrap_err();
            assert!(error.message.contains(words), "{text:?}: {error}");
        }
        assert!(Reference::parse_tag(&format!("a@sha256:{}", "0".repeat(64))).is_err());
        assert!(Reference::parse_tag("sha256:abc").is_err());
    }
}
