//! BuildKit's protocol: what its clients ask of a builder, as builds of hull's.
//!
//! - [`BuildKit`]: the sessions and builds of a daemon, and the two connections that clients open.
//! - [`Agents`]: the one service that hull's own client has on a session.
//! - `session`: what a build asks of its client, `hijack`: one within another connection; `ssh`, `filesync`, `upload`,
//!   [`Archives`]: its files;
//!   `store`: its content stores; `patience`: how long it is waited for.
//! - `outgoing`: what goes to the client.
//! - `order`: what is asked of the Dockerfile frontend; `job`: one build of it.
//! - `control`, `gateway`: the services that are answered, method by method; `grpc`: how.
//! - `questions`: what is asked of a Dockerfile without a build; `history`: the builds that were.
//! - `trace`: what is told meanwhile; `failing`: what is told when it fails.

mod agents;
mod archives;
mod asked;
mod beside;
mod control;
mod failing;
mod filesync;
mod gateway;
mod grpc;
mod hijack;
mod history;
mod job;
mod order;
mod outgoing;
mod patience;
mod private;
mod questions;
mod refs;
mod results;
mod session;
mod ssh;
mod store;
mod taken;
mod trace;
mod upload;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::StatusResponse;
use hull_build::{Agent, Builder, Built, Failure, Request, Stop};
use hull_engine::Engine;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

pub use agents::{Agents, Holder, Keys};
pub use archives::Archives;
pub use failing::Failed;
pub use order::{NamedPlace, Order, Place};
pub use session::Greeting;

use crate::failing::failed;
use crate::filesync::Contexts;
use crate::gateway::Builds;
use crate::history::History;
use crate::job::{Ended, Job, deliver};
use crate::session::{Key, Sessions};
use crate::trace::Trace;

/// What a socket has to say about who builds through it.
pub trait Guard: Send + Sync {
    /// Judges what a build may have of the host, and notes in the request what it may.
    ///
    /// # Errors
    /// It is refused.
    fn judge(&self, request: &mut Request) -> hull_engine::Result<()>;

    /// The socket, where it has a policy: what comes by it is no others'.
    fn socket(&self) -> Option<PathBuf>;
}

/// The sessions and builds of a daemon.
pub struct BuildKit {
    engine: Arc<Engine>,
    builder: Arc<Builder>,
    sessions: Arc<Sessions>,
    builds: Arc<Builds>,
    history: History,
    contexts: Contexts,
    archives: Archives,
}

/// A build that was ordered in one request, as Docker's older clients do.
pub struct Ordered {
    job: Job,
    order: Order,
}

/// What is told of such a build.
pub struct Told(Arc<Trace>);

impl BuildKit {
    /// For an engine and its builder.
    pub fn new(engine: &Arc<Engine>, builder: &Arc<Builder>) -> BuildKit {
        let places = builder.places();
        BuildKit {
            engine: Arc::clone(engine),
            builder: Arc::clone(builder),
            sessions: Arc::default(),
            builds: Arc::default(),
            history: History::default(),
            contexts: Contexts::new(&places.received, &places.temporary),
            archives: Archives::default(),
        }
    }

    /// The builder itself.
    pub fn builder(&self) -> &Arc<Builder> {
        &self.builder
    }

    /// The archives that come with requests of their own.
    pub fn archives(&self) -> &Archives {
        &self.archives
    }

    /// Serves a session until its client ends it.
    pub async fn session<I>(&self, greeting: Greeting, socket: Option<PathBuf>, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Err(error) = self.sessions.serve(greeting, socket, io).await {
            tracing::debug!(%error, "a session ended early");
        }
    }

    /// Answers BuildKit's services on a connection until it ends.
    pub async fn control<I>(self: Arc<BuildKit>, guard: Arc<dyn Guard>, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = move |request| control::answer(Arc::clone(&self), Arc::clone(&guard), request);
        if let Err(error) = grpc::server::serve(io, answer).await {
            tracing::debug!(%error, "a client of the builder ended early");
        }
    }

    /// Waits until a client has opened its session: Docker's client of version 20.10 never ends where its build is
    /// refused before that.
    pub async fn opened(&self, session: &str, socket: Option<PathBuf>) {
        // One that does not come is told of by the build itself.
        let _ = self.sessions.get(&Key { id: session.to_owned(), socket }).await;
    }

    /// Takes an order that a socket's policy has judged already.
    ///
    /// # Errors
    /// The session that it names is not there.
    pub async fn order(&self, session: &str, order: Order, stop: Stop) -> Result<(Ordered, Told), Failure> {
        let socket = order.request.socket.clone();
        let trace = Trace::new(session);
        let job = self.job(session, socket, Arc::clone(&trace), stop).await.map_err(failed)?;
        Ok((Ordered { job, order }, Told(trace)))
    }

    /// The agents of these ids that a client has on its session.
    ///
    /// # Errors
    /// The session is not there, or has no such agent.
    pub async fn agents(
        &self,
        session: &str,
        socket: Option<PathBuf>,
        ids: &[String],
    ) -> Result<BTreeMap<String, Arc<dyn Agent>>, Failure> {
        let session = self.sessions.get(&Key { id: session.to_owned(), socket }).await.map_err(failed)?;
        let mut agents = BTreeMap::new();
        for id in ids {
            let found = ssh::Forwarded::find(&session, id).await;
            let agent = found
                .ok_or_else(|| Failure::invalid(format!("no SSH key {id:?} forwarded from the client")))?;
            agents.insert(id.clone(), agent);
        }
        Ok(agents)
    }

    async fn job(
        &self,
        session: &str,
        socket: Option<PathBuf>,
        trace: Arc<Trace>,
        stop: Stop,
    ) -> grpc::Result<Job> {
        let key = Key { id: session.to_owned(), socket: socket.clone() };
        Ok(Job {
            sessions: Arc::clone(&self.sessions),
            socket,
            engine: Arc::clone(&self.engine),
            builder: Arc::clone(&self.builder),
            contexts: self.contexts.clone(),
            session: self.sessions.get(&key).await?,
            trace,
            stop,
        })
    }
}

impl Ordered {
    /// Builds. `archive` is the context, where it came with a request of its own.
    ///
    /// # Errors
    /// The build failed.
    pub async fn run(self, archive: Option<Box<dyn Read + Send>>) -> Result<Option<Built>, Failed> {
        let trace = Arc::clone(&self.job.trace);
        match self.job.run(self.order, archive).await? {
            Ended::Made(made) => deliver(&trace, *made).await.map(Some),
            Ended::Told(..) => Ok(None),
        }
    }
}

impl Told {
    /// The next message, as BuildKit's clients decode it; none behind the last.
    pub async fn next(&self) -> Option<Vec<u8>> {
        self.0.next().await.map(|told: StatusResponse| told.encode_to_vec())
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.0.unread();
    }
}
