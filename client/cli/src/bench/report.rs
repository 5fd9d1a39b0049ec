//! What is printed at the end, for people and as JSON.

use std::{io::Write, time::Duration};

use bytesize::ByteSize;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Args, Operation, load::Distribution, tally::Tally};

/// Percentiles of latencies, in microseconds.
#[derive(Debug, Serialize)]
struct Latencies {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// How the key set was put.
#[derive(Debug, Serialize)]
struct Preload {
    puts: u64,
    errors: u64,
    value_bytes: u64,
    seconds: f64,
    mib_per_second: f64,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    seconds: f64,
    /// Calls that count, failed ones included.
    operations: u64,
    /// All calls, those of the warm-up included: what the daemon's processor time is divided by.
    operations_with_warm_up: u64,
    operations_per_second: f64,
    keys_per_second: f64,
    mib_per_second: f64,
    errors: u64,
    /// Hits among the keys that were read; absent when none was.
    hit_rate: Option<f64>,
    /// Open loop: calls that fell due and never started, because the daemon did not keep up.
    unstarted: u64,
    latency_us: Latencies,
    read_latency_us: Option<Latencies>,
    write_latency_us: Option<Latencies>,
}

/// The report of one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    target: String,
    operation: Operation,
    batch: Option<u16>,
    connections: u16,
    in_flight: u16,
    threads: usize,
    keys: u32,
    /// Absent: uniform.
    zipf_exponent: Option<f64>,
    value_bytes_min: usize,
    value_bytes_max: usize,
    rate: Option<f64>,
    seed: u64,
    preload: Option<Preload>,
    measured: Option<Measured>,
    /// The first error that was seen.
    error: Option<String>,
}

impl Report {
    pub(super) fn new(args: &Args, target: &str, threads: usize) -> Self {
        Self {
            target: target.to_owned(),
            operation: args.operation,
            batch: (args.operation == Operation::GetMany).then_some(args.batch),
            connections: args.connections,
            in_flight: args.in_flight,
            threads,
            keys: args.keys,
            zipf_exponent: match args.distribution {
                Distribution::Uniform => None,
                Distribution::Zipf { exponent } => Some(exponent),
            },
            value_bytes_min: args.value_size.bytes_min,
            value_bytes_max: args.value_size.bytes_max,
            rate: args.rate,
            seed: args.seed,
            preload: None,
            measured: None,
            error: None,
        }
    }

    /// Adds what the preload did in `time`.
    pub(super) fn preloaded(&mut self, tally: &Tally, time: Duration) {
        self.note_error(tally);
        self.preload = Some(Preload {
            puts: tally.measured_calls(),
            errors: tally.errors,
            value_bytes: tally.value_bytes,
            seconds: time.as_secs_f64(),
            mib_per_second: per_second(mib(tally.value_bytes), time),
        });
    }

    /// Adds what was measured in `time`.
    pub(super) fn measured(&mut self, tally: &Tally, time: Duration) {
        self.note_error(tally);
        let operations = tally.measured_calls();
        let mixed = self.operation == Operation::Mixed;
        self.measured = Some(Measured {
            seconds: time.as_secs_f64(),
            operations,
            operations_with_warm_up: tally.calls,
            operations_per_second: per_second(float(operations), time),
            keys_per_second: per_second(float(tally.keys), time),
            mib_per_second: per_second(mib(tally.value_bytes), time),
            errors: tally.errors,
            hit_rate: (tally.keys_read > 0).then(|| float(tally.hits) / float(tally.keys_read)),
            unstarted: tally.unstarted,
            latency_us: latencies(&tally.latencies()),
            read_latency_us: mixed.then(|| latencies(&tally.reads)),
            write_latency_us: mixed.then(|| latencies(&tally.writes)),
        });
    }

    fn note_error(&mut self, tally: &Tally) {
        self.error = self.error.take().or_else(|| tally.error.clone());
    }

    /// Prints one line of JSON.
    pub(super) fn print_json(&self) -> Result<(), String> {
        let line = serde_json::to_string(self).map_err(|error| error.to_string())?;
        print(&format!("{line}\n"))
    }

