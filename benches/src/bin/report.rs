//! `report`: measures the daemon against its targets and writes `docs/benchmarks.md`.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use pannier_benches::report::Options;

fn main() -> ExitCode {
    match pannier_benches::report::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nothing is left to tell when standard error is closed too.
            let _ = writeln!(std::io::stderr(), "report: {message}");
            ExitCode::FAILURE
        }
    }
}
