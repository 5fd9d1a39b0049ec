//! `pannier write`: a value of any size, in chunks, with bounded memory.

use std::path::PathBuf;

use pannier_client::{CHUNK_BYTES, Content, Outcome};

use crate::{
    exit::{Exit, Failure},
    flags::WriteFlags,
    output, progress,
    session::Session,
    source::Source,
    view::{self, StoredView},
};

const AFTER_HELP: &str = "\
Examples:
  pannier -n builds write image.tar ./image.tar --ttl 1day
  pannier -n builds write image.tar - --tag nightly
  pannier -n builds write image.tar ./image.tar --if-changed
  pannier -n builds write target --tar ./target --if-changed

Nothing becomes visible before all of it has arrived. Exit code 4: the condition does not hold.";

/// Store a value of any size as a stream
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The key
    key: String,
    /// File that holds the value, `-` for stdin [default: stdin]
    file: Option<PathBuf>,
    /// Store what is in this folder, as a tar archive
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    tar: Option<PathBuf>,
    /// Look at all of it first; what the daemon has already is not sent again
    #[arg(long)]
    if_changed: bool,
    #[command(flatten)]
    write: WriteFlags,
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let open = || match &args.tar {
        Some(folder) => Source::pack(folder),
        None => Source::open(args.file.as_deref()),
    };
    let sha256 = match args.if_changed {
        true => Some(open()?.sha256()?),
        false => None,
    };
    let mut source = open()?;
    let size_bytes = source.size_bytes();
    let content = Content { size_bytes, sha256 };
    let options = args.write.into_options();
    let mut writer = session
        .client
        .write_content(session.namespace(), &args.key, options, content)
        .map_err(|error| session.failure(error))?;
    let bar = progress::bar(size_bytes);
    while !writer.has_ended() {
        // Blocks this thread only; the connection is driven by others.
        let chunk = source.chunk(CHUNK_BYTES)?;
        if chunk.is_empty() {
            break;
        }
        let sent = chunk.len() as u64;
        writer
            .chunk(chunk)
            .await
            .map_err(|error| session.failure(error))?;
        bar.inc(sent);
    }
    let written = writer
        .finish()
        .await
        .map_err(|error| session.failure(error))?;
    drop(bar);
    let written = match written {
        Outcome::Done(written) => written,
        // Not without fail-open, which this program does not ask for.
        Outcome::Skipped(error) => return Err(session.failure(error)),
    };
    let (stored, size_bytes) = (&written.stored, written.size_bytes);
    if session.json {
        output::json(&StoredView::new(
            session.namespace(),
            &args.key,
            stored,
            size_bytes,
        ))?;
    } else {
        output::line(format_args!(
            "{} size={size_bytes}",
            view::stored_line(stored)
        ))?;
    }
    Ok(Exit::Ok)
}
