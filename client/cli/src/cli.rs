//! The flags that all commands share, and which command is which.

use std::time::Duration;

use clap::{Parser, Subcommand};
use pannier_client::DEFAULT_ADDRESS;

use crate::{
    bench, exists,
    exit::{Exit, Failure},
    get, health, invalidate, put, read,
    session::Session,
    stats, watch, write,
};

const AFTER_HELP: &str = "\
Exit codes:
  0  done, or a hit
  1  a miss
  2  wrong usage, or a request that breaks a limit
  3  no daemon at the address, one that cannot serve now, or no answer in time
  4  refused: a condition that does not hold, a missing right, a call that is not served, an
     overload, an unhealthy daemon, any other fault

Examples:
  pannier put greeting --value hello --ttl 10m
  pannier get greeting
  pannier -n builds put app.tar ./app.tar --tag nightly
  pannier --addr unix:/run/pannier.sock stats";

/// Talk to a Pannier sidecar: read, write, invalidate, look after it.
#[derive(Debug, Parser)]
#[command(name = "pannier", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The flags that all commands share.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Where the daemon listens: host:port, http://host:port or unix:/path
    #[arg(long, global = true, env = "PANNIER_ADDR", default_value = DEFAULT_ADDRESS)]
    pub(crate) addr: String,
    /// Namespace of the keys [default: default; for stats: all]
    #[arg(short, long, global = true)]
    pub(crate) namespace: Option<String>,
    /// How long to wait for an answer; in a stream, for each part of it
    #[arg(long, global = true, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// Print JSON instead of words
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Get(get::Args),
    Put(put::Args),
    Exists(exists::Args),
    Invalidate(invalidate::Args),
    Read(read::Args),
    Write(write::Args),
    Watch(watch::Args),
    Stats(stats::Args),
    Health(health::Args),
    Bench(bench::Args),
}

impl Cli {
    /// Carries out the command.
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let session = Session::open(&self.global)?;
        match self.command {
            Command::Get(args) => get::run(args, &session).await,
            Command::Put(args) => put::run(args, &session).await,
            Command::Exists(args) => exists::run(args, &session).await,
            Command::Invalidate(args) => invalidate::run(args, &session).await,
            Command::Read(args) => read::run(args, &session).await,
            Command::Write(args) => write::run(args, &session).await,
            Command::Watch(args) => watch::run(args, &session).await,
            Command::Stats(args) => stats::run(args, &session).await,
            Command::Health(args) => health::run(args, &session).await,
            Command::Bench(args) => bench(args, &session).await,
        }
    }
}

async fn bench(args: bench::Args, session: &Session) -> Result<Exit, Failure> {
    // The generator counts failed calls; that there is nobody to call is better said at once.
    if let Err(error) = session.client.health().await
        && error.kind().is_outage()
    {
        return Err(session.failure(error));
    }
    let target = session.client.address().to_string();
    bench::run(args, &target, session.namespace(), session.json)
        .await
        .map(|()| Exit::Ok)
        .map_err(|what| Failure::refused(what, "see `pannier bench --help`"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_examples_parse() {
        let mut command = Cli::command();
        command.build();
        let helps: Vec<String> = std::iter::once(&command)
            .chain(command.get_subcommands())
            .filter_map(|command| command.get_after_help().map(ToString::to_string))
            .collect();
        let examples: Vec<&str> = helps
            .iter()
            .flat_map(|help| help.lines())
            .filter_map(|line| line.trim().strip_prefix("pannier "))
            .collect();
        assert!(examples.len() > 15, "{examples:?}");
        for example in examples {
            // What comes behind a pipe or a redirection is the shell's.
            let words = example
                .split_whitespace()
                .take_while(|word| !["|", ">", "<"].contains(word));
            let words = words.map(|word| word.trim_matches('\''));
            let parsed =
                Cli::command().try_get_matches_from(std::iter::once("pannier").chain(words));
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
        }
    }
}
