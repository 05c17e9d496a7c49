//! `--cache-from`: images whose steps are used, here, in registries, or as OCI layouts in folders.

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
            if !text.contains('=') {
                caches.images.push(text.clone());
                continue;
            }
            let field =
                |name: &str| text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            match (field("type"), field("ref"), field("src")) {
                (Some("registry"), Some(image), None) => caches.registries.push(image.to_owned()),
                (Some("local"), None, Some(folder)) if Path::new(folder).join("index.json").exists() => {
                    let packed = layout_of(folder);
                    caches
                        .folders
                        .push(packed.map_err(|why| Error::flag(format!("--cache-from {text}: {why}")))?);
                }
                // As with BuildKit: the first build has none yet.
                (Some("local"), None, Some(folder)) => errln!("WARNING: --cache-from: {folder} has no cache"),
                _ => {
                    return Err(Error::flag(format!(
                        "--cache-from {text}: there are NAME, type=registry,ref=NAME and type=local,src=FOLDER"
                    )));
                }
            }
        }
        Ok(caches)
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
        assert!(of("type=gha").is_err() && of("type=registry").is_err());
    }
}
