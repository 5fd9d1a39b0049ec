//! Fences: whether something read from the shared tier may still be what it has.
//!
//! ```text
//! epoch      +1 at every gap: a moment in which a change could have gone unseen
//! sequence   +1 at every change seen: a push, or an own write whose outcome is in
//! stripes    per hash of the key: the sequence of its last change
//! ```
//! Whoever asks Redis takes a [`Mark`] **before** the request is sent, and keeps it with the
//! answer. The answer is current as long as the mark *holds*: no gap since, and no change of the
//! key since. Nothing is checked when the answer is stored and nothing is removed when it changes;
//! the question is put when it is served. So a fill that is overtaken by a change, however late it
//! is, only stores something that nobody will serve.
//!
//! A change is noted after it is known to have happened in Redis: when its push is here; and for
//! an own write when its acknowledgement is here, before the caller is told, because the push may
//! come later (P5). An own write that failed or timed out is noted as well: it may have happened.
//!
//! Invariants:
//! - (F1) A mark whose sequence counts a change was taken after that change was in Redis, and
//!   before its own request was sent. So the answer has the change in it.
//! - (F2) A change that was noted before a reader began is seen by that reader: marks from before
//!   it do not hold.
//! - (F3) [`Mark::default`] never holds: neither a sequence nor an epoch of 0 is ever given out.
//!
//! Two keys may share a stripe. Then a change of one costs the other a verification, and no more.
//! What it does not do: it knows nothing of leases, nor of who is attached.
//!
//! # Why acquire and release are enough
//!
//! F1 needs that whoever reads a sequence has the push behind it, and that its request does not go
//! out before it has read: [`Fences::changed`] counts with release, a mark is read with acquire.
//! F2 needs that the order in which callers see things happen (a reply to one, a request of the
//! next) holds for the stripe too: that order goes through sockets, channels or locks, all of
//! which synchronise, and one atomic never shows a value older than one that happened before. No
//! side writes one thing and then looks at another that the other side writes first, which is the
//! pattern that would need a single order of everything.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::tier::Mark;

/// Stripes that are made together when the first of them is needed: a page of memory.
const BLOCK_LOG2: u32 = 9;
/// 2^28 stripes would be 2 GiB.
const STRIPES_LOG2_MAX: u32 = 28;

type Block = Box<[AtomicU64]>;

/// The epoch, the sequence and the stripes of one daemon.
#[derive(Debug)]
pub(super) struct Fences {
    seed: u64,
    epoch: AtomicU64,
    sequence: AtomicU64,
    /// A block that was never needed stands for zeros, so a daemon without changes pays nothing.
    blocks: Box<[OnceLock<Block>]>,
    stripes_log2: u32,
}

impl Fences {
    /// Fences that begin at `epoch`, which must be random: entries of an earlier process carry
    /// marks of its epochs, and these must not come again. The highest bit is left out, so that
    /// counting never passes 0; an epoch of 0 becomes 1. 2^`stripes_log2` stripes of 8 bytes, at
    /// most 2^28; the memory is taken a page at a time, as changes come in.
    pub(super) fn new(epoch: u64, stripes_log2: u32) -> Self {
        let stripes_log2 = stripes_log2.min(STRIPES_LOG2_MAX);
        let blocks = 1_usize << stripes_log2.saturating_sub(BLOCK_LOG2);
        Self {
            seed: epoch,
            epoch: AtomicU64::new((epoch & (u64::MAX >> 1)).max(1)),
            // So that 0 is free to mean "unverified".
            sequence: AtomicU64::new(1),
            blocks: (0..blocks).map(|_| OnceLock::new()).collect(),
            stripes_log2,
        }
    }

    /// What was seen so far. Call it before the request to Redis is sent (F1).
    ///
    /// The two loads are no snapshot, and need not be: only that both come before the request
    /// matters. The epoch is read first, so that a gap between them leaves a passed epoch, which
    /// never holds. The other way round a gap would leave an older sequence with the new epoch:
    /// right too, because the request is still to come, but only by that argument.
    pub(super) fn mark(&self) -> Mark {
        let epoch = self.epoch();
        let sequence = self.sequence();
        Mark { epoch, sequence }
    }

    /// Notes that `key` has changed in Redis, or may have; returns the change's number. Call it
    /// after the change is known and before anybody is told.
    ///
    /// Between its two steps a mark may be taken that counts the change while the stripe does not
    /// show it yet. It holds, and may: its request is sent after the change was in Redis.
    pub(super) fn changed(&self, key: &[u8]) -> u64 {
        let sequence = self.count();
        self.raise(key, sequence);
        sequence
    }

    /// Notes a gap: from here on no mark taken before holds. Returns the new epoch.
    ///
    /// When contact is lost, and again after tracking has been confirmed on and before anything
    /// is trusted: an answer that came in between could have changed without a push.
    pub(super) fn changed_all(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether no change of `key` was seen, and none can have been missed, since `mark`.
    pub(super) fn holds(&self, mark: Mark, key: &[u8]) -> bool {
        !mark.is_unverified()
            && mark.epoch == self.epoch()
            && self.last_change(key) <= mark.sequence
    }

    /// The sequence of the last change of `key`, or of one that shares its stripe; 0 for none.
    ///
    /// For who joins a request that is under way: its answer will do if its mark has the current
    /// epoch and a sequence of at least this, read when the joining reader began. That is what
    /// [`Fences::holds`] says of the request's mark.
    pub(super) fn last_change(&self, key: &[u8]) -> u64 {
        let (block, at) = self.place(key);
        let block = self.blocks[block].get();
        block.map_or(0, |stripes| stripes[at].load(Ordering::Acquire))
    }

    /// The current epoch.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Changes counted so far, beginning with 1.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    fn count(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn raise(&self, key: &[u8], sequence: u64) {
        let (block, at) = self.place(key);
        let block = self.blocks[block].get_or_init(|| {
            let stripes = 1_usize << self.stripes_log2.min(BLOCK_LOG2);
            (0..stripes).map(|_| AtomicU64::new(0)).collect()
        });
        // Of two changes at once the later one counts, whichever gets here first.
        block[at].fetch_max(sequence, Ordering::AcqRel);
    }

    /// Block and place in it.
    fn place(&self, key: &[u8]) -> (usize, usize) {
        let hash = xxh3_64_with_seed(key, self.seed) & ((1 << self.stripes_log2) - 1);
        let block = usize::try_from(hash >> BLOCK_LOG2).expect("at most 2^19 blocks");
        let at = usize::try_from(hash & ((1 << BLOCK_LOG2) - 1)).expect("below 2^9");
        (block, at)
    }
}

#[cfg(test)]
mod tests;
