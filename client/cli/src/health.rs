//! `pannier health`: whether the daemon answers requests, and how its parts are.

use pannier_client::proto::HealthResponse;
use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    output,
    session::Session,
};

const AFTER_HELP: &str = "\
Examples:
  pannier health
  pannier health --strict
  pannier health --json

Exit code 0: the daemon answers requests; a part may be out of order, which it goes on without.
Exit code 3: there is no daemon. Exit code 4: it does not answer requests, or, with --strict, a
part of it is out of order.";

/// Tell whether the daemon answers requests, and how its parts are
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Exit with 4 when any part is out of order
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    serving: bool,
    healthy: bool,
    version: &'a str,
    parts: Vec<Part<'a>>,
}

#[derive(Debug, Serialize)]
struct Part<'a> {
    name: &'a str,
    healthy: bool,
    message: &'a str,
}

impl<'a> Report<'a> {
    fn new(health: &'a HealthResponse) -> Self {
        let parts = health.parts.iter().map(|part| Part {
            name: &part.name,
            healthy: part.healthy,
            message: &part.message,
        });
        let parts: Vec<_> = parts.collect();
        Self {
            serving: health.serving,
            healthy: health.serving && parts.iter().all(|part| part.healthy),
            version: &health.version,
            parts,
        }
    }

    fn words(&self) -> String {
        let state = match (self.serving, self.healthy) {
            (false, _) => "not serving",
            (true, false) => "serving, degraded",
            (true, true) => "serving",
        };
        let mut text = format!("pannierd {}: {state}\n", self.version);
        for part in &self.parts {
            let state = if part.healthy {
                "healthy"
            } else {
                "out of order"
            };
            let line = format!("  {:<8} {state:<13} {}", part.name, part.message);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn exit(&self, strict: bool) -> Exit {
        let well = if strict { self.healthy } else { self.serving };
        if well { Exit::Ok } else { Exit::Refused }
    }
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let health = session
        .client
        .health()
        .await
        .map_err(|error| session.failure(error))?;
    let report = Report::new(&health);
    if session.json {
        output::json(&report)?;
    } else {
        output::bytes(report.words().as_bytes())?;
    }
    Ok(report.exit(args.strict))
}

#[cfg(test)]
mod tests {
    use pannier_client::proto::{HealthResponse, PartHealth};

    use super::Report;
    use crate::exit::Exit;

    fn health(serving: bool, shared: bool) -> HealthResponse {
        let part = PartHealth {
            name: "shared".to_owned(),
            healthy: shared,
            message: if shared {
                String::new()
            } else {
                "Redis is away".to_owned()
            },
        };
        HealthResponse {
            serving,
            parts: vec![part],
            version: "1".to_owned(),
        }
    }

    #[test]
    fn a_lost_shared_tier_is_no_failure_unless_asked_for() {
        for (serving, shared, exit, strict) in [
            (true, true, Exit::Ok, Exit::Ok),
            (true, false, Exit::Ok, Exit::Refused),
            (false, true, Exit::Refused, Exit::Refused),
        ] {
            let health = health(serving, shared);
            let report = Report::new(&health);
            assert_eq!((report.exit(false), report.exit(true)), (exit, strict));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let words = Report::new(&health(true, false)).words();
        let lines = "pannierd 1: serving, degraded\n  shared   out of order  Redis is away\n";
        assert_eq!(words, lines);
    }
}
