//! Measures a release build of `pannierd` from outside and writes a report in Markdown.
//!
//! Each part makes a `Section`: figures with their targets, and tables. The
//! machine is taken as it is, so everything that is compared is measured in turn, round after
//! round, and medians are compared.

mod contest;
mod disk_budget;
mod generator;
mod large;
mod machine;
mod memory;
mod process;
mod section;
mod shared;
mod start;
mod statistics;
mod telemetry;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Parser, ValueEnum};

use generator::Generator;
use process::Programs;
use section::Section;

/// The parts of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Throughput of Get against bare tonic, over TCP and a unix socket
    Get,
    /// Latency of one Get at a time against bare tonic
    Single,
    /// Keys a second of GetMany against those of Get
    GetMany,
    /// Resident memory of an idle daemon
    Memory,
    /// Time from start to ready
    Start,
    /// Size on disk against the budget
    Disk,
    /// What sharing a Redis costs, and how soon others hear of a change
    Shared,
    /// Throughput and memory of values of 1 GiB, and what they cost small requests
    Large,
    /// What tracing and its export cost, also when the collector is away
    Telemetry,
}

/// What the program `report` can be told.
#[derive(Debug, Parser)]
#[command(
    name = "report",
    about = "Measures pannierd and writes a report in Markdown"
)]
pub struct Options {
    /// Rounds of each comparison
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// A few seconds for each part: to see that it works, not to be quoted
    #[arg(long)]
    quick: bool,
    /// Write the report to this file as well
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only these parts
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Where the daemon keeps its data while it is measured; default: the system's temporary folder
    #[arg(long)]
    scratch_dir: Option<PathBuf>,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: usize,
    run: Duration,
    warm_up: Duration,
    starts: u32,
    idle: Duration,
    stored_keys: u32,
    budget_puts: u32,
    /// Calls, one after the other, in each round of a comparison of latencies.
    calls: u32,
    /// How long Redis stands still.
    hang: Duration,
    /// Bytes of a large value.
    large_bytes: u64,
    tagged_entries: u32,
}

impl Effort {
    fn new(options: &Options) -> Self {
        if options.quick {
            Self {
                rounds: options.rounds.map_or(2, usize::from),
                run: Duration::from_secs(1),
                warm_up: Duration::from_millis(300),
                starts: 3,
                idle: Duration::from_millis(500),
                stored_keys: 4096,
                budget_puts: 2048,
                calls: 200,
                hang: Duration::from_millis(2500),
                large_bytes: 128 << 20,
                tagged_entries: 20_000,
            }
        } else {
            Self {
                rounds: options.rounds.map_or(5, usize::from),
                run: Duration::from_secs(5),
                warm_up: Duration::from_secs(1),
                starts: 7,
                idle: Duration::from_secs(3),
                stored_keys: 32_768,
                budget_puts: 8192,
                calls: 2000,
                hang: Duration::from_secs(5),
                large_bytes: 1 << 30,
                tagged_entries: 1_000_000,
            }
        }
    }
}

impl Effort {
    /// For differences of a few per cent: what disturbs the machine for a while spoils fewer of
    /// many short runs than of a few long ones.
    fn finer(self) -> Self {
        Self {
            rounds: self.rounds * 8,
            run: self.run / 5,
            warm_up: self.warm_up / 4,
            ..self
        }
    }
}

/// What every part needs to measure.
#[derive(Debug)]
struct Bench {
    programs: Programs,
    generator: Generator,
    effort: Effort,
    scratch: tempfile::TempDir,
}

impl Bench {
    /// An empty folder of this name for one part.
    fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.scratch.path().join(name);
        std::fs::create_dir_all(&path)
            .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(path)
    }
}

/// Measures, prints the report and writes it to `--out`. A missed target is no error.
///
/// # Errors
/// When a program is missing, the report cannot be written, or a part could not be measured; the
/// report is written then too, and says so.
pub fn run(options: &Options) -> Result<(), String> {
    let programs = Programs::beside_this_one()?;
    let parent = options
        .scratch_dir
        .clone()
        .unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new()
        .prefix("pannier-report-")
        .tempdir_in(&parent)
        .map_err(|error| format!("cannot make a folder in {}: {error}", parent.display()))?;
    let bench = Bench {
        generator: Generator::new(programs.pannier()),
        programs,
        effort: Effort::new(options),
        scratch,
    };
    let mut report = preamble(options, &bench);
    let mut broken = Vec::new();
    for (title, measured) in measure(options, &bench) {
        let sections = measured.unwrap_or_else(|error| {
            let section = Section::broken(title, &error);
            broken.push(format!("{title}: {error}"));
            vec![section]
        });
        sections
            .iter()
            .for_each(|section| report.push_str(&section.to_markdown()));
    }
    write_report(&report, options.out.as_deref())?;
    if broken.is_empty() {
        Ok(())
    } else {
        Err(broken.join("; "))
    }
}

/// The parts that are wanted, each with its title and what it gave.
fn measure(options: &Options, bench: &Bench) -> Vec<(&'static str, Result<Vec<Section>, String>)> {
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let one = |section: Result<Section, String>| section.map(|section| vec![section]);
    let contests: Vec<_> = [Part::Get, Part::Single, Part::GetMany]
        .into_iter()
        .filter(|part| wanted(*part))
        .collect();
    let mut parts = Vec::new();
    if !contests.is_empty() {
        parts.push(("Against bare tonic", contest::measure(bench, &contests)));
    }
    if wanted(Part::Memory) {
        parts.push(("Memory", one(memory::measure(bench))));
    }
    if wanted(Part::Start) {
        parts.push(("Start", one(start::measure(bench))));
    }
    if wanted(Part::Disk) {
        parts.push(("Disk budget", one(disk_budget::measure(bench))));
    }
    if wanted(Part::Shared) {
        parts.push((shared::TITLE, one(shared::measure(bench))));
    }
    if wanted(Part::Large) {
        parts.push((large::TITLE, one(large::measure(bench))));
    }
    if wanted(Part::Telemetry) {
        parts.push((telemetry::TITLE, one(telemetry::measure(bench))));
    }
    parts
}

fn preamble(options: &Options, bench: &Bench) -> String {
    let Effort {
        rounds,
        run,
        warm_up,
        ..
    } = bench.effort;
    let quick = if options.quick {
        "**A quick run, to see that it works. Do not quote these figures.**\n\n"
    } else {
        ""
    };
    format!(
        "# Benchmarks\n\n\
         Written by the program `report` of the crate `benches`. Every figure is \
         measured from outside, on a release build, with the load generator that users have, \
         `pannier bench`, on the same machine and the same cores as the daemon.\n\n{quick}\
         {machine}\n\
         What is compared is measured in turn, {rounds} rounds of {run} after a warm-up of \
         {warm_up}; a ratio is the median of the ratios of the rounds, other figures are medians. \
         *Bare tonic* is the program `echo`: the same messages with constant content and the same \
         HTTP/2 settings, in two layouts; ratios are to the better one. Processor time is user and \
         system time of the whole server process, divided by all calls it answered meanwhile.\n\n",
        machine = machine::describe(&bench.programs, bench.scratch.path()),
        run = humantime::format_duration(run),
        warm_up = humantime::format_duration(warm_up),
    )
}

fn write_report(report: &str, out: Option<&Path>) -> Result<(), String> {
    std::io::stdout()
        .write_all(report.as_bytes())
        .map_err(|error| format!("cannot write to standard output: {error}"))?;
    out.map_or(Ok(()), |path| {
        std::fs::write(path, report)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    })
}
