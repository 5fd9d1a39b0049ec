//! `pannier invalidate`: remove entries.

use pannier_client::{Outcome, Target};
use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    output,
    session::Session,
    view::{self, ProvenanceView},
};

const AFTER_HELP: &str = "\
Examples:
  pannier invalidate greeting farewell
  pannier -n builds invalidate --prefix app/
  pannier -n builds invalidate --pattern 'app/*.o'
  pannier -n builds invalidate --tag nightly
  pannier -n builds invalidate --all

Nothing to remove is no failure: the count is 0 and the exit code too.";

/// Remove entries: by key, prefix, pattern or tag, or all of a namespace
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    way: Way,
}

/// Exactly one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Way {
    /// The keys, at most 1000
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// Every key that begins with this
    #[arg(long)]
    prefix: Option<String>,
    /// Every key that matches this glob: * any run, ? one character, [a-z] a class, \ as it is
    #[arg(long, value_name = "GLOB")]
    pattern: Option<String>,
    /// Every entry put with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Every entry of the namespace
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    namespace: &'a str,
    count: u64,
    local_outcome: &'static str,
    shared_outcome: &'static str,
    provenance: ProvenanceView,
}

impl Way {
    fn into_target(self) -> Target {
        match (self.prefix, self.pattern, self.tag, self.all) {
            (Some(prefix), ..) => Target::Prefix(prefix),
            (_, Some(pattern), ..) => Target::Pattern(pattern),
            (_, _, Some(tag), _) => Target::Tag(tag),
            (.., true) => Target::All,
            (None, None, None, false) => Target::Keys(self.keys),
        }
    }
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let outcome = session
        .client
        .invalidate(session.namespace(), args.way.into_target())
        .await
        .map_err(|error| session.failure(error))?;
    let done = match outcome {
        Outcome::Done(done) => done,
        // Not without fail-open, which this program does not ask for.
        Outcome::Skipped(error) => return Err(session.failure(error)),
    };
    let (local, shared) = (view::outcome(done.local), view::outcome(done.shared));
    if session.json {
        output::json(&Report {
            namespace: session.namespace(),
            count: done.count,
            local_outcome: local,
            shared_outcome: shared,
            provenance: ProvenanceView::new(&done.provenance),
        })?;
    } else {
        output::line(format_args!(
            "{} invalidated local={local} shared={shared}",
            done.count
        ))?;
    }
    Ok(Exit::Ok)
}
