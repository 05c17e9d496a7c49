//! References: the names of images, as people write them and in full.

use crate::Result;

/// A parsed and normalised reference.
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
    pub fn parse(_text: &str) -> Result<Reference> {
        Err(crate::Error::invalid("references: not there yet"))
    }

    /// The repository as people write it: `busybox`, `user/name`, `localhost:5000/name`.
    pub fn familiar_name(&self) -> String {
        String::new()
    }

    /// The reference as people write it, with its tag and digest: `busybox:latest`.
    pub fn familiar(&self) -> String {
        String::new()
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
}
