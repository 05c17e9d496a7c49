//! What is fuzzed.

mod challenge;
mod configuration;
mod manifest;
mod reference;
mod tar;

use crate::Target;

/// All of them.
pub fn targets() -> &'static [Target] {
    &[
        reference::TARGET,
        manifest::TARGET,
        configuration::TARGET,
        challenge::TARGET,
        tar::VOLUME,
        tar::LAYER,
        tar::ARCHIVE,
    ]
}
