//! `pannier.v1.CacheService`: decode, call the engine, encode.

mod streams;

use std::{sync::Arc, time::Instant};

use pannier_proto::v1::{
    ExistsRequest, ExistsResponse, GetManyRequest, GetManyResponse, GetRequest, GetResponse,
    InvalidateRequest, InvalidateResponse, PutManyItem, PutManyRequest, PutManyResponse,
    PutManyResult, PutRequest, PutResponse, ReadRequest, ReadResponse, WatchRequest, WatchResponse,
    WriteRequest, WriteResponse, cache_service_server::CacheService,
};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Requests,
    batch::{self, BATCH_BYTES_MAX},
    call::Call,
    deadline::Deadline,
    decode, encode,
    status::status,
    traced::traced,
    transfer::Transfers,
    watch::{self, Replies},
};
use crate::{
    engine::{Engine, Provenance, PutOptions},
    error::Result,
    key::key_hash,
    observe::{Method, Observer},
    steps::Steps,
};

/// Items of a batch of writes after which other requests have their turn.
const BATCH_TURN: usize = 64;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cache {
    observer: Arc<Observer>,
    engine: Arc<Engine>,
    requests: Requests,
    transfers: Transfers,
    /// Ends streams that would not end by themselves.
    stop: CancellationToken,
}

impl Cache {
    pub(super) fn new(
        observer: Arc<Observer>,
        requests: Requests,
        transfers: Transfers,
        stop: CancellationToken,
    ) -> Self {
        Self {
            engine: Arc::clone(observer.engine()),
            observer,
            requests,
            transfers,
            stop,
        }
    }

    fn call<T>(&self, method: Method, request: &Request<T>) -> Call<'_> {
        Call::begin(&self.observer, method, request)
    }

    async fn get(&self, mut request: GetRequest, call: &mut Call<'_>) -> Result<GetResponse> {
        call.namespace = request.namespace;
        call.key = Some(key_hash(&request.key));
        let _request = self.requests.admit()?;
        let tags = decode::lease_tags(request.options.as_mut());
        let tags = self.engine.counted_for(&call.namespace, tags)?;
        let options = decode::read_options(request.options);
        let options = self.engine.counted_for(&call.namespace, options)?;
        let answer = self
            .engine
            .get_for(&call.namespace, request.key, (options, &tags), &call.steps)
            .await?;
        call.provenance = Some(answer.provenance);
        Ok(GetResponse {
            provenance: Some(encode::provenance(&answer.provenance)),
            entry: answer.hit.map(encode::entry),
            lease: answer.lease.map(encode::lease),
        })
    }

    async fn put(&self, request: PutRequest, call: &mut Call<'_>) -> Result<PutResponse> {
        call.namespace = request.namespace;
        call.key = Some(key_hash(&request.key));
        let _request = self.requests.admit()?;
        let options = decode::put_options(request.options.as_ref(), request.ttl.as_ref());
        let options = self.engine.counted_for(&call.namespace, options)?;
        let PutRequest {
            key,
            value,
            metadata,
            content_type,
            tags,
            negative,
            ..
        } = request;
        let entry = decode::entry((value, negative), content_type, metadata, tags);
        let entry = self.engine.counted_for(&call.namespace, entry)?;
        let written = self
            .engine
            .put(&call.namespace, key, entry, options, &call.steps)
            .await?;
        call.provenance = Some(written.provenance);
        Ok(encode::put_response(&written))
    }

    async fn exists(&self, request: ExistsRequest, call: &mut Call<'_>) -> Result<ExistsResponse> {
        call.namespace = request.namespace;
        call.key = Some(key_hash(&request.key));
        let _request = self.requests.admit()?;
        let options = decode::read_options(request.options);
        let options = self.engine.counted_for(&call.namespace, options)?;
        let answer = self
            .engine
            .exists(&call.namespace, request.key, options, &call.steps)
            .await?;
        call.provenance = Some(answer.provenance);
        Ok(ExistsResponse {
            exists: answer.remaining.is_some(),
            ttl: answer.remaining.map(encode::duration),
            negative: answer.is_negative,
            provenance: Some(encode::provenance(&answer.provenance)),
        })
    }

    async fn invalidate(
        &self,
        request: InvalidateRequest,
        call: &mut Call<'_>,
    ) -> Result<InvalidateResponse> {
        call.namespace = request.namespace;
        let _request = self.requests.admit()?;
        let target = decode::target(request.target);
        let target = self.engine.counted_for(&call.namespace, target)?;
        let done = self
            .engine
            .invalidate(&call.namespace, target, &call.steps)
            .await?;
        call.provenance = Some(done.provenance);
        Ok(InvalidateResponse {
            count: done.count,
            local_outcome: encode::outcome(done.local).into(),
            shared_outcome: encode::outcome(done.shared).into(),
            provenance: Some(encode::provenance(&done.provenance)),
        })
    }

    async fn get_many(
        &self,
        request: GetManyRequest,
        call: &mut Call<'_>,
    ) -> Result<GetManyResponse> {
        call.namespace = request.namespace;
        let _request = self.requests.admit()?;
        let begun = Instant::now();
        let options = decode::read_options(request.options);
        let options = self.engine.counted_for(&call.namespace, options)?;
        let answers = self
            .engine
            .get_many(&call.namespace, request.keys, options, &call.steps)
            .await?;
        let mut room = BATCH_BYTES_MAX;
        let mut whole = Provenance::default();
        let items = answers
            .into_iter()
            .map(|answer| {
                let of_item = answer.as_ref().map(|answer| answer.provenance).ok();
                let item = batch::item(answer);
                match room.checked_sub(item.encoded_len()) {
                    Some(left) => {
                        room = left;
                        whole = batch::together(whole, of_item.unwrap_or_default());
                        item
                    }
                    None => batch::no_room(),
                }
            })
            .collect();
        let provenance = Provenance {
            lookup: Some(begun.elapsed()),
            age: None,
            ..whole
        };
        call.provenance = Some(provenance);
        Ok(GetManyResponse {
            items,
            provenance: Some(encode::provenance(&provenance)),
        })
    }

    async fn put_many(
        &self,
        request: PutManyRequest,
        call: &mut Call<'_>,
    ) -> Result<PutManyResponse> {
        call.namespace = request.namespace;
        let _request = self.requests.admit()?;
        let begun = Instant::now();
        let options = decode::put_many_options(request.options.as_ref());
        let options = self.engine.counted_for(&call.namespace, options)?;
        self.engine
            .check_put_many(&call.namespace, request.items.len(), &options)?;
        let mut results = Vec::with_capacity(request.items.len());
        let mut whole = Provenance::default();
        for (index, item) in request.items.into_iter().enumerate() {
            let steps = Steps::default();
            let written = self.put_item(&call.namespace, item, options, &steps).await;
            call.steps.add_all(&steps);
            results.push(match written {
                Ok((result, provenance)) => {
                    whole = batch::together(whole, provenance);
                    result
                }
                Err(error) => PutManyResult {
                    fault: Some(encode::fault(&error)),
                    ..PutManyResult::default()
                },
            });
            if (index + 1) % BATCH_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        let provenance = Provenance {
            store: Some(begun.elapsed()),
            ..whole
        };
        call.provenance = Some(provenance);
        Ok(PutManyResponse {
            results,
            provenance: Some(encode::provenance(&provenance)),
        })
    }

    async fn put_item(
        &self,
        namespace: &str,
        item: PutManyItem,
        options: PutOptions,
        steps: &Steps,
    ) -> Result<(PutManyResult, Provenance)> {
        let PutManyItem {
            key,
            value,
            metadata,
            content_type,
            tags,
            ttl,
            negative,
        } = item;
        let entry = decode::entry((value, negative), content_type, metadata, tags);
        let decoded = decode::ttl(ttl.as_ref()).and_then(|ttl| Ok((ttl, entry?)));
        let (ttl, entry) = self.engine.counted_for(namespace, decoded)?;
        let options = PutOptions { ttl, ..options };
        let put = self.engine.put(namespace, key, entry, options, steps);
        let written = put.await?;
        let PutResponse {
            version,
            expire_time,
            local_outcome,
            shared_outcome,
            ..
        } = encode::put_response(&written);
        let result = PutManyResult {
            version,
            expire_time,
            local_outcome,
            shared_outcome,
            fault: None,
        };
        Ok((result, written.provenance))
    }
}

