//! Readings of everything that counts, and what came between two of them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::calls::{Method, Operation, OperationKey};
use crate::{
    clock::Timestamp, config::TierName, metrics::Counts, namespace::Met, stats::Reading,
    steps::Ended,
};

/// Frames that are kept, one every five seconds: the first is a minute old, less one step.
const FRAMES_MAX: usize = 12;

/// A reading of everything that counts, or the difference of two.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// When it was taken; of a difference, its end.
    pub at: Timestamp,
    /// Each namespace, by name, the others last.
    pub namespaces: Vec<Met>,
    /// What was done in the tiers.
    pub operations: Vec<(OperationKey, Counts)>,
    /// Requests by method and code.
    pub calls: Vec<((Method, usize), Counts)>,
    /// How long ago what was served as stale was right for sure.
    pub staleness: Counts,
    /// How long after an own write Redis's word of it was heard.
    pub delay: Counts,
}

/// What counted in some time.
#[derive(Debug, Clone)]
pub struct Window {
    /// When it began.
    pub since: Timestamp,
    /// How long it is; never zero.
    pub length: Duration,
    /// What counted.
    pub frame: Frame,
}

impl Frame {
    /// All namespaces together.
    pub fn total(&self) -> Reading {
        let readings = self.namespaces.iter().map(|it| it.reading);
        readings.fold(Reading::default(), |sum, one| sum.and(&one))
    }

    /// Lookups, stores … of a tier that ended so, all together.
    pub fn operation(
        &self,
        operation: Operation,
        tier: TierName,
        ended: impl Fn(Ended) -> bool,
    ) -> Counts {
        let like = |(key, _): &&(OperationKey, Counts)| {
            (key.0, key.1) == (operation, tier) && ended(key.2)
        };
        let all = self.operations.iter().filter(like);
        all.fold(Counts::default(), |sum, (_, one)| sum.and(one))
    }

    fn since(&self, earlier: &Self) -> Self {
        let before: HashMap<_, _> = earlier
            .namespaces
            .iter()
            .map(|it| (&it.name, it.reading))
            .collect();
        let namespaces = self.namespaces.iter().map(|it| {
            let before = before.get(&it.name).copied().unwrap_or_default();
            Met {
                reading: it.reading.since(&before),
                ..it.clone()
            }
        });
        Self {
            at: self.at,
            namespaces: namespaces.collect(),
            operations: between(&self.operations, &earlier.operations),
            calls: between(&self.calls, &earlier.calls),
            staleness: self.staleness.since(&earlier.staleness),
            delay: self.delay.since(&earlier.delay),
        }
    }
}

fn between<K: Copy + PartialEq>(now: &[(K, Counts)], earlier: &[(K, Counts)]) -> Vec<(K, Counts)> {
    let difference = |(key, counts): &(K, Counts)| {
        let before = earlier.iter().find(|(known, _)| known == key);
        let counts = before.map_or(*counts, |(_, before)| counts.since(before));
        (*key, counts)
    };
    now.iter().map(difference).collect()
}

/// The frames that differences are taken from.
#[derive(Debug)]
pub(super) struct Windows {
    /// The oldest first; never empty.
    frames: Mutex<VecDeque<Frame>>,
    reset: Mutex<Frame>,
}

impl Windows {
    pub(super) fn new(started: Timestamp) -> Self {
        let first = Frame {
            at: started,
            ..Frame::default()
        };
        Self {
            frames: Mutex::new(VecDeque::from([first.clone()])),
            reset: Mutex::new(first),
        }
    }

    /// Adds a frame; the oldest leaves.
    pub(super) fn tick(&self, frame: Frame) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.push_back(frame);
        while frames.len() > FRAMES_MAX {
            frames.pop_front();
        }
    }

    pub(super) fn reset(&self, frame: Frame) {
        *self.reset.lock().unwrap_or_else(PoisonError::into_inner) = frame;
    }

    pub(super) fn last_minute(&self, now: Frame) -> Window {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = frames.front().cloned().unwrap_or_default();
        window(&oldest, &now)
    }

    pub(super) fn since_reset(&self, now: Frame) -> Window {
        let reset = self.reset.lock().unwrap_or_else(PoisonError::into_inner);
        window(&reset, &now)
    }
}

fn window(earlier: &Frame, now: &Frame) -> Window {
    Window {
        since: earlier.at,
        length: now.at.since(earlier.at).max(Duration::from_millis(1)),
        frame: now.since(earlier),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(seconds: u64, hits: u64, slow: u64) -> Frame {
        let mut counts = Counts::default();
        counts.buckets[9] = slow;
        Frame {
            at: Timestamp::from_millis(seconds * 1000),
            namespaces: vec![Met {
                name: "n".into(),
                labelled: true,
                reading: Reading {
                    hits_local: hits,
                    ..Reading::default()
                },
            }],
            operations: vec![((Operation::Lookup, TierName::Local, Ended::Hit), counts)],
            ..Frame::default()
        }
    }

    #[test]
    fn the_last_minute_forgets_what_is_older() {
        let windows = Windows::new(Timestamp::from_millis(0));
        for step in 1..=20 {
            windows.tick(frame(step * 5, step * 10, step));
        }
        let minute = windows.last_minute(frame(102, 203, 22));
        // From the ninth step, at 45 s, on.
        assert_eq!(minute.since, Timestamp::from_millis(45_000));
        assert_eq!(minute.length, Duration::from_secs(57));
        assert_eq!(minute.frame.total().hits(), 113);
        let all = minute
            .frame
            .operation(Operation::Lookup, TierName::Local, |_| true);
        assert_eq!(all.count(), 13);
    }

    #[test]
    fn a_reset_begins_anew_and_leaves_the_last_minute_alone() {
        let windows = Windows::new(Timestamp::from_millis(0));
        assert_eq!(windows.since_reset(frame(3, 7, 0)).frame.total().hits(), 7);
        windows.reset(frame(4, 8, 0));
        let since = windows.since_reset(frame(5, 9, 0));
        assert_eq!(since.since, Timestamp::from_millis(4000));
        assert_eq!(since.frame.total().hits(), 1);
        assert_eq!(windows.last_minute(frame(5, 9, 0)).frame.total().hits(), 9);
    }
}
