//! Where the value of a put is to be found once its record is visible.

use super::Outcome;

/// Where a value is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Placed {
    /// In its record; in Redis if it is not too large for that.
    Inside {
        /// It is too large.
        too_large: bool,
    },
    /// In chunks, which are there before their record is.
    InChunks {
        /// What became of them in the local tier.
        local: Outcome,
        /// What became of them in the shared tier.
        shared: Outcome,
    },
}

impl Placed {
    /// Whether Redis is to hold the version alone.
    pub(super) fn is_not_in_redis(self) -> bool {
        match self {
            Self::Inside { too_large } => too_large,
            Self::InChunks { shared, .. } => shared != Outcome::Applied,
        }
    }

    /// Whether it lies in chunks that the local tier does not have.
    pub(super) fn is_not_local(self) -> bool {
        matches!(self, Self::InChunks { local, .. } if local != Outcome::Applied)
    }

    /// Whether it is in chunks.
    pub(super) fn is_in_chunks(self) -> bool {
        matches!(self, Self::InChunks { .. })
    }

    /// The outcomes of a put whose record had these in the local and the shared tier: no better
    /// than those of its chunks.
    pub(super) fn outcomes(self, local: Outcome, shared: Outcome) -> (Outcome, Outcome) {
        let worse = |record, chunks| match (record, chunks) {
            (Outcome::Applied | Outcome::Skipped, Outcome::Failed) => Outcome::Failed,
            (Outcome::Applied, chunks) => chunks,
            (record, _) => record,
        };
        match self {
            Self::Inside { .. } => (local, shared),
            Self::InChunks {
                local: in_local,
                shared: in_shared,
            } => (worse(local, in_local), worse(shared, in_shared)),
        }
    }
}
