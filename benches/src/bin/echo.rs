//! `echo`: the bare tonic server that the daemon is measured against.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use pannier_benches::echo::Options;

fn main() -> ExitCode {
    match pannier_benches::echo::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Nothing is left to tell when standard error is closed too.
            let _ = writeln!(std::io::stderr(), "echo: {message}");
            ExitCode::FAILURE
        }
    }
}
