//! What a stream of Write sends, straight from the frames of HTTP/2.
//!
//! tonic gathers each message in a buffer before it decodes it: one copy of everything. Here the
//! messages are found in the frames as they are (a flag, a length of four bytes, the message:
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>), and a chunk is given on in
//! the pieces it came in. What is no plain chunk is gathered and decoded by prost.
//!
//! [`Apart`] sets the body of such a request aside before tonic sees it, for [`Intake`].

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use pannier_proto::v1::{WriteRequest, write_request::Part};
use prost::Message;
use tonic::{
    Status,
    body::Body,
    codegen::{Body as _, Service, http::Request},
    server::NamedService,
};

use super::MESSAGE_BYTES_MAX;
use crate::{
    error::{Error, Result},
    record::CHUNK_BYTES,
};

const WRITE: &str = "/pannier.v1.CacheService/Write";
/// A message's flag and length.
const PREFIX_BYTES: usize = 5;
/// Field 2 of a `WriteRequest`, with its length.
const CHUNK_TAG: u8 = 2 << 3 | 2;

/// A service that finds the bodies of its requests to Write in their extensions.
#[derive(Debug, Clone)]
pub(super) struct Apart<S>(pub(super) S);

#[derive(Clone)]
struct SetAside(Arc<Mutex<Option<Body>>>);

impl<S: NamedService> NamedService for Apart<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Apart<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.uri().path() == WRITE {
            let body = std::mem::take(request.body_mut());
            let body = SetAside(Arc::new(Mutex::new(Some(body))));
            request.extensions_mut().insert(body);
        }
        self.0.call(request)
    }
}

/// The parts of one stream.
pub(super) struct Intake {
    body: Body,
    /// Came and was not given on.
    here: Bytes,
    /// Of the chunk at hand.
    missing: usize,
}

impl Intake {
    /// Of a request that came through [`Apart`].
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Self {
        let body = request.extensions().get::<SetAside>();
        let body = body.and_then(|it| it.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        Self::new(body.unwrap_or_default())
    }

    fn new(body: Body) -> Self {
        Self {
            body,
            here: Bytes::new(),
            missing: 0,
        }
    }

    /// The next part, or the next piece of a chunk; `None` at the end. Not cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Part>> {
        if self.missing == 0 {
            if self.here.is_empty() && !self.receive().await? {
                return Ok(None);
            }
            if let Some(part) = self.begin().await? {
                return Ok(Some(part));
            }
        }
        if self.here.is_empty() && !self.receive().await? {
            return Err(cut_off());
        }
        let piece = self.here.split_to(self.here.len().min(self.missing));
        self.missing -= piece.len();
        Ok(Some(Part::Chunk(piece)))
    }

    /// The next message, unless it is a plain chunk, which then is at hand.
    async fn begin(&mut self) -> Result<Option<Part>> {
        let prefix = self.gather(PREFIX_BYTES).await?;
        let (flag, length) = (prefix[0], &prefix[1..]);
        if flag != 0 {
            return Err(Error::invalid(
                "a message is compressed; send streams as they are",
            ));
        }
        let length = length.iter().fold(0, |sum, it| sum << 8 | usize::from(*it));
        if length > MESSAGE_BYTES_MAX {
            let text = format!("a message of {length} bytes, may have {MESSAGE_BYTES_MAX}");
            return Err(Error::invalid(text));
        }
        let mut message = BytesMut::new();
        let mut said = 0_usize;
        // The tag, then the chunk's length, seven bits in a byte.
        for index in 0..length.min(PREFIX_BYTES) {
            let byte = self.gather(1).await?[0];
            message.extend_from_slice(&[byte]);
            if index == 0 {
                if byte != CHUNK_TAG {
                    break;
                }
                continue;
            }
            said |= usize::from(byte & 0x7f) << (7 * (index - 1));
            if byte & 0x80 == 0 {
                if said != length - message.len() {
                    break;
                }
                check_chunk(said)?;
                self.missing = said;
                return Ok(None);
            }
        }
        message.extend_from_slice(&self.gather(length - message.len()).await?);
        let message = WriteRequest::decode(message.freeze()).map_err(|error| {
            Error::invalid(format!("a message that is no WriteRequest: {error}"))
        })?;
        let part = message
            .part
            .ok_or_else(|| Error::invalid("part: one of header, chunk, finish must be set"))?;
        if let Part::Chunk(chunk) = &part {
            check_chunk(chunk.len())?;
        }
        Ok(Some(part))
    }

    /// So many bytes in one piece.
    async fn gather(&mut self, count: usize) -> Result<Bytes> {
        if self.here.len() >= count {
            return Ok(self.here.split_to(count));
        }
        let mut gathered = BytesMut::new();
        while gathered.len() < count {
            if self.here.is_empty() && !self.receive().await? {
                return Err(cut_off());
            }
            let more = self.here.len().min(count - gathered.len());
            gathered.extend_from_slice(&self.here.split_to(more));
        }
        Ok(gathered.freeze())
    }