    /// Prints a summary for people.
    pub(super) fn print_text(&self) -> Result<(), String> {
        let lines: Vec<_> = [Some(self.heading())]
            .into_iter()
            .chain([self.preload.as_ref().map(preload_line)])
            .chain([self.measured.as_ref().map(measured_lines)])
            .chain([self
                .error
                .as_ref()
                .map(|error| format!("first error: {error}"))])
            .flatten()
            .collect();
        print(&format!("{}\n", lines.join("\n")))
    }

    fn heading(&self) -> String {
        let operation = match self.operation {
            Operation::Get => "get".to_owned(),
            Operation::Mixed => "mixed".to_owned(),
            Operation::GetMany => format!("get-many of {}", self.batch.unwrap_or_default()),
        };
        let (min, max) = (self.value_bytes_min as u64, self.value_bytes_max as u64);
        let size = match min == max {
            true => ByteSize(min).to_string(),
            false => format!("{}..{}", ByteSize(min), ByteSize(max)),
        };
        let choice = match self.zipf_exponent {
            None => "uniform".to_owned(),
            Some(exponent) => format!("zipf {exponent}"),
        };
        format!(
            "{operation} at {}: {} connections x {} in flight, {} threads, {} keys ({choice}), \
             {size}",
            self.target, self.connections, self.in_flight, self.threads, self.keys,
        )
    }
}

fn preload_line(preload: &Preload) -> String {
    format!(
        "preload     {} puts in {:.2} s, {:.0} MiB/s, {} errors",
        preload.puts, preload.seconds, preload.mib_per_second, preload.errors,
    )
}

fn measured_lines(measured: &Measured) -> String {
    let mut lines = vec![
        format!(
            "throughput  {:.0} ops/s, {:.0} keys/s, {:.1} MiB/s over {:.2} s",
            measured.operations_per_second,
            measured.keys_per_second,
            measured.mib_per_second,
            measured.seconds,
        ),
        format!(
            "errors      {} in {} operations",
            measured.errors, measured.operations
        ),
    ];
    if let Some(hit_rate) = measured.hit_rate {
        lines.push(format!("hit rate    {:.2} %", hit_rate * 100.0));
    }
    lines.push(latency_line("latency", &measured.latency_us));
    if let Some(latencies) = &measured.read_latency_us {
        lines.push(latency_line("  reads", latencies));
    }
    if let Some(latencies) = &measured.write_latency_us {
        lines.push(latency_line("  writes", latencies));
    }
    if measured.unstarted > 0 {
        lines.push(format!(
            "unstarted   {}: the daemon did not keep up with the rate",
            measured.unstarted
        ));
    }
    lines.join("\n")
}

fn latency_line(name: &str, latencies: &Latencies) -> String {
    let Latencies {
        p50,
        p90,
        p99,
        p999,
        max,
        ..
    } = latencies;
    format!(
        "{name:<11} p50 {p50:.0} us, p90 {p90:.0} us, p99 {p99:.0} us, p99.9 {p999:.0} us, \
         max {max:.0} us"
    )
}

fn latencies(histogram: &Histogram<u64>) -> Latencies {
    let us = |nanoseconds: u64| float(nanoseconds) / 1e3;
    Latencies {
        mean: histogram.mean() / 1e3,
        p50: us(histogram.value_at_quantile(0.5)),
        p90: us(histogram.value_at_quantile(0.9)),
        p99: us(histogram.value_at_quantile(0.99)),
        p999: us(histogram.value_at_quantile(0.999)),
        max: us(histogram.max()),
    }
}

fn float(count: u64) -> f64 {
    count as f64
}

fn mib(bytes: u64) -> f64 {
    float(bytes) / f64::from(1 << 20)
}

/// Zero when no time passed, so that it stays a number in JSON.
fn per_second(amount: f64, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        amount / time.as_secs_f64()
    }
}

fn print(text: &str) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| format!("cannot write to standard output: {error}"))
}
