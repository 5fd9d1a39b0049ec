//! `pannier watch`: the changes of a namespace as they happen.

use bytes::Bytes;
use pannier_client::{Change, Event};
use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    hex, output,
    output::printable,
    session::Session,
};

const AFTER_HELP: &str = "\
Examples:
  pannier -n builds watch
  pannier -n builds watch --json | jq .event
  pannier -n builds watch --resume 00017f3a

One event a line: `key K`, `prefix P`, `pattern G`, `tag T`, `all`, or `continuity-lost` when
events may have been missed. With --json also `progress`: nothing happened, only the token is new.
A key that is put is told like one that is removed, and perhaps twice. Ends with Ctrl-C. Exit code
3: the daemon went away. Exit code 4: it does not serve this, too many watch, or this one was too
slow to be told everything.";

/// Print the changes of a namespace as they happen
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Go on after the event with this `resume_token`
    #[arg(long, value_name = "HEX", value_parser = parse_token)]
    resume: Option<Bytes>,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    change: ChangeView<'a>,
    resume_token: String,
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum ChangeView<'a> {
    Keys { keys: &'a [String] },
    Prefix { prefix: &'a str },
    Pattern { pattern: &'a str },
    Tag { tag: &'a str },
    All,
    ContinuityLost,
    Progress,
}

pub(crate) async fn run(args: Args, session: &Session) -> Result<Exit, Failure> {
    let mut events = session
        .client
        .watch(session.namespace(), args.resume)
        .await
        .map_err(|error| session.failure(error))?;
    loop {
        match events
            .next()
            .await
            .map_err(|error| session.failure(error))?
        {
            Some(event) if session.json => output::json(&view(&event))?,
            Some(event) => output::bytes(words(&event.change).as_bytes())?,
            None => {
                let remedy = "watch again, with --resume and the last token";
                return Err(Failure::unreachable("the daemon ended the stream", remedy));
            }
        }
    }
}

fn view(event: &Event) -> Line<'_> {
    let change = match &event.change {
        Change::Keys(keys) => ChangeView::Keys { keys },
        Change::Prefix(prefix) => ChangeView::Prefix { prefix },
        Change::Pattern(pattern) => ChangeView::Pattern { pattern },
        Change::Tag(tag) => ChangeView::Tag { tag },
        Change::All => ChangeView::All,
        Change::ContinuityLost => ChangeView::ContinuityLost,
        Change::Progress => ChangeView::Progress,
    };
    Line {
        change,
        resume_token: hex::encode(&event.resume_token),
    }
}

fn words(change: &Change) -> String {
    match change {
        Change::Keys(keys) => keys
            .iter()
            .map(|key| format!("key {}\n", printable(key)))
            .collect(),
        Change::Prefix(prefix) => format!("prefix {}\n", printable(prefix)),
        Change::Pattern(pattern) => format!("pattern {}\n", printable(pattern)),
        Change::Tag(tag) => format!("tag {}\n", printable(tag)),
        Change::All => "all\n".to_owned(),
        Change::ContinuityLost => "continuity-lost\n".to_owned(),
        // Only the token is new, which is not shown.
        Change::Progress => String::new(),
    }
}

fn parse_token(text: &str) -> Result<Bytes, String> {
    hex::decode(text).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pannier_client::{Change, Event};

    use super::{view, words};

    #[test]
    fn every_change_has_its_line_and_its_json() {
        for (change, line, json) in [
            (
                Change::Keys(vec!["a".to_owned(), "b\nc".to_owned()]),
                "key a\nkey b\\nc\n",
                r#"{"event":"keys","keys":["a","b\nc"],"resume_token":"01"}"#,
            ),
            (
                Change::Prefix("p".to_owned()),
                "prefix p\n",
                r#"{"event":"prefix","prefix":"p","resume_token":"01"}"#,
            ),
            (
                Change::Pattern("*".to_owned()),
                "pattern *\n",
                r#"{"event":"pattern","pattern":"*","resume_token":"01"}"#,
            ),
            (
                Change::Tag("t".to_owned()),
                "tag t\n",
                r#"{"event":"tag","tag":"t","resume_token":"01"}"#,
            ),
            (
                Change::All,
                "all\n",
                r#"{"event":"all","resume_token":"01"}"#,
            ),
            (
                Change::ContinuityLost,
                "continuity-lost\n",
                r#"{"event":"continuity_lost","resume_token":"01"}"#,
            ),
            (
                Change::Progress,
                "",
                r#"{"event":"progress","resume_token":"01"}"#,
            ),
        ] {
            assert_eq!(words(&change), line);
            let event = Event {
                resume_token: Bytes::from_static(&[1]),
                change,
            };
            assert_eq!(serde_json::to_string(&view(&event)).expect("JSON"), json);
        }
    }
}
