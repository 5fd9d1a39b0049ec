//! Large values: throughput against a bare byte stream, memory, and what they cost small requests.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pannier_client::{Client, PutOptions, ReadOptions};
use pannier_tests::Redis;

use super::{
    Bench,
    process::Server,
    section::{Section, number},
    shared::wait_until_attached,
    statistics::{median, median_ratio},
};

pub(super) const TITLE: &str = "Large values";

const NAMESPACE: &str = "bench";
const MIB: f64 = (1 << 20) as f64;
/// A part of a stream that is not there by then is a fault.
const PATIENCE: Duration = Duration::from_secs(60);
/// Share of a bare stream's throughput that is to be reached.
const SHARE_MIN: f64 = 0.7;
const GROWTH_MIB_MAX: f64 = 64.0;
/// How much later a small request may be answered while transfers run.
const P99_RATIO_MAX: f64 = 3.0;
/// Transfers at once, and their share of the large value each: 256 MiB of 1 GiB.
const TRANSFERS: usize = 4;
const BUDGETS: [&str; 4] = ["--disk-budget", "8GiB", "--memory-budget", "128MiB"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Write,
    Read,
}

pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    // The harness of the tests panics when something does not do what it is told.
    thread::scope(|scope| {
        let work = scope.spawn(|| measure_all(bench));
        work.join()
            .unwrap_or_else(|_| Err("Redis failed; see above".to_owned()))
    })
}

fn measure_all(bench: &Bench) -> Result<Section, String> {
    let size = bench.effort.large_bytes;
    let mut section = Section::new(TITLE);
    section.note(format!(
        "A value of {} MiB through the Rust client in this process, one stream at a time; *bare \
         tonic* is the echo (multi-thread), which throws away what comes, where the daemon writes \
         a file, and sends the same bytes again and again. Each Write replaces the value before, \
         so it goes over the file of the one before that; new keys are written to new files, or \
         over one that has to go for them. The daemon has a memory budget of 128 MiB. Growth is \
         from before the first stream to the most that was ever resident.",
        size >> 20
    ));
    let folder = bench.folder("large")?;
    let echo =
        bench
            .programs
            .start_echo("127.0.0.1:0", "multi-thread", &folder.join("echo.log"))?;
    alone(bench, &echo, &folder, &mut section)?;
    through_redis(bench, &folder, &mut section)?;
    small_ones(bench, &echo, &folder, &mut section)?;
    echo.kill();
    Ok(section)
}

/// One daemon without Redis against the echo.
fn alone(bench: &Bench, echo: &Server, folder: &Path, section: &mut Section) -> Result<(), String> {
    let size = bench.effort.large_bytes;
    let data = folder.join("alone");
    let daemon = bench
        .programs
        .start_pannierd("127.0.0.1:0", &data, &BUDGETS)?;
    let before = daemon.resident_bytes()?;
    // A machine that has not touched its memory yet is slow to give it to the page cache.
    for key in ["warm-1", "warm-2", "k", "k"] {
        for way in [Way::Write, Way::Read] {
            transfer(&daemon, way, key, size)?;
        }
    }
    let plain = (0..bench.effort.rounds).map(|_| plain_write(&folder.join("plain"), size));
    let plain = median(plain.collect::<Result<Vec<_>, _>>()?);
    let mut rows = Vec::new();
    for (name, way) in [("Write", Way::Write), ("Read", Way::Read)] {
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for round in 0..bench.effort.rounds {
            for first in [round % 2 == 0, round % 2 == 1] {
                match first {
                    true => bare.push(transfer(echo, way, "k", size)?),
                    false => ours.push(transfer(&daemon, way, "k", size)?),
                }
            }
        }
        section.at_least(
            format!("{name}: throughput to that of bare tonic"),
            median_ratio(ours.iter().copied(), bare.iter().copied()),
            SHARE_MIN,
            "",
        );
        if way == Way::Write {
            // Who keeps what comes cannot do without either.
            let both = |bare: f64| 1.0 / (1.0 / bare + 1.0 / plain);
            section.at_least(
                "Write: throughput to that of bare tonic and the file one after the other",
                median_ratio(ours.iter().copied(), bare.iter().copied().map(both)),
                SHARE_MIN,
                "",
            );
        }
        rows.push(vec![
            name.to_owned(),
            number(median(bare)),
            number(median(ours)),
        ]);
    }
    section.table(&["MiB/s", "bare tonic", "pannierd"], &rows);
    let new = (0..bench.effort.rounds)
        .map(|round| transfer(&daemon, Way::Write, &format!("new-{round}"), size));
    let new = median(new.collect::<Result<Vec<_>, _>>()?);
    section.inform("Write of a new key", format!("{} MiB/s", number(new)));
    section.inform(
        "a file of that size written by `write`, without any network",
        format!("{} MiB/s", number(plain)),
    );
    let growth = (daemon.peak_bytes()? - before) / MIB;
    section.at_most("resident memory growth", growth, GROWTH_MIB_MAX, " MiB");
    daemon.stop()
}

