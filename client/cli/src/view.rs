//! What several commands print: the JSON of entries and provenance, and the words for enums and
//! times. The names are a contract with scripts: they are added to and never changed.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use pannier_client::{Hit, Provenance, SharedState, Stored, Tier, TierOutcome, TierTimes};
use serde::Serialize;

/// An entry without its value. Spans are in milliseconds, instants in RFC 3339.
#[derive(Debug, Serialize)]
pub(crate) struct EntryView<'a> {
    version: String,
    size_bytes: u64,
    negative: bool,
    ttl_ms: u64,
    created: String,
    expires: String,
    content_type: &'a str,
    metadata: BTreeMap<&'a str, &'a str>,
    tags: &'a [String],
}

impl<'a> EntryView<'a> {
    pub(crate) fn new(hit: &'a Hit, size_bytes: u64) -> Self {
        Self {
            version: hit.version.to_string(),
            size_bytes,
            negative: hit.negative,
            ttl_ms: milliseconds(hit.remaining()),
            created: instant(hit.created),
            expires: instant(hit.expires),
            content_type: &hit.content_type,
            metadata: hit
                .metadata
                .iter()
                .map(|(key, value)| (&**key, &**value))
                .collect(),
            tags: &hit.tags,
        }
    }
}

/// What a write left behind.
#[derive(Debug, Serialize)]
pub(crate) struct StoredView<'a> {
    namespace: &'a str,
    key: &'a str,
    version: String,
    size_bytes: u64,
    expires: String,
    local_outcome: &'static str,
    shared_outcome: &'static str,
    provenance: ProvenanceView,
}

impl<'a> StoredView<'a> {
    pub(crate) fn new(namespace: &'a str, key: &'a str, stored: &Stored, size_bytes: u64) -> Self {
        Self {
            namespace,
            key,
            version: stored.version.to_string(),
            size_bytes,
            expires: instant(stored.expires),
            local_outcome: outcome(stored.local),
            shared_outcome: outcome(stored.shared),
            provenance: ProvenanceView::new(&stored.provenance),
        }
    }
}

/// The same in words, on one line.
pub(crate) fn stored_line(stored: &Stored) -> String {
    format!(
        "version={} expires={} local={} shared={}",
        stored.version,
        instant(stored.expires),
        outcome(stored.local),
        outcome(stored.shared)
    )
}

/// Where an answer came from. Durations in whole microseconds, null when there was none.
#[derive(Debug, Serialize)]
pub(crate) struct ProvenanceView {
    tier: &'static str,
    stale: bool,
    age_ms: Option<u64>,
    shared_state: &'static str,
    lookup_us: Option<u64>,
    store_us: Option<u64>,
    local: Option<TierView>,
    shared: Option<TierView>,
}

#[derive(Debug, Serialize)]
struct TierView {
    lookup_us: Option<u64>,
    store_us: Option<u64>,
}

impl ProvenanceView {
    pub(crate) fn new(provenance: &Provenance) -> Self {
        Self {
            tier: tier(provenance.tier),
            stale: provenance.stale,
            age_ms: provenance.age.map(milliseconds),
            shared_state: shared_state(provenance.shared_state),
            lookup_us: provenance.lookup.map(microseconds),
            store_us: provenance.store.map(microseconds),
            local: provenance.local.map(TierView::new),
            shared: provenance.shared.map(TierView::new),
        }
    }
}

impl TierView {
    fn new(times: TierTimes) -> Self {
        Self {
            lookup_us: times.lookup.map(microseconds),
            store_us: times.store.map(microseconds),
        }
    }
}

fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Unspecified => "unknown",
        Tier::None => "none",
        Tier::Local => "local",
        Tier::Shared => "shared",
    }
}

/// The word for how the daemon stands to the shared tier.
pub(crate) fn shared_state(state: SharedState) -> &'static str {
    match state {
        SharedState::Unspecified => "unknown",
        SharedState::Attached => "attached",
        SharedState::Detached => "detached",
        SharedState::Disabled => "disabled",
    }
}

/// The word for what became of a change in one tier.
pub(crate) fn outcome(outcome: TierOutcome) -> &'static str {
    match outcome {
        TierOutcome::Unspecified => "unknown",
        TierOutcome::Applied => "applied",
        TierOutcome::Deferred => "deferred",
        TierOutcome::Skipped => "skipped",
        TierOutcome::Failed => "failed",
    }
}

/// An instant in RFC 3339 with milliseconds. One outside of the years 1970 to 9999, which that form
/// cannot hold, is shown as the nearer end.
pub(crate) fn instant(instant: SystemTime) -> String {
    const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);
    let since = instant
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let within = SystemTime::UNIX_EPOCH + since.min(LAST_SECOND);
    humantime::format_rfc3339_millis(within).to_string()
}

/// A span in words: milliseconds when it is short, whole seconds when it is not.
pub(crate) fn span(span: Duration) -> String {
    const LONG: Duration = Duration::from_secs(60);
    let whole = if span < LONG {
        Duration::from_millis(milliseconds(span))
    } else {
        Duration::from_secs(span.as_secs())
    };
    humantime::format_duration(whole).to_string()
}

/// Whole milliseconds.
pub(crate) fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn microseconds(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{instant, span};

    #[test]
    fn spans_are_as_fine_as_they_are_short() {
        assert_eq!(span(Duration::from_micros(1_500)), "1ms");
        assert_eq!(span(Duration::from_millis(59_001)), "59s 1ms");
        assert_eq!(span(Duration::from_millis(3_661_900)), "1h 1m 1s");
    }

    #[test]
    fn instants_no_calendar_holds_do_not_break_the_output() {
        assert_eq!(instant(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50);
        assert_eq!(instant(far), "9999-12-31T23:59:59.000Z");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(instant(before), "1970-01-01T00:00:00.000Z");
    }
}
