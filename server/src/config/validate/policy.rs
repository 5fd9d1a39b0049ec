//! `[defaults]` and `[namespaces.NAME]`: inheritance, defaults, checks.

use std::time::Duration;

use super::{Result, fault, shared::check_prefix};
use crate::{
    config::{OnSharedDown, Policy, Size, Span, TierName, UNARY_VALUE_BYTES_MAX, raw},
    record::{Compression, LARGE_VALUE_BYTES_MAX},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest lifetime that can be configured: ten years.
const MAX_TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A policy from what was written over `base`, which is the built-in one when absent.
pub(super) fn policy(
    raw: raw::Policy,
    base: Option<&Policy>,
    origin: &str,
    place: &str,
) -> Result<Policy> {
    let built_in = Policy {
        ttl: Span(DAY),
        max_ttl: Span(30 * DAY),
        ttl_jitter: 0.0,
        negative_ttl: Span(Duration::from_secs(60)),
        max_stale: Span(Duration::from_secs(60)),
        max_value_size: Size(3 << 20),
        max_stream_size: Size(1 << 30),
        tiers: vec![TierName::Local, TierName::Shared],
        compression: Default::default(),
        immutable: false,
        raw: false,
        raw_prefix: String::new(),
        on_shared_down: OnSharedDown::Stale,
        shared_value_max: None,
    };
    let base = base.unwrap_or(&built_in);
    let is_raw = raw.raw.unwrap_or(base.raw);
    // What a raw namespace cannot do, and what only it can, is not inherited across that border.
    let inherited_compression = if is_raw && !base.raw {
        Compression::None
    } else {
        base.compression
    };
    let inherited_prefix = if is_raw { base.raw_prefix.as_str() } else { "" };
    let max_ttl = raw.max_ttl.unwrap_or(base.max_ttl);
    // An inherited lifetime gives way to a shorter maximum; one written here must fit it.
    let ttl = raw.ttl.unwrap_or(base.ttl.min(max_ttl));
    let policy = Policy {
        ttl,
        max_ttl,
        negative_ttl: raw.negative_ttl.unwrap_or(base.negative_ttl.min(ttl)),
        ttl_jitter: raw.ttl_jitter.unwrap_or(base.ttl_jitter),
        max_stale: raw.max_stale.unwrap_or(base.max_stale),
        max_value_size: raw.max_value_size.unwrap_or(base.max_value_size),
        max_stream_size: raw.max_stream_size.unwrap_or(base.max_stream_size),
        tiers: raw.tiers.unwrap_or_else(|| base.tiers.clone()),
        compression: raw.compression.unwrap_or(inherited_compression),
        immutable: raw.immutable.unwrap_or(base.immutable),
        raw: is_raw,
        raw_prefix: raw.raw_prefix.unwrap_or(inherited_prefix.to_owned()),
        on_shared_down: raw.on_shared_down.unwrap_or(base.on_shared_down),
        shared_value_max: raw.shared_value_max.or(base.shared_value_max),
    };
    check_policy(&policy)
        .map_err(|(key, text)| fault(&format!("{origin}: {place}.{key}"), &text))?;
    Ok(policy)
}

fn check_policy(policy: &Policy) -> std::result::Result<(), (&'static str, String)> {
    let milli = Span(Duration::from_millis(1));
    if policy.max_ttl < milli || policy.max_ttl.0 > MAX_TTL_MAX {
        return Err((
            "max_ttl",
            format!("{} is not 1ms to 10 years", policy.max_ttl),
        ));
    }
    if policy.ttl < milli || policy.ttl > policy.max_ttl {
        let text = format!("{} is not 1ms to max_ttl ({})", policy.ttl, policy.max_ttl);
        return Err(("ttl", text));
    }
    if policy.negative_ttl < milli || policy.negative_ttl > policy.max_ttl {
        let (ttl, max_ttl) = (policy.negative_ttl, policy.max_ttl);
        let text = format!("{ttl} is not 1ms to max_ttl ({max_ttl})");
        return Err(("negative_ttl", text));
    }
    if !(0.0..=0.5).contains(&policy.ttl_jitter) {
        return Err((
            "ttl_jitter",
            format!("{} is not 0.0 to 0.5", policy.ttl_jitter),
        ));
    }
    if !(1..=UNARY_VALUE_BYTES_MAX).contains(&policy.max_value_size.0) {
        let text = format!("{} is not 1B to 4032KiB", policy.max_value_size);
        return Err(("max_value_size", text));
    }
    if !(1..=LARGE_VALUE_BYTES_MAX).contains(&policy.max_stream_size.0) {
        let text = format!("{} is not 1B to 4095MiB", policy.max_stream_size);
        return Err(("max_stream_size", text));
    }
    let mut tiers = policy.tiers.clone();
    tiers.dedup();
    if tiers.is_empty() || tiers.len() != policy.tiers.len() || tiers.len() > 2 {
        return Err((
            "tiers",
            "must list \"local\", \"shared\" or both, each once".into(),
        ));
    }
    if let Some(max) = policy.shared_value_max
        && !(1..=LARGE_VALUE_BYTES_MAX).contains(&max.0)
    {
        return Err(("shared_value_max", format!("{max} is not 1B to 4095MiB")));
    }
    check_raw(policy)
}

/// Plain strings have no room for versions and codecs.
fn check_raw(policy: &Policy) -> std::result::Result<(), (&'static str, String)> {
    if !policy.raw {
        if policy.raw_prefix.is_empty() {
            return Ok(());
        }
        return Err(("raw_prefix", "is for namespaces with raw = true".into()));
    }
    if policy.immutable {
        let text = "a raw namespace has no versions, so it cannot be immutable";
        return Err(("raw", text.into()));
    }
    if policy.compression != Compression::None {
        let text = "values of a raw namespace are stored as they are; expected \"none\"";
        return Err(("compression", text.into()));
    }
    if !policy.tiers.contains(&TierName::Shared) {
        let text = "a raw namespace is one in Redis; tiers must list \"shared\"";
        return Err(("tiers", text.into()));
    }
    check_prefix(&policy.raw_prefix, 0).map_err(|text| ("raw_prefix", text))
}
