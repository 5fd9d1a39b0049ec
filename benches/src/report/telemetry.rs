//! What tracing and its export cost the requests, also when the collector is away.

use std::{net::TcpListener, thread};

use pannier_tests::{Collector, Mode, Proxy, collector::Answer};

use super::{
    Bench,
    contest::{Contestant, Sample, Series, Workload, run_rounds},
    process::Server,
    section::{Section, number},
    statistics::median_ratio,
};

pub(super) const TITLE: &str = "Traces and metrics";

/// The share of traces that is measured besides all: what a busy service would keep.
const SHARE: f64 = 0.01;

/// Less than any answer has.
const REPLY_BYTES: usize = 10;

/// The daemons after the one that exports nothing, each with what its throughput should be to that
/// one's.
const NAMES: [(&str, Option<f64>); 7] = [
    ("exports nothing either", None),
    ("1 % traced", Some(0.95)),
    ("all traced", Some(0.7)),
    ("1 % traced, the collector refuses", Some(0.97)),
    ("1 % traced, the collector hangs", Some(0.97)),
    ("1 % traced, the collector resets", Some(0.97)),
    ("all traced, the collector hangs", None),
];

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    // The harness of the tests panics when something does not do what it is told.
    thread::scope(|scope| {
        let work = scope.spawn(|| measure_all(bench));
        work.join()
            .unwrap_or_else(|_| Err("the collector failed; see above".to_owned()))
    })
}

fn measure_all(bench: &Bench) -> Result<Section, String> {
    let mut section = Section::new(TITLE);
    let effort = bench.effort.finer();
    let (rounds, run) = (effort.rounds, humantime::format_duration(effort.run));
    section.note(format!(
        "Get as in the first part, over TCP, in {rounds} rounds of {run}, against a daemon that \
         exports nothing; another one that exports nothing either shows how exact that is. The \
         collector takes OTLP over HTTP, on the same cores, and throws everything away unread. \
         The one that refuses has nobody listening, the one that hangs takes connections and says \
         nothing, the one that resets does so in the middle of its first answer. Metrics are \
         exported every second.",
    ));
    let collector = Collector::start();
    collector.answer(Answer::Forget);
    let refusing = Proxy::start(collector.http());
    refusing.set(Mode::Cut);
    let resetting = Proxy::start(collector.http());
    resetting.set(Mode::Truncate(REPLY_BYTES));
    let hanging = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .map_err(|error| format!("cannot listen: {error}"))?;
    let (there, away, silent) = (collector.http(), refusing.address(), hanging.0);
    let exports = [
        None,
        None,
        Some((there, SHARE)),
        Some((there, 1.0)),
        Some((away, SHARE)),
        Some((silent, SHARE)),
        Some((resetting.address(), SHARE)),
        Some((silent, 1.0)),
    ];
    let names = ["exports nothing"].into_iter().chain(NAMES.map(|it| it.0));
    let mut contestants = Vec::new();
    for (index, (name, export)) in names.zip(exports).enumerate() {
        let config = export.map_or_else(String::new, |(to, ratio)| {
            format!(
                "[telemetry.otlp]\nendpoint = \"http://{to}\"\nsampler_ratio = {ratio}\n\
                 metrics_interval = \"1s\"\n"
            )
        });
        let server = start(bench, index, &config)?;
        bench.generator.preload_all(server.address(), &[])?;
        contestants.push(Contestant { name, server });
    }
    let series = run_rounds(bench, &effort, &mut contestants, Workload::Get)?;
    present(&mut section, &series);
    for contestant in contestants {
        contestant.server.stop()?;
    }
    let taken = collector.received().messages;
    section.inform("messages that the collector took", taken.to_string());
    Ok(section)
}

fn start(bench: &Bench, index: usize, config: &str) -> Result<Server, String> {
    let folder = bench.folder("telemetry")?;
    let path = folder.join(format!("{index}.toml"));
    std::fs::write(&path, config)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    let data = folder.join(index.to_string());
    let path = path.to_string_lossy();
    let more = ["--config", &path];
    bench.programs.start_pannierd("127.0.0.1:0", &data, &more)
}

fn present(section: &mut Section, series: &[Series]) {
    let [off, exporting @ ..] = series else {
        return;
    };
    let ratio =
        |of: &Series, value: fn(&Sample) -> f64| median_ratio(of.each(value), off.each(value));
    for ((name, target), of) in NAMES.into_iter().zip(exporting) {
        let calls = ratio(of, |sample| sample.measured.operations_per_second);
        let time = ratio(of, |sample| sample.server_us);
        let text = format!("{name}: calls a second to those without export");
        match target {
            Some(target) => section.at_least(text, calls, target, ""),
            None => section.inform(text, number(calls)),
        }
        let text = format!("{name}: processor time of the daemon for a call, likewise");
        section.inform(text, number(time));
    }
    let heading = [
        "Get, TCP",
        "calls/s",
        "range",
        "p50 us",
        "p99 us",
        "server us/call",
        "generator us/call",
    ];
    let rows: Vec<_> = series.iter().map(Series::row).collect();
    section.table(&heading, &rows);
}
