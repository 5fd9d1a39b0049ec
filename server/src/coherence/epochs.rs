//! Which epoch had contact until when: what a copy's staleness is counted from.

use std::collections::VecDeque;

use crate::clock::Timestamp;

/// Epochs remembered. A copy from an older one is too old to be served without Redis.
const EPOCHS_MAX: usize = 4096;

/// The ended epochs of this process, and the last of the one before.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    previous: Option<(u64, Timestamp)>,
    ended: VecDeque<(u64, Timestamp)>,
}

impl Epochs {
    pub(super) fn new(previous: Option<(u64, Timestamp)>) -> Self {
        Self {
            previous,
            ended: VecDeque::new(),
        }
    }

    /// An epoch has ended; contact was last at `contact`.
    pub(super) fn ended(&mut self, epoch: u64, contact: Timestamp) {
        if self.ended.len() == EPOCHS_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back((epoch, contact));
    }

    /// When there was contact last in this epoch; `None` for one that is not known.
    pub(super) fn contact_of(&self, epoch: u64) -> Option<Timestamp> {
        let ended = self.ended.iter().rev().find(|(it, _)| *it == epoch);
        // The process before may have gone on detached, in the next epoch, or have had a flush.
        let of_previous = |(last, _): &&(u64, Timestamp)| epoch == *last || epoch == last + 1;
        let previous = self.previous.as_ref().filter(of_previous);
        ended.or(previous).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_and_the_process_before() {
        let at = Timestamp::from_millis;
        let mut epochs = Epochs::new(Some((7, at(1))));
        for epoch in 100..100 + EPOCHS_MAX as u64 + 1 {
            epochs.ended(epoch, at(epoch));
        }
        assert_eq!(epochs.contact_of(7), Some(at(1)));
        assert_eq!(epochs.contact_of(8), Some(at(1)));
        assert_eq!(epochs.contact_of(100), None);
        assert_eq!(epochs.contact_of(101), Some(at(101)));
        assert_eq!(epochs.contact_of(9), None);
    }
}
