//! What is fuzzed.

mod certificates;
mod challenge;
mod compressed;
mod configuration;
mod context;
mod dockerfile;
mod git;
mod headers;
mod layers;
mod layout;
mod manifest;
mod reference;
mod signature;
mod tar;

use crate::Target;

/// All of them.
pub fn targets() -> &'static [Target] {
    &[
        reference::TARGET,
        manifest::TARGET,
        configuration::TARGET,
        challenge::TARGET,
        headers::TARGET,
        certificates::TARGET,
        signature::TARGET,
        layout::TARGET,
        compressed::TARGET,
        dockerfile::TARGET,
        context::LISTING,
        context::IGNORE,
        tar::VOLUME,
        tar::LAYER,
        tar::ARCHIVE,
        layers::TARGET,
        git::PACK,
        git::WORDS,
        git::WIRE,
    ]
}
