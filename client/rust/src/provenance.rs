//! Where an answer came from and how long it took.

use std::time::Duration;

use crate::{SharedState, Tier, proto, time};

/// Where an answer came from and how long it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The tier that answered, `None` on a miss; for a write, the furthest tier that has it.
    pub tier: Tier,
    /// Served without contact to the shared tier: it may have been changed elsewhere since.
    pub stale: bool,
    /// Time since the entry was put; absent on a miss.
    pub age: Option<Duration>,
    /// How the daemon stood to the shared tier; `Unspecified` when no daemon answered.
    pub shared_state: SharedState,
    /// Time spent looking up, all tiers together.
    pub lookup: Option<Duration>,
    /// Time spent storing or removing, all tiers together.
    pub store: Option<Duration>,
    /// The local tier's part; absent when it is the whole.
    pub local: Option<TierTimes>,
    /// The shared tier's part; absent when it was not asked.
    pub shared: Option<TierTimes>,
}

/// Time spent in one tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierTimes {
    /// Looking up; absent when the tier was not asked.
    pub lookup: Option<Duration>,
    /// Storing or removing; absent when the tier was not written to.
    pub store: Option<Duration>,
}

impl Provenance {
    /// What stands for the provenance when no daemon answered.
    pub(crate) fn nowhere() -> Self {
        Self {
            tier: Tier::None,
            stale: false,
            age: None,
            shared_state: SharedState::Unspecified,
            lookup: None,
            store: None,
            local: None,
            shared: None,
        }
    }

    pub(crate) fn from_proto(provenance: Option<proto::Provenance>) -> Self {
        let Some(provenance) = provenance else {
            return Self::nowhere();
        };
        Self {
            tier: provenance.tier(),
            stale: provenance.stale,
            age: time::from_proto(provenance.age),
            shared_state: provenance.shared_state(),
            lookup: time::from_proto(provenance.lookup_duration),
            store: time::from_proto(provenance.store_duration),
            local: provenance.local.map(TierTimes::from_proto),
            shared: provenance.shared.map(TierTimes::from_proto),
        }
    }
}

impl TierTimes {
    fn from_proto(times: proto::TierDurations) -> Self {
        Self {
            lookup: time::from_proto(times.lookup_duration),
            store: time::from_proto(times.store_duration),
        }
    }
}
