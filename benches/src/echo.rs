//! A tonic server that answers `pannier.v1.CacheService` with constants, in two layouts.
//!
//! ```text
//!   acceptor thread ──round robin──> channel 1 ──> runtime 1: serve_with_incoming
//!                                    channel N ──> runtime N
//! ```
//!
//! In the layout `current-thread` there are N runtimes of one thread each; in `multi-thread` there
//! is one runtime with N threads. All else is the same, the HTTP/2 settings are the daemon's.

mod acceptor;
mod service;
mod worker;

use std::{io::Write, num::NonZeroUsize};

use bytesize::ByteSize;
use clap::{Parser, ValueEnum};

use acceptor::Acceptor;
use service::Echo;

/// How the threads of the server are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// One tokio runtime whose threads steal work from each other.
    MultiThread,
    /// A runtime for each thread; a connection stays on the thread it was given to.
    CurrentThread,
}

/// What the program `echo` can be told.
#[derive(Debug, Parser)]
#[command(
    name = "echo",
    about = "A bare tonic server that answers CacheService with constants"
)]
pub struct Options {
    /// Where to listen: host:port or unix:/path
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// How the threads are arranged
    #[arg(long, value_enum, default_value_t = Layout::MultiThread)]
    layout: Layout,
    /// How many threads serve; default: one per core
    #[arg(long)]
    workers: Option<NonZeroUsize>,
    /// Size of the value in every answer
    #[arg(long, default_value = "1KiB")]
    value_size: ByteSize,
}

/// Serves until the process is ended.
///
/// Prints `echo ready grpc=ADDR` once connections are accepted.
///
/// # Errors
/// When the address cannot be bound or a thread cannot be started.
pub fn run(options: &Options) -> Result<(), String> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = options.workers.unwrap_or(cores).get();
    let value_bytes = usize::try_from(options.value_size.as_u64())
        .map_err(|_| format!("--value-size {} is too large", options.value_size))?;
    let echo = Echo::new(value_bytes);
    let acceptor = Acceptor::bind(&options.listen)?;
    let workers = match options.layout {
        Layout::MultiThread => vec![worker::start(&echo, threads)?],
        Layout::CurrentThread => (0..threads)
            .map(|_| worker::start(&echo, 1))
            .collect::<Result<_, _>>()?,
    };
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "echo ready grpc={}", acceptor.address())
        .and_then(|()| stdout.flush())
        .map_err(|error| format!("cannot write to standard output: {error}"))?;
    drop(stdout);
    acceptor.run(&workers)
}
