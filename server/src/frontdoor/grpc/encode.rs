//! From what the engine answers to messages.

use std::time::Duration;

use bytes::Bytes;
use pannier_proto::v1;

use super::status::code;
use crate::{
    clock::Timestamp,
    engine::{Hit, Outcome, Provenance, Source, Written},
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
    v1::Provenance {
        tier: tier(provenance.source).into(),
        stale: false,
        age: provenance.age.map(duration),
        shared_state: v1::SharedState::Disabled.into(),
        lookup_duration: provenance.lookup.map(duration),
        store_duration: provenance.store.map(duration),
        local: None,
        shared: None,
    }
}

pub(super) fn tier(source: Source) -> v1::Tier {
    match source {
        Source::None => v1::Tier::None,
        Source::Local => v1::Tier::Local,
    }
}

pub(super) fn outcome(outcome: Outcome) -> v1::TierOutcome {
    match outcome {
        Outcome::Applied => v1::TierOutcome::Applied,
        Outcome::Skipped => v1::TierOutcome::Skipped,
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
    }
}

pub(super) fn put_response(written: &Written) -> v1::PutResponse {
    v1::PutResponse {
        version: Bytes::copy_from_slice(written.stamp.as_bytes()),
        expire_time: Some(timestamp(written.expires)),
        local_outcome: outcome(written.local).into(),
        shared_outcome: v1::TierOutcome::Skipped.into(),
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
