//! What a write may ask for, and what its wishes come to.

use std::time::Duration;

use crate::{
    config::Policy,
    engine::{PutOptions, check_token},
    entry::{Attributes, Entry},
    error::{Error, Result},
    tier::Condition,
};

/// Shortest lifetime that can be asked for.
const TTL_MIN: Duration = Duration::from_millis(1);

/// What the condition of a write comes to.
pub(in crate::engine) fn condition(policy: &Policy, options: &PutOptions) -> Condition {
    match (options.lease, options.condition) {
        (Some(token), _) => token.condition(),
        (None, Condition::Always) if policy.immutable => Condition::AbsentOrSame,
        (None, condition) => condition,
    }
}

pub(super) fn check_value(policy: &Policy, entry: &Entry) -> Result<()> {
    let limit = policy.max_value_size.0;
    if entry.value.len() as u64 > limit {
        return Err(Error::invalid(format!(
            "value: {} bytes, the namespace's max_value_size is {limit}; larger values go through \
             Write",
            entry.value.len()
        )));
    }
    if !entry.negative {
        return Ok(());
    }
    let refused = match policy {
        _ if !entry.value.is_empty() => {
            let bytes = entry.value.len();
            return Err(Error::invalid(format!(
                "value: {bytes} bytes, and negative says that there is none; the limit is 0"
            )));
        }
        Policy { raw: true, .. } => "the namespace is raw, it would be read as an empty value",
        Policy {
            immutable: true, ..
        } => "the namespace is immutable, no value could take its place",
        _ => return Ok(()),
    };
    Err(Error::invalid(format!("negative: {refused}")))
}

/// Checks all but the value.
pub(in crate::engine) fn check(
    policy: &Policy,
    attributes: &Attributes,
    options: &PutOptions,
) -> Result<()> {
    if options.ttl.is_some_and(|ttl| ttl < TTL_MIN) {
        return Err(Error::invalid("ttl: must be at least 1ms"));
    }
    check_token(policy, options)?;
    let versioned = matches!(options.condition, Condition::Version(_));
    if policy.immutable && versioned {
        return Err(Error::invalid(
            "options.if_version: the namespace is immutable, its entries have one version",
        ));
    }
    if policy.raw && versioned {
        return Err(Error::invalid(
            "options.if_version: the namespace is raw, its entries have no versions",
        ));
    }
    if policy.raw && !attributes.is_empty() {
        return Err(Error::invalid(
            "metadata, content_type, tags: the namespace is raw, it keeps values only",
        ));
    }
    Ok(())
}

/// Lifetime of a put: what was asked for or the default, at most the maximum, less the jitter.
pub(super) fn lifetime(policy: &Policy, wish: Option<Duration>) -> Duration {
    let lifetime = policy.lifetime(wish);
    if policy.ttl_jitter == 0.0 {
        return lifetime;
    }
    lifetime
        .mul_f64(1.0 - policy.ttl_jitter * fastrand::f64())
        .max(TTL_MIN)
}
