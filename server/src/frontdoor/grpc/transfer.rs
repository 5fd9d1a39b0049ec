//! Streams of Read and Write: parts in, chunks out, and how many there may be.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::unfold;
use pannier_proto::v1::{
    ReadHeader, ReadRequest, ReadResponse, WriteHeader, WriteResponse,
    read_response::Part as Reply, write_request::Part as Wire,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::yield_now,
    time::timeout,
};
use tokio_stream::Stream;
use tonic::Status;

use super::{
    OwnedInFlight,
    deadline::{Deadline, passed},
    decode, encode,
    intake::Intake,
    status::status,
    watch::Replies,
};
use crate::{
    engine::{Body, Draft, Part, Range, Reading, Uploaded},
    error::{Error, Kind, Result},
    record::Digest,
};

/// Bytes of a chunk that is sent: what is larger keeps a worker's other callers waiting longer, and
/// is no faster.
const SENT_BYTES: usize = 256 << 10;
/// Longest wait for the next part of a stream of Write. Chunks in Redis live twice as long.
const PART_MAX: Duration = Duration::from_secs(60);

/// How many streams there may be.
#[derive(Debug, Clone)]
pub(super) struct Transfers {
    permits: Arc<Semaphore>,
    max: usize,
}

impl Transfers {
    pub(super) fn new(max: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max)),
            max,
        }
    }

    /// One more; `Overloaded` beyond the limit.
    pub(super) fn admit(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            let text = format!(
                "server.max_transfers: {} streams are open already",
                self.max
            );
            Error::new(Kind::Overloaded, text)
        })
    }
}

/// The header of a stream of Write.
pub(super) async fn header(intake: &mut Intake) -> Result<WriteHeader> {
    match next(intake).await? {
        Some(Wire::Header(header)) => Ok(header),
        Some(_) => Err(Error::invalid(
            "header: must come first, and something else did",
        )),
        None => Err(Error::invalid(
            "header: must come first, and the stream ended",
        )),
    }
}

async fn next(intake: &mut Intake) -> Result<Option<Wire>> {
    timeout(PART_MAX, intake.next()).await.map_err(|_| {
        let text = format!("the stream was silent for {PART_MAX:?}; it is discarded");
        Error::new(Kind::Interrupted, text)
    })?
}

pub(super) fn draft(header: WriteHeader) -> Result<Draft> {
    let options = decode::put_options(header.options.as_ref(), header.ttl.as_ref())?;
    let entry = decode::entry(
        (Bytes::new(), false),
        header.content_type,
        header.metadata,
        header.tags,
    )?;
    Ok(Draft {
        key: header.key,
        attributes: entry.attributes,
        options,
        size: header.size_bytes,
        digest: digest(&header.sha256)?,
    })
}

fn digest(bytes: &[u8]) -> Result<Option<Digest>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes
        .try_into()
        .map(Some)
        .map_err(|_| Error::invalid(format!("sha256: {} bytes, a SHA-256 has 32", bytes.len())))
}

/// What follows the header, for the engine.
pub(super) fn parts(intake: &mut Intake) -> impl Stream<Item = Result<Part>> + Send + Unpin + '_ {
    Box::pin(unfold(Some(intake), async |intake| {
        let intake = intake?;
        match next(intake)
            .await
            .and_then(|part| part.map(part_of).transpose())
        {
            Ok(Some(part)) => Some((Ok(part), Some(intake))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

fn part_of(part: Wire) -> Result<Part> {
    match part {
        Wire::Header(_) => Err(Error::invalid("header: must come once, and came again")),
        Wire::Chunk(piece) => Ok(Part::Chunk(piece)),
        Wire::Finish(finish) => Ok(Part::Finish(digest(&finish.sha256)?)),
    }
}

pub(super) fn written(uploaded: &Uploaded) -> WriteResponse {
    let put = encode::put_response(&uploaded.written);
    WriteResponse {
        version: put.version,
        expire_time: put.expire_time,
        local_outcome: put.local_outcome,
        shared_outcome: put.shared_outcome,
        provenance: put.provenance,
        size_bytes: uploaded.size,
    }
}

pub(super) fn range(request: &ReadRequest) -> Range {
    Range {
        offset: request.offset,
        length: request.length,
    }
}

/// What a stream of Read holds as long as it lasts.
pub(super) struct Held {
    pub(super) _request: OwnedInFlight,
    pub(super) _transfer: OwnedSemaphorePermit,
}

struct Sending {
    header: Option<ReadHeader>,
    body: Body,
    /// What is to be sent before the body is asked again.
    rest: Bytes,
    _held: Held,
    deadline: Option<Deadline>,
}

/// The stream of a reading.
pub(super) fn stream(
    reading: Reading,
    held: Held,
    deadline: Option<Deadline>,
) -> Replies<ReadResponse> {
    let Reading { answer, size, body } = reading;
    let sending = Sending {
        header: Some(ReadHeader {
            provenance: Some(encode::provenance(&answer.provenance)),
            lease: answer.lease.map(encode::lease),
            entry: answer.hit.map(encode::entry),
            size_bytes: size,
        }),
        body,
        rest: Bytes::new(),
        _held: held,
        deadline,
    };
    Box::pin(unfold(Some(sending), async |sending| {
        let mut sending = sending?;
        match sending.next().await {
            Ok(Some(part)) => Some((Ok(ReadResponse { part: Some(part) }), Some(sending))),
            Ok(None) => None,
            Err(end) => Some((Err(end), None)),
        }
    }))
}

impl Sending {
    async fn next(&mut self) -> Result<Option<Reply>, Status> {
        if let Some(header) = self.header.take() {
            return Ok(Some(Reply::Header(header)));
        }
        tokio::select! {
            biased;
            late = passed(self.deadline) => Err(late),
            chunk = self.chunk() => Ok(chunk.map_err(status)?.map(Reply::Chunk)),
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        // A caller that takes all that comes must not keep a worker from its other callers.
        yield_now().await;
        if self.rest.is_empty() {
            let Some(chunk) = self.body.next().await? else {
                return Ok(None);
            };
            self.rest = chunk;
        }
        let bytes = self.rest.len().min(SENT_BYTES);
        Ok(Some(self.rest.split_to(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_break_a_limit_are_named() {
        assert!(part_of(Wire::Header(WriteHeader::default())).is_err());
        assert!(digest(b"").expect("none").is_none());
        assert!(digest(&[1; 32]).expect("one").is_some());
        let refused = digest(&[1; 31]).expect_err("too short");
        assert_eq!(refused.message(), "sha256: 31 bytes, a SHA-256 has 32");
    }

    #[test]
    fn streams_beyond_the_limit_are_refused_until_one_ends() {
        let transfers = Transfers::new(1);
        let first = transfers.admit().expect("one");
        let refused = transfers.admit().expect_err("two");
        assert_eq!(refused.kind(), Kind::Overloaded);
        drop(first);
        assert!(transfers.admit().is_ok());
    }
}
