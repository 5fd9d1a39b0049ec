//! What a request pays for being counted: noting its steps, and adding them to histograms.

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use criterion::Criterion;
use pannier_server::{
    config::TierName,
    metrics::Histogram,
    steps::{Ended, Steps, What},
};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    steps(&mut criterion);
    observe(&mut criterion);
    criterion.final_summary();
}

/// A local hit: one step, the end of which reads the clock.
fn steps(criterion: &mut Criterion) {
    criterion.bench_function("steps of a local hit", |bencher| {
        bencher.iter(|| {
            let steps = Steps::default();
            let begun = Instant::now();
            steps.note(What::Lookup, TierName::Local, Ended::Hit, begun);
            black_box(steps.list().count())
        });
    });
}

fn observe(criterion: &mut Criterion) {
    let histogram = Histogram::default();
    let took = black_box(Duration::from_micros(37));
    let mut group = criterion.benchmark_group("observe");
    group.bench_function("alone", |bencher| bencher.iter(|| histogram.observe(took)));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                histogram.observe(took);
            }
        });
        group.bench_function("while another thread does", |bencher| {
            bencher.iter(|| histogram.observe(took));
        });
        stop.store(true, Ordering::Relaxed);
    });
    group.finish();
}
