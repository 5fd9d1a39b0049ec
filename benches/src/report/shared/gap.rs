//! What comes from Redis when copies from before a gap are read again.

use std::{
    thread,
    time::{Duration, Instant},
};

use pannier_client::Tier;
use pannier_tests::Redis;

use super::{
    super::{
        Bench,
        section::{Section, number},
        statistics::median,
    },
    caller::{Caller, value},
    runtime, start,
};

const BYTES_MAX: f64 = 1024.0;
const VALUE_BYTES: usize = 1 << 20;
/// Entries read in each round: so many share what the beats of the same time cost.
const ENTRIES: usize = 16;
/// Within it all are read; as long as the one in which nothing is.
const WINDOW: Duration = Duration::from_secs(1);
/// After attaching, until Redis has said all it had to say about it.
const SETTLE: Duration = Duration::from_millis(500);

pub(super) fn measure(bench: &Bench, redis: &Redis, section: &mut Section) -> Result<(), String> {
    let daemon = start(bench, "gap", &redis.url())?;
    let runtime = runtime()?;
    let caller = runtime.block_on(Caller::attached(&daemon))?;
    let keys: Vec<_> = (0..ENTRIES).map(|number| format!("gap:{number}")).collect();
    runtime.block_on(async {
        let value = value(VALUE_BYTES);
        for key in &keys {
            caller.put(key, &value).await?;
            caller.hold(key).await?;
        }
        Ok::<_, String>(())
    })?;
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        let before = runtime.block_on(caller.attached_again(0))?;
        redis.kill_clients();
        runtime.block_on(caller.attached_again(before))?;
        thread::sleep(SETTLE);
        idle.push(sent_while(redis, || Ok(()))?);
        busy.push(sent_while(redis, || {
            runtime.block_on(read_all(&caller, &keys))
        })?);
    }
    let verified = busy.iter().zip(&idle);
    let each = verified.map(|(busy, idle)| (busy - idle) / ENTRIES as f64);
    section.at_most(
        "after a reconnect: bytes from Redis to verify an entry of 1 MiB",
        median(each),
        BYTES_MAX,
        "",
    );
    section.note(format!(
        "*After a reconnect*: `total_net_output_bytes` of Redis over {}, in which {ENTRIES} such \
         entries are read for the first time after `CLIENT KILL` of all connections, less the same \
         without reads: {} bytes for beats and for asking.",
        humantime::format_duration(WINDOW),
        number(median(idle)),
    ));
    daemon.stop()
}

async fn read_all(caller: &Caller, keys: &[String]) -> Result<(), String> {
    for key in keys {
        let lookup = caller.get(key).await?;
        let provenance = &lookup.provenance;
        let asked = provenance.shared.and_then(|times| times.lookup);
        let is_verified = provenance.tier == Tier::Local && !provenance.stale && asked.is_some();
        if lookup.hit.is_none() || !is_verified {
            return Err(format!("{key} was not verified: {provenance:?}"));
        }
    }
    Ok(())
}

/// Bytes that Redis sends while `work` is done, and until the window is over.
fn sent_while(redis: &Redis, work: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    let before = redis.bytes_sent();
    let begun = Instant::now();
    work()?;
    let left = WINDOW.checked_sub(begun.elapsed());
    thread::sleep(left.ok_or("reading took longer than the window")?);
    Ok((redis.bytes_sent() - before) as f64)
}
