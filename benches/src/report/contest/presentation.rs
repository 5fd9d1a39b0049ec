//! The sections of the contest.

use super::{
    super::{
        section::{Section, number},
        statistics::{largest, median, median_ratio},
    },
    Results, Sample, Series, Workload,
};

/// Of the throughput of bare tonic.
const GET_RATIO_MIN: f64 = 0.80;
/// Of the median latency of bare tonic.
const SINGLE_RATIO_MAX: f64 = 1.25;
/// Keys a second of GetMany for each key a second of Get.
const GET_MANY_RATIO_MIN: f64 = 4.0;
const MIB: f64 = (1 << 20) as f64;

impl Series {
    pub(in super::super) fn each(
        &self,
        value: impl Fn(&Sample) -> f64,
    ) -> impl Iterator<Item = f64> {
        self.samples.iter().map(value)
    }

    pub(in super::super) fn median(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        median(self.each(value))
    }

    pub(in super::super) fn row(&self) -> Vec<String> {
        let keys = |sample: &Sample| sample.measured.keys_per_second;
        let range = format!(
            "{} to {}",
            number(-largest(self.each(|sample| -keys(sample)))),
            number(largest(self.each(keys))),
        );
        vec![
            self.name.to_owned(),
            number(self.median(keys)),
            range,
            number(self.median(p50)),
            number(self.median(|sample| sample.measured.latency_us.p99)),
            number(self.median(server_us)),
            number(self.median(|sample| sample.generator_us)),
        ]
    }
}

fn throughput(sample: &Sample) -> f64 {
    sample.measured.operations_per_second
}

fn p50(sample: &Sample) -> f64 {
    sample.measured.latency_us.p50
}

fn server_us(sample: &Sample) -> f64 {
    sample.server_us
}

/// Throughput of Get.
pub(super) fn get(results: &[Results]) -> Section {
    let mut section = Section::new("Get");
    for (result, echoes, daemon) in runs(results, Workload::Get) {
        let transport = result.transport.name();
        let ratio = best(echoes.iter().map(|echo| {
            let ratio = median_ratio(daemon.each(throughput), echo.each(throughput));
            (-echo.median(throughput), ratio)
        }));
        section.at_least(
            format!("{transport}: throughput, to bare tonic's"),
            ratio,
            GET_RATIO_MIN,
            "",
        );
        section.inform(
            format!("{transport}: processor time for a call"),
            format!("{} us", number(daemon.median(server_us))),
        );
        section.inform(
            format!("{transport}: resident memory after the load"),
            format!("{} MiB", number(result.daemon_resident_bytes / MIB)),
        );
        add_table(&mut section, result, Workload::Get);
    }
    section
}

/// Latency of one Get at a time.
pub(super) fn single(results: &[Results]) -> Section {
    let mut section = Section::new("One call at a time");
    for (result, echoes, daemon) in runs(results, Workload::Single) {
        let ratio = best(echoes.iter().map(|echo| {
            (
                echo.median(p50),
                median_ratio(daemon.each(p50), echo.each(p50)),
            )
        }));
        let name = format!(
            "{}: median latency, to bare tonic's",
            result.transport.name()
        );
        section.at_most(name, ratio, SINGLE_RATIO_MAX, "");
        add_table(&mut section, result, Workload::Single);
    }
    section
}

/// Keys a second of GetMany against Get.
pub(super) fn get_many(results: &[Results]) -> Section {
    let mut section = Section::new("GetMany");
    let keys = |sample: &Sample| sample.measured.keys_per_second;
    for (result, _, batches) in runs(results, Workload::GetMany) {
        let gets = result.series(Workload::Get).and_then(<[Series]>::last);
        let ratio = gets.map_or(f64::NAN, |gets| {
            median_ratio(batches.each(keys), gets.each(keys))
        });
        let name = format!(
            "{}: keys a second, to those of Get",
            result.transport.name()
        );
        section.at_least(name, ratio, GET_MANY_RATIO_MIN, "");
        add_table(&mut section, result, Workload::GetMany);
    }
    section
}

/// The results under one workload: the bare servers and the daemon.
fn runs(
    results: &[Results],
    workload: Workload,
) -> impl Iterator<Item = (&Results, &[Series], &Series)> {
    results.iter().filter_map(move |result| {
        let (daemon, echoes) = result.series(workload)?.split_last()?;
        Some((result, echoes, daemon))
    })
}

/// The value that comes with the smallest cost; NaN of none.
fn best(costs_and_values: impl Iterator<Item = (f64, f64)>) -> f64 {
    costs_and_values
        .min_by(|(one, _), (other, _)| one.total_cmp(other))
        .map_or(f64::NAN, |(_, value)| value)
}

fn add_table(section: &mut Section, result: &Results, workload: Workload) {
    let title = format!("{}, {}", workload.name(), result.transport.name());
    let heading = [
        title.as_str(),
        "keys/s",
        "range",
        "p50 us",
        "p99 us",
        "server us/call",
        "generator us/call",
    ];
    let rows: Vec<_> = result
        .series(workload)
        .unwrap_or_default()
        .iter()
        .map(Series::row)
        .collect();
    section.table(&heading, &rows);
}
