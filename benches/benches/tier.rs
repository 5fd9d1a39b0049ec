//! What the local tier costs: a hit, a miss and a put, all in memory.

use std::{
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::Criterion;
use pannier_server::{
    clock::{Clock, Timestamp},
    config::{LocalConfig, Size},
    entry::{Attributes, Entry},
    key::{EntryName, Key, NamespaceName},
    record::{Compression, Record},
    stamp::Stamp,
    tier::{Tier, local::LocalTier},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

const SIZES: [usize; 3] = [100, 1 << 10, 16 << 10];
const KEYS: usize = 1000;
const LIFETIME: Duration = Duration::from_secs(3600);

fn main() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("threads can be started");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let clock = Clock::system();
    let expires = clock.now().after(LIFETIME);
    let stop = CancellationToken::new();
    let (tier, maintenance) = runtime.block_on(open(folder.path(), clock, stop.clone()));

    let mut criterion = Criterion::default().configure_from_args();
    for size in SIZES {
        let record = record(size, expires);
        put(&mut criterion, &runtime, &tier, &record, expires);
        hit(&mut criterion, &runtime, &tier, size);
    }
    miss(&mut criterion, &runtime, &tier);
    criterion.final_summary();

    stop.cancel();
    runtime.block_on(async {
        maintenance
            .await
            .expect("maintenance ends when it is told to");
        tier.close().await.expect("the store can be closed");
    });
}

async fn open(
    folder: &Path,
    clock: Clock,
    stop: CancellationToken,
) -> (LocalTier, tokio::task::JoinHandle<()>) {
    let config = LocalConfig {
        data_dir: folder.join("data"),
        disk_budget: Size(2 << 30),
        memory_budget: Size(256 << 20),
    };
    LocalTier::open(&config, LIFETIME, "bench", clock, stop)
        .await
        .expect("the folder is empty")
}

fn put(
    criterion: &mut Criterion,
    runtime: &Runtime,
    tier: &LocalTier,
    record: &Record,
    expires: Timestamp,
) {
    let size = record.head().value_bytes;
    let names = names(&size.to_string());
    let id = format!("tier/put/{size}");
    criterion.bench_function(&id, |bencher| {
        bencher.iter_custom(|count| {
            runtime.block_on(async {
                let begun = Instant::now();
                for name in cycle(&names, count) {
                    tier.put(name, record, expires)
                        .await
                        .expect("the store takes it");
                }
                begun.elapsed()
            })
        });
    });
    // When only the hits are measured, the benchmark above has put nothing.
    runtime.block_on(async {
        for name in &names {
            tier.put(name, record, expires)
                .await
                .expect("the store takes it");
        }
    });
}

fn hit(criterion: &mut Criterion, runtime: &Runtime, tier: &LocalTier, size: usize) {
    let names = names(&size.to_string());
    let id = format!("tier/hit/{size}");
    criterion.bench_function(&id, |bencher| {
        bencher.iter_custom(|count| runtime.block_on(get_all(tier, &names, count, true)));
    });
}

fn miss(criterion: &mut Criterion, runtime: &Runtime, tier: &LocalTier) {
    let names = names("never-put");
    criterion.bench_function("tier/miss", |bencher| {
        bencher.iter_custom(|count| runtime.block_on(get_all(tier, &names, count, false)));
    });
}

async fn get_all(tier: &LocalTier, names: &[EntryName], count: u64, hit: bool) -> Duration {
    let begun = Instant::now();
    for name in cycle(names, count) {
        let found = tier.get(name).await.expect("the store can be read");
        assert_eq!(black_box(found).is_some(), hit, "{name:?}");
    }
    begun.elapsed()
}

fn cycle(names: &[EntryName], count: u64) -> impl Iterator<Item = &EntryName> {
    names.iter().cycle().zip(0..count).map(|(name, _)| name)
}

fn names(prefix: &str) -> Vec<EntryName> {
    let namespace = NamespaceName::new("bench").expect("a valid name");
    let name = |index| {
        let key = Key::new(format!("{prefix}:{index:08}")).expect("a valid key");
        EntryName::new(&namespace, &key)
    };
    (0..KEYS).map(name).collect()
}

fn record(size: usize, expires: Timestamp) -> Record {
    let mut value = vec![0; size];
    SmallRng::seed_from_u64(1).fill(&mut value[..]);
    let entry = Entry {
        value: Bytes::from(value),
        attributes: Attributes::default(),
        negative: false,
    };
    let stamp = Stamp::from_bytes([7; Stamp::LEN]);
    let created = Clock::system().now();
    Record::encode(&entry, stamp, created, expires, Compression::None)
        .expect("the value is small enough")
}
