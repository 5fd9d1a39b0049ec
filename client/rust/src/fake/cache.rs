//! The cache service of the fake daemon.

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tonic::{
    Request, Response, Status,
    codegen::{
        BoxStream,
        tokio_stream::{self, wrappers::ReceiverStream},
    },
};

use super::{Draft, State, check_name, locked, now, provenance};
use crate::proto::{
    self, Tier, TierOutcome, cache_service_server::CacheService, invalidate_request::Target,
    read_response, watch_response, write_request,
};

/// Events that wait for a slow watcher before it misses some.
const WATCH_QUEUE_EVENTS: usize = 64;

/// Size of the chunks of Read.
const CHUNK_BYTES: usize = 256 * 1024;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl CacheService for State {
    type ReadStream = BoxStream<proto::ReadResponse>;
    type WatchStream = BoxStream<proto::WatchResponse>;

    async fn get(&self, request: Request<proto::GetRequest>) -> Answer<proto::GetResponse> {
        self.enter().await?;
        let request = request.into_inner();
        let entry = self.look_up(&request.namespace, &request.key)?;
        let provenance = provenance(tier(entry.is_some()));
        Ok(Response::new(proto::GetResponse {
            entry,
            provenance,
            lease: None,
        }))
    }

    async fn put(&self, request: Request<proto::PutRequest>) -> Answer<proto::PutResponse> {
        self.enter().await?;
        let request = request.into_inner();
        let (version, expire_time) = self.store(Draft {
            namespace: request.namespace,
            key: request.key,
            entry: proto::Entry {
                value: request.value,
                metadata: request.metadata,
                content_type: request.content_type,
                tags: request.tags,
                negative: request.negative,
                ..proto::Entry::default()
            },
            ttl: request.ttl,
            options: request.options,
        })?;
        Ok(Response::new(proto::PutResponse {
            version,
            expire_time: Some(expire_time),
            local_outcome: TierOutcome::Applied.into(),
            shared_outcome: TierOutcome::Skipped.into(),
            provenance: provenance(Tier::Local),
        }))
    }

    async fn exists(
        &self,
        request: Request<proto::ExistsRequest>,
    ) -> Answer<proto::ExistsResponse> {
        self.enter().await?;
        let request = request.into_inner();
        let entry = self.look_up(&request.namespace, &request.key)?;
        let ttl = entry.as_ref().and_then(remaining);
        let provenance = provenance(tier(entry.is_some()));
        Ok(Response::new(proto::ExistsResponse {
            exists: entry.is_some(),
            negative: entry.as_ref().is_some_and(|entry| entry.negative),
            ttl,
            provenance,
        }))
    }

    async fn invalidate(
        &self,
        request: Request<proto::InvalidateRequest>,
    ) -> Answer<proto::InvalidateResponse> {
        self.enter().await?;
        let request = request.into_inner();
        let target = request
            .target
            .ok_or_else(|| Status::invalid_argument("target: must be set"))?;
        check_name(&request.namespace, "k")?;
        if let Target::Pattern(_) = target {
            return Err(Status::unimplemented("the fake daemon has no patterns"));
        }
        let mut count = 0;
        locked(&self.entries).retain(|(namespace, key), entry| {
            let gone = *namespace == request.namespace && is_target(&target, key, entry);
            count += u64::from(gone);
            !gone
        });
        locked(&self.counters).invalidations += count;
        self.announce(&request.namespace, target);
        Ok(Response::new(proto::InvalidateResponse {
            count,
            local_outcome: TierOutcome::Applied.into(),
            shared_outcome: TierOutcome::Skipped.into(),
            provenance: provenance(Tier::Local),
        }))
    }

    async fn get_many(
        &self,
        request: Request<proto::GetManyRequest>,
    ) -> Answer<proto::GetManyResponse> {
        self.enter().await?;
        let request = request.into_inner();
        let items = request.keys.iter().map(|key| {
            let (entry, fault) = match self.look_up(&request.namespace, key) {
                Ok(entry) => (entry, None),
                Err(status) => (None, Some(fault(&status))),
            };
            let tier = tier(entry.is_some()).into();
            proto::GetManyItem {
                entry,
                fault,
                tier,
                stale: false,
            }
        });
        let items = items.collect();
        Ok(Response::new(proto::GetManyResponse {
            items,
            provenance: provenance(Tier::Local),
        }))
    }

    async fn put_many(
        &self,
        request: Request<proto::PutManyRequest>,
    ) -> Answer<proto::PutManyResponse> {
        self.enter().await?;
        let request = request.into_inner();
        let results = request.items.into_iter().map(|item| {
            let draft = Draft {
                namespace: request.namespace.clone(),
                key: item.key,
                entry: proto::Entry {
                    value: item.value,
                    metadata: item.metadata,
                    content_type: item.content_type,
                    tags: item.tags,
                    negative: item.negative,
                    ..proto::Entry::default()
                },
                ttl: item.ttl,
                options: request.options.clone(),
            };
            match self.store(draft) {
                Ok((version, expire_time)) => proto::PutManyResult {
                    version,
                    expire_time: Some(expire_time),
                    local_outcome: TierOutcome::Applied.into(),
                    shared_outcome: TierOutcome::Skipped.into(),
                    fault: None,
                },
                Err(status) => proto::PutManyResult {
                    fault: Some(fault(&status)),
                    ..proto::PutManyResult::default()
                },
            }
        });
        let results = results.collect();
        Ok(Response::new(proto::PutManyResponse {
            results,
            provenance: provenance(Tier::Local),
        }))
    }

    async fn read(&self, request: Request<proto::ReadRequest>) -> Answer<Self::ReadStream> {
        use read_response::Part;
        self.enter().await?;
        let request = request.into_inner();
        let entry = self.look_up(&request.namespace, &request.key)?;
        let value = entry
            .as_ref()
            .map(|entry| entry.value.clone())
            .unwrap_or_default();
        let start = usize::try_from(request.offset).unwrap_or(usize::MAX);
        if start > value.len() {
            return Err(Status::out_of_range("offset: beyond the end"));
        }
        let header = Part::Header(proto::ReadHeader {
            size_bytes: value.len() as u64,
            provenance: provenance(tier(entry.is_some())),
            entry: entry.map(|entry| proto::Entry {
                value: Bytes::new(),
                ..entry
            }),
            lease: None,
        });
        let mut rest = value.slice(start..);
        let length = request
            .length
            .and_then(|length| usize::try_from(length).ok());
        rest.truncate(length.unwrap_or(usize::MAX));
        let mut parts = vec![header];
        while !rest.is_empty() {
            parts.push(Part::Chunk(rest.split_to(rest.len().min(CHUNK_BYTES))));
        }
        let messages = parts
            .into_iter()
            .map(|part| Ok(proto::ReadResponse { part: Some(part) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn write(
        &self,
        request: Request<tonic::Streaming<proto::WriteRequest>>,
    ) -> Answer<proto::WriteResponse> {
        use write_request::Part;
        self.enter().await?;
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|message| message.part);
        let Some(Part::Header(header)) = first else {
            return Err(Status::invalid_argument("header: must come first"));
        };
        let there = match header.sha256.is_empty() {
            true => None,
            false => self.look_up(&header.namespace, &header.key)?,
        };
        let mut value =
            BytesMut::from(&*there.as_ref().map_or(Bytes::new(), |it| it.value.clone()));
        while there.is_none() {
            match stream.message().await?.and_then(|message| message.part) {
                Some(Part::Chunk(chunk)) => value.extend_from_slice(&chunk),
                Some(Part::Finish(_)) => break,
                _ => return Err(Status::invalid_argument("finish: must come last")),
            }
        }
        let size_bytes = value.len() as u64;
        if there.is_none() && header.size_bytes.is_some_and(|size| size != size_bytes) {
            return Err(Status::invalid_argument(
                "size_bytes: the stream has another size",
            ));
        }
        let (version, expire_time) = self.store(Draft {
            namespace: header.namespace,
            key: header.key,
            entry: proto::Entry {
                value: value.freeze(),
                metadata: header.metadata,
                content_type: header.content_type,
                tags: header.tags,
                ..proto::Entry::default()
            },
            ttl: header.ttl,
            options: header.options,
        })?;
        Ok(Response::new(proto::WriteResponse {
            version,
            expire_time: Some(expire_time),
            local_outcome: TierOutcome::Applied.into(),
            shared_outcome: TierOutcome::Skipped.into(),
            provenance: provenance(Tier::Local),
            size_bytes,
        }))
    }

    async fn watch(&self, request: Request<proto::WatchRequest>) -> Answer<Self::WatchStream> {
        self.enter().await?;
        let (sender, events) = mpsc::channel(WATCH_QUEUE_EVENTS);
        locked(&self.watchers).push((request.into_inner().namespace, sender));
        self.watched.notify_one();
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }
}

impl State {
    fn announce(&self, namespace: &str, target: Target) {
        use watch_response::Event;
        let event = match target {
            Target::Keys(keys) => Event::Keys(keys),
            Target::Prefix(prefix) => Event::Prefix(prefix),
            Target::Pattern(pattern) => Event::Pattern(pattern),
            Target::Tag(tag) => Event::Tag(tag),
            Target::All(all) => Event::All(all),
        };
        let resume_token = Bytes::from_static(b"fake");
        let event = proto::WatchResponse {
            resume_token,
            event: Some(event),
        };
        locked(&self.watchers).retain(|(watched, watcher)| {
            watched != namespace || watcher.try_send(Ok(event.clone())).is_ok()
        });
    }
}

fn tier(found: bool) -> Tier {
    if found { Tier::Local } else { Tier::None }
}

fn remaining(entry: &proto::Entry) -> Option<prost_types::Duration> {
    let expires = std::time::SystemTime::try_from(entry.expire_time?).ok()?;
    expires.duration_since(now()).ok()?.try_into().ok()
}

fn is_target(target: &Target, key: &String, entry: &proto::Entry) -> bool {
    match target {
        Target::Keys(list) => list.keys.contains(key),
        Target::Prefix(prefix) => key.starts_with(prefix),
        Target::Tag(tag) => entry.tags.contains(tag),
        Target::All(all) => *all,
        Target::Pattern(_) => false,
    }
}

fn fault(status: &Status) -> proto::Fault {
    let code = u32::try_from(i32::from(status.code())).unwrap_or_default();
    proto::Fault {
        code,
        message: status.message().to_owned(),
    }
}
