//! `pannier put`: one value from a file, stdin or the command line.

use std::path::PathBuf;

use bytes::Bytes;
use pannier_client::{Outcome, UNARY_VALUE_BYTES_MAX};

use crate::{
    exit::{Exit, Failure},
    flags::WriteFlags,
    output,
    session::Session,
    source::Source,
    view::{self, StoredView},
};

const AFTER_HELP: &str = "\
Examples:
  pannier put greeting --value hello --ttl 10m
  pannier -n builds put app.tar ./app.tar --tag nightly --content-type application/x-tar
  pannier put config - --if-absent --meta author=me
  pannier put config ./config.json --if-version 0190f3c2a1b47c2e8d5f60718293a4b5
  pannier put user:17 --negative

Values of up to 4128768 bytes (4 MiB less 64 KiB), often less by the namespace's policy; larger
ones with `pannier write`. Exit code 4: the condition does not hold.";

/// Store a value under a key
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The key
    key: String,
    /// File that holds the value, `-` for stdin [default: stdin]
    file: Option<PathBuf>,
    /// The value itself
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    value: Option<String>,
    /// Say that there is no value, so that nobody looks for it again
    #[arg(long, conflicts_with_all = ["file", "value"])]
    negative: bool,
    #[command(flatten)]
    write: WriteFlags,
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let mut options = args.write.into_options();
    if args.negative {
        options = options.negative();
    }
    let value = match args.value {
        Some(text) => text.into(),
        None if args.negative => Bytes::new(),
        None => Source::open(args.file.as_deref())?.read_within(UNARY_VALUE_BYTES_MAX)?,
    };
    let size_bytes = value.len() as u64;
    let outcome = session
        .client
        .put(session.namespace(), &args.key, value, options)
        .await
        .map_err(|error| session.failure(error))?;
    let stored = match outcome {
        Outcome::Done(stored) => stored,
        // Not without fail-open, which this program does not ask for.
        Outcome::Skipped(error) => return Err(session.failure(error)),
    };
    if session.json {
        output::json(&StoredView::new(
            session.namespace(),
            &args.key,
            &stored,
            size_bytes,
        ))?;
    } else {
        output::line(format_args!("{}", view::stored_line(&stored)))?;
    }
    Ok(Exit::Ok)
}
