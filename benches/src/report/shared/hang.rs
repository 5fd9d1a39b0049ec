//! Redis stands still (SIGSTOP): what callers notice.

use std::{
    thread,
    time::{Duration, Instant},
};

use pannier_tests::Redis;
use tokio::task::JoinSet;

use super::{
    super::{
        Bench,
        generator::Measured,
        process::Server,
        section::{Section, number},
        statistics::{largest, median, median_ratio},
    },
    caller::{Caller, microseconds, value},
    runtime, start,
};

/// Of the p99 with a healthy Redis.
const P99_RATIO_MAX: f64 = 1.2;
/// The default of `shared.command_timeout`.
const COMMAND_TIMEOUT_MS: f64 = 500.0;
/// What the machine may add: the time-out is kept by a timer, the answer travels.
const SLACK_MS: f64 = 50.0;
/// The default of `shared.lease`.
const LEASE_MS: f64 = 1000.0;
/// Keys of the load; few, so that all of them are verified soon after a gap.
const KEYS: &str = "--keys=2000";
/// Calls in flight of those who need Redis.
const NEEDY: usize = 8;
/// From the start of the observers to the freeze.
const LEAD: Duration = Duration::from_millis(300);

/// One run of the load.
struct Run {
    measured: Measured,
    /// Processor time of the daemon for one call, in microseconds.
    server_us: f64,
}

/// What one observer, or all of a kind, saw after the freeze.
#[derive(Default)]
struct Seen {
    answers: u64,
    failed: u64,
    stale: u64,
    longest_ms: f64,
    /// When the last call began that was answered without the mark, from the freeze on.
    last_fresh_ms: f64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.failed += other.failed;
        self.stale += other.stale;
        self.longest_ms = self.longest_ms.max(other.longest_ms);
        self.last_fresh_ms = self.last_fresh_ms.max(other.last_fresh_ms);
    }
}

pub(super) fn measure(bench: &Bench, redis: &Redis, section: &mut Section) -> Result<(), String> {
    let daemon = start(bench, "hang", &redis.url())?;
    runtime()?.block_on(Caller::attached(&daemon))?;
    bench
        .generator
        .preload_all(daemon.address(), &[KEYS.to_owned()])?;
    let (mut healthy, mut hanging) = (Vec::new(), Vec::new());
    let (mut local, mut needy) = (Seen::default(), Seen::default());
    for round in 0..bench.effort.rounds {
        // Neither is always the first.
        for hangs in [round % 2 == 1, round % 2 == 0] {
            verify_all(bench, &daemon)?;
            match hangs {
                true => hanging.push(run_frozen(bench, redis, &daemon)?),
                false => healthy.push(run(bench, &daemon)?),
            }
        }
        let (of_local, of_needy) = observe(bench, redis, &daemon)?;
        local.add(&of_local);
        needy.add(&of_needy);
    }
    let p99 = |run: &Run| run.measured.latency_us.p99;
    section.at_most(
        "Redis hangs: p99 of Get (local hits), to that of the same load with a healthy Redis",
        median_ratio(hanging.iter().map(p99), healthy.iter().map(p99)),
        P99_RATIO_MAX,
        "",
    );
    present(section, &local, &needy);
    add_table(
        section,
        &[("Redis healthy", healthy), ("Redis hangs", hanging)],
    );
    daemon.stop()
}

fn present(section: &mut Section, local: &Seen, needy: &Seen) {
    section.at_most(
        "the same: longest request from the freeze on, of those that need Redis",
        needy.longest_ms,
        COMMAND_TIMEOUT_MS + SLACK_MS,
        " ms",
    );
    section.inform(
        "the same: longest request from the freeze on, of local hits",
        format!("{} ms", number(local.longest_ms)),
    );
    let failed = local.failed + needy.failed;
    section.at_most("the same: requests that failed", failed as f64, 0.0, "");
    section.at_most(
        "the same: last local hit not marked stale, from the freeze on",
        local.last_fresh_ms,
        LEASE_MS,
        " ms",
    );
    section.note(format!(
        "*Redis hangs*: the process is stopped (SIGSTOP) as soon as the warm-up is over. The \
         longest requests are those of one client that reads a local copy and of {NEEDY} that ask \
         for what only Redis could have, each one call after the other, while nothing else is \
         asked: {} and {} answers, {} of the local hits marked stale. `command_timeout` is 500 ms, \
         `lease` 1 s; the machine is granted {SLACK_MS} ms.",
        local.answers, needy.answers, local.stale,
    ));
}

