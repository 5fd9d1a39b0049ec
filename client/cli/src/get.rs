//! `pannier get`: one value to stdout or into a file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use pannier_client::{Hit, LeaseOptions, Lookup, ReadOptions};
use serde::Serialize;

use crate::{
    destination::Destination,
    exit::{Exit, Failure},
    flags::ReadFlags,
    hex, output,
    session::Session,
    view::{EntryView, ProvenanceView},
};

const AFTER_HELP: &str = "\
Examples:
  pannier get greeting
  pannier -n builds get app.tar -o app.tar
  pannier get greeting --json
  pannier get greeting --local-only --max-stale 0s
  pannier get report --lease 1m --wait 30s

Exit code 1: there is no such entry. With --lease, stderr says then whether you are the one to
compute the value; put it with `pannier put --lease-token HEX`. An entry that was put with
--negative is a hit: nothing is printed, and stderr says so.";

/// Print a value, or store it in a file
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The key
    key: String,
    /// Write the value to this file, which appears whole or not at all
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    read: ReadFlags,
    /// On a miss, be told to compute the value, for so long, unless somebody else is at it
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration,
          conflicts_with = "local_only")]
    lease: Option<Duration>,
    /// Wait so long for the value of whoever computes it
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration,
          requires = "lease")]
    wait: Option<Duration>,
}

impl Args {
    fn options(&self) -> ReadOptions {
        let lease = self.lease.map(|duration| {
            let lease = LeaseOptions::new().duration(duration);
            lease.wait(self.wait.unwrap_or_default())
        });
        ReadOptions {
            lease,
            ..self.read.options()
        }
    }
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    hit: bool,
    namespace: &'a str,
    key: &'a str,
    #[serde(flatten)]
    entry: Option<EntryView<'a>>,
    provenance: ProvenanceView,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_token: Option<String>,
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let lookup = session
        .client
        .get_with(session.namespace(), &args.key, &args.options())
        .await
        .map_err(|error| session.failure(error))?;
    if session.json {
        return print_json(&args, session, &lookup);
    }
    let Some(hit) = lookup.hit else {
        note_miss(session, &args.key);
        if let Some(lease) = lookup.lease {
            let token = hex::encode(&lease.token);
            output::note(format_args!(
                "you compute it: put with --lease-token {token}"
            ));
        }
        return Ok(Exit::Miss);
    };
    note_negative(session, &args.key, hit.negative);
    let destination = Destination::open(args.output.as_deref())?;
    if destination.is_terminal() && str::from_utf8(&hit.value).is_err() {
        let what = format!("the value is not text ({} bytes)", hit.value.len());
        return Err(Failure::usage(what, "use -o FILE"));
    }
    write(destination, &hit)?;
    Ok(Exit::Ok)
}

/// Says on stderr that there was no entry.
pub(crate) fn note_miss(session: &Session, key: &str) {
    output::note(format_args!(
        "miss: {}/{}",
        session.namespace(),
        output::printable(key)
    ));
}

/// Says on stderr that an entry says that there is no value.
pub(crate) fn note_negative(session: &Session, key: &str, negative: bool) {
    if negative {
        output::note(format_args!(
            "negative: {}/{} is known to have no value",
            session.namespace(),
            output::printable(key)
        ));
    }
}

fn write(mut destination: Destination, hit: &Hit) -> Result<(), Failure> {
    destination.write(&hit.value)?;
    destination.commit()
}

fn print_json(args: &Args, session: &Session, lookup: &Lookup) -> Result<Exit, Failure> {
    let hit = lookup.hit.as_ref();
    // `-o -` asks for stdout, which JSON takes.
    let file = args
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    if let (Some(hit), Some(file)) = (hit, file) {
        write(Destination::open(Some(file))?, hit)?;
    }
    let inline = hit.filter(|_| file.is_none()).map(|hit| &hit.value[..]);
    let text = inline.and_then(|value| str::from_utf8(value).ok());
    output::json(&Report {
        hit: hit.is_some(),
        namespace: session.namespace(),
        key: &args.key,
        entry: hit.map(|hit| EntryView::new(hit, hit.value.len() as u64)),
        provenance: ProvenanceView::new(&lookup.provenance),
        value: text,
        value_hex: inline.filter(|_| text.is_none()).map(hex::encode),
        file: hit.and(file),
        lease_token: lookup.lease.as_ref().map(|it| hex::encode(&it.token)),
    })?;
    Ok(if hit.is_some() { Exit::Ok } else { Exit::Miss })
}
