//! The answers: the same constant entry to every read, the same acknowledgement to every put. Of
//! streams, constant chunks go out, and what comes in is counted and thrown away.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use pannier_proto::v1::{
    Entry, ExistsRequest, ExistsResponse, GetManyItem, GetManyRequest, GetManyResponse, GetRequest,
    GetResponse, InvalidateRequest, InvalidateResponse, Provenance, PutManyRequest,
    PutManyResponse, PutRequest, PutResponse, ReadHeader, ReadRequest, ReadResponse, SharedState,
    Tier, TierOutcome, WatchRequest, WatchResponse, WriteRequest, WriteResponse,
    cache_service_server::CacheService, read_response, write_request,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// Lifetime that the entry claims to have.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Age and durations of every answer: of the size that the daemon reports.
const AGE: prost_types::Duration = prost_types::Duration {
    seconds: 7,
    nanos: 250_000_000,
};
const TOOK: prost_types::Duration = prost_types::Duration {
    seconds: 0,
    nanos: 3_217,
};

/// Bytes of a chunk that goes out: as the daemon sends them.
const CHUNK_BYTES: usize = 256 << 10;

/// A `CacheService` without a cache.
#[derive(Debug, Clone)]
pub(super) struct Echo {
    answers: Arc<Answers>,
}

#[derive(Debug)]
struct Answers {
    get: GetResponse,
    item: GetManyItem,
    put: PutResponse,
    chunk: Bytes,
}

impl Echo {
    /// Prepares the answers; every entry has a value of `value_bytes`.
    pub(super) fn new(value_bytes: usize) -> Self {
        let now = SystemTime::now();
        let expire_time = Some((now + LIFETIME).into());
        let version = Bytes::from_static(b"0123456789abcdef");
        let entry = Entry {
            value: Bytes::from(vec![0x5a; value_bytes]),
            metadata: HashMap::new(),
            content_type: String::new(),
            tags: Vec::new(),
            version: version.clone(),
            create_time: Some(now.into()),
            expire_time,
            negative: false,
        };
        let get = GetResponse {
            entry: Some(entry.clone()),
            provenance: Some(provenance_of_a_read(Some(AGE))),
            lease: None,
        };
        let item = GetManyItem {
            entry: Some(entry),
            fault: None,
            tier: Tier::Local.into(),
            stale: false,
        };
        let put = PutResponse {
            version,
            expire_time,
            local_outcome: TierOutcome::Applied.into(),
            shared_outcome: TierOutcome::Skipped.into(),
            provenance: Some(Provenance {
                tier: Tier::Local.into(),
                shared_state: SharedState::Disabled.into(),
                store_duration: Some(TOOK),
                ..Provenance::default()
            }),
        };
        Self {
            answers: Arc::new(Answers {
                get,
                item,
                put,
                chunk: Bytes::from(vec![0x5a; CHUNK_BYTES]),
            }),
        }
    }
}

/// What the daemon says when it runs on the local tier alone.
fn provenance_of_a_read(age: Option<prost_types::Duration>) -> Provenance {
    Provenance {
        tier: Tier::Local.into(),
        age,
        shared_state: SharedState::Disabled.into(),
        lookup_duration: Some(TOOK),
        ..Provenance::default()
    }
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "the echo answers Get, GetMany, Put, Read and Write only",
    ))
}

#[tonic::async_trait]
impl CacheService for Echo {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send>>;
    type WatchStream = tokio_stream::Empty<Result<WatchResponse, Status>>;

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        Ok(Response::new(self.answers.get.clone()))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Ok(Response::new(self.answers.put.clone()))
    }

    async fn get_many(
        &self,
        request: Request<GetManyRequest>,
    ) -> Result<Response<GetManyResponse>, Status> {
        let items = vec![self.answers.item.clone(); request.get_ref().keys.len()];
        let provenance = Some(provenance_of_a_read(None));
        Ok(Response::new(GetManyResponse { items, provenance }))
    }

    async fn exists(&self, _: Request<ExistsRequest>) -> Result<Response<ExistsResponse>, Status> {
        not_here()
    }

    async fn invalidate(
        &self,
        _: Request<InvalidateRequest>,
    ) -> Result<Response<InvalidateResponse>, Status> {
        not_here()
    }

    async fn put_many(
        &self,
        _: Request<PutManyRequest>,
    ) -> Result<Response<PutManyResponse>, Status> {
        not_here()
    }

    /// As many bytes as are asked for.
    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        use read_response::Part;
        let size_bytes = request.get_ref().length.unwrap_or_default();
        let header = Part::Header(ReadHeader {
            entry: self.answers.get.entry.clone().map(|entry| Entry {
                value: Bytes::new(),
                ..entry
            }),
            size_bytes,
            provenance: Some(provenance_of_a_read(Some(AGE))),
            lease: None,
        });
        let chunk = self.answers.chunk.clone();
        let sizes = (0..size_bytes).step_by(CHUNK_BYTES);
        let chunks = sizes.map(move |at| {
            let left = usize::try_from(size_bytes - at).unwrap_or(CHUNK_BYTES);
            Part::Chunk(chunk.slice(..left.min(CHUNK_BYTES)))
        });
        let parts = std::iter::once(header).chain(chunks);
        let messages = parts.map(|part| Ok(ReadResponse { part: Some(part) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let mut parts = request.into_inner();
        let mut size_bytes = 0;
        while let Some(message) = parts.message().await? {
            if let Some(write_request::Part::Chunk(chunk)) = message.part {
                size_bytes += chunk.len() as u64;
            }
        }
        let put = self.answers.put.clone();
        Ok(Response::new(WriteResponse {
            version: put.version,
            expire_time: put.expire_time,
            local_outcome: put.local_outcome,
            shared_outcome: put.shared_outcome,
            provenance: put.provenance,
            size_bytes,
        }))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        not_here()
    }
}
