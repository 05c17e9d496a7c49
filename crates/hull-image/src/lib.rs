//! References, content, layers, snapshots: what an image is, and the folders that containers are made of.
//!
//! The store is synchronous and safe to use from several threads; it knows nothing of containers. What is asked while a
//! container starts ([`Store::resolve`], [`Store::create_snapshot`]) is answered from memory. [`registry`] is asynchronous:
//! it fetches, and hands over to the store's threads.

pub mod archive;
pub mod artifact;
pub mod compress;
pub mod config;
mod digest;
pub mod disk;
pub mod dress;
mod error;
pub mod fault;
pub mod instruction;
mod layer;
mod number;
pub mod reference;
pub mod registry;
mod store;
mod tar;

pub use config::{ContainerConfig, ImageConfig};
pub use digest::{Digest, ImageId};
pub use error::{Error, Kind, Result};
pub use layer::remove::{empty_folder, remove_tree};
pub use number::{get_number, put_number};
pub use store::{
    Change, ChangeKind, Check, Checked, Commit, Count, Difference, DiskUsage, Draft, Driver, Finding, Held,
    HistoryEntry, Image, ImageUsage, Import, InUse, Layer, LayerBlob, LayerWork, Loaded, LostLayers, Pinned,
    Platform, Progress, Removed, Report, Snapshot, Step, StepUsage, Store, StoredAgain, Taken, Unnamed,
    Wrong, tree_size,
};
