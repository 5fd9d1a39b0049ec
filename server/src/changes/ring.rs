//! The last changes, numbered without a hole. Bounded in number and in bytes: the oldest goes.

use std::{collections::VecDeque, sync::Arc};

use super::Change;

/// The last changes.
#[derive(Debug)]
pub(super) struct Ring {
    changes_max: usize,
    bytes_max: usize,
    bytes: usize,
    /// Number of the oldest that is kept, or of the next to come when none is.
    first: u64,
    kept: VecDeque<Arc<Change>>,
}

impl Ring {
    /// An empty one. A change larger than `bytes_max` is kept alone.
    pub(super) fn new(changes_max: usize, bytes_max: usize) -> Self {
        Self {
            changes_max,
            bytes_max,
            bytes: 0,
            first: 0,
            kept: VecDeque::new(),
        }
    }

    /// The number that the next change will get.
    pub(super) fn next(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Whether everything from this number on is here.
    pub(super) fn reaches(&self, position: u64) -> bool {
        (self.first..=self.next()).contains(&position)
    }

    /// Adds a change; what is beyond the bounds goes.
    pub(super) fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.kept.push_back(Arc::new(change));
        while self.kept.len() > self.changes_max
            || (self.bytes > self.bytes_max && self.kept.len() > 1)
        {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            self.bytes -= oldest.bytes();
            self.first += 1;
        }
    }

    /// Up to `most` changes from this number on; `None` when that one has gone.
    pub(super) fn read(&self, position: u64, most: usize) -> Option<Vec<Arc<Change>>> {
        if !self.reaches(position) {
            return None;
        }
        let skipped = usize::try_from(position - self.first).unwrap_or(usize::MAX);
        Some(self.kept.iter().skip(skipped).take(most).cloned().collect())
    }

    /// Drops everything and leaves a number out, so that no position of before counts.
    pub(super) fn forget(&mut self) {
        self.first = self.next() + 1;
        self.bytes = 0;
        self.kept = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Push(u8),
        Forget,
        Read(usize, usize),
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => any::<u8>().prop_map(Step::Push),
            1 => any::<()>().prop_map(|()| Step::Forget),
            6 => (0..3_usize, 1..5_usize).prop_map(|(who, most)| Step::Read(who, most)),
        ]
    }

    fn change(number: usize, padding: u8) -> Change {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.resize(bytes.len() + usize::from(padding), 0);
        Change::Redis(bytes.into())
    }

    fn number(change: &Change) -> usize {
        let Change::Redis(bytes) = change else {
            panic!("not of this test: {change:?}");
        };
        usize::from_be_bytes(bytes[..8].try_into().expect("8 bytes"))
    }

    proptest! {
        /// What a reader is given is a run without a hole of what was pushed, or it is told that it
        /// has lost something; and it never is when nothing was lost.
        #[test]
        fn a_reader_gets_a_contiguous_run_or_is_told_of_a_loss(
            steps in prop::collection::vec(steps(), 1..200),
            changes_max in 1..12_usize,
            bytes_max in 1..2000_usize,
        ) {
            let mut ring = Ring::new(changes_max, bytes_max);
            let mut pushed = Vec::new();
            // Position in the ring, and how many of `pushed` have been seen or given up.
            let mut readers = [(0_u64, 0_usize); 3];
            let mut forgotten = 0;
            for step in steps {
                match step {
                    Step::Push(padding) => {
                        ring.push(change(pushed.len(), padding));
                        pushed.push(padding);
                    }
                    Step::Forget => {
                        ring.forget();
                        forgotten = pushed.len();
                        assert!(readers.iter().all(|(position, _)| !ring.reaches(*position)));
                    }
                    Step::Read(who, most) => {
                        let (position, seen) = &mut readers[who];
                        match ring.read(*position, most) {
                            Some(run) => {
                                let numbers: Vec<_> = run.iter().map(|it| number(it)).collect();
                                let end = (*seen + most).min(pushed.len());
                                let expected: Vec<_> = (*seen..end).collect();
                                assert_eq!(numbers, expected);
                                *position += run.len() as u64;
                                *seen = end;
                            }
                            None => {
                                let behind = &pushed[*seen..];
                                let bytes: usize =
                                    behind.iter().map(|it| change(0, *it).bytes()).sum();
                                let lost = behind.len() > changes_max || bytes > bytes_max;
                                assert!(lost || *seen <= forgotten);
                                (*position, *seen) = (ring.next(), pushed.len());
                            }
                        }
                    }
                }
                let kept: usize = ring.kept.iter().map(|it| it.bytes()).sum();
                assert_eq!(ring.bytes, kept);
                assert!(ring.kept.len() <= changes_max);
                assert!(kept <= bytes_max || ring.kept.len() == 1);
            }
        }
    }

    #[test]
    fn a_position_from_the_future_is_not_here() {
        let mut ring = Ring::new(4, 1000);
        ring.push(change(0, 0));
        assert!(ring.reaches(1));
        assert!(!ring.reaches(2));
        assert!(ring.read(2, 1).is_none());
    }
}
