//! Messages in a body: a byte that says whether it is compressed, four of its length, itself.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;

use super::{Code, Result, Status};

/// The longest message that is taken, in bytes.
const LIMIT: usize = 16 << 20;

/// What stands before a message.
const HEAD: usize = 5;

/// A message as it goes over the line.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // The buffer grows, so there is always room.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

/// The messages of a body.
pub(crate) struct Messages {
    body: Incoming,
    buffer: BytesMut,
    /// How the call ended, once that is known.
    ended: Option<Result<()>>,
}

impl Messages {
    pub(crate) fn new(body: Incoming) -> Messages {
        Messages { body, buffer: BytesMut::new(), ended: None }
    }

    /// The next one; none behind the last.
    ///
    /// # Errors
    /// It is none of that type, the line broke, or the other side ended the call with an error.
    pub(crate) async fn next<T: Message + Default>(&mut self) -> Result<Option<T>> {
        let Some(bytes) = self.next_bytes().await? else { return Ok(None) };
        T::decode(bytes)
            .map(Some)
            .map_err(|error| Status::new(Code::InvalidArgument, format!("a malformed message: {error}")))
    }

    async fn next_bytes(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(message) = taken(&mut self.buffer)? {
                return Ok(Some(message));
            }
            if let Some(ended) = &self.ended {
                return match ended {
                    Ok(()) if self.buffer.is_empty() => Ok(None),
                    Ok(()) => Err(Status::broken("read a message", "it ended early")),
                    Err(status) => Err(status.clone()),
                };
            }
            match self.body.frame().await {
                None => self.ended = Some(Ok(())),
                Some(Err(error)) => return Err(Status::broken("read a message", error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.ended = Status::of(&trailers);
                        }
                    }
                },
            }
        }
    }
}

/// Takes a whole message off a buffer, where it has one.
fn taken(buffer: &mut BytesMut) -> Result<Option<Bytes>> {
    if buffer.len() < HEAD {
        return Ok(None);
    }
    if buffer[0] != 0 {
        return Err(Status::new(Code::Unimplemented, "a compressed message, which nobody has asked for"));
    }
    let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
    if length > LIMIT {
        return Err(Status::new(
            Code::InvalidArgument,
            format!("a message of {length} bytes: at most {LIMIT} are taken"),
        ));
    }
    if buffer.len() < HEAD + length {
        buffer.reserve(HEAD + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEAD);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use bollard_buildkit_proto::moby::buildkit::v1::StatusRequest;

    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let message = StatusRequest { r#ref: "abc".to_owned() };
        let wire = framed(&message);
        let mut buffer = BytesMut::new();
        for byte in &wire[..wire.len() - 1] {
            buffer.put_u8(*byte);
            assert!(taken(&mut buffer).unwrap().is_none());
        }
        buffer.put_u8(wire[wire.len() - 1]);
        buffer.extend_from_slice(&wire);
        for _ in 0..2 {
            let bytes = taken(&mut buffer).unwrap().unwrap();
            assert_eq!(StatusRequest::decode(bytes).unwrap(), message);
        }
        assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_too_long_or_compressed_is_refused() {
        let refused = |bytes: [u8; 5]| taken(&mut BytesMut::from(&bytes[..])).unwrap_err().code;
        assert_eq!(refused([0, 0xff, 0, 0, 0]), Code::InvalidArgument);
        assert_eq!(refused([1, 0, 0, 0, 0]), Code::Unimplemented);
    }
}
