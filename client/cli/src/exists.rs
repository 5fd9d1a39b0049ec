//! `pannier exists`: whether a key has an entry, and for how long.

use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    flags::ReadFlags,
    get::{note_miss, note_negative},
    output,
    session::Session,
    view::{self, ProvenanceView},
};

const AFTER_HELP: &str = "\
Examples:
  pannier exists greeting
  pannier -n builds exists app.tar --require-shared

Exit code 1: there is no such entry.";

/// Tell whether a key has an entry, and print how long it has left
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The key
    key: String,
    #[command(flatten)]
    read: ReadFlags,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    exists: bool,
    negative: bool,
    namespace: &'a str,
    key: &'a str,
    ttl_ms: Option<u64>,
    provenance: ProvenanceView,
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let presence = session
        .client
        .exists_with(session.namespace(), &args.key, &args.read.options())
        .await
        .map_err(|error| session.failure(error))?;
    if session.json {
        output::json(&Report {
            exists: presence.remaining.is_some(),
            negative: presence.negative,
            namespace: session.namespace(),
            key: &args.key,
            ttl_ms: presence.remaining.map(view::milliseconds),
            provenance: ProvenanceView::new(&presence.provenance),
        })?;
    }
    match presence.remaining {
        Some(_) if session.json => Ok(Exit::Ok),
        None if session.json => Ok(Exit::Miss),
        Some(remaining) => {
            note_negative(session, &args.key, presence.negative);
            output::line(format_args!("{}", view::span(remaining)))?;
            Ok(Exit::Ok)
        }
        None => {
            note_miss(session, &args.key);
            Ok(Exit::Miss)
        }
    }
}
