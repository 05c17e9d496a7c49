//! What is fuzzed.

mod challenge;
mod configuration;
mod context;
mod dockerfile;
mod git;
mod layers;
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
        dockerfile::TARGET,
        context::LISTING,
        context::IGNORE,
        tar::VOLUME,
        tar::LAYER,
        tar::ARCHIVE,
        layers::TARGET,
        git::PACK,
        git::WORDS,
    ]
}
