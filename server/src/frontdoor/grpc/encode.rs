//! From what the engine answers to messages.

use std::time::Duration;

use bytes::Bytes;
use pannier_proto::v1;

use super::status::code;
use crate::{
    clock::Timestamp,
    engine::{Hit, Lease, Outcome, Provenance, Source, Standing, Written},
    error::Error,
};

pub(super) fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.as_millis();
    prost_types::Timestamp {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000).unwrap_or(0) * 1_000_000,
    }
}

pub(super) fn provenance(provenance: &Provenance) -> v1::Provenance {
    let shared = provenance
        .shared_lookup
        .or(provenance.shared_store)
        .is_some();
    v1::Provenance {
        tier: tier(provenance.source).into(),
        stale: provenance.stale,
        age: provenance.age.map(duration),
        shared_state: standing(provenance.standing).into(),
        lookup_duration: provenance.lookup.map(duration),
        store_duration: provenance.store.map(duration),
        local: (provenance.standing != Standing::Disabled).then(|| v1::TierDurations {
            lookup_duration: without(provenance.lookup, provenance.shared_lookup),
            store_duration: without(provenance.store, provenance.shared_store),
        }),
        shared: shared.then(|| v1::TierDurations {
            lookup_duration: provenance.shared_lookup.map(duration),
            store_duration: provenance.shared_store.map(duration),
        }),
    }
}

/// What is left of the whole without the shared tier's part.
fn without(whole: Option<Duration>, shared: Option<Duration>) -> Option<prost_types::Duration> {
    whole.map(|whole| duration(whole.saturating_sub(shared.unwrap_or_default())))
}

pub(super) fn standing(standing: Standing) -> v1::SharedState {
    match standing {
        Standing::Disabled => v1::SharedState::Disabled,
        Standing::Attached => v1::SharedState::Attached,
        Standing::Detached => v1::SharedState::Detached,
    }
}

pub(super) fn tier(source: Source) -> v1::Tier {
    match source {
        Source::None => v1::Tier::None,
        Source::Local => v1::Tier::Local,
        Source::Shared => v1::Tier::Shared,
    }
}

pub(super) fn outcome(outcome: Outcome) -> v1::TierOutcome {
    match outcome {
        Outcome::Applied => v1::TierOutcome::Applied,
        Outcome::Deferred => v1::TierOutcome::Deferred,
        Outcome::Skipped => v1::TierOutcome::Skipped,
        Outcome::Failed => v1::TierOutcome::Failed,
    }
}

pub(super) fn entry(hit: Hit) -> v1::Entry {
    let (content_type, metadata, tags) = hit.entry.attributes.into_parts();
    v1::Entry {
        value: hit.entry.value,
        metadata: metadata.into_iter().collect(),
        content_type,
        tags,
        version: Bytes::copy_from_slice(hit.stamp.as_bytes()),
        create_time: Some(timestamp(hit.created)),
        expire_time: Some(timestamp(hit.expires)),
        negative: hit.entry.negative,
    }
}

pub(super) fn lease(lease: Lease) -> v1::Lease {
    v1::Lease {
        token: lease.token.to_bytes(),
        expire_time: Some(timestamp(lease.expires)),
    }
}

pub(super) fn put_response(written: &Written) -> v1::PutResponse {
    v1::PutResponse {
        version: Bytes::copy_from_slice(written.stamp.as_bytes()),
        expire_time: Some(timestamp(written.expires)),
        local_outcome: outcome(written.local).into(),
        shared_outcome: outcome(written.shared).into(),
        provenance: Some(provenance(&written.provenance)),
    }
}

pub(super) fn fault(error: &Error) -> v1::Fault {
    // Codes are small numbers; the cast cannot lose anything.
    let code = u32::try_from(code(error.kind()) as i32).unwrap_or(2);
    v1::Fault {
        code,
        message: error.message().to_owned(),
    }
}
