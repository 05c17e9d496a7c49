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

/// The longest request to an agent, in bytes: OpenSSH's own limit.
const REQUEST: usize = 256 << 10;

/// Keys that answer for an agent themselves.
pub trait Keys: std::fmt::Debug + Send + Sync {
    /// The answer to a request, both without their lengths.
    fn answer(&self, request: &[u8]) -> Vec<u8>;
}

/// Who holds keys.
#[derive(Clone, Debug)]
pub enum Holder {
    /// An agent that listens at a socket.
    Agent(PathBuf),
    /// The client itself.
    Client(Arc<dyn Keys>),
}

/// Who holds keys, by the ids that a build has for them.
#[derive(Clone, Debug, Default)]
pub struct Agents(Arc<BTreeMap<String, Holder>>);

impl Agents {
    /// These.
    pub fn new(agents: BTreeMap<String, Holder>) -> Agents {
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

    fn holder(&self, id: &str) -> Result<&Holder> {
        let id = if id.is_empty() { "default" } else { id };
        self.0.get(id).ok_or_else(|| Status::new(Code::NotFound, format!("unset ssh forward key {id}")))
    }
}

async fn answer(agents: Agents, mut request: Request) -> Result<Answer> {
    match request.method.as_str() {
        HEALTH => Ok(Answer::one(&HealthCheckResponse { status: ServingStatus::Serving.into() })),
        CHECK => {
            let CheckAgentRequest { id } = request.message().await?;
            agents.holder(&id)?;
            Ok(Answer::one(&CheckAgentResponse {}))
        }
        FORWARD => {
            let stream = match agents.holder(request.metadata(ID).unwrap_or_default())? {
                Holder::Agent(path) => UnixStream::connect(path)
                    .await
                    .map_err(|error| Status::broken(&format!("connect to {}", path.display()), error))?,
                Holder::Client(keys) => {
                    let pair = UnixStream::pair();
                    let (stream, asking) =
                        pair.map_err(|error| Status::broken("answer for an agent", error))?;
                    // It ends with the call.
                    tokio::spawn(answered(asking, Arc::clone(keys)));
                    stream
                }
            };
            Ok(carried(stream, request))
        }
        method => Err(Status::new(Code::Unimplemented, format!("unknown method {method}"))),
    }
}

/// Answers as an agent does, until nobody asks any more or what is asked makes no sense.
async fn answered(mut stream: UnixStream, keys: Arc<dyn Keys>) -> std::io::Result<()> {
    loop {
        let length = stream.read_u32().await? as usize;
        if length > REQUEST {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut request = vec![0; length];
        stream.read_exact(&mut request).await?;
        let answer = keys.answer(&request);
        let length = u32::try_from(answer.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()).await?;
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
