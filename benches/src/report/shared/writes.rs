//! What a write through both tiers costs: one at a time, and as many as will go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use pannier_tests::Redis;
use tokio::task::JoinSet;

use super::{
    super::{
        Bench,
        process::Server,
        section::{Section, number},
        statistics::{median, median_ratio, quantile},
    },
    caller::{Caller, timed, value},
    direct::Direct,
    runtime, start, start_alone,
};

/// Of a direct SET plus a bare tonic echo.
const PUT_RATIO_MAX: f64 = 2.0;
const VALUE_BYTES: usize = 1024;
/// Keys that are put again and again.
const KEYS: u32 = 1000;
/// Invalidations in each round, for each call of a comparison of latencies.
const INVALIDATIONS: u32 = 10;
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 32;

/// Median latencies of one round, in microseconds.
struct Round {
    set: f64,
    echo: f64,
    alone: f64,
    through: f64,
}

pub(super) fn measure(bench: &Bench, redis: &Redis, section: &mut Section) -> Result<(), String> {
    let daemon = start(bench, "writes", &redis.url())?;
    let alone = start_alone(bench, "writes-alone")?;
    let log = bench.folder("shared")?.join("echo.log");
    let echo = bench
        .programs
        .start_echo("127.0.0.1:0", "current-thread", &log)?;
    let rounds = runtime()?.block_on(async {
        let direct = Direct::connect(redis.address()).await?;
        let (echo, alone) = (Caller::new(&echo)?, Caller::new(&alone)?);
        let daemon = Caller::attached(&daemon).await?;
        let value = value(VALUE_BYTES);
        let mut rounds = Vec::new();
        for _ in 0..bench.effort.rounds {
            rounds.push(Round {
                set: p50(bench, async |key| direct.set(key, &value).await).await?,
                echo: p50(bench, async |key| echo.put(key, &value).await).await?,
                alone: p50(bench, async |key| alone.put(key, &value).await).await?,
                through: p50(bench, async |key| daemon.put(key, &value).await).await?,
            });
        }
        Ok::<_, String>(rounds)
    })?;
    present(section, &rounds);
    let invalidations = invalidations(bench, &alone, &daemon)?;
    let (without, with): (Vec<f64>, Vec<f64>) = invalidations.into_iter().unzip();
    section.inform(
        "Invalidate, 4 connections x 32 in flight: calls a second, to those without a shared tier",
        format!(
            "{} ({} of {})",
            number(median_ratio(with.clone(), without.clone())),
            number(median(with)),
            number(median(without)),
        ),
    );
    daemon.stop()?;
    alone.stop()
}

fn present(section: &mut Section, rounds: &[Round]) {
    section.at_most(
        "Put of 1 KiB, one at a time: p50, to a direct SET and a bare tonic echo together",
        median_ratio(
            rounds.iter().map(|round| round.through),
            rounds.iter().map(|round| round.set + round.echo),
        ),
        PUT_RATIO_MAX,
        "",
    );
    let of = |time: fn(&Round) -> f64| number(median(rounds.iter().map(time)));
    section.table(
        &["Put of 1 KiB, one call at a time, TCP", "p50 us"],
        &[
            vec!["direct SET".to_owned(), of(|round| round.set)],
            vec![
                "bare tonic, current-thread".to_owned(),
                of(|round| round.echo),
            ],
            vec![
                "pannierd without a shared tier".to_owned(),
                of(|round| round.alone),
            ],
            vec![
                "pannierd through both tiers".to_owned(),
                of(|round| round.through),
            ],
        ],
    );
}

/// The median latency of a call in one round.
async fn p50(bench: &Bench, call: impl AsyncFn(&str) -> Result<(), String>) -> Result<f64, String> {
    let mut times = Vec::new();
    for number in 0..bench.effort.calls {
        let key = format!("put:{}", number % KEYS);
        times.push(timed(call(&key)).await?);
    }
    Ok(quantile(&times, 0.5))
}

/// Invalidations a second of both daemons, in each round.
fn invalidations(
    bench: &Bench,
    alone: &Server,
    daemon: &Server,
) -> Result<Vec<(f64, f64)>, String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
    let keys = 0..bench.effort.calls * INVALIDATIONS;
    let keys: Arc<[String]> = keys.map(|number| format!("many:{number}")).collect();
    let value = value(VALUE_BYTES);
    runtime.block_on(async {
        let mut rounds = Vec::new();
        for _ in 0..bench.effort.rounds {
            let without = invalidate_all(alone, &keys, &value).await?;
            rounds.push((without, invalidate_all(daemon, &keys, &value).await?));
        }
        Ok(rounds)
    })
}

/// Puts the keys, then invalidates each alone; how many a second.
async fn invalidate_all(
    server: &Server,
    keys: &Arc<[String]>,
    value: &Bytes,
) -> Result<f64, String> {
    Caller::new(server)?.put_all(keys, value).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut slots = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        let caller = Caller::new(server)?;
        for _ in 0..IN_FLIGHT {
            let (caller, keys, next) = (caller.clone(), Arc::clone(keys), Arc::clone(&next));
            slots.spawn(async move {
                while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                    caller.invalidate(key).await?;
                }
                Ok::<_, String>(())
            });
        }
    }
    for outcome in slots.join_all().await {
        outcome?;
    }
    Ok(keys.len() as f64 / begun.elapsed().as_secs_f64())
}
