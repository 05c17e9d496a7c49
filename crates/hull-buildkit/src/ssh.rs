//! The client's agent, over its session: whoever connects to a socket of the daemon's speaks with it.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bollard_buildkit_proto::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use hull_build::Agent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::grpc::client::Call;
use crate::grpc::{Result, Status};
use crate::session::Session;

pub(crate) const CHECK: &str = "/moby.sshforward.v1.SSH/CheckAgent";
pub(crate) const FORWARD: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
/// What says on a call which agent is meant.
pub(crate) const ID: &str = "buildkit.ssh.id";

/// An agent of the client's.
pub(crate) struct Forwarded {
    session: Arc<Session>,
    id: String,
    runtime: Handle,
}

impl std::fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the agent {}", self.id)
    }
}

impl Forwarded {
    /// The agent of that name; none: the client has none such.
    pub(crate) async fn find(session: &Arc<Session>, id: &str) -> Option<Arc<dyn Agent>> {
        if !session.has(CHECK) {
            return None;
        }
        let request = CheckAgentRequest { id: id.to_owned() };
        session.unary::<CheckAgentResponse>(CHECK, &request).await.ok()?;
        let runtime = Handle::current();
        Some(Arc::new(Forwarded { session: Arc::clone(session), id: id.to_owned(), runtime }))
    }
}

/// Ends what listens.
struct Listens(tokio::task::JoinHandle<()>);

impl Drop for Listens {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Agent for Forwarded {
    fn listen(&self, path: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let _entered = self.runtime.enter();
        let listener = UnixListener::from_std(listener)?;
        let (session, id) = (Arc::clone(&self.session), self.id.clone());
        let listens = self.runtime.spawn(async move {
            // They end with the step.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (session, id) = (Arc::clone(&session), id.clone());
                connections.spawn(async move {
                    if let Err(status) = carried(&session, &id, stream).await {
                        tracing::debug!(%status, "a connection to a client's agent ended early");
                    }
                });
            }
        });
        Ok(Box::new(Listens(listens)))
    }
}

/// Carries what a connection says to the agent, and its answers.
async fn carried(session: &Session, id: &str, stream: UnixStream) -> Result<()> {
    let Call { send, mut receive } = session.call(FORWARD, vec![(ID, id.to_owned())])?;
    let (mut reader, mut writer) = stream.into_split();
    let asked = async move {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let count = reader.read(&mut buffer).await.map_err(|error| Status::broken("read", error))?;
            if count == 0 {
                // What was asked is answered yet.
                drop(send);
                return Ok(());
            }
            send.send(&BytesMessage { data: buffer[..count].to_vec() }).await?;
        }
    };
    let answered = async move {
        while let Some(message) = receive.next::<BytesMessage>().await? {
            writer.write_all(&message.data).await.map_err(|error| Status::broken("answer", error))?;
        }
        writer.shutdown().await.map_err(|error| Status::broken("answer", error))
    };
    tokio::try_join!(asked, answered).map(drop)
}
