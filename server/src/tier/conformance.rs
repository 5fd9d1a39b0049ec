//! What every tier must do: one suite, run against each implementation.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;

use super::Tier;
use crate::{
    clock::{Clock, Timestamp},
    entry::{Attributes, Entry},
    key::{EntryName, Key, NamespaceName},
    record::{Compression, Record},
    stamp::Stamp,
};

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn name(namespace: &str, key: &str) -> EntryName {
    let namespace = NamespaceName::new(namespace).expect("valid");
    EntryName::new(&namespace, &Key::new(key).expect("valid"))
}

/// A record whose value and stamp are made from `seed`.
pub(crate) fn record(seed: u64, value_bytes: usize, expires: Timestamp) -> Record {
    let mut rng = fastrand::Rng::with_seed(seed);
    let value: Vec<u8> = (0..value_bytes).map(|_| rng.u8(..)).collect();
    let mut stamp = [0; Stamp::LEN];
    stamp[8..].copy_from_slice(&seed.to_be_bytes());
    let entry = Entry {
        value: Bytes::from(value),
        attributes: Attributes::default(),
        negative: false,
    };
    Record::encode(
        &entry,
        Stamp::from_bytes(stamp),
        START,
        expires,
        Compression::None,
    )
    .expect("encodes")
}

async fn assert_holds<T: Tier>(tier: &T, name: &EntryName, wanted: Option<&Record>) {
    let found = tier.get(name).await.expect("tier works");
    assert_eq!(
        found.as_ref().map(|found| found.record.as_bytes()),
        wanted.map(Record::as_bytes),
        "{name:?}"
    );
}

/// Runs the whole suite, each part on a tier of its own. `open` gives a tier on a clock, and
/// something that lives as long as it (its directory).
pub(crate) async fn check<T, D, O, F>(open: O)
where
    T: Tier + 'static,
    O: Fn(Clock) -> F,
    F: Future<Output = (T, D)>,
{
    check_within(Duration::ZERO, open).await;
}

/// As [`check`] for a tier whose time goes on while the mock clock stands: what it holds may end
/// by up to `drift` too early, and not a millisecond too late.
pub(crate) async fn check_within<T, D, O, F>(drift: Duration, open: O)
where
    T: Tier + 'static,
    O: Fn(Clock) -> F,
    F: Future<Output = (T, D)>,
{
    let fresh = async || {
        let clock = Clock::mock(START);
        let (tier, dir) = open(clock.clone()).await;
        (tier, clock, dir)
    };
    let (tier, _, _dir) = fresh().await;
    keeps_what_was_put(&tier, drift).await;
    let (tier, _, _dir) = fresh().await;
    replaces_and_deletes(&tier).await;
    let (tier, clock, _dir) = fresh().await;
    lets_go_at_the_end(&tier, &clock, drift).await;
    let (tier, _, _dir) = fresh().await;
    keeps_namespaces_apart(&tier).await;
    let (tier, _, _dir) = fresh().await;
    last_writer_is_seen_by_all(Arc::new(tier)).await;
}

async fn keeps_what_was_put<T: Tier>(tier: &T, drift: Duration) {
    let end = START.after(MINUTE);
    assert_holds(tier, &name("n", "absent"), None).await;
    // Sizes around the limits between memory, block and blob storage.
    for (seed, size) in [0, 1, 1000, 16 << 10, (16 << 10) + 1, 300 << 10, 3 << 20]
        .into_iter()
        .enumerate()
    {
        let name = name("n", &format!("key-{size}"));
        let record = record(seed as u64, size, end);
        tier.put(&name, &record, end).await.expect("tier works");
        assert_holds(tier, &name, Some(&record)).await;
        let found = tier.get(&name).await.expect("works").expect("is there");
        assert!(found.expires <= end && end.since(found.expires) <= drift);
    }
    let longest = name("n", &"k".repeat(1024));
    let record = record(99, 10, end);
    tier.put(&longest, &record, end).await.expect("tier works");
    assert_holds(tier, &longest, Some(&record)).await;
}

async fn replaces_and_deletes<T: Tier>(tier: &T) {
    let end = START.after(MINUTE);
    let key = name("n", "k");
    let (small, large) = (record(1, 10, end), record(2, 100 << 10, end));
    for record in [&small, &large, &small] {
        tier.put(&key, record, end).await.expect("tier works");
        assert_holds(tier, &key, Some(record)).await;
    }
    assert!(
        tier.delete(&key).await.expect("tier works"),
        "a live record was there"
    );
    assert_holds(tier, &key, None).await;
    assert!(
        !tier.delete(&key).await.expect("tier works"),
        "nothing is left"
    );
    tier.put(&key, &large, end).await.expect("tier works");
    assert_holds(tier, &key, Some(&large)).await;
}

async fn lets_go_at_the_end<T: Tier>(tier: &T, clock: &Clock, drift: Duration) {
    let key = name("n", "k");
    let record = record(1, 10, START.after(MINUTE));
    tier.put(&key, &record, START.after(MINUTE))
        .await
        .expect("tier works");
    let last = Duration::from_millis(1) + drift;
    clock.advance(MINUTE - last);
    assert_holds(tier, &key, Some(&record)).await;
    clock.advance(last);
    assert_holds(tier, &key, None).await;
    assert!(
        !tier.delete(&key).await.expect("tier works"),
        "an ended record is not live"
    );
    // The tier's own end counts, also when the record would last longer.
    let now = clock.now();
    tier.put(&key, &record, now.after(Duration::from_millis(5)))
        .await
        .expect("tier works");
    clock.advance(Duration::from_millis(5));
    assert_holds(tier, &key, None).await;
}

async fn keeps_namespaces_apart<T: Tier>(tier: &T) {
    let end = START.after(MINUTE);
    let names = [
        name("a", "b"),
        name("ab", "b"),
        name("a", "bb"),
        name("a.b", "b"),
    ];
    let records: Vec<_> = (0..4).map(|seed| record(seed, 20, end)).collect();
    for (name, record) in names.iter().zip(&records) {
        tier.put(name, record, end).await.expect("tier works");
    }
    for (name, record) in names.iter().zip(&records) {
        assert_holds(tier, name, Some(record)).await;
    }
    assert!(tier.delete(&names[0]).await.expect("tier works"));
    for (name, record) in names.iter().zip(&records).skip(1) {
        assert_holds(tier, name, Some(record)).await;
    }
}

/// Writers of one name race; once all have returned, every reader sees one and the same record.
async fn last_writer_is_seen_by_all<T: Tier + 'static>(tier: Arc<T>) {
    let end = START.after(MINUTE);
    let key = name("n", "contended");
    let mut writers = tokio::task::JoinSet::new();
    for seed in 0..16 {
        let (tier, key) = (Arc::clone(&tier), key.clone());
        // Half of them small and written at once, half of them large and written elsewhere.
        let record = record(seed, if seed % 2 == 0 { 100 } else { 64 << 10 }, end);
        writers.spawn(async move {
            for _ in 0..8 {
                tier.put(&key, &record, end).await.expect("tier works");
                assert!(tier.get(&key).await.expect("tier works").is_some());
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("writer did not panic");
    }
    let first = tier.get(&key).await.expect("tier works").expect("is there");
    for _ in 0..10 {
        assert_holds(&*tier, &key, Some(&first.record)).await;
    }
}
