//! What a request did in which tier, and how long that took: its steps.
//!
//! ```text
//!   engine ── notes each call of a tier ──▶ Steps ──┬─ the histograms of lookups and stores
//!                                                   ├─ the list of the slowest requests
//!                                                   └─ the spans, if the request is traced
//! ```
//! The front door makes the list and gives it to the engine by reference, so that what was done is
//! known also of a request that failed or was given up. A fixed number of plain values: noting one
//! costs two readings of the clock, an uncontended lock and nothing else.
//!
//! A batch notes one step for all its items that had the same outcome in the same tier: how many,
//! and the time of all of them. Each then counts as their average.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::config::TierName;

/// Most steps of one request. What comes after them counts with one of its kind, or not at all:
/// only a request that lost several links to Redis has as many.
pub const STEPS_MAX: usize = 8;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// An entry was looked for.
    Lookup,
    /// Redis was asked whether the local copy is what it has.
    Verify,
    /// Waited for the answer to another request's question about the same key.
    Wait,
    /// Waited for the value that another caller has the lease to compute.
    Lease,
    /// An entry was put.
    Store,
    /// The local tier took a copy of what Redis gave.
    Fill,
    /// Entries were removed.
    Remove,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The tier had it; of a verification: the copy is right.
    Hit,
    /// The tier did not have it, or not as it should be; of a verification: the copy is wrong.
    Miss,
    /// The local tier had it, and it was served without asking Redis, marked stale.
    Stale,
    /// The tier could not be asked.
    Error,
    /// The tier took the change.
    Applied,
    /// The journal took it.
    Deferred,
    /// The change was not for this tier, or a condition refused it.
    Skipped,
    /// The tier did not take it.
    Failed,
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// What was done.
    pub what: What,
    /// Where.
    pub tier: TierName,
    /// How it ended.
    pub ended: Ended,
    /// When it began.
    pub begun: Instant,
    /// From its beginning to its end; of a batch, to the end of the last item.
    pub took: Duration,
    /// Items of a batch it stands for; 1 otherwise.
    pub items: u32,
    /// The time of all items added up; `took` when there is one.
    pub spent: Duration,
}

/// The steps of one request, in the order of their ends.
#[derive(Debug, Default)]
pub struct Steps(Mutex<List>);

#[derive(Debug, Default, Clone, Copy)]
struct List {
    steps: [Option<Step>; STEPS_MAX],
    length: usize,
}

impl What {
    /// Its name in logs, traces and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Verify => "verify",
            Self::Wait => "wait",
            Self::Lease => "lease",
            Self::Store => "store",
            Self::Fill => "fill",
            Self::Remove => "remove",
        }
    }
}

impl Ended {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Hit,
        Self::Miss,
        Self::Stale,
        Self::Error,
        Self::Applied,
        Self::Deferred,
        Self::Skipped,
        Self::Failed,
    ];

    /// How a lookup ended, as far as the tier knows.
    pub fn lookup<T, E>(found: &Result<Option<T>, E>) -> Self {
        match found {
            Ok(Some(_)) => Self::Hit,
            Ok(None) => Self::Miss,
            Err(_) => Self::Error,
        }
    }

    /// How a change ended that is made or not.
    pub fn change<T, E>(made: &Result<T, E>) -> Self {
        match made {
            Ok(_) => Self::Applied,
            Err(_) => Self::Failed,
        }
    }

    /// Its name in metrics, traces and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Error => "error",
            Self::Applied => "applied",
            Self::Deferred => "deferred",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

impl Step {
    /// A step of one item that ends now.
    pub fn ended(what: What, tier: TierName, ended: Ended, begun: Instant) -> Self {
        let took = begun.elapsed();
        Self {
            what,
            tier,
            ended,
            begun,
            took,
            items: 1,
            spent: took,
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        (self.what, self.tier, self.ended) == (other.what, other.tier, other.ended)
    }

    /// This step and one of the same kind.
    fn and(&mut self, other: &Self) {
        let begun = self.begun.min(other.begun);
        let end = (self.begun + self.took).max(other.begun + other.took);
        (self.begun, self.took) = (begun, end - begun);
        self.items = self.items.saturating_add(other.items);
        self.spent = self.spent.saturating_add(other.spent);
    }
}

impl Steps {
    /// Notes what ends now.
    pub fn note(&self, what: What, tier: TierName, ended: Ended, begun: Instant) {
        self.add(Step::ended(what, tier, ended, begun));
    }

