//! `--cache-from` and `--cache-mounts-from`: images whose steps are used, and files of cache mounts; here, in registries, or as
//! OCI layouts in folders.

use std::path::Path;

use super::contexts::layout_of;
use super::pack::Packed;
use crate::errln;
use crate::error::Error;

/// Where steps may be taken from.
#[derive(Default)]
pub(super) struct Caches {
    /// Images of the daemon.
    pub(super) images: Vec<String>,
    /// Images in registries.
    pub(super) registries: Vec<String>,
    /// OCI layouts, which are sent.
    pub(super) folders: Vec<Packed>,
}

impl Caches {
    /// What the flags say.
    ///
    /// # Errors
    /// There is no such kind of cache.
    pub(super) fn of(texts: &[String]) -> Result<Caches, Error> {
        let mut caches = Caches::default();
        for text in texts {
            if text.contains('=') {
                caches.add("--cache-from", "cache", text)?;
            } else {
                caches.images.push(text.clone());
            }
        }
        Ok(caches)
    }

    /// What the flags for the files of cache mounts say.
    ///
    /// # Errors
    /// There is no such kind of place.
    pub(super) fn of_mounts(texts: &[String]) -> Result<Caches, Error> {
        let mut caches = Caches::default();
        for text in texts {
            if text.contains('=') {
                caches.add("--cache-mounts-from", "cache mounts", text)?;
            } else {
                caches.registries.push(text.clone());
            }
        }
        Ok(caches)
    }

    fn add(&mut self, flag: &str, what: &str, text: &str) -> Result<(), Error> {
        let field = |name: &str| text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        match (field("type"), field("ref"), field("src")) {
            (Some("registry"), Some(image), None) => self.registries.push(image.to_owned()),
            (Some("local"), None, Some(folder)) if Path::new(folder).join("index.json").exists() => {
                let packed = layout_of(folder);
                self.folders.push(packed.map_err(|why| Error::flag(format!("{flag} {text}: {why}")))?);
            }
            // As with BuildKit: the first build has none yet.
            (Some("local"), None, Some(folder)) => errln!("WARNING: {flag}: {folder} has no {what}"),
            _ => {
                return Err(Error::flag(format!(
                    "{flag} {text}: there are NAME, type=registry,ref=NAME and type=local,src=FOLDER"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_told_apart() {
        let of = |text: &str| Caches::of(&[text.to_owned()]);
        assert_eq!(of("a/b:1").unwrap().images, ["a/b:1"]);
        assert_eq!(of("type=registry,ref=a/b:1").unwrap().registries, ["a/b:1"]);
        assert!(of("type=local,src=/no/such").unwrap().folders.is_empty());
        let mounts = Caches::of_mounts(&["r/x".to_owned(), "type=local,src=/no/such".to_owned()]).unwrap();
        assert!(mounts.registries == ["r/x"] && mounts.images.is_empty() && mounts.folders.is_empty());
        assert!(of("type=gha").is_err() && of("type=registry").is_err());
    }
}
