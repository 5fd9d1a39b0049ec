//! The daemon against bare tonic: the same calls to each in turn, round after round.

mod presentation;

use super::{Bench, Effort, Part, generator::Measured, process, process::Server, section::Section};

/// How the calls reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Unix,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Unix => "unix socket",
        }
    }
}

/// What is asked of each server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    /// Get of 1 KiB, 4 connections with 32 calls in flight each.
    Get,
    /// Get of 1 KiB, one call at a time.
    Single,
    /// GetMany of 100 keys of 1 KiB, 4 connections with 4 calls in flight each.
    GetMany,
    /// Put of 1 KiB, 4 connections with 32 calls in flight each.
    Put,
}

impl Workload {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "Get of 1 KiB, 4 connections x 32 in flight",
            Self::Single => "Get of 1 KiB, one call at a time",
            Self::GetMany => "GetMany of 100 x 1 KiB, 4 connections x 4 in flight",
            Self::Put => "Put of 1 KiB, 4 connections x 32 in flight",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Get => &["--connections=4", "--in-flight=32"],
            Self::Single => &["--connections=1", "--in-flight=1"],
            Self::GetMany => &[
                "--operation=get-many",
                "--batch=100",
                "--connections=4",
                "--in-flight=4",
            ],
            Self::Put => &[
                "--operation=mixed",
                "--reads=0",
                "--connections=4",
                "--in-flight=32",
            ],
        }
    }
}

/// A server of the contest.
#[derive(Debug)]
pub(super) struct Contestant {
    pub(super) name: &'static str,
    pub(super) server: Server,
}

/// One run against one server.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) measured: Measured,
    /// Processor time of the server for one call, in microseconds.
    pub(super) server_us: f64,
    /// Processor time of the generator for one call, in microseconds.
    generator_us: f64,
}

/// The runs of one server under one workload, in the order of the rounds.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: &'static str,
    samples: Vec<Sample>,
}

/// What was measured over one transport.
#[derive(Debug)]
struct Results {
    transport: Transport,
    /// For each workload, in the order in which they were run: the bare servers, then the daemon.
    workloads: Vec<(Workload, Vec<Series>)>,
    daemon_resident_bytes: f64,
}

impl Results {
    fn series(&self, workload: Workload) -> Option<&[Series]> {
        let mut found = self
            .workloads
            .iter()
            .filter(|(other, _)| *other == workload);
        found.next().map(|(_, series)| series.as_slice())
    }
}

/// Measures what the parts need over both transports; one section for each part.
pub(super) fn measure(bench: &Bench, parts: &[Part]) -> Result<Vec<Section>, String> {
    let mut workloads = Vec::new();
    // GetMany is compared with Get.
    if parts.contains(&Part::Get) || parts.contains(&Part::GetMany) {
        workloads.push(Workload::Get);
    }
    if parts.contains(&Part::Single) {
        workloads.push(Workload::Single);
    }
    if parts.contains(&Part::GetMany) {
        workloads.push(Workload::GetMany);
    }
    let results = [Transport::Tcp, Transport::Unix]
        .into_iter()
        .map(|transport| measure_over(bench, transport, &workloads))
        .collect::<Result<Vec<_>, _>>()?;
    let present = |part: &Part| match part {
        Part::Single => presentation::single(&results),
        Part::GetMany => presentation::get_many(&results),
        _ => presentation::get(&results),
    };
    Ok(parts.iter().map(present).collect())
}

fn measure_over(
    bench: &Bench,
    transport: Transport,
    workloads: &[Workload],
) -> Result<Results, String> {
    let mut contestants = start_all(bench, transport)?;
    let daemon = contestants.last().ok_or("there is no daemon")?;
    bench.generator.preload_all(daemon.server.address(), &[])?;
    let workloads = workloads
        .iter()
        .map(|workload| {
            Ok((
                *workload,
                run_rounds(bench, &bench.effort, &mut contestants, *workload)?,
            ))
        })
        .collect::<Result<_, String>>()?;
    let daemon = contestants.last().ok_or("there is no daemon")?;
    let daemon_resident_bytes = daemon.server.resident_bytes()?;
    Ok(Results {
        transport,
        workloads,
        daemon_resident_bytes,
    })
}

/// Starts bare tonic in both layouts and the daemon, which comes last.
fn start_all(bench: &Bench, transport: Transport) -> Result<Vec<Contestant>, String> {
    let folder = bench.folder(match transport {
        Transport::Tcp => "tcp",
        Transport::Unix => "unix",
    })?;
    let listen = |name: &str| match transport {
        Transport::Tcp => "127.0.0.1:0".to_owned(),
        Transport::Unix => format!(
            "unix:{}",
            folder.join(name).with_extension("sock").display()
        ),
    };
    let echo = |name, layout| {
        let log = folder.join(layout).with_extension("log");
        let server = bench.programs.start_echo(&listen(layout), layout, &log)?;
        Ok::<_, String>(Contestant { name, server })
    };
    let data = folder.join("data");
    Ok(vec![
        echo("bare tonic, multi-thread", "multi-thread")?,
        echo("bare tonic, current-thread", "current-thread")?,
        Contestant {
            name: "pannierd",
            server: bench
                .programs
                .start_pannierd(&listen("pannierd"), &data, &[])?,
        },
    ])
}

/// Runs the load against each in turn, round after round.
pub(super) fn run_rounds(
    bench: &Bench,
    effort: &Effort,
    contestants: &mut [Contestant],
    workload: Workload,
) -> Result<Vec<Series>, String> {
    let mut all: Vec<_> = contestants
        .iter()
        .map(|contestant| Series {
            name: contestant.name,
            samples: Vec::new(),
        })
        .collect();
    for round in 0..effort.rounds {
        for place in 0..contestants.len() {
            // Each round begins with another one, so that no place in the order is an advantage.
            let index = (round + place) % contestants.len();
            let Contestant { name, server } = &mut contestants[index];
            let sample = run_once(bench, effort, server, workload)
                .map_err(|error| format!("{name}: {error} ({})", server.condition()))?;
            all[index].samples.push(sample);
        }
    }
    Ok(all)
}

fn run_once(
    bench: &Bench,
    effort: &Effort,
    server: &Server,
    workload: Workload,
) -> Result<Sample, String> {
    let flags: Vec<_> = workload
        .flags()
        .iter()
        .map(|flag| (*flag).to_owned())
        .chain([
            "--preload=false".to_owned(),
            format!("--duration={}", humantime::format_duration(effort.run)),
            format!("--warm-up={}", humantime::format_duration(effort.warm_up)),
        ])
        .collect();
    let server_before = server.processor_seconds()?;
    let generator_before = process::processor_seconds_of_children()?;
    let measured = bench.generator.measure(server.address(), &flags)?;
    let server_seconds = server.processor_seconds()? - server_before;
    let generator_seconds = process::processor_seconds_of_children()? - generator_before;
    let calls = measured.operations_with_warm_up.max(1) as f64;
    Ok(Sample {
        server_us: server_seconds / calls * 1e6,
        generator_us: generator_seconds / calls * 1e6,
        measured,
    })
}
