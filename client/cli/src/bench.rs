//! `pannier bench`: a load generator for one daemon.
//!
//! ```text
//!   args ──> load (keys, values, mix) ─┐
//!        └─> schedule (when, how much) ┼─> worker 1..T: own thread and runtime ─> tally ─> report
//!                                      │     connection 1..C: one HTTP/2 connection
//!                                      └       slot 1..M: one call in flight
//! ```
//!
//! It must cost less than what it measures: keys and values exist before the first call, a slot
//! does nothing but call and count, and threads share nothing they write to often. It calls the
//! generated stubs, not the idiomatic client.
//!
//! Closed loop (default): a slot calls again as soon as it has its answer. Open loop (`--rate`):
//! calls start at fixed instants whatever the daemon does, and their latency counts from the
//! instant at which they should have started, so that a stall is seen by every call it delayed.

mod connection;
mod load;
mod pacer;
mod report;
mod schedule;
mod tally;
mod worker;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::Serialize;

use load::{Distribution, Load, ValueSize};
use report::Report;
use schedule::{PreloadQueue, Schedule, Stop};
use tally::Tally;
use worker::Worker;

/// What is asked of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// Get one key
    Get,
    /// Get or Put one key, in the proportion of `--reads`
    Mixed,
    /// GetMany of `--batch` keys
    GetMany,
}

/// Measure how fast a daemon answers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// What to ask for
    #[arg(long, value_enum, default_value_t = Operation::Get)]
    operation: Operation,
    /// Connections to the daemon
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Calls in flight on each connection
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,
    /// Threads of the generator; default: one per core, at most one per connection
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Size of the key set
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// How keys are chosen: uniform, zipf or zipf:EXPONENT
    #[arg(long, default_value = "uniform")]
    distribution: Distribution,
    /// Size of a value, or a range of sizes: 1KiB or 1KiB..64KiB
    #[arg(long, default_value = "1KiB")]
    value_size: ValueSize,
    /// Part of reads in the operation `mixed`, from 0 to 1
    #[arg(long, default_value_t = 0.9, value_parser = load::parse_fraction)]
    reads: f64,
    /// Keys in one call of the operation `get-many`
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// Put every key of the set once before measuring
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    preload: bool,
    /// How long to measure
    #[arg(long, default_value = "10s")]
    duration: humantime::Duration,
    /// Measure this many calls instead of a time; 0: only preload
    #[arg(long, conflicts_with_all = ["duration", "rate"])]
    operations: Option<u64>,
    /// How long to load the daemon before measuring
    #[arg(long, default_value = "1s")]
    warm_up: humantime::Duration,
    /// Open loop: start this many calls a second
    #[arg(long, value_parser = load::parse_rate)]
    rate: Option<f64>,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Args {
    fn thread_count(&self) -> u16 {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let wanted = self.threads.map_or(cores, usize::from);
        u16::try_from(wanted).map_or(self.connections, |wanted| wanted.min(self.connections))
    }

    fn schedule(&self) -> Schedule {
        let measure_from = Instant::now() + Duration::from(self.warm_up);
        let stop = match self.operations {
            Some(operations) => Stop::after(operations),
            None => Stop::At(measure_from + Duration::from(self.duration)),
        };
        Schedule::new(measure_from, stop)
    }
}

/// Loads the daemon at `target` (`host:port`, `http://…` or `unix:/path`) as `args` say and prints
/// what was measured, as JSON when `json` is set.
///
/// Calls that fail are counted and reported, they do not end the run.
///
/// # Errors
/// When a flag makes no sense, the daemon cannot be reached or the report cannot be written.
pub(crate) async fn run(
    args: Args,
    target: &str,
    namespace: &str,
    json: bool,
) -> Result<(), String> {
    let (target, namespace) = (target.to_owned(), namespace.to_owned());
    // The generator has threads and runtimes of its own and blocks until they are done.
    tokio::task::spawn_blocking(move || {
        let report = measure(&args, &target, &namespace)?;
        if json {
            report.print_json()
        } else {
            report.print_text()
        }
    })
    .await
    .map_err(|error| format!("the generator broke down: {error}"))?
}

fn measure(args: &Args, target: &str, namespace: &str) -> Result<Report, String> {
    let load = Arc::new(Load::new(args, namespace)?);
    let endpoint = connection::endpoint(target)?;
    let workers = Worker::connect_all(&endpoint, args)?;
    let mut report = Report::new(args, target, workers.len());
    if args.preload {
        let queue = Arc::new(PreloadQueue::new(load.key_count()));
        let begun = Instant::now();
        let tally = on_all(&workers, |worker| worker.preload(&load, &queue))?;
        report.preloaded(&tally, begun.elapsed());
    }
    if args.operations != Some(0) {
        let schedule = Arc::new(args.schedule());
        let tally = on_all(&workers, |worker| worker.run(&load, &schedule, args.rate))?;
        report.measured(&tally, schedule.measured_time());
    }
    Ok(report)
}

/// Runs `work` for each worker on a thread of its own and adds up what they counted.
fn on_all(
    workers: &[Worker],
    work: impl Fn(&Worker) -> Result<Tally, String> + Sync,
) -> Result<Tally, String> {
    thread::scope(|scope| {
        let running: Vec<_> = workers
            .iter()
            .map(|worker| scope.spawn(|| work(worker)))
            .collect();
        let mut sum = Tally::new();
        for thread in running {
            let tally = thread
                .join()
                .map_err(|_| "a thread of the generator panicked".to_owned())??;
            sum.add(&tally);
        }
        Ok(sum)
    })
}
