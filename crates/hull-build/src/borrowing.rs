//! Steps that other images give (`--cache-from`): found by those images' histories.

use hull_image::config::History;
use hull_image::{Digest, ImageConfig};

use crate::key::Key;

/// The key of a step that another image gave. What that image says of its history is its maker's word alone: whoever makes
/// an image may say of a layer that any command made it. So what follows is known by the layer, and nobody who does not
/// name such an image gets it.
pub(crate) fn borrowed(key: Digest, before: &ImageConfig, now: &ImageConfig) -> Digest {
    let new = now.rootfs.diff_ids.iter().skip(before.rootfs.diff_ids.len());
    Key::of("borrowed").with(key.to_string()).with_all(new.map(Digest::to_string)).finish()
}

/// The image that one has become by one step, where another image is that image with this step and further ones.
pub(crate) fn continued(so_far: &ImageConfig, other: &ImageConfig, created_by: &str) -> Option<ImageConfig> {
    let steps = so_far.history.len();
    let same = |a: &History, b: &History| a.created_by == b.created_by && a.empty_layer == b.empty_layer;
    let begins = other.history.len() > steps
        && (&so_far.os, &so_far.architecture) == (&other.os, &other.architecture)
        && so_far.history.iter().zip(&other.history).all(|(a, b)| same(a, b))
        && other.rootfs.diff_ids.starts_with(&so_far.rootfs.diff_ids);
    let step = other.history.get(steps).filter(|step| begins && step.created_by == created_by)?;
    let mut config = so_far.clone();
    if !step.empty_layer {
        config.rootfs.diff_ids.push(*other.rootfs.diff_ids.get(so_far.rootfs.diff_ids.len())?);
    }
    config.created.clone_from(&step.created);
    config.history.push(step.clone());
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(steps: &[(&str, bool)]) -> ImageConfig {
        let mut config = ImageConfig::default();
        for (created_by, empty_layer) in steps {
            config.history.push(History {
                created_by: (*created_by).to_owned(),
                empty_layer: *empty_layer,
                ..History::default()
            });
            if !empty_layer {
                config.rootfs.diff_ids.push(Digest::of(created_by.as_bytes()));
            }
        }
        config
    }

    #[test]
    fn another_image_continues_this_one_by_its_history() {
        let all = image(&[("base", false), ("ENV a", true), ("RUN b", false), ("RUN c", false)]);
        let so_far = image(&[("base", false), ("ENV a", true)]);
        let next = continued(&so_far, &all, "RUN b").unwrap();
        assert_eq!(next.rootfs.diff_ids, all.rootfs.diff_ids[..2]);
        assert_eq!(next.history.len(), 3);
        assert!(continued(&so_far, &all, "RUN c").is_none());
        assert!(continued(&image(&[("other", false), ("ENV a", true)]), &all, "RUN b").is_none());
        assert!(continued(&all, &all, "RUN d").is_none());
        let other_machine = ImageConfig { architecture: "arm64".to_owned(), ..all.clone() };
        assert!(continued(&so_far, &other_machine, "RUN b").is_none());
        // Neither the step's own key nor that of another image which says the same of another layer.
        let key = Digest::of(b"RUN b");
        let given = borrowed(key, &so_far, &next);
        let mut other = next.clone();
        other.rootfs.diff_ids[1] = Digest::of(b"something else");
        assert_ne!(given, key);
        assert_ne!(given, borrowed(key, &so_far, &other));
        assert_eq!(given, borrowed(key, &so_far, &next.clone()));
    }
}
