//! Dockerfile to image: parse, plan, cache, execute.
//!
//! - [`dockerfile`]: the language; [`ignore`]: which files of a folder belong to a build.
//! - [`plan`]: which stages are built, and on what.
//! - `kept`: contexts that stay, of which a client sends what it changed ([`listing`]).
//! - [`builder`]: what outlives one build; [`caches`]: what stays of them; [`cancel`]: their end from outside.
//! - `prepared`: one build from its beginning to its end; [`mod@build`]: it for one platform, its stages side by side.
//! - `stage`: one instruction after the other, each looked up by its [`key`] before it is done, and waited for where another
//!   build does it already (`underway`); `copying` (of what, `copies` says), `running` and
//!   [`metadata`] do it.
//! - `intermediate`: the images and containers that the classic builder leaves of its steps.
//! - `cache_mounts`: the files of cache mounts, exported and brought back.
//! - `bases`: the images that a build takes; `borrowing`: steps that other images give; `behind`: layers whose digests
//!   are computed while the next steps run.
//! - [`foreign`]: the platforms whose programs run here by an emulator.
//! - `named`: contexts beside the build's own; `elsewhere` and `git`: those that the daemon fetches.
//! - [`output`]: where what was built goes; [`attest`]: what is attested of it.
//! - [`logs`]: what each build told, kept on the disk.
//! - [`progress`]: what is told meanwhile; [`failure`]: what is told when it fails.

pub mod attest;
mod bases;
mod behind;
mod borrowing;
pub mod build;
pub mod builder;
mod cache_mounts;
pub mod caches;
pub mod cancel;
pub mod context;
mod copies;
mod copying;
pub mod dockerfile;
mod elsewhere;
mod exporting;
pub mod failure;
mod fetching;
pub mod foreign;
mod git;
pub mod ignore;
mod intermediate;
pub mod kept;
pub mod key;
pub mod listing;
pub mod logs;
pub mod metadata;
mod mounts;
mod named;
pub mod output;
pub mod plan;
mod prepared;
pub mod progress;
pub mod request;
mod running;
mod stage;
mod underway;

pub use attest::Attest;
pub use builder::{Builder, Files};
pub use caches::{CacheFolder, Prune};
pub use cancel::Stop;
pub use elsewhere::{is_elsewhere, shown};
pub use failure::Failure;
pub use git::words as git_words;
pub use kept::Missing;
pub use named::Named;
pub use output::Output;
pub use prepared::{Built, Prepared, Undelivered};
pub use request::{Agent, Containers, Request, Secret};