fn add_table(section: &mut Section, runs: &[(&str, Vec<Run>)]) {
    let rows: Vec<_> = runs
        .iter()
        .map(|(name, runs)| {
            let of = |value: fn(&Run) -> f64| runs.iter().map(value);
            vec![
                (*name).to_owned(),
                number(median(of(|run| run.measured.operations_per_second))),
                number(median(of(|run| run.measured.latency_us.p50))),
                number(median(of(|run| run.measured.latency_us.p99))),
                number(largest(of(|run| run.measured.latency_us.max))),
                number(median(of(|run| run.server_us))),
            ]
        })
        .collect();
    let title = "Get of 1 KiB, local hits, 4 connections x 32 in flight";
    section.table(
        &[
            title,
            "calls/s",
            "p50 us",
            "p99 us",
            "largest us",
            "server us/call",
        ],
        &rows,
    );
}

/// Reads everything often enough that each copy is known to be good.
fn verify_all(bench: &Bench, daemon: &Server) -> Result<(), String> {
    let flags = [
        KEYS,
        "--preload=false",
        "--operation=get-many",
        "--in-flight=4",
        "--operations=400",
        "--warm-up=0s",
    ];
    let flags = flags.map(str::to_owned);
    bench.generator.measure(daemon.address(), &flags).map(drop)
}

fn run(bench: &Bench, daemon: &Server) -> Result<Run, String> {
    let time = humantime::format_duration;
    let flags = [
        KEYS.to_owned(),
        "--preload=false".to_owned(),
        format!("--duration={}", time(bench.effort.hang)),
        format!("--warm-up={}", time(bench.effort.warm_up)),
    ];
    let before = daemon.processor_seconds()?;
    let measured = bench.generator.measure(daemon.address(), &flags)?;
    let seconds = daemon.processor_seconds()? - before;
    let calls = measured.operations_with_warm_up.max(1) as f64;
    Ok(Run {
        measured,
        server_us: seconds / calls * 1e6,
    })
}

/// The same load; Redis stops when it begins to count.
fn run_frozen(bench: &Bench, redis: &Redis, daemon: &Server) -> Result<Run, String> {
    let caller =
        |before| runtime()?.block_on(async { Caller::new(daemon)?.attached_again(before).await });
    let before = caller(0)?;
    let measured = thread::scope(|scope| {
        let running = scope.spawn(|| run(bench, daemon));
        thread::sleep(bench.effort.warm_up);
        redis.freeze();
        running
            .join()
            .unwrap_or_else(|_| Err("the load broke down".to_owned()))
    });
    redis.thaw();
    caller(before)?;
    measured
}

/// What single callers see around the freeze: those of local hits, those who need Redis.
fn observe(bench: &Bench, redis: &Redis, daemon: &Server) -> Result<(Seen, Seen), String> {
    runtime()?.block_on(async {
        let caller = Caller::attached(daemon).await?;
        let before = caller.attached_again(0).await?;
        caller.put("hang", &value(1024)).await?;
        caller.hold("hang").await?;
        let freeze = Instant::now() + LEAD;
        let end = freeze + bench.effort.hang;
        let (mut locals, mut needies) = (JoinSet::new(), JoinSet::new());
        locals.spawn(watch(Caller::new(daemon)?, "hang".to_owned(), freeze, end));
        for number in 0..NEEDY {
            let key = format!("nowhere:{number}");
            needies.spawn(watch(Caller::new(daemon)?, key, freeze, end));
        }
        tokio::time::sleep_until(freeze.into()).await;
        redis.freeze();
        let (local, needy) = (sum(locals).await, sum(needies).await);
        redis.thaw();
        caller.attached_again(before).await?;
        Ok((local, needy))
    })
}

async fn sum(observers: JoinSet<Seen>) -> Seen {
    let mut all = Seen::default();
    for seen in observers.join_all().await {
        all.add(&seen);
    }
    all
}

/// Reads one key until `end`; what was answered after `freeze` counts.
async fn watch(caller: Caller, key: String, freeze: Instant, end: Instant) -> Seen {
    let mut seen = Seen::default();
    let milliseconds = |time| microseconds(time) / 1e3;
    while Instant::now() < end {
        let begun = Instant::now();
        let answer = caller.get(&key).await;
        if Instant::now() < freeze {
            continue;
        }
        seen.answers += 1;
        seen.longest_ms = seen.longest_ms.max(milliseconds(begun.elapsed()));
        match answer {
            Err(_) => seen.failed += 1,
            Ok(lookup) if lookup.provenance.stale => seen.stale += 1,
            Ok(_) => {
                let since = begun.saturating_duration_since(freeze);
                seen.last_fresh_ms = milliseconds(since);
            }
        }
    }
    seen
}
