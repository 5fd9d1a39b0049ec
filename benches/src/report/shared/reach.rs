//! From an invalidation on one daemon to the old value gone on another.

use std::time::Instant;

use pannier_client::TierOutcome;
use pannier_tests::Redis;

use super::{
    super::{
        Bench,
        section::{Section, number},
        statistics::{largest, quantile},
    },
    caller::{Caller, microseconds, value},
    runtime, start,
};

const P99_MS_MAX: f64 = 10.0;
const VALUE_BYTES: usize = 1024;

/// What was seen from the acknowledgements on.
#[derive(Default)]
struct Seen {
    /// Until the first answer without the old value, in milliseconds.
    gone: Vec<f64>,
    /// Invalidations after which there was such an answer.
    behind: u32,
}

pub(super) fn measure(bench: &Bench, redis: &Redis, section: &mut Section) -> Result<(), String> {
    let one = start(bench, "reach-a", &redis.url())?;
    let other = start(bench, "reach-b", &redis.url())?;
    let seen = runtime()?.block_on(async {
        let (one, other) = (
            Caller::attached(&one).await?,
            Caller::attached(&other).await?,
        );
        invalidate_all(bench, &one, &other).await
    })?;
    section.at_most(
        "Invalidate on one daemon, until the old value is gone on the other: p99",
        quantile(&seen.gone, 0.99),
        P99_MS_MAX,
        " ms",
    );
    section.inform(
        "the same: p50, largest",
        format!(
            "{}, {} ms",
            number(quantile(&seen.gone, 0.5)),
            number(largest(seen.gone.iter().copied())),
        ),
    );
    section.inform(
        "invalidations after which the old value was served at least once more",
        format!("{} of {}", seen.behind, seen.gone.len()),
    );
    section.note(
        "*Invalidate until gone*: a client puts by one daemon, reads by the other until that \
         serves it from its own tier, invalidates by the first, and from the acknowledgement on \
         reads by the second, one call after the other, until the value is not there. The time \
         holds at least one such call.",
    );
    one.stop()?;
    other.stop()
}

async fn invalidate_all(bench: &Bench, one: &Caller, other: &Caller) -> Result<Seen, String> {
    let value = value(VALUE_BYTES);
    let mut seen = Seen::default();
    let count = bench.effort.rounds * bench.effort.calls as usize;
    for number in 0..count {
        let key = format!("reach:{number}");
        one.put(&key, &value).await?;
        other.hold(&key).await?;
        let outcome = one.invalidate(&key).await?;
        let acknowledged = Instant::now();
        if outcome != TierOutcome::Applied {
            return Err(format!("an invalidation was {outcome:?}"));
        }
        let mut was_served = false;
        while other.get(&key).await?.hit.is_some() {
            was_served = true;
        }
        seen.gone.push(microseconds(acknowledged.elapsed()) / 1e3);
        seen.behind += u32::from(was_served);
    }
    Ok(seen)
}
