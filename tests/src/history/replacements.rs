//! When something was replaced, found quickly.

use std::time::Duration;

use super::{Action, History, Instant, Operation, Reach};

/// Changes in the order of their begin, each with the instant from which it counts.
#[derive(Debug, Default)]
pub(super) struct Replacements {
    /// Begin, and the earliest instant from which this change or a later one counts, and whose.
    sorted: Vec<(Instant, Instant, usize)>,
}

impl Replacements {
    /// Of triples of begin, the instant from which it counts, and the operation.
    fn new(mut all: Vec<(Instant, Instant, usize)>) -> Self {
        all.sort_unstable();
        for index in (1..all.len()).rev() {
            let (_, counts, operation) = all[index];
            let before = &mut all[index - 1];
            if counts < before.1 {
                (before.1, before.2) = (counts, operation);
            }
        }
        Self { sorted: all }
    }

    /// The instant from which the first of those counts that begin at `from` or later, and which.
    fn first(&self, from: Instant) -> Option<(Instant, usize)> {
        let index = self.sorted.partition_point(|(begin, ..)| *begin < from);
        let (_, counts, operation) = self.sorted.get(index)?;
        Some((*counts, *operation))
    }
}

/// When daemons were seen attached.
#[derive(Debug)]
struct Attachments {
    /// By daemon.
    seen: Vec<Replacements>,
    /// By daemon and process: when it was first heard of.
    heard: Vec<Vec<(u32, Instant)>>,
}

impl Attachments {
    fn new(history: &History, daemons: usize) -> Self {
        let mut seen = vec![Vec::new(); daemons];
        let mut heard = vec![Vec::<(u32, Instant)>::new(); daemons];
        for (index, operation) in history.operations.iter().enumerate() {
            let Some(daemon) = operation.daemon.filter(|_| !operation.is_unanswered()) else {
                continue;
            };
            if operation.attached {
                seen[daemon].push((operation.begin, operation.end, index));
            }
            let heard = &mut heard[daemon];
            match heard
                .iter_mut()
                .find(|(process, _)| *process == operation.process)
            {
                Some((_, first)) => *first = operation.begin.min(*first),
                None => heard.push((operation.process, operation.begin)),
            }
        }
        Self {
            seen: seen.into_iter().map(Replacements::new).collect(),
            heard,
        }
    }

    /// When the daemon of this operation was attached again after it, at the latest.
    fn after(&self, operation: &Operation) -> Option<Instant> {
        let daemon = operation.daemon?;
        let mut from = operation.end;
        if operation.is_unanswered() {
            let heard = self.heard[daemon].iter();
            let later = heard.filter(|(process, _)| *process > operation.process);
            from = from.max(later.map(|(_, first)| *first).min()?);
        }
        Some(self.seen[daemon].first(from)?.0)
    }
}

/// The changes of one key.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Those that Redis acknowledged, by whomever.
    applied: Replacements,
    /// Those that were deferred, counting from when they were made good.
    deferred: Replacements,
    /// Both, by daemon.
    of_daemon: Vec<Replacements>,
    /// For the daemon that made them, counting from their end: applied, deferred, both.
    own: Vec<[Replacements; 3]>,
    /// All that may have changed it, whatever became of it: begin and operation.
    all: Vec<(Instant, usize)>,
}

/// Everything that is known about the order.
#[derive(Debug)]
pub(super) struct Order<'a> {
    history: &'a History,
    attachments: Attachments,
    stamps: Duration,
    changes: Vec<Changes>,
}

impl<'a> Order<'a> {
    pub(super) fn new(history: &'a History, stamps: Duration) -> Self {
        let daemons = history.operations.iter().filter_map(|it| it.daemon).max();
        let keys = history.operations.iter().filter_map(|it| it.key).max();
        let (daemons, keys) = (daemons.map_or(0, |it| it + 1), keys.map_or(0, |it| it + 1));
        let mut order = Self {
            history,
            attachments: Attachments::new(history, daemons),
            stamps,
            changes: Vec::new(),
        };
        let changes = order.sort(daemons, keys);
        order.changes = changes.into_iter().map(Sorting::finish).collect();
        order
    }

    fn sort(&self, daemons: usize, keys: usize) -> Vec<Sorting> {
        let mut all: Vec<_> = (0..keys).map(|_| Sorting::new(daemons)).collect();
        for (index, operation) in self.history.operations.iter().enumerate() {
            let keys = match operation.key {
                Some(key) => key..key + 1,
                None => 0..keys,
            };
            for sorting in &mut all[keys] {
                self.add(sorting, index, operation);
            }
        }
        all
    }

    fn add(&self, sorting: &mut Sorting, index: usize, operation: &Operation) {
        if operation.reach().is_some() {
            sorting.all.push((operation.begin, index));
        }
        let effective = match operation.reach() {
            Some(Reach::Applied) => Some(operation.end),
            Some(Reach::Deferred) => self.attachments.after(operation),
            _ => return,
        };
        let is_applied = operation.reach() == Some(Reach::Applied);
        if let Some(effective) = effective {
            let change = (operation.begin, effective, index);
            match is_applied {
                true => sorting.applied.push(change),
                false => sorting.deferred.push(change),
            }
            if let Some(daemon) = operation.daemon {
                sorting.of_daemon[daemon].push(change);
            }
        }
        if let Some(daemon) = operation.daemon {
            let change = (operation.begin, operation.end, index);
            sorting.own[daemon][usize::from(!is_applied)].push(change);
            sorting.own[daemon][2].push(change);
        }
    }

    /// When a change reached Redis, if it did.
    pub(super) fn latest(&self, operation: &Operation) -> Option<Instant> {
        match operation.reach() {
            Some(Reach::Applied) => Some(operation.end),
            _ => self.attachments.after(operation),
        }
    }

