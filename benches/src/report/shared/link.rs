//! A local hit against asking a Redis that is a millisecond away.

use std::time::Duration;

use pannier_tests::Redis;

use super::{
    super::{
        Bench,
        section::{Section, number},
        statistics::{median, median_ratio, quantile},
    },
    caller::{Caller, timed, value},
    delay,
    direct::Direct,
    runtime, start,
};

/// How many times lower the latency of a local hit is.
const GAIN_MIN: f64 = 5.0;
/// Half of the millisecond on the way there, half on the way back.
const EACH_WAY: Duration = Duration::from_micros(500);
const VALUE_BYTES: usize = 1024;

/// Median latencies of one round, in microseconds.
struct Round {
    near: f64,
    far: f64,
    local: f64,
}

pub(super) fn measure(bench: &Bench, redis: &Redis, section: &mut Section) -> Result<(), String> {
    let link = delay::start(redis.address(), EACH_WAY)
        .map_err(|error| format!("cannot start the link that delays: {error}"))?;
    let daemon = start(bench, "link", &format!("redis://{link}"))?;
    let rounds = runtime()?.block_on(async {
        let caller = Caller::attached(&daemon).await?;
        let near = Direct::connect(redis.address()).await?;
        let far = Direct::connect(link).await?;
        let value = value(VALUE_BYTES);
        caller.put("link", &value).await?;
        near.set("link", &value).await?;
        let mut rounds = Vec::new();
        for _ in 0..bench.effort.rounds {
            rounds.push(Round {
                near: p50(bench, async || near.get("link").await).await?,
                far: p50(bench, async || far.get("link").await).await?,
                local: {
                    caller.hold("link").await?;
                    p50(bench, async || caller.get("link").await.map(drop)).await?
                },
            });
        }
        Ok::<_, String>(rounds)
    })?;
    section.at_least(
        "1 ms more to Redis: p50 of a direct GET, to that of a local hit",
        median_ratio(
            rounds.iter().map(|round| round.far),
            rounds.iter().map(|round| round.local),
        ),
        GAIN_MIN,
        "",
    );
    let of = |time: fn(&Round) -> f64| number(median(rounds.iter().map(time)));
    section.table(
        &["Get of 1 KiB, one call at a time, TCP", "p50 us"],
        &[
            vec!["direct GET".to_owned(), of(|round| round.near)],
            vec!["direct GET, 1 ms away".to_owned(), of(|round| round.far)],
            vec![
                "local hit of pannierd, Redis 1 ms away".to_owned(),
                of(|round| round.local),
            ],
        ],
    );
    daemon.stop()
}

async fn p50(bench: &Bench, call: impl AsyncFn() -> Result<(), String>) -> Result<f64, String> {
    let mut times = Vec::new();
    for _ in 0..bench.effort.calls {
        times.push(timed(call()).await?);
    }
    Ok(quantile(&times, 0.5))
}
