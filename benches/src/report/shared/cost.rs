//! What coherence costs on the hot path: a daemon with a shared tier against one without.

use pannier_tests::Redis;

use super::{
    super::{
        Bench,
        contest::{Contestant, Sample, Series, Workload, run_rounds},
        section::{Section, number},
        statistics::median_ratio,
    },
    caller::Caller,
    runtime, start, start_alone,
};

/// The daemons, the reference first.
const NAMES: [&str; 2] = ["without a shared tier", "attached to a shared tier"];

pub(super) fn measure(bench: &Bench, redis: &Redis, section: &mut Section) -> Result<(), String> {
    let servers = [
        start_alone(bench, "cost-alone")?,
        start(bench, "cost", &redis.url())?,
    ];
    runtime()?.block_on(Caller::attached(&servers[1]))?;
    let mut contestants = Vec::new();
    for (name, server) in NAMES.into_iter().zip(servers) {
        bench.generator.preload_all(server.address(), &[])?;
        // Reads everything, so that each copy is known to be good before it is measured.
        let flags = [
            "--preload=false",
            "--operation=get-many",
            "--operations=1500",
            "--in-flight=4",
            "--warm-up=0s",
        ];
        let flags = flags.map(str::to_owned);
        bench.generator.measure(server.address(), &flags)?;
        contestants.push(Contestant { name, server });
    }
    for workload in [Workload::Get, Workload::GetMany, Workload::Put] {
        let series = run_rounds(bench, &bench.effort, &mut contestants, workload)?;
        present(section, workload, &series);
    }
    contestants
        .into_iter()
        .try_for_each(|contestant| contestant.server.stop())
}

fn present(section: &mut Section, workload: Workload, series: &[Series]) {
    let [alone, shared] = series else {
        return;
    };
    let ratio = |value: fn(&Sample) -> f64| {
        let ratio = median_ratio(shared.each(value), alone.each(value));
        number(ratio)
    };
    let what = match workload {
        Workload::Put => "through both tiers",
        _ => "local hits",
    };
    section.inform(
        format!(
            "{}, {what}: keys a second, processor time of the daemon, to those without a shared \
             tier",
            workload.name(),
        ),
        format!(
            "{}, {}",
            ratio(|sample| sample.measured.keys_per_second),
            ratio(|sample| sample.server_us),
        ),
    );
    let title = format!("{}, TCP", workload.name());
    let heading = [
        title.as_str(),
        "keys/s",
        "range",
        "p50 us",
        "p99 us",
        "server us/call",
        "generator us/call",
    ];
    let rows: Vec<_> = series.iter().map(Series::row).collect();
    section.table(&heading, &rows);
}