    /// Waits for the next bytes; false at the end.
    async fn receive(&mut self) -> Result<bool> {
        while self.here.is_empty() {
            let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            match frame {
                None => return Ok(false),
                Some(Ok(frame)) => self.here = frame.into_data().unwrap_or_default(),
                // The caller has gone: nobody reads the answer.
                Some(Err(status)) => return Err(gone(&status)),
            }
        }
        Ok(true)
    }
}

fn check_chunk(bytes: usize) -> Result<()> {
    if (1..=CHUNK_BYTES).contains(&bytes) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "chunk: {bytes} bytes, must have 1 to {CHUNK_BYTES}"
    )))
}

fn cut_off() -> Error {
    Error::invalid("the stream ended in the middle of a message")
}

fn gone(status: &Status) -> Error {
    Error::invalid(status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use pannier_proto::v1::{WriteFinish, WriteHeader};
    use tonic::codegen::http::HeaderMap;

    use super::*;

    /// A body of frames as they are listed.
    struct Frames(VecDeque<Bytes>);

    impl tonic::codegen::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
            let next = self.0.pop_front().map(|it| Ok(http_body::Frame::data(it)));
            Poll::Ready(next)
        }
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("short");
        [&[0], &length.to_be_bytes()[..], message].concat()
    }

    fn sent(part: Part) -> Vec<u8> {
        framed(&WriteRequest { part: Some(part) }.encode_to_vec())
    }

    /// What comes of `bytes` in frames of `size`, with chunks put together.
    async fn taken(bytes: &[u8], size: usize) -> Result<Vec<Part>> {
        let frames = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
        let mut intake = Intake::new(Body::new(Frames(frames)));
        let mut parts = Vec::new();
        while let Some(part) = intake.next().await? {
            match (parts.last_mut(), part) {
                (Some(Part::Chunk(chunk)), Part::Chunk(more)) => {
                    *chunk = [&chunk[..], &more[..]].concat().into();
                }
                (_, part) => parts.push(part),
            }
        }
        Ok(parts)
    }

    #[tokio::test]
    async fn frames_may_be_cut_anywhere() {
        let header = Part::Header(WriteHeader {
            namespace: "n".into(),
            key: "k".into(),
            ..WriteHeader::default()
        });
        let long: Vec<u8> = (0..300_u16).map(|it| it.to_le_bytes()[0]).collect();
        let chunks = [&b"1"[..], &long[..127], &long[..128], &long];
        let finish = Part::Finish(WriteFinish {
            sha256: Bytes::from_static(b"digest"),
        });
        let mut bytes = sent(header.clone());
        for chunk in chunks {
            bytes.extend(sent(Part::Chunk(Bytes::copy_from_slice(chunk))));
        }
        bytes.extend(sent(finish.clone()));
        let parts = vec![header, Part::Chunk(chunks.concat().into()), finish];
        for size in (1..40).chain([200, 10_000]) {
            let taken = taken(&bytes, size).await.expect("is what was sent");
            assert!(taken == parts, "frames of {size} bytes");
        }
    }

    #[tokio::test]
    async fn a_message_that_is_no_plain_chunk_is_decoded_all_the_same() {
        // A field that is not known yet, before and after; the length in more bytes than it needs.
        let plain = [CHUNK_TAG, 3, b'a', b'b', b'c'];
        let unknown = [0x78, 1];
        let long = [CHUNK_TAG, 0x83, 0x80, 0x80, 0x80, 0, b'a', b'b', b'c'];
        for message in [
            [&unknown[..], &plain].concat(),
            [&plain[..], &unknown].concat(),
            long.to_vec(),
        ] {
            let taken = taken(&framed(&message), 4).await.expect("is valid");
            assert_eq!(taken, [Part::Chunk(Bytes::from_static(b"abc"))]);
        }
    }

    #[tokio::test]
    async fn what_breaks_a_limit_is_named() {
        let too_long = vec![0; CHUNK_BYTES + 1];
        let mut compressed = framed(b"");
        compressed[0] = 1;
        let whole = sent(Part::Chunk(Bytes::from_static(b"abc")));
        for (bytes, told) in [
            (sent(Part::Chunk(Bytes::new())), "chunk: 0 bytes"),
            (sent(Part::Chunk(too_long.into())), "chunk: 1048577 bytes"),
            (framed(b""), "part: one of"),
            (framed(&[0xff; 20]), "no WriteRequest"),
            (compressed, "compressed"),
            (vec![0, 0xff, 0, 0, 0], "a message of 4278190080 bytes"),
            (whole[..3].to_vec(), "in the middle"),
            (whole[..whole.len() - 1].to_vec(), "in the middle"),
        ] {
            let error = taken(&bytes, 1 << 20).await.expect_err(told);
            assert!(error.message().contains(told), "{told}: {error}");
        }
    }

    #[test]
    fn a_request_without_a_body_is_an_empty_stream() {
        let request = tonic::Request::from_parts(
            tonic::metadata::MetadataMap::from_headers(HeaderMap::new()),
            tonic::Extensions::new(),
            (),
        );
        assert!(Intake::of(&request).here.is_empty());
    }
}
