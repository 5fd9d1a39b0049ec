//! A violation with the part of the history that proves it, for a person to read.

use std::{fmt::Write, time::Duration};

use super::{Action, History, Operation, Violation};

/// Operations shown around a violation.
const LINES_MAX: usize = 80;
/// Shown before and after what proves it.
const MARGIN: Duration = Duration::from_millis(200);

impl History {
    /// A violation in many lines.
    pub fn report(&self, violation: &Violation) -> String {
        let mut text = format!(
            "{:?} ({}), key {}: {}\n",
            violation.rule,
            violation.rule.promises(),
            name(violation.key),
            violation.text
        );
        let (first, last) = violation.span;
        let span = (first.saturating_sub(MARGIN), last.saturating_add(MARGIN));
        let is_near = |begin: Duration, end: Duration| begin <= span.1 && span.0 <= end;
        for fault in self.faults.iter().filter(|it| is_near(it.from, it.to)) {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "    fault  {:>12} {:>12}  daemon {} {}",
                at(fault.from),
                at(fault.to),
                name(fault.daemon),
                fault.name
            );
        }
        let mut lines: Vec<_> = (0..self.operations.len())
            .filter(|index| {
                let it = &self.operations[*index];
                let same = it.key.is_none() || violation.key.is_none() || it.key == violation.key;
                same && is_near(it.begin, it.end)
            })
            .collect();
        lines.sort_by_key(|index| self.operations[*index].begin);
        let proof = |index: &usize| violation.operations.contains(index);
        // What proves it is always shown; of the rest, the changes first.
        if lines.len() > LINES_MAX {
            lines.retain(|index| proof(index) || self.operations[*index].reach().is_some());
        }
        let excess = lines.len().saturating_sub(LINES_MAX);
        let mut left_out = 0;
        for index in lines {
            if left_out < excess && !proof(&index) {
                left_out += 1;
                continue;
            }
            let mark = if proof(&index) { ">>" } else { "  " };
            let _ = writeln!(text, " {mark} {}", line(&self.operations[index]));
        }
        if left_out > 0 {
            let _ = writeln!(text, "    and {left_out} earlier ones");
        }
        text
    }
}

fn name(number: Option<usize>) -> String {
    number.map_or_else(|| "*".into(), |number| number.to_string())
}

fn at(instant: Duration) -> String {
    match instant {
        Duration::MAX => "never".into(),
        _ => format!("{:.6}", instant.as_secs_f64()),
    }
}

fn line(operation: &Operation) -> String {
    let who = match operation.daemon {
        Some(daemon) => format!("daemon {daemon}.{}", operation.process),
        None => "redis     ".into(),
    };
    let what = match &operation.action {
        Action::Put {
            value,
            expires,
            reach,
        } => format!("put {value} until {} {reach:?}", at(*expires)),
        Action::Remove { reach } => format!("remove {reach:?}"),
        Action::Untag { reach } => format!("untag {reach:?}"),
        Action::Get { found: None } => "get: nothing".into(),
        Action::Get { found: Some(found) } => {
            let value = found.value.map_or_else(|| "?".into(), |it| it.to_string());
            let stale = if found.stale { " stale" } else { "" };
            let place = if found.local { "local" } else { "shared" };
            format!("get: {value}{stale} {place}")
        }
        Action::Unanswered => "get: no answer".into(),
    };
    let state = if operation.attached { "attached" } else { "-" };
    format!(
        "{who}  {:>12} {:>12}  {what}  {state}",
        at(operation.begin),
        at(operation.end)
    )
}
