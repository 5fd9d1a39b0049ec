//! A tag of very many entries against one of a few.

use std::sync::Arc;

use bytes::Bytes;
use pannier_tests::Redis;
use tokio::task::JoinSet;

use super::{
    super::{
        Bench,
        section::{Section, number},
        statistics::quantile,
    },
    caller::{Caller, timed, value},
    runtime, start,
};

const INVALIDATE_MS_MAX: f64 = 10.0;
/// Entries of the tag it is compared with.
const FEW: u32 = 10;
/// Batches under way at a time, while the entries are put and read.
const AT_ONCE: u32 = 8;
const BATCH: u32 = 1000;
const MANY_TAG: &str = "many";
const FEW_TAG: &str = "few";

pub(super) fn measure(bench: &Bench, redis: &Redis, section: &mut Section) -> Result<(), String> {
    let one = start(bench, "tags-a", &redis.url())?;
    let other = start(bench, "tags-b", &redis.url())?;
    let entries = bench.effort.tagged_entries;
    let (before, many, few, served) = runtime()?.block_on(async {
        let callers = [
            Caller::attached(&one).await?,
            Caller::attached(&other).await?,
        ];
        put_all(&callers[0], entries).await?;
        let before = served(&callers, entries).await?;
        let many = timed(callers[0].invalidate_tag(MANY_TAG)).await? / 1e3;
        let served = served(&callers, entries).await?;
        let few = invalidate_few(&callers[0], bench.effort.calls).await?;
        Ok::<_, String>((before, many, few, served))
    })?;
    section.at_most(
        format!("Invalidate a tag that {entries} entries have"),
        many,
        INVALIDATE_MS_MAX,
        " ms",
    );
    section.inform(
        format!("the same with {FEW} entries: p50, p99"),
        format!(
            "{}, {} ms",
            number(quantile(&few, 0.5)),
            number(quantile(&few, 0.99))
        ),
    );
    section.at_most(
        "entries served by either daemon afterwards",
        f64::from(served),
        0.0,
        "",
    );
    section.inform(
        "the same before",
        format!("{before} of {}", u64::from(entries) * 2),
    );
    section.note(
        "*Tags*: every entry is put by one daemon, read by both, so that both have copies, and \
         read by both again after its tag was invalidated.",
    );
    one.stop()?;
    other.stop()
}

/// Batch by batch, several at a time.
async fn put_all(caller: &Caller, entries: u32) -> Result<(), String> {
    let value = value(16);
    in_batches(entries, |keys| {
        let (caller, value) = (caller.clone(), value.clone());
        async move { caller.put_tagged(&keys, &value, MANY_TAG).await.map(|()| 0) }
    })
    .await
    .map(drop)
}

/// How many of the entries the daemons have, added up.
async fn served(callers: &[Caller; 2], entries: u32) -> Result<u32, String> {
    let mut served = 0;
    for caller in callers {
        served += in_batches(entries, |keys| {
            let caller = caller.clone();
            async move { caller.count(&keys).await }
        })
        .await?;
    }
    Ok(served)
}

async fn in_batches<F>(entries: u32, call: impl Fn(Arc<[String]>) -> F) -> Result<u32, String>
where
    F: Future<Output = Result<u32, String>> + Send + 'static,
{
    let (mut under_way, mut sum) = (JoinSet::new(), 0);
    let done = |joined: Result<_, tokio::task::JoinError>| joined.map_err(|it| it.to_string())?;
    for first in (0..entries).step_by(BATCH as usize) {
        let last = (first + BATCH).min(entries);
        let keys = (first..last).map(|number| format!("tagged:{number}"));
        under_way.spawn(call(keys.collect()));
        if under_way.len() >= AT_ONCE as usize
            && let Some(joined) = under_way.join_next().await
        {
            sum += done(joined)?;
        }
    }
    while let Some(joined) = under_way.join_next().await {
        sum += done(joined)?;
    }
    Ok(sum)
}

/// Milliseconds of each invalidation.
async fn invalidate_few(caller: &Caller, times: u32) -> Result<Vec<f64>, String> {
    let keys: Vec<_> = (0..FEW).map(|number| format!("few:{number}")).collect();
    let value = Bytes::from_static(b"few");
    let mut all = Vec::new();
    for _ in 0..times {
        caller.put_tagged(&keys, &value, FEW_TAG).await?;
        all.push(timed(caller.invalidate_tag(FEW_TAG)).await? / 1e3);
    }
    Ok(all)
}
