//! `pannier read`: a value of any size, in chunks, with bounded memory.

use std::path::{Path, PathBuf};

use pannier_client::{Kind, Reader};
use serde::Serialize;

use crate::{
    destination::{Destination, Kept},
    exit::{Exit, Failure},
    flags::ReadFlags,
    get::{note_miss, note_negative},
    output, progress,
    session::Session,
    view::{EntryView, ProvenanceView},
};

const AFTER_HELP: &str = "\
Examples:
  pannier -n builds read image.tar -o image.tar
  pannier -n builds read image.tar | tar -t
  pannier -n builds read image.tar --offset 1024 --length 512 -o part
  pannier -n builds read image.tar -o image.tar --continue
  pannier -n builds read target --untar ./target

A file appears whole or not at all; on stdout, the exit code tells whether the value is complete.
With --continue, what has arrived when the transfer breaks off stays beside the file, and the next
one goes on from there if the entry is still the same. Exit code 1: there is no such entry.";

/// Fetch a value of any size as a stream
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The key
    key: String,
    /// Write the value to this file, which appears whole or not at all
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Unpack the value, a tar archive, into this folder, which appears whole or not at all
    #[arg(long, value_name = "DIR", conflicts_with_all = ["output", "offset", "length"])]
    untar: Option<PathBuf>,
    /// First byte wanted
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    offset: u64,
    /// Most bytes wanted [default: to the end]
    #[arg(long, value_name = "BYTES")]
    length: Option<u64>,
    /// Go on where a transfer broke off, and keep what has arrived if this one does
    #[arg(long = "continue", requires = "output", conflicts_with_all = ["offset", "length"])]
    resume: bool,
    #[command(flatten)]
    read: ReadFlags,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    hit: bool,
    namespace: &'a str,
    key: &'a str,
    #[serde(flatten)]
    entry: Option<EntryView<'a>>,
    provenance: Option<ProvenanceView>,
    file: Option<&'a Path>,
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let file = args
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"))
        .or(args.untar.as_deref());
    if session.json && file.is_none() {
        return Err(Failure::usage(
            "--json and the value cannot both go to stdout",
            "use -o FILE",
        ));
    }
    let Some(mut reader) = begin(&args, session, file.filter(|_| args.resume)).await? else {
        if session.json {
            report(&args, session, None, None)?;
        } else {
            note_miss(session, &args.key);
        }
        return Ok(Exit::Miss);
    };
    tokio::select! {
        transferred = transfer(&args, &mut reader, file, session) => transferred?,
        // The draft of the file goes with the transfer, or is kept.
        _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
    }
    if session.json {
        report(&args, session, Some(&reader), file)?;
    } else {
        note_negative(session, &args.key, reader.hit().negative);
    }
    Ok(Exit::Ok)
}

/// Begins to read; behind what is kept beside `resumed` if that is of the same entry.
async fn begin(
    args: &Args,
    session: &Session,
    resumed: Option<&Path>,
) -> Result<Option<Reader>, Failure> {
    let options = args.read.options();
    let ask = |offset| {
        let (namespace, length) = (session.namespace(), args.length);
        let client = &session.client;
        client.read(namespace, &args.key, &options, offset, length)
    };
    if let Some(kept) = resumed.and_then(Kept::beside) {
        match ask(kept.bytes).await {
            Ok(Some(reader)) if reader.hit().version == kept.version => return Ok(Some(reader)),
            // Another entry by now, perhaps one that is shorter.
            Ok(Some(_)) => {}
            Err(error) if error.kind() == Kind::InvalidArgument => {}
            Ok(None) => return Ok(None),
            Err(error) => return Err(session.failure(error)),
        }
        kept.remove()?;
    }
    let reader = ask(args.offset).await;
    reader.map_err(|error| session.failure(error))
}

async fn transfer(
    args: &Args,
    reader: &mut Reader,
    file: Option<&Path>,
    session: &Session,
) -> Result<(), Failure> {
    let mut destination = match (file, &args.untar) {
        (_, Some(folder)) => Destination::unpack(folder)?,
        (Some(file), None) if args.resume => Destination::resume(file, &reader.hit().version)?,
        (file, None) => Destination::open(file)?,
    };
    if destination.is_terminal() {
        return Err(Failure::usage(
            "stdout is a terminal",
            "use -o FILE, or a pipe",
        ));
    }
    let bar = progress::bar(Some(reader.left_bytes()));
    while let Some(chunk) = reader
        .chunk()
        .await
        .map_err(|error| session.failure(error))?
    {
        destination.write(&chunk)?;
        bar.inc(chunk.len() as u64);
    }
    destination.commit()
}

fn report(
    args: &Args,
    session: &Session,
    reader: Option<&Reader>,
    file: Option<&Path>,
) -> Result<(), Failure> {
    output::json(&Report {
        hit: reader.is_some(),
        namespace: session.namespace(),
        key: &args.key,
        entry: reader.map(|reader| EntryView::new(reader.hit(), reader.size_bytes())),
        provenance: reader.map(|reader| ProvenanceView::new(reader.provenance())),
        file,
    })
}
