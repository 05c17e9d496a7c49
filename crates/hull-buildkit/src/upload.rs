//! An archive that the client sends over its session.

use std::io::{self, Read};
use std::sync::Arc;

use bollard_buildkit_proto::moby::upload::v1::BytesMessage;

use crate::grpc::Result;
use crate::grpc::client::{Call, Receiving, Sending};
use crate::patience::Patience;
use crate::session::Session;

/// It, to be read by a thread that may block.
pub(crate) struct Upload {
    receive: Receiving,
    patience: Arc<Patience>,
    piece: Vec<u8>,
    at: usize,
    /// The call goes on as long as this is there.
    _send: Sending,
}

impl Upload {
    /// Asks for what the client has under a path.
    pub(crate) fn open(session: &Session, path: &str, patience: Arc<Patience>) -> Result<Upload> {
        let metadata = vec![("urlpath", path.to_owned()), ("urlhost", "buildkit-session".to_owned())];
        let Call { send, receive } = session.call("/moby.upload.v1.Upload/Pull", metadata)?;
        Ok(Upload { receive, patience, piece: Vec::new(), at: 0, _send: send })
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            let next = self.patience.wait(self.receive.next::<BytesMessage>());
            match next.map_err(|status| io::Error::other(status.message))? {
                None => return Ok(0),
                Some(message) => {
                    self.patience.moved(message.data.len());
                    (self.piece, self.at) = (message.data, 0);
                }
            }
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