    /// Notes a step as it is.
    pub fn add(&self, step: Step) {
        let mut list = self.lock();
        let at = list.length;
        match list.steps.get_mut(at) {
            Some(place) => {
                *place = Some(step);
                list.length += 1;
            }
            None => list.merge(&step),
        }
    }

    /// Notes a step of some items of a batch, together with those of the same kind.
    pub fn add_items(&self, step: Step) {
        let mut list = self.lock();
        let same = list.kept_mut().find(|it| it.is_like(&step));
        if let Some(same) = same {
            same.and(&step);
            return;
        }
        drop(list);
        if step.items > 0 {
            self.add(step);
        }
    }

    /// Notes all steps of another list, each with those of the same kind.
    pub fn add_all(&self, other: &Self) {
        for step in other.list() {
            self.add_items(step);
        }
    }

    /// The last step of this kind ended otherwise than it seemed.
    pub fn turns_out(&self, what: What, tier: TierName, ended: Ended) {
        let mut list = self.lock();
        let last = list
            .kept_mut()
            .filter(|it| (it.what, it.tier) == (what, tier))
            .last();
        if let Some(step) = last {
            step.ended = ended;
        }
    }

    /// The steps so far.
    pub fn list(&self) -> impl Iterator<Item = Step> + use<> {
        let list = *self.lock();
        list.steps.into_iter().flatten()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl List {
    fn kept_mut(&mut self) -> impl Iterator<Item = &mut Step> {
        self.steps.iter_mut().flatten()
    }

    /// No room is left: it counts with one like it, or not at all.
    fn merge(&mut self, step: &Step) {
        let like = self.kept_mut().filter(|it| it.is_like(step)).last();
        if let Some(like) = like {
            like.and(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(ended: Ended, begun: Instant, micros: u64) -> Step {
        let took = Duration::from_micros(micros);
        Step {
            what: What::Lookup,
            tier: TierName::Shared,
            ended,
            begun,
            took,
            items: 1,
            spent: took,
        }
    }

    #[test]
    fn items_of_one_kind_become_one_step() {
        let (steps, start) = (Steps::default(), Instant::now());
        let later = start + Duration::from_micros(50);
        steps.add_items(step(Ended::Hit, later, 100));
        steps.add_items(step(Ended::Miss, start, 10));
        steps.add_items(step(Ended::Hit, start, 20));
        let list: Vec<_> = steps.list().collect();
        assert_eq!(list.len(), 2);
        let hits = list[0];
        assert_eq!((hits.items, hits.begun), (2, start));
        assert_eq!(hits.took, Duration::from_micros(150));
        assert_eq!(hits.spent, Duration::from_micros(120));
        assert_eq!((list[1].items, list[1].ended), (1, Ended::Miss));
    }

    #[test]
    fn the_list_is_bounded() {
        let (steps, start) = (Steps::default(), Instant::now());
        for _ in 0..STEPS_MAX {
            steps.add(step(Ended::Error, start, 1));
        }
        steps.add(step(Ended::Error, start, 5));
        steps.add(step(Ended::Hit, start, 5));
        let items: Vec<_> = steps.list().map(|it| it.items).collect();
        assert_eq!(items.len(), STEPS_MAX);
        assert_eq!(items.iter().sum::<u32>() as usize, STEPS_MAX + 1);
    }

    #[test]
    fn only_the_last_step_of_a_kind_turns_out_otherwise() {
        let (steps, start) = (Steps::default(), Instant::now());
        steps.add(step(Ended::Hit, start, 1));
        steps.add(step(Ended::Hit, start, 2));
        steps.turns_out(What::Lookup, TierName::Local, Ended::Miss);
        steps.turns_out(What::Lookup, TierName::Shared, Ended::Stale);
        let ends: Vec<_> = steps.list().map(|it| it.ended).collect();
        assert_eq!(ends, [Ended::Hit, Ended::Stale]);
    }
}