/// MiB a second of a file that is written, and not synced, in pieces of a chunk; it is removed.
fn plain_write(path: &Path, size: u64) -> Result<f64, String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let piece = vec![0xa5; 1 << 20];
    let begun = Instant::now();
    let mut file = File::create(path).map_err(failed)?;
    for _ in 0..size >> 20 {
        file.write_all(&piece).map_err(failed)?;
    }
    let took = begun.elapsed();
    std::fs::remove_file(path).map_err(failed)?;
    Ok(size as f64 / MIB / took.as_secs_f64())
}

/// From one daemon to the other through Redis.
fn through_redis(bench: &Bench, folder: &Path, section: &mut Section) -> Result<(), String> {
    let size = bench.effort.large_bytes;
    let redis = Redis::start();
    let url = redis.url();
    let more: Vec<_> = BUDGETS.into_iter().chain(["--redis-url", &url]).collect();
    let start = |name: &str| {
        let data = folder.join(name);
        bench.programs.start_pannierd("127.0.0.1:0", &data, &more)
    };
    let (writer, reader) = (start("writer")?, start("reader")?);
    for daemon in [&writer, &reader] {
        wait_until_attached(daemon)?;
    }
    let before = [writer.resident_bytes()?, reader.resident_bytes()?];
    let written = transfer(&writer, Way::Write, "k", size)?;
    let read = transfer(&reader, Way::Read, "k", size)?;
    let again = transfer(&reader, Way::Read, "k", size)?;
    let speed = |speed: f64| format!("{} MiB/s", number(speed));
    section.inform("Write through both tiers", speed(written));
    section.inform("Read by another daemon, from Redis", speed(read));
    section.inform("the same once more, from its own disk", speed(again));
    let peaks = [writer.peak_bytes()?, reader.peak_bytes()?];
    let growth = peaks.iter().zip(before).map(|(peak, before)| peak - before);
    section.at_most(
        "through Redis: resident memory growth, the larger of both daemons",
        growth.fold(0.0, f64::max) / MIB,
        GROWTH_MIB_MAX,
        " MiB",
    );
    writer.stop()?;
    reader.stop()
}