#[tonic::async_trait]
impl CacheService for Cache {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let mut call = self.call(Method::Get, &request);
        let result = self.get(request.into_inner(), &mut call).await;
        call.answer(result)
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let mut call = self.call(Method::Put, &request);
        let result = self.put(request.into_inner(), &mut call).await;
        call.answer(result)
    }

    async fn exists(
        &self,
        request: Request<ExistsRequest>,
    ) -> Result<Response<ExistsResponse>, Status> {
        let mut call = self.call(Method::Exists, &request);
        let result = self.exists(request.into_inner(), &mut call).await;
        call.answer(result)
    }

    async fn invalidate(
        &self,
        request: Request<InvalidateRequest>,
    ) -> Result<Response<InvalidateResponse>, Status> {
        let mut call = self.call(Method::Invalidate, &request);
        let result = self.invalidate(request.into_inner(), &mut call).await;
        call.answer(result)
    }

    async fn get_many(
        &self,
        request: Request<GetManyRequest>,
    ) -> Result<Response<GetManyResponse>, Status> {
        let mut call = self.call(Method::GetMany, &request);
        let result = self.get_many(request.into_inner(), &mut call).await;
        call.answer(result)
    }

    async fn put_many(
        &self,
        request: Request<PutManyRequest>,
    ) -> Result<Response<PutManyResponse>, Status> {
        let mut call = self.call(Method::PutMany, &request);
        let result = self.put_many(request.into_inner(), &mut call).await;
        call.answer(result)
    }

    type ReadStream = Replies<ReadResponse>;

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let mut call = self.call(Method::Read, &request);
        let deadline = Deadline::of(request.extensions());
        let result = self.read(request.into_inner(), deadline, &mut call).await;
        call.answer(result)
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let work = self.clone().write(request);
        self.engine.with_large(work).await.map_err(status)?
    }

    type WatchStream = Replies<WatchResponse>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (
            metadata,
            extensions,
            WatchRequest {
                namespace,
                resume_token,
            },
        ) = request.into_parts();
        let call = ("pannier.v1.CacheService/Watch", namespace.as_str());
        traced(self.observer.tracer(), call, &metadata, async {
            let watcher = self.engine.watch(&namespace, &resume_token);
            let deadline = Deadline::of(&extensions);
            let stream = watch::stream(watcher.map_err(status)?, deadline, self.stop.clone());
            Ok(Response::new(stream))
        })
        .await
    }
}
