//! What it costs to make a record of an entry and to trust one again.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use pannier_server::{
    clock::Timestamp,
    entry::{Attributes, Entry},
    record::{Compression, Record},
    stamp::Stamp,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

const SIZES: [usize; 4] = [100, 1 << 10, 64 << 10, 1 << 20];
const CREATED: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const EXPIRES: Timestamp = Timestamp::from_millis(1_800_000_600_000);
const COMPRESSIONS: [(Compression, &str); 3] = [
    (Compression::None, "none"),
    (Compression::Lz4, "lz4"),
    (Compression::Zstd, "zstd"),
];
/// Words of the compressible value.
const WORDS: [&str; 8] = [
    "{\"name\":",
    "\"pannier\"",
    ",\"tier\":",
    "\"local\"",
    ",\"size\":",
    "1024",
    "}",
    "\n",
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    encode(&mut criterion);
    decode(&mut criterion);
    compress(&mut criterion);
    criterion.final_summary();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record/encode");
    for size in SIZES {
        let entry = entry(random_value(size));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| record(black_box(&entry), Compression::None));
        });
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record/decode");
    for size in SIZES {
        let bytes = record(&entry(random_value(size)), Compression::None)
            .as_bytes()
            .clone();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| decoded(black_box(&bytes)));
        });
    }
    group.finish();
}

/// There and back with text of 64 KiB.
fn compress(criterion: &mut Criterion) {
    let entry = entry(text_value(64 << 10));
    for (compression, name) in COMPRESSIONS {
        let mut group = criterion.benchmark_group(format!("record/{name}"));
        group.throughput(Throughput::Bytes(entry.value.len() as u64));
        group.bench_function("encode", |bencher| {
            bencher.iter(|| record(black_box(&entry), compression));
        });
        let bytes = record(&entry, compression).as_bytes().clone();
        group.bench_function("decode", |bencher| {
            bencher.iter(|| decoded(black_box(&bytes)))
        });
        group.finish();
    }
}

fn entry(value: Bytes) -> Entry {
    Entry {
        value,
        attributes: Attributes::default(),
        negative: false,
    }
}

fn record(entry: &Entry, compression: Compression) -> Record {
    let stamp = Stamp::from_bytes([7; Stamp::LEN]);
    Record::encode(entry, stamp, CREATED, EXPIRES, compression).expect("the value is small enough")
}

fn decoded(bytes: &Bytes) -> Entry {
    let record = Record::decode(bytes.clone()).expect("it was encoded here");
    record.entry().expect("it was encoded here")
}

fn random_value(size: usize) -> Bytes {
    let mut value = vec![0; size];
    SmallRng::seed_from_u64(1).fill(&mut value[..]);
    value.into()
}

fn text_value(size: usize) -> Bytes {
    let mut random = SmallRng::seed_from_u64(1);
    let mut text = String::new();
    while text.len() < size {
        text.push_str(WORDS[random.random_range(0..WORDS.len())]);
    }
    text.truncate(size);
    text.into()
}
