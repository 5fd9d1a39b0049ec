//! What a shared tier costs, how soon others hear of a change, and what is left when Redis hangs.
//!
//! ```text
//!   report ── calls ──> pannierd A ──┐
//!        ├─── calls ──> pannierd B ──┼──> redis-server        (started for this part)
//!        ├── by fred ────────────────┤
//!        └── freezes, kills, asks ───┘
//! ```
//!
//! Everything is held against something that was measured in the same run. Redis, its freezing
//! and its counters are those of the integration tests.

mod caller;
mod cost;
mod delay;
mod direct;
mod gap;
mod hang;
mod idle;
mod link;
mod reach;
mod tags;
mod writes;

use std::{ffi::OsStr, thread};

use pannier_tests::Redis;

use super::{
    Bench,
    process::{self, Server},
    section::Section,
};

pub(super) const TITLE: &str = "The shared tier";

/// Without `redis-server` the section says so and holds nothing else.
pub(super) fn measure(bench: &Bench) -> Result<Section, String> {
    let mut section = Section::new(TITLE);
    let Some(version) = process::version(OsStr::new("redis-server")) else {
        section.note("Not measured: there is no `redis-server` on this machine.");
        return Ok(section);
    };
    section.note(format!(
        "{version}, started for this part, reached by TCP on loopback, nothing on its disk. Every \
         figure is held against one of the same run. *Direct* is a program that uses the client \
         library of the daemon (fred) as the daemon does.",
    ));
    // The harness of the tests panics when Redis does not do what it is told.
    let measured = thread::scope(|scope| {
        let work = scope.spawn(|| measure_all(bench, &mut section));
        work.join()
            .unwrap_or_else(|_| Err("redis-server failed; see above".to_owned()))
    });
    measured.map(|()| section)
}

fn measure_all(bench: &Bench, section: &mut Section) -> Result<(), String> {
    let redis = Redis::start();
    reach::measure(bench, &redis, section)?;
    tags::measure(bench, &redis, section)?;
    writes::measure(bench, &redis, section)?;
    link::measure(bench, &redis, section)?;
    hang::measure(bench, &redis, section)?;
    gap::measure(bench, &redis, section)?;
    cost::measure(bench, &redis, section)?;
    idle::measure(bench, &redis, section)
}

/// Starts a daemon for this Redis in a folder of its own.
fn start(bench: &Bench, name: &str, url: &str) -> Result<Server, String> {
    let data = bench.folder("shared")?.join(name);
    let more = ["--redis-url", url];
    bench.programs.start_pannierd("127.0.0.1:0", &data, &more)
}

/// Starts a daemon that has no shared tier.
fn start_alone(bench: &Bench, name: &str) -> Result<Server, String> {
    let data = bench.folder("shared")?.join(name);
    bench.programs.start_pannierd("127.0.0.1:0", &data, &[])
}

/// For calls one after the other: everything on the thread that measures.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build();
    runtime.map_err(|error| format!("cannot start a runtime: {error}"))
}

/// Waits until a daemon is attached.
pub(super) fn wait_until_attached(server: &Server) -> Result<(), String> {
    runtime()?
        .block_on(caller::Caller::attached(server))
        .map(drop)
}
