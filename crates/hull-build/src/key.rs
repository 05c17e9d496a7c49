//! By what steps are known again: everything that they depend on, and nothing else.

use hull_image::Digest;
use sha2::{Digest as _, Sha256};

/// Changes when a step of the same key would do something else than it did.
const VERSION: &[u8] = b"hull.build.1";

/// A key that is being put together: fields, each with its length, so that two of them are never taken for others.
#[derive(Clone)]
pub struct Key(Sha256);

impl Key {
    /// Of a step of this kind.
    pub fn of(kind: &str) -> Key {
        Key(Sha256::new()).with(VERSION).with(kind)
    }

    /// And this.
    #[must_use]
    pub fn with(mut self, field: impl AsRef<[u8]>) -> Key {
        let field = field.as_ref();
        self.0.update((field.len() as u64).to_le_bytes());
        self.0.update(field);
        self
    }

    /// And all of these.
    #[must_use]
    pub fn with_all<T: AsRef<[u8]>>(self, fields: impl IntoIterator<Item = T>) -> Key {
        let mut count = 0u64;
        let key = fields.into_iter().fold(self, |key, field| {
            count += 1;
            key.with(field)
        });
        key.with(count.to_le_bytes())
    }

    /// The key.
    pub fn finish(self) -> Digest {
        Digest::from_hasher(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn fields_do_not_run_into_each_other() {
        let key = |fields: &[&str]| Key::of("x").with_all(fields).finish();
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["ab"]));
        assert_ne!(key(&["a", ""]), key(&["a"]));
        assert_ne!(Key::of("x").finish(), Key::of("y").finish());
    }
}
