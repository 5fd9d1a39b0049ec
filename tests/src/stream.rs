//! Streams of Read and Write as a test needs them: part by part, and all at once.

use bytes::{Bytes, BytesMut};
use pannier_proto::v1::{
    ReadHeader, ReadRequest, Tier, WriteFinish, WriteHeader, WriteRequest, WriteResponse,
    cache_service_client::CacheServiceClient, read_response, write_request::Part,
};
use tokio::sync::mpsc;

use tonic::{
    Status,
    codegen::tokio_stream::{self, wrappers::ReceiverStream},
    transport::Channel,
};

use crate::Caller;

/// Size of the chunks that are sent; not one that the daemon cuts into.
pub const SENT_BYTES: usize = 300_000;

/// What a stream of Read had.
#[derive(Debug)]
pub struct Got {
    /// What it began with.
    pub header: ReadHeader,
    /// What followed.
    pub value: Bytes,
}

impl Got {
    /// Whether there was an entry.
    pub fn is_hit(&self) -> bool {
        self.header.entry.is_some()
    }

    /// The tier that answered.
    pub fn tier(&self) -> Tier {
        let provenance = self.header.provenance.as_ref();
        provenance.expect("part of every header").tier()
    }
}

/// The parts of a value: header, chunks, finish.
pub fn parts(header: WriteHeader, value: &Bytes) -> Vec<WriteRequest> {
    let chunks = (0..value.len()).step_by(SENT_BYTES);
    let chunks = chunks.map(|at| value.slice(at..value.len().min(at + SENT_BYTES)));
    let chunks = chunks.map(Part::Chunk);
    [Part::Header(header)]
        .into_iter()
        .chain(chunks)
        .chain([Part::Finish(WriteFinish::default())])
        .map(part)
        .collect()
}

/// One part as a message.
pub fn part(part: Part) -> WriteRequest {
    WriteRequest { part: Some(part) }
}

/// A request to read the whole of a value.
pub fn read(namespace: &str, key: &str) -> ReadRequest {
    ReadRequest {
        namespace: namespace.into(),
        key: key.into(),
        ..ReadRequest::default()
    }
}

/// Reads as a stream, and may fail.
///
/// # Errors
/// As the daemon says, before the header or after it.
pub async fn read_from(
    mut stub: CacheServiceClient<Channel>,
    request: ReadRequest,
) -> Result<Got, Status> {
    let mut stream = stub.read(request).await?.into_inner();
    let mut header = None;
    let mut value = BytesMut::new();
    while let Some(message) = stream.message().await? {
        match message.part.expect("a part") {
            read_response::Part::Header(it) => {
                assert!(
                    header.is_none() && value.is_empty(),
                    "the header comes first"
                );
                header = Some(it);
            }
            read_response::Part::Chunk(chunk) => {
                assert!((1..=1 << 20).contains(&chunk.len()), "1 byte to 1 MiB");
                value.extend_from_slice(&chunk);
            }
        }
    }
    Ok(Got {
        header: header.expect("a header"),
        value: value.freeze(),
    })
}

/// A stream of Write whose parts a test sends one by one.
#[derive(Debug)]
pub struct Sender {
    parts: mpsc::Sender<WriteRequest>,
    answer: tokio::task::JoinHandle<Result<WriteResponse, Status>>,
}

impl Sender {
    /// Sends a part; false when the stream has ended.
    pub async fn send(&self, part: Part) -> bool {
        let message = WriteRequest { part: Some(part) };
        self.parts.send(message).await.is_ok()
    }

    /// Sends bytes of a value.
    pub async fn chunks(&self, value: &Bytes) {
        for at in (0..value.len()).step_by(SENT_BYTES) {
            let chunk = value.slice(at..value.len().min(at + SENT_BYTES));
            self.send(Part::Chunk(chunk)).await;
        }
    }

    /// Ends the stream of parts and waits for the answer.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn answer(self) -> Result<WriteResponse, Status> {
        drop(self.parts);
        self.answer.await.expect("the call did not panic")
    }

    /// Goes away without a word.
    pub fn give_up(self) {
        self.answer.abort();
    }
}

impl Caller {
    /// A header for a key.
    pub fn header(&self, key: &str) -> WriteHeader {
        WriteHeader {
            namespace: self.namespace().to_owned(),
            key: key.into(),
            ..WriteHeader::default()
        }
    }

    /// Writes a value as a stream.
    pub async fn write(&self, key: &str, value: &Bytes) -> WriteResponse {
        let reply = self.try_write(self.header(key), value).await;
        reply.expect("a write is taken")
    }

    /// Writes a value as a stream, and may fail.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn try_write(
        &self,
        header: WriteHeader,
        value: &Bytes,
    ) -> Result<WriteResponse, Status> {
        self.try_parts(parts(header, value)).await
    }

    /// Sends these parts, and may fail.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn try_parts(&self, parts: Vec<WriteRequest>) -> Result<WriteResponse, Status> {
        let parts = tokio_stream::iter(parts);
        Ok(self.stub().write(parts).await?.into_inner())
    }

    /// Begins to write.
    pub fn sender(&self) -> Sender {
        let (sender, parts) = mpsc::channel(1);
        let mut stub = self.stub();
        let call = async move {
            let reply = stub.write(ReceiverStream::new(parts)).await;
            Ok(reply?.into_inner())
        };
        Sender {
            parts: sender,
            answer: tokio::spawn(call),
        }
    }

    /// Reads a value as a stream.
    pub async fn read(&self, key: &str) -> Got {
        let reply = self.try_read(read(self.namespace(), key)).await;
        reply.expect("a read is answered")
    }

    /// Reads as a stream, and may fail.
    ///
    /// # Errors
    /// As the daemon says, before the header or after it.
    pub async fn try_read(&self, request: ReadRequest) -> Result<Got, Status> {
        read_from(self.stub(), request).await
    }
}
