//! Values, and requests that take long.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use pannier_proto::v1::{InvalidateResponse, cache_service_client::CacheServiceClient};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::{AbortHandle, JoinSet};
use tonic::{Code, Status, transport::Channel};

use crate::{eventually, request};

/// `count` random bytes, the same ones for the same seed.
pub fn noise(seed: u64, count: usize) -> Bytes {
    let mut bytes = vec![0; count];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}

/// Names that a scan looks at before others have their turn, as the daemon has it.
pub const SLICE: usize = 1000;

/// Fills a namespace with keys over which [`slow_pattern`] takes long: `slices` times as long as
/// the daemon goes without looking whether the caller is still there.
pub async fn fill_for_slow_scan(
    stub: &CacheServiceClient<Channel>,
    namespace: &str,
    slices: usize,
) {
    let stem = "a".repeat(1000);
    for slice in 0..slices {
        let keys = (0..SLICE).map(|index| format!("{stem}{:08}", slice * SLICE + index));
        let items = keys.map(|key| (key, Bytes::from_static(b"v")));
        let reply = stub
            .clone()
            .put_many(request::put_many(namespace, items))
            .await;
        let results = reply.expect("the batch is answered").into_inner().results;
        assert!(
            results.iter().all(|result| result.fault.is_none()),
            "an item failed"
        );
    }
}

/// A pattern that matches none of those keys and finds that out late: for each of a thousand
/// places it compares up to 300 characters, a few tenths of a second for [`SLICE`] keys.
pub fn slow_pattern() -> String {
    format!("*{}b", "a".repeat(300))
}

/// As [`slow_pattern`], with the most work that the limits of keys and patterns let anyone ask for.
pub fn slowest_pattern() -> String {
    format!("*{}b", "a".repeat(500))
}

/// A slow invalidation under way.
#[derive(Debug)]
pub struct SlowScan {
    running: JoinSet<Result<InvalidateResponse, Status>>,
    handle: AbortHandle,
}

impl SlowScan {
    /// Begins one over a namespace filled by [`fill_for_slow_scan`] and returns when the daemon is
    /// at it, which it tells by refusing another request: it must run with `max_in_flight = 1`.
    pub async fn begin(stub: &CacheServiceClient<Channel>, namespace: &str) -> Self {
        let mut scan = Self::send(stub, namespace);
        let probe = || async {
            let probe = stub.clone().get(request::get(namespace, "probe")).await;
            probe.is_err_and(|status| status.code() == Code::ResourceExhausted)
        };
        eventually("the slow invalidation occupies the daemon", async || {
            if scan.handle.is_finished() {
                // A probe was there first, so the scan was refused.
                scan = Self::send(stub, namespace);
            }
            probe().await && !scan.handle.is_finished()
        })
        .await;
        scan
    }

    fn send(stub: &CacheServiceClient<Channel>, namespace: &str) -> Self {
        let target = pannier_proto::v1::invalidate_request::Target::Pattern(slow_pattern());
        let (mut stub, request) = (stub.clone(), request::invalidate(namespace, target));
        let mut running = JoinSet::new();
        let call = async move {
            stub.invalidate(request)
                .await
                .map(tonic::Response::into_inner)
        };
        let handle = running.spawn(call);
        Self { running, handle }
    }

    /// Its answer.
    pub async fn answer(mut self) -> Result<InvalidateResponse, Status> {
        self.running
            .join_next()
            .await
            .expect("one call")
            .expect("no panic")
    }

    /// Goes away without waiting for the answer.
    pub fn cancel(self) {
        self.handle.abort();
    }
}

/// Counts up once for each call, over all clones.
#[derive(Debug, Clone, Default)]
pub struct Count(Arc<std::sync::atomic::AtomicU64>);

impl Count {
    /// One more; what it is now.
    pub fn one(&self) -> u64 {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Returns once the daemon rests: no processor time to speak of for 300 ms.
pub async fn rest(daemon: &crate::Daemon) {
    eventually("the daemon rests", async || {
        let before = daemon.processor_time();
        tokio::time::sleep(Duration::from_millis(300)).await;
        daemon.processor_time() - before <= Duration::from_millis(20)
    })
    .await;
}
