//! The client's end of a session, as far as hull's own client has one: the agents that hold its keys.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bollard_buildkit_proto::health::{HealthCheckResponse, health_check_response::ServingStatus};
use bollard_buildkit_proto::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, CheckAgentResponse};
use futures_util::stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::grpc::server::{Answer, Request, serve};
use crate::grpc::{Code, Result, Status, framed};
use crate::session::HEALTH;
use crate::ssh::{CHECK, FORWARD, ID};

/// Agents that hold keys, by their ids: the sockets that they listen at.
#[derive(Clone, Debug, Default)]
pub struct Agents(Arc<BTreeMap<String, PathBuf>>);

impl Agents {
    /// Those of these sockets.
    pub fn new(agents: BTreeMap<String, PathBuf>) -> Agents {
        Agents(Arc::new(agents))
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The headers by which a daemon knows the session of that name, and what it may ask on it.
    pub fn headers(session: &str) -> Vec<(&'static str, String)> {
        vec![
            ("x-docker-expose-session-uuid", session.to_owned()),
            ("x-docker-expose-session-grpc-method", CHECK.to_owned()),
            ("x-docker-expose-session-grpc-method", FORWARD.to_owned()),
        ]
    }

    /// Answers on a session until the daemon ends it.
    ///
    /// # Errors
    /// The line broke.
    pub async fn serve<I>(self, io: I) -> std::io::Result<()>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = move |request| answer(self.clone(), request);
        serve(io, answer).await.map_err(std::io::Error::other)
    }

    fn socket(&self, id: &str) -> Result<&PathBuf> {
        let id = if id.is_empty() { "default" } else { id };
        self.0.get(id).ok_or_else(|| Status::new(Code::NotFound, format!("unset ssh forward key {id}")))
    }
}

async fn answer(agents: Agents, mut request: Request) -> Result<Answer> {
    match request.method.as_str() {
        HEALTH => Ok(Answer::one(&HealthCheckResponse { status: ServingStatus::Serving.into() })),
        CHECK => {
            let CheckAgentRequest { id } = request.message().await?;
            agents.socket(&id)?;
            Ok(Answer::one(&CheckAgentResponse {}))
        }
        FORWARD => {
            let path = agents.socket(request.metadata(ID).unwrap_or_default())?;
            let stream = UnixStream::connect(path).await;
            let stream =
                stream.map_err(|error| Status::broken(&format!("connect to {}", path.display()), error))?;
            Ok(carried(stream, request))
        }
        method => Err(Status::new(Code::Unimplemented, format!("unknown method {method}"))),
    }
}

/// Carries what comes on a call to an agent, and its answers back.
fn carried(stream: UnixStream, request: Request) -> Answer {
    let (reader, mut writer) = stream.into_split();
    let mut messages = request.messages;
    // It ends with the call, or with the agent's connection.
    tokio::spawn(async move {
        while let Ok(Some(message)) = messages.next::<BytesMessage>().await {
            if writer.write_all(&message.data).await.is_err() {
                return;
            }
        }
        // Nothing more is asked; what was is answered yet.
        let _ = writer.shutdown().await;
    });
    let answers = stream::unfold(reader, |mut reader| async move {
        let mut buffer = vec![0; 16 << 10];
        let count = reader.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        buffer.truncate(count);
        Some((Ok(framed(&BytesMessage { data: buffer })), reader))
    });
    Answer::Many(Box::pin(answers))
}
