//! What a daemon that shares a Redis costs before anybody asks it for anything.

use std::{thread, time::Instant};

use pannier_tests::Redis;

use super::{
    super::{
        Bench,
        section::{Section, number},
        statistics::{median, median_ratio},
    },
    caller::{Caller, microseconds},
    runtime, start, start_alone,
};

const MIB: f64 = (1 << 20) as f64;

/// One start of each daemon.
struct Pair {
    ready_ms: f64,
    attached_ms: f64,
    alone_mib: f64,
    shared_mib: f64,
}

pub(super) fn measure(bench: &Bench, redis: &Redis, section: &mut Section) -> Result<(), String> {
    let mut pairs = Vec::new();
    for number in 0..bench.effort.starts {
        pairs.push(start_both(bench, redis, number)?);
    }
    let of = |value: fn(&Pair) -> f64| pairs.iter().map(value);
    section.inform(
        "resident memory, idle: attached, without a shared tier, ratio",
        format!(
            "{} MiB, {} MiB, {}",
            number(median(of(|pair| pair.shared_mib))),
            number(median(of(|pair| pair.alone_mib))),
            number(median_ratio(
                of(|pair| pair.shared_mib),
                of(|pair| pair.alone_mib)
            )),
        ),
    );
    section.inform(
        "from the start: attached, ready without a shared tier, ratio",
        format!(
            "{} ms, {} ms, {}",
            number(median(of(|pair| pair.attached_ms))),
            number(median(of(|pair| pair.ready_ms))),
            number(median_ratio(
                of(|pair| pair.attached_ms),
                of(|pair| pair.ready_ms)
            )),
        ),
    );
    Ok(())
}

fn start_both(bench: &Bench, redis: &Redis, number: u32) -> Result<Pair, String> {
    let alone = start_alone(bench, &format!("idle-alone-{number}"))?;
    let begun = Instant::now();
    let shared = start(bench, &format!("idle-{number}"), &redis.url())?;
    // The connection is dropped before memory is looked at.
    runtime()?.block_on(Caller::attached(&shared)).map(drop)?;
    let attached = begun.elapsed();
    thread::sleep(bench.effort.idle);
    let pair = Pair {
        ready_ms: microseconds(alone.time_to_ready()) / 1e3,
        attached_ms: microseconds(attached) / 1e3,
        alone_mib: alone.resident_bytes()? / MIB,
        shared_mib: shared.resident_bytes()? / MIB,
    };
    alone.stop()?;
    shared.stop()?;
    Ok(pair)
}
