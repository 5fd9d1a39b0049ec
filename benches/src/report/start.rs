//! Time from the start of the process to its ready line.

use std::path::Path;

use super::{
    Bench,
    process::Server,
    section::{Section, number},
    statistics::{largest, median},
};

const EMPTY_MS_MAX: f64 = 200.0;
const FULL_MS_MAX: f64 = 1000.0;
/// Room for all that is put, so that nothing is evicted.
const DISK_BUDGET: &str = "4GiB";
const VALUE_SIZE: &str = "1KiB..64KiB";
/// Part of the key set that is put again before each kill, so that there is something to recover.
const REWRITTEN: u32 = 16;

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let folder = bench.folder("start")?;
    let empty = start_empty(bench, &folder)?;
    let data = folder.join("full");
    let daemon = start(bench, &data)?;
    let stored = bench
        .generator
        .preload_all(daemon.address(), &put(bench.effort.stored_keys))?;
    daemon.stop()?;
    let stopped = start_after_stop(bench, &data)?;
    let killed = start_after_kill(bench, &data)?;

    let mut section = Section::new("Start");
    section.note(format!(
        "From the start of the process to the line `pannierd ready …`; medians of {} starts. The \
         full store holds {:.2} GiB: {} values of 1 to 64 KiB; its files are in the page cache. \
         Before each kill, a {REWRITTEN}th of the keys is put again.",
        bench.effort.starts,
        to_gib(stored.value_bytes),
        stored.puts,
    ));
    add(
        &mut section,
        "ready on an empty folder",
        &empty,
        EMPTY_MS_MAX,
    );
    add(
        &mut section,
        "ready on the full store, after a stop",
        &stopped,
        FULL_MS_MAX,
    );
    add(
        &mut section,
        "ready on the full store, after a kill",
        &killed,
        FULL_MS_MAX,
    );
    Ok(section)
}

fn add(section: &mut Section, name: &str, times: &[f64], target: f64) {
    section.at_most(name, median(times.iter().copied()), target, " ms");
    let slowest = largest(times.iter().copied());
    section.inform(
        format!("{name}: slowest"),
        format!("{} ms", number(slowest)),
    );
}

fn start(bench: &Bench, data: &Path) -> Result<Server, String> {
    bench
        .programs
        .start_pannierd("127.0.0.1:0", data, &["--disk-budget", DISK_BUDGET])
}

fn start_empty(bench: &Bench, folder: &Path) -> Result<Vec<f64>, String> {
    let mut times = Vec::new();
    for start in 0..bench.effort.starts {
        let data = folder.join(format!("empty-{start}"));
        let daemon = bench.programs.start_pannierd("127.0.0.1:0", &data, &[])?;
        times.push(milliseconds(&daemon));
        daemon.stop()?;
    }
    Ok(times)
}

fn start_after_stop(bench: &Bench, data: &Path) -> Result<Vec<f64>, String> {
    let mut times = Vec::new();
    for _ in 0..bench.effort.starts {
        let daemon = start(bench, data)?;
        times.push(milliseconds(&daemon));
        daemon.stop()?;
    }
    Ok(times)
}

fn start_after_kill(bench: &Bench, data: &Path) -> Result<Vec<f64>, String> {
    let mut times = Vec::new();
    let mut daemon = start(bench, data)?;
    for _ in 0..bench.effort.starts {
        let keys = bench.effort.stored_keys / REWRITTEN;
        bench.generator.preload_all(daemon.address(), &put(keys))?;
        daemon.kill();
        daemon = start(bench, data)?;
        times.push(milliseconds(&daemon));
    }
    daemon.stop()?;
    Ok(times)
}

fn put(keys: u32) -> Vec<String> {
    vec![
        format!("--keys={keys}"),
        format!("--value-size={VALUE_SIZE}"),
        "--in-flight=8".to_owned(),
    ]
}

fn milliseconds(daemon: &Server) -> f64 {
    daemon.time_to_ready().as_secs_f64() * 1e3
}

fn to_gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
