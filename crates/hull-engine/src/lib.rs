//! What a container, an image, a network and a volume *is* to a user: the state, its transitions, the events.
//!
//! The daemon has one [`Engine`]. Its methods are the Engine API's verbs without HTTP; every decision is
//! taken here, every mechanism is in hull-runtime, hull-image or hull-network.

mod blocking;
pub mod config;
pub mod container;
mod database;
mod engine;
mod error;
pub mod events;
mod fault;
pub mod filter;
pub mod images;
pub mod model;
pub mod networks;
mod process;
mod remap;
mod runtimes;
mod size;
pub mod system;
pub mod volumes;
mod watched;

pub use config::{DaemonConfig, DefaultBridge, DefaultNetwork, DefaultSeccomp, Defaults};
pub use container::Owner;
pub use engine::Engine;
pub use error::{Error, Kind, Result};
pub use images::collect::Collection;
pub use remap::Remap;
pub use runtimes::{Program, Runtimes};
pub use size::parse as size_of;
pub use watched::watched;