/// Small requests while large values are transferred by the same daemon, and by the echo: the same
/// work for the machine.
fn small_ones(
    bench: &Bench,
    echo: &Server,
    folder: &Path,
    section: &mut Section,
) -> Result<(), String> {
    let data = folder.join("small");
    let daemon = bench
        .programs
        .start_pannierd("127.0.0.1:0", &data, &BUDGETS)?;
    bench.generator.preload_all(daemon.address(), &[])?;
    let size = bench.effort.large_bytes / TRANSFERS as u64;
    for index in 0..TRANSFERS {
        transfer(&daemon, Way::Write, &format!("large-{index}"), size)?;
    }
    let (mut idle, mut beside, mut with) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.effort.rounds {
        idle.push(p99(bench, &daemon, None)?);
        beside.push(p99(bench, &daemon, Some(echo))?);
        with.push(p99(bench, &daemon, Some(&daemon))?);
    }
    section.at_most(
        "p99 of Get (1 KiB) during four transfers, to that beside four of the echo",
        median_ratio(with.iter().copied(), beside.iter().copied()),
        P99_RATIO_MAX,
        "",
    );
    section.note(format!(
        "The small requests: `pannier bench` with one connection and 4 in flight, while \
         {TRANSFERS} streams of {} MiB, two written and two read, run without a pause.",
        size >> 20
    ));
    let row = |name: &str, times: Vec<f64>| vec![name.to_owned(), number(median(times))];
    section.table(
        &["Get of 1 KiB", "p99 us"],
        &[
            row("nothing else", idle),
            row("beside transfers of the echo", beside),
            row("beside transfers of the same daemon", with),
        ],
    );
    daemon.stop()
}

/// The p99 of small requests to `daemon` while `busy` transfers.
fn p99(bench: &Bench, daemon: &Server, busy: Option<&Server>) -> Result<f64, String> {
    let time = humantime::format_duration;
    let flags = [
        "--connections=1".to_owned(),
        "--in-flight=4".to_owned(),
        "--preload=false".to_owned(),
        format!("--duration={}", time(bench.effort.run)),
        format!("--warm-up={}", time(bench.effort.warm_up)),
    ];
    let size = bench.effort.large_bytes / TRANSFERS as u64;
    let over = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let transfers: Vec<_> = busy
            .into_iter()
            .flat_map(|server| (0..TRANSFERS).map(move |index| (server, index)))
            .map(|(server, index)| {
                let over = Arc::clone(&over);
                scope.spawn(move || {
                    let way = if index % 2 == 0 {
                        Way::Write
                    } else {
                        Way::Read
                    };
                    let key = format!("large-{index}");
                    while !over.load(Ordering::Relaxed) {
                        transfer(server, way, &key, size)?;
                    }
                    Ok::<_, String>(())
                })
            })
            .collect();
        let measured = bench.generator.measure(daemon.address(), &flags);
        over.store(true, Ordering::Relaxed);
        for transfer in transfers {
            let ended = transfer.join();
            ended.map_err(|_| "a transfer panicked".to_owned())??;
        }
        Ok(measured?.latency_us.p99)
    })
}

/// MiB a second of one stream.
fn transfer(server: &Server, way: Way, key: &str, size: u64) -> Result<f64, String> {
    runtime()?.block_on(async {
        let client = client(server)?;
        let begun = Instant::now();
        let moved = match way {
            Way::Write => write(&client, key, size).await,
            Way::Read => read(&client, key, size).await,
        };
        let moved = moved.map_err(|error| error.to_string())?;
        if moved != size {
            return Err(format!("{moved} bytes instead of {size}"));
        }
        Ok(size as f64 / MIB / begun.elapsed().as_secs_f64())
    })
}

async fn write(client: &Client, key: &str, size: u64) -> pannier_client::Result<u64> {
    let chunk = Bytes::from(vec![0xa5; 1 << 20]);
    let options = PutOptions::new();
    let mut writer = client.write(NAMESPACE, key, options, Some(size))?;
    for _ in 0..size >> 20 {
        writer.chunk(chunk.clone()).await?;
    }
    let written = writer.finish().await?.done();
    Ok(written.map_or(0, |written| written.size_bytes))
}

async fn read(client: &Client, key: &str, size: u64) -> pannier_client::Result<u64> {
    let options = ReadOptions::default();
    let reader = client.read(NAMESPACE, key, &options, 0, Some(size)).await?;
    let Some(mut reader) = reader else {
        return Ok(0);
    };
    let mut read = 0;
    while let Some(chunk) = reader.chunk().await? {
        read += chunk.len() as u64;
    }
    Ok(read)
}

fn client(server: &Server) -> Result<Client, String> {
    let client = Client::builder().address(server.address());
    let client = client.deadline(PATIENCE).build();
    client.map_err(|error| error.to_string())
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
}
