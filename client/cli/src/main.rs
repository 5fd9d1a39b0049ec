//! `pannier`, the command line of the Pannier sidecar.
//!
//! One module per command; [`cli`] reads the flags, [`session`] holds what all commands share,
//! [`output`] writes to stdout, [`exit`] says how a command ended. Keys and values go to stdout and
//! to files when asked for, and into no log.

mod archive;
mod bench;
mod cli;
mod destination;
mod exists;
mod exit;
mod flags;
mod get;
mod health;
mod hex;
mod invalidate;
mod output;
mod progress;
mod put;
mod read;
mod session;
mod source;
mod stats;
mod view;
mod watch;
mod write;

use std::process::ExitCode;

use clap::Parser;

use crate::{cli::Cli, exit::Failure};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let what = format!("no threads to work with: {error}");
            return Failure::refused(what, "raise the limits of this process")
                .report()
                .into();
        }
    };
    let exit = runtime
        .block_on(cli.run())
        .unwrap_or_else(|failure| failure.report());
    // A name lookup that outlived its deadline must not hold up the end.
    runtime.shutdown_background();
    exit.into()
}