    /// From when on Redis certainly no longer has this put of `key`, and by which change.
    pub(super) fn replaced(&self, key: usize, put: &Operation) -> Option<(Instant, usize)> {
        let changes = &self.changes[key];
        let daemon = put.daemon?;
        let latest = self.latest(put);
        let applied = latest.and_then(|latest| changes.applied.first(latest));
        let deferred = latest.and_then(|latest| changes.deferred.first(latest + self.stamps));
        let same = changes.of_daemon[daemon].first(put.end);
        [applied, deferred, same].into_iter().flatten().min()
    }

    /// From when on this daemon itself has replaced the put, and by which change.
    pub(super) fn replaced_by(
        &self,
        daemon: usize,
        key: usize,
        put: &Operation,
    ) -> Option<(Instant, usize)> {
        let [applied, deferred, both] = &self.changes[key].own[daemon];
        let latest = self.latest(put);
        let applied = latest.and_then(|latest| applied.first(latest));
        let deferred = latest.and_then(|latest| deferred.first(latest + self.stamps));
        let same = both.first(put.end).filter(|_| put.daemon == Some(daemon));
        [applied, deferred, same].into_iter().flatten().min()
    }

    /// The changes of a key that began before this operation ended, the last first.
    fn before(&self, key: usize, operation: &Operation) -> impl Iterator<Item = usize> {
        let all = &self.changes[key].all;
        let count = all.partition_point(|(begin, _)| *begin < operation.end);
        all[..count].iter().rev().map(|(_, index)| *index)
    }

    /// The changes of a key that began within a span of time.
    pub(super) fn between(&self, key: usize, from: Instant, to: Instant) -> Vec<usize> {
        let all = self.changes.get(key).map_or(&[][..], |it| &it.all);
        let from = all.partition_point(|(begin, _)| *begin < from);
        let began = all[from..].iter().take_while(|(begin, _)| *begin <= to);
        began.map(|(_, index)| *index).collect()
    }

    /// Whether no change of a key can have come within a span of time.
    pub(super) fn is_quiet(&self, key: usize, from: Instant, to: Instant) -> bool {
        let operations = &self.history.operations;
        let earlier = |index: &usize| {
            let change = &operations[*index];
            match change.reach() {
                Some(Reach::Applied) => change.end < from,
                // What it undoes when it is made good may be newer by the margin of stamps.
                _ => self
                    .latest(change)
                    .is_some_and(|latest| latest + self.stamps < from),
            }
        };
        self.between(key, Instant::ZERO, to).iter().all(earlier)
    }

    /// The last of them.
    pub(super) fn last(&self, key: usize, operation: &Operation) -> Option<usize> {
        self.before(key, operation).next()
    }

    /// Those that Redis did not acknowledge.
    pub(super) fn not_applied(
        &self,
        key: usize,
        operation: &Operation,
    ) -> impl Iterator<Item = usize> {
        let operations = &self.history.operations;
        let before = self.before(key, operation);
        before.filter(|index| operations[*index].reach() != Some(Reach::Applied))
    }

    /// Whether a put can have been undone by none of the others.
    pub(super) fn is_alone(&self, key: usize, put: usize, operation: &Operation) -> bool {
        let operations = &self.history.operations;
        let mut others = self.before(key, operation).filter(|index| *index != put);
        others.all(|index| self.spares(&operations[index], &operations[put]))
    }

    /// Before when this put cannot have reached Redis.
    pub(super) fn earliest(&self, put: &Operation) -> Instant {
        let mut earliest = put.begin;
        for fault in &self.history.faults {
            let stops = fault.kind.stops_commands();
            let concerns = fault.daemon.is_none() || fault.daemon == put.daemon;
            if stops && concerns && fault.from <= put.begin {
                earliest = earliest.max(fault.to);
            }
        }
        earliest
    }

    /// Whether a change had certainly come before `put`, and cannot undo it later either.
    pub(super) fn spares(&self, change: &Operation, put: &Operation) -> bool {
        if change.reach() == Some(Reach::Applied) {
            return change.end <= put.begin;
        }
        if matches!(change.action, Action::Untag { .. }) {
            return false;
        }
        let was_lost = self.history.faults.iter().any(|fault| {
            fault.kind.loses_commands()
                && (fault.daemon.is_none() || fault.daemon == change.daemon)
                && fault.from <= change.begin
                && change.end <= fault.to
        });
        let arrived = self
            .latest(change)
            .is_some_and(|latest| latest <= put.begin);
        change.end + self.stamps <= put.begin && (was_lost || arrived)
    }
}

type Triples = Vec<(Instant, Instant, usize)>;

/// [`Changes`] being gathered.
struct Sorting {
    applied: Triples,
    deferred: Triples,
    of_daemon: Vec<Triples>,
    own: Vec<[Triples; 3]>,
    all: Vec<(Instant, usize)>,
}

impl Sorting {
    fn new(daemons: usize) -> Self {
        Self {
            applied: Vec::new(),
            deferred: Vec::new(),
            of_daemon: vec![Vec::new(); daemons],
            own: vec![Default::default(); daemons],
            all: Vec::new(),
        }
    }

    fn finish(mut self) -> Changes {
        self.all.sort_unstable();
        let all = |triples: Vec<Triples>| triples.into_iter().map(Replacements::new).collect();
        Changes {
            applied: Replacements::new(self.applied),
            deferred: Replacements::new(self.deferred),
            of_daemon: all(self.of_daemon),
            own: self
                .own
                .into_iter()
                .map(|own| own.map(Replacements::new))
                .collect(),
            all: self.all,
        }
    }
}
