//! A session within a call: what is sent on it, in either direction, are the bytes of the session's own connection.

use std::path::PathBuf;
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use bytes::Bytes;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::BuildKit;
use crate::grpc::server::{Answer, Request};
use crate::grpc::{Code, Result, Status, framed};
use crate::session::Greeting;

/// How many bytes may wait on the way, in either direction.
const WAITING: usize = 256 << 10;

/// `Control.Session`.
pub(crate) fn session(buildkit: &Arc<BuildKit>, socket: Option<PathBuf>, request: Request) -> Result<Answer> {
    let greeting = Greeting::of(&request.metadata)
        .ok_or_else(|| Status::new(Code::InvalidArgument, "a session has a name"))?;
    let (ours, theirs) = tokio::io::duplex(WAITING);
    let buildkit = Arc::clone(buildkit);
    let serving = tokio::spawn(async move { buildkit.session(greeting, socket, theirs).await });
    let (reader, mut writer) = tokio::io::split(ours);
    let mut messages = request.messages;
    let receiving = tokio::spawn(async move {
        while let Ok(Some(message)) = messages.next::<BytesMessage>().await {
            if writer.write_all(&message.data).await.is_err() {
                return;
            }
        }
        // The client has gone: so has its session.
        let _ = writer.shutdown().await;
    });
    let goes_on = [Aborted(serving), Aborted(receiving)];
    let sent = stream::unfold((reader, goes_on), |(mut reader, goes_on)| async move {
        let mut buffer = vec![0; 32 << 10];
        let count = reader.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        buffer.truncate(count);
        let message: Bytes = framed(&BytesMessage { data: buffer });
        Some((Ok(message), (reader, goes_on)))
    });
    Ok(Answer::Many(Box::pin(sent)))
}

/// A task that ends with the call.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
