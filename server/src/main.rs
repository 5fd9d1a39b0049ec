//! `pannierd`: parse, load the configuration, build, run, drain, exit.

use std::{
    io::{Write, stderr, stdout},
    process::ExitCode,
};

use clap::Parser;
use pannier_server::{
    config::{Args, Command, Config},
    error::{Error, Kind},
    server::{Ending, Server},
    telemetry,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit codes, as `--help` lists them.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const HELD: u8 = 3;
const CUT_OFF: u8 = 4;

fn main() -> ExitCode {
    let args = Args::parse();
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment"
    )]
    let env = |name: &str| std::env::var(name).ok();
    let config = match Config::load(&args.overrides, &env) {
        Ok(config) => config,
        Err(error) => return complain(&error, USAGE),
    };
    if args.print_config {
        return say(&config.to_toml());
    }
    if args.command == Some(Command::CheckConfig) {
        return say("configuration is good\n");
    }
    telemetry::install(&config.telemetry);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime.map(|runtime| runtime.block_on(serve(config))) {
        Ok(Ok(Ending::Drained)) => ExitCode::SUCCESS,
        Ok(Ok(Ending::CutOff)) => ExitCode::from(CUT_OFF),
        Ok(Err(error)) if error.kind() == Kind::Held => complain(&error, HELD),
        Ok(Err(error)) => complain(&error, FAILED),
        Err(error) => complain(&error, FAILED),
    }
}

async fn serve(config: Config) -> Result<Ending, Error> {
    let signals = || {
        Ok((
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        ))
    };
    // Listened to before anything is opened, so that a stop is never missed.
    let both = signals().and_then(|first| Ok((first, signals()?)));
    let (first, second) = both.map_err(|error: std::io::Error| {
        Error::new(Kind::Internal, "signals cannot be listened to").caused_by(error)
    })?;
    let server = Server::build(config).await?;
    let (grpc, http) = server.addresses()?;
    // Nobody may be reading; then nobody needs to know.
    let _ = writeln!(stdout(), "pannierd ready grpc={grpc} http={http}");
    let _ = stdout().flush();
    server.run(any(first, 1), any(second, 2)).await
}

/// Ready at the `nth` signal of either kind.
async fn any((mut terminate, mut interrupt): (Signal, Signal), nth: usize) {
    for _ in 0..nth {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

fn say(text: &str) -> ExitCode {
    match stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn complain(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    let _ = writeln!(stderr(), "pannierd: {error}");
    ExitCode::from(code)
}
