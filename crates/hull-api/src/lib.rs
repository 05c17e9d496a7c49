//! The Docker Engine API over HTTP: one file for each resource, thin. Decisions are the engine's.
//!
//! - [`daemon`]: `hull daemon`, from its flags to its end.
//! - `server`: listeners and connections.
//! - `routes`: the one table of every endpoint, those that are not there yet included.
//! - `policy`: what a socket refuses, endpoint by endpoint.
//! - `sockets`: the sockets with a policy, which come and go while the daemon runs.
//! - `blocking`: work that blocks, bodies as readers and writers.
//! - `http`: a request as the handlers see it, and the answers that they give.

/// Which files of a folder belong to a build, how they are told, and what is no folder of the client's: for clients, who pack
/// it.
pub use hull_build::{ignore, is_elsewhere, listing};
pub use hull_buildkit::{Agents, Holder, Keys};
/// A verifier of nobody's certificate: for clients of a daemon, too.
pub use hull_image::registry::Unverified;
/// The grammars of platforms and of images' names: clients look at what was typed before they ask.
pub use hull_image::{Platform, reference};

mod blocking;
mod build;
mod build_answer;
mod build_kept;
mod build_preface;
mod build_query;
mod buildkit;
mod container_create;
mod container_files;
mod container_output;
mod containers;
pub mod daemon;
mod ended;
mod exec;
mod gone;
mod hijack;
mod http;
mod images;
mod lenient;
mod networks;
mod places;
mod policy;
mod pull;
mod push;
mod routes;
mod server;
mod sockets;
mod swarm;
mod system;
mod tls;
mod unread;
mod volumes;
mod websocket;
