//! A caller of one daemon for whom every answer must be one: no request fails because Redis did.

use bytes::Bytes;
use pannier_proto::v1::{
    ExistsResponse, GetRequest, GetResponse, InvalidateResponse, PutRequest, PutResponse,
    ReadOptions, SharedState, Tier, TierOutcome, WriteMode, WriteOptions,
    cache_service_client::CacheServiceClient, invalidate_request::Target,
};
use tonic::{Status, transport::Channel};

use crate::{Daemon, eventually, request};

/// A connection of its own to one daemon, for one namespace.
#[derive(Debug, Clone)]
pub struct Caller {
    stub: CacheServiceClient<Channel>,
    namespace: String,
}

impl Caller {
    /// Opens one with the first call.
    pub fn new(daemon: &Daemon, namespace: &str) -> Self {
        Self {
            stub: daemon.stub(),
            namespace: namespace.to_owned(),
        }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The stub, for what is not here.
    pub fn stub(&self) -> CacheServiceClient<Channel> {
        self.stub.clone()
    }

    /// Reads.
    pub async fn get(&self, key: &str) -> GetResponse {
        let reply = self.try_get(key, None).await;
        reply.expect("a get is answered")
    }

    /// Reads with options.
    pub async fn get_with(&self, key: &str, options: ReadOptions) -> GetResponse {
        let reply = self.try_get(key, Some(options)).await;
        reply.expect("a get is answered")
    }

    /// Reads, and may fail.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn try_get(
        &self,
        key: &str,
        options: Option<ReadOptions>,
    ) -> Result<GetResponse, Status> {
        let request = GetRequest {
            options,
            ..request::get(&self.namespace, key)
        };
        Ok(self.stub().get(request).await?.into_inner())
    }

    /// The value, wherever it came from and however old.
    pub async fn value(&self, key: &str) -> Option<Bytes> {
        value(&self.get(key).await)
    }

    /// Whether it is there.
    pub async fn exists(&self, key: &str) -> ExistsResponse {
        let request = request::exists(&self.namespace, key);
        let reply = self.stub().exists(request).await;
        reply.expect("an exists is answered").into_inner()
    }

    /// Writes through.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>) -> PutResponse {
        let reply = self.try_put(self.put_request(key, value)).await;
        reply.expect("a put is taken")
    }

    /// Writes with a lifetime in milliseconds.
    pub async fn put_for(&self, key: &str, value: impl Into<Bytes>, ttl: i64) -> PutResponse {
        let request = PutRequest {
            ttl: Some(request::milliseconds(ttl)),
            ..self.put_request(key, value)
        };
        self.try_put(request).await.expect("a put is taken")
    }

    /// Writes to the tiers that the mode says.
    pub async fn put_mode(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        mode: WriteMode,
    ) -> PutResponse {
        let options = WriteOptions {
            mode: mode.into(),
            ..WriteOptions::default()
        };
        let request = PutRequest {
            options: Some(options),
            ..self.put_request(key, value)
        };
        self.try_put(request).await.expect("a put is taken")
    }

    /// A request to write, for a test to complete.
    pub fn put_request(&self, key: &str, value: impl Into<Bytes>) -> PutRequest {
        request::put(&self.namespace, key, value)
    }

    /// Writes, and may fail.
    ///
    /// # Errors
    /// As the daemon says.
    pub async fn try_put(&self, request: PutRequest) -> Result<PutResponse, Status> {
        Ok(self.stub().put(request).await?.into_inner())
    }

    /// Invalidates one key.
    pub async fn invalidate(&self, key: &str) -> InvalidateResponse {
        let request = request::invalidate_keys(&self.namespace, [key]);
        let reply = self.stub().invalidate(request).await;
        reply.expect("an invalidation is taken").into_inner()
    }

    /// Invalidates by prefix, pattern or as a whole.
    pub async fn invalidate_by(&self, target: Target) -> InvalidateResponse {
        let request = request::invalidate(&self.namespace, target);
        let reply = self.stub().invalidate(request).await;
        reply.expect("an invalidation is taken").into_inner()
    }

    /// Waits until a read finds this value, fresh and without asking Redis.
    pub async fn has_local(&self, key: &str, expected: &[u8]) {
        eventually(&format!("{key} is held locally"), async || {
            let reply = self.get(key).await;
            value(&reply).is_some_and(|value| value == expected)
                && tier(&reply) == Tier::Local
                && !is_stale(&reply)
        })
        .await;
    }

    /// Waits until a read finds this, fresh: a value or nothing.
    pub async fn becomes(&self, key: &str, expected: Option<&[u8]>) {
        eventually(&format!("{key} is as expected"), async || {
            let reply = self.get(key).await;
            value(&reply).as_deref() == expected && !is_stale(&reply)
        })
        .await;
    }
}

/// The value in a reply.
pub fn value(reply: &GetResponse) -> Option<Bytes> {
    reply.entry.as_ref().map(|entry| entry.value.clone())
}

/// Whether the reply is marked stale.
pub fn is_stale(reply: &GetResponse) -> bool {
    reply.provenance.as_ref().is_some_and(|it| it.stale)
}

/// The tier that answered.
pub fn tier(reply: &GetResponse) -> Tier {
    let provenance = reply.provenance.as_ref().expect("part of every reply");
    provenance.tier()
}

/// How the daemon stood to Redis.
pub fn state(reply: &GetResponse) -> SharedState {
    let provenance = reply.provenance.as_ref().expect("part of every reply");
    provenance.shared_state()
}

/// What became of a put in each tier.
pub fn outcomes(reply: &PutResponse) -> (TierOutcome, TierOutcome) {
    (reply.local_outcome(), reply.shared_outcome())
}
