//! Layers: from an archive to a folder that overlayfs stacks, and back again bit by bit.

pub(crate) mod extract;
pub(crate) mod remove;
pub(crate) mod split;
pub(crate) mod stream;
pub(crate) mod sweep;
pub(crate) mod unpack;
