//! Calls to one daemon, each of which has to be answered.

use std::{
    fmt::Display,
    future::Future,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pannier_client::{
    BatchOptions, Client, Lookup, PutItem, PutOptions, ReadOptions, SharedState, Target, Tier,
    TierOutcome, proto::SharedTierStats,
};

use super::super::process::Server;

/// The same as the generator's, so that either may put what the other reads.
const NAMESPACE: &str = "bench";
/// A daemon that is not attached by then is reported as broken.
const ATTACH_TIME_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(1);
/// Reads of one key after which it is given up that its copy is ever served at once.
const READS_MAX: usize = 1000;
/// Most that one PutMany takes.
const BATCH: usize = 1000;

/// A connection to one daemon. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    client: Client,
}

impl Caller {
    pub(super) fn new(server: &Server) -> Result<Self, String> {
        let client = Client::connect(server.address()).map_err(text)?;
        Ok(Self { client })
    }

    /// A connection to a daemon that has attached.
    pub(super) async fn attached(server: &Server) -> Result<Self, String> {
        let caller = Self::new(server)?;
        caller.attached_again(0).await?;
        Ok(caller)
    }

    pub(super) async fn get(&self, key: &str) -> Result<Lookup, String> {
        let options = ReadOptions::default();
        let answer = self.client.get_with(NAMESPACE, key, &options).await;
        answer.map_err(text)
    }

    pub(super) async fn put(&self, key: &str, value: &Bytes) -> Result<(), String> {
        let options = PutOptions::new();
        let put = self.client.put(NAMESPACE, key, value.clone(), options);
        put.await.map(drop).map_err(text)
    }

    /// Puts 1000 at a time.
    pub(super) async fn put_all(&self, keys: &[String], value: &Bytes) -> Result<(), String> {
        self.put_each(keys, value, &[]).await
    }

    /// The same with a tag.
    pub(super) async fn put_tagged(
        &self,
        keys: &[String],
        value: &Bytes,
        tag: &str,
    ) -> Result<(), String> {
        self.put_each(keys, value, &[tag.to_owned()]).await
    }

    async fn put_each(
        &self,
        keys: &[String],
        value: &Bytes,
        tags: &[String],
    ) -> Result<(), String> {
        for keys in keys.chunks(BATCH) {
            let items = keys.iter().map(|key| PutItem {
                tags: tags.to_vec(),
                ..PutItem::new(key, value.clone())
            });
            let put = self
                .client
                .put_many(NAMESPACE, items, BatchOptions::default());
            for stored in put.await.map_err(text)? {
                stored.map_err(text)?;
            }
        }
        Ok(())
    }

    /// How many of at most 1000 keys are there.
    pub(super) async fn count(&self, keys: &[String]) -> Result<u32, String> {
        let options = ReadOptions::default();
        let asked = self.client.get_many(NAMESPACE, keys, &options);
        let mut found = 0;
        for lookup in asked.await.map_err(text)? {
            found += u32::from(lookup.map_err(text)?.hit.is_some());
        }
        Ok(found)
    }

    /// Invalidates one key, and says what became of it in the shared tier.
    pub(super) async fn invalidate(&self, key: &str) -> Result<TierOutcome, String> {
        self.invalidate_all(Target::key(key)).await
    }

    /// Invalidates a tag; it has to reach Redis.
    pub(super) async fn invalidate_tag(&self, tag: &str) -> Result<(), String> {
        match self.invalidate_all(Target::Tag(tag.to_owned())).await? {
            TierOutcome::Applied => Ok(()),
            outcome => Err(format!("the invalidation of a tag was {outcome:?}")),
        }
    }

    async fn invalidate_all(&self, target: Target) -> Result<TierOutcome, String> {
        let invalidated = self.client.invalidate(NAMESPACE, target);
        let done = invalidated.await.map_err(text)?.done();
        done.map(|done| done.shared)
            .ok_or_else(|| "an invalidation was skipped".to_owned())
    }

    /// Reads a key until the answer comes from the local tier without a word from Redis.
    pub(super) async fn hold(&self, key: &str) -> Result<(), String> {
        for _ in 0..READS_MAX {
            let lookup = self.get(key).await?;
            if lookup.hit.is_some() && is_at_home(&lookup) {
                return Ok(());
            }
        }
        Err(format!("the local tier does not serve {key}"))
    }

    /// Waits until it is attached, and has attached more often than `before`; how often it has.
    pub(super) async fn attached_again(&self, before: u64) -> Result<u64, String> {
        let begun = Instant::now();
        loop {
            let shared = self.shared().await?;
            let attached = shared.state() == SharedState::Attached;
            if attached && shared.attachments > before {
                return Ok(shared.attachments);
            }
            if begun.elapsed() > ATTACH_TIME_MAX {
                return Err(format!("the daemon does not attach: {}", shared.message));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn shared(&self) -> Result<SharedTierStats, String> {
        let stats = self.client.stats(None).await.map_err(text)?;
        stats
            .shared
            .ok_or_else(|| "the daemon has no shared tier".to_owned())
    }
}

/// Whether the local tier answered as if it were fresh, and Redis was not asked.
fn is_at_home(lookup: &Lookup) -> bool {
    let provenance = &lookup.provenance;
    let asked = provenance.shared.and_then(|times| times.lookup);
    provenance.tier == Tier::Local && !provenance.stale && asked.is_none()
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Microseconds that a call takes.
pub(super) async fn timed<T>(call: impl Future<Output = Result<T, String>>) -> Result<f64, String> {
    let begun = Instant::now();
    call.await?;
    Ok(microseconds(begun.elapsed()))
}

pub(super) fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A value of so many bytes.
pub(super) fn value(bytes: usize) -> Bytes {
    Bytes::from(vec![b'v'; bytes])
}
