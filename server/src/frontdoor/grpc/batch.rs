//! What the replies to batches are made of.

use pannier_proto::v1::{self, GetManyItem};

use super::encode;
use crate::{
    engine::{Answer, Provenance, Source, Standing},
    error::{Error, Kind, Result},
};

/// Bytes of entries in one reply of GetMany; what is beyond is to be asked for again.
pub(super) const BATCH_BYTES_MAX: usize = 4 << 20;

pub(super) fn item(answer: Result<Answer>) -> GetManyItem {
    match answer {
        Ok(Answer {
            hit, provenance, ..
        }) => GetManyItem {
            entry: hit.map(encode::entry),
            fault: None,
            tier: encode::tier(provenance.source).into(),
            stale: provenance.stale,
        },
        Err(error) => faulty(&error),
    }
}

/// The provenance of a batch: the furthest tier of any item, stale if any is, the worst standing,
/// the longest wait for Redis.
pub(super) fn together(one: Provenance, other: Provenance) -> Provenance {
    let further = |source| match source {
        Source::None => 0,
        Source::Local => 1,
        Source::Shared => 2,
    };
    let worse = |standing| match standing {
        Standing::Disabled => 0,
        Standing::Attached => 1,
        Standing::Detached => 2,
    };
    let source = match further(one.source) < further(other.source) {
        true => other.source,
        false => one.source,
    };
    let standing = match worse(one.standing) < worse(other.standing) {
        true => other.standing,
        false => one.standing,
    };
    Provenance {
        source,
        standing,
        stale: one.stale || other.stale,
        shared_lookup: one.shared_lookup.max(other.shared_lookup),
        shared_store: one.shared_store.max(other.shared_store),
        ..Provenance::default()
    }
}

pub(super) fn no_room() -> GetManyItem {
    let text = format!("reply: {BATCH_BYTES_MAX} bytes are full; ask for this key again");
    faulty(&Error::new(Kind::Overloaded, text))
}

fn faulty(error: &Error) -> GetManyItem {
    let tier = v1::Tier::None.into();
    GetManyItem {
        entry: None,
        fault: Some(encode::fault(error)),
        tier,
        stale: false,
    }
}
