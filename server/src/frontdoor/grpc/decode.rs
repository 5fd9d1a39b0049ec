//! From messages to what the engine takes. Faults name the field as the proto spells it.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use pannier_proto::v1;

use crate::{
    engine::{LeaseRequest, PutOptions, ReadOptions, Target, Token, WriteMode},
    entry::{Attributes, Entry},
    error::{Error, Result},
    stamp::Stamp,
    tier::Condition,
};

/// A span of time that must not be negative.
pub(super) fn duration(field: &str, duration: &prost_types::Duration) -> Result<Duration> {
    let seconds = u64::try_from(duration.seconds);
    let nanos = u32::try_from(duration.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Ok(seconds), Some(nanos)) => {
            let exact = Duration::new(seconds, nanos);
            Ok(Duration::from_millis(
                u64::try_from(exact.as_millis()).unwrap_or(u64::MAX),
            ))
        }
        _ => Err(Error::invalid(format!(
            "{field}: {}s {}ns is not a span of time of zero or more",
            duration.seconds, duration.nanos
        ))),
    }
}

pub(super) fn ttl(ttl: Option<&prost_types::Duration>) -> Result<Option<Duration>> {
    ttl.map(|ttl| duration("ttl", ttl)).transpose()
}

pub(super) fn read_options(options: Option<v1::ReadOptions>) -> Result<ReadOptions> {
    let Some(options) = options else {
        return Ok(ReadOptions::default());
    };
    let max_stale = options.max_stale.as_ref();
    Ok(ReadOptions {
        max_stale: max_stale
            .map(|it| duration("options.max_stale", it))
            .transpose()?,
        local_only: options.local_only,
        require_shared: options.require_shared,
        lease: options.lease.as_ref().map(lease_request).transpose()?,
    })
}

/// The tags of a value that is asked for with a lease, taken out of the options.
pub(super) fn lease_tags(options: Option<&mut v1::ReadOptions>) -> Result<Vec<String>> {
    let lease = options.and_then(|options| options.lease.as_mut());
    let tags = lease.map(|lease| std::mem::take(&mut lease.tags));
    let attributes = Attributes::new(String::new(), HashMap::new(), tags.unwrap_or_default())?;
    let (_, _, tags) = attributes.into_parts();
    Ok(tags)
}

fn lease_request(request: &v1::LeaseRequest) -> Result<LeaseRequest> {
    let span = |field, span: &Option<prost_types::Duration>| {
        span.as_ref().map(|span| duration(field, span)).transpose()
    };
    let wait = span("options.lease.wait_duration", &request.wait_duration)?;
    let lease = span("options.lease.lease_duration", &request.lease_duration)?;
    let early = span("options.lease.early_refresh", &request.early_refresh)?;
    LeaseRequest::new("options.lease", wait, lease)?.early("options.lease", early)
}

/// Write options as the engine takes them, `ttl` added.
pub(super) fn put_options(
    options: Option<&v1::WriteOptions>,
    ttl: Option<&prost_types::Duration>,
) -> Result<PutOptions> {
    use v1::write_options::Condition as Wire;
    let ttl = self::ttl(ttl)?;
    let (mut mode, mut condition, mut lease) = (WriteMode::Through, Condition::Always, None);
    if let Some(options) = options {
        mode = write_mode(options.mode)?;
        condition = match &options.condition {
            None | Some(Wire::IfAbsent(false)) => Condition::Always,
            Some(Wire::IfAbsent(true)) => Condition::Absent,
            Some(Wire::IfVersion(version)) => {
                Condition::Version(Stamp::parse("options.if_version", version)?)
            }
        };
        if !options.lease_token.is_empty() {
            lease = Some(Token::parse("options.lease_token", &options.lease_token)?);
        }
    }
    Ok(PutOptions {
        ttl,
        mode,
        condition,
        lease,
    })
}

/// Write options for all items of a batch.
pub(super) fn put_many_options(options: Option<&v1::WriteOptions>) -> Result<PutOptions> {
    if options.is_some_and(|options| !options.lease_token.is_empty()) {
        let text = "options.lease_token: cannot be used with PutMany";
        return Err(Error::invalid(text));
    }
    put_options(options, None)
}

fn write_mode(mode: i32) -> Result<WriteMode> {
    match v1::WriteMode::try_from(mode) {
        Ok(v1::WriteMode::Unspecified | v1::WriteMode::Through) => Ok(WriteMode::Through),
        Ok(v1::WriteMode::Local) => Ok(WriteMode::Local),
        Ok(v1::WriteMode::Shared) => Ok(WriteMode::Shared),
        Err(_) => Err(Error::invalid(format!(
            "options.mode: {mode} is no write mode"
        ))),
    }
}

pub(super) fn entry(
    (value, negative): (Bytes, bool),
    content_type: String,
    metadata: HashMap<String, String>,
    tags: Vec<String>,
) -> Result<Entry> {
    Ok(Entry {
        value,
        attributes: Attributes::new(content_type, metadata, tags)?,
        negative,
    })
}

pub(super) fn target(target: Option<v1::invalidate_request::Target>) -> Result<Target> {
    use v1::invalidate_request::Target as Wire;
    match target {
        Some(Wire::Keys(list)) => Ok(Target::Keys(list.keys)),
        Some(Wire::Prefix(prefix)) => Ok(Target::Prefix(prefix)),
        Some(Wire::Pattern(pattern)) => Ok(Target::Pattern(pattern)),
        Some(Wire::Tag(tag)) => Ok(Target::Tag(tag)),
        Some(Wire::All(true)) => Ok(Target::All),
        Some(Wire::All(false)) => Err(Error::invalid("all: must be true when it is set")),
        None => Err(Error::invalid(
            "target: one of keys, prefix, pattern, tag, all must be set",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_checked_and_cut_to_milliseconds() {
        let of = |seconds, nanos| duration("ttl", &prost_types::Duration { seconds, nanos });
        assert_eq!(
            of(1, 1_999_999).expect("valid"),
            Duration::from_millis(1001)
        );
        assert_eq!(of(0, 0).expect("valid"), Duration::ZERO);
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MIN, 0)] {
            let error = of(seconds, nanos).expect_err("no span");
            assert!(error.message().starts_with("ttl: "), "{error}");
        }
        assert!(of(i64::MAX, 999_999_999).is_ok());
    }

    #[test]
    fn unknown_write_modes_and_empty_targets_are_refused() {
        assert!(write_mode(17).is_err());
        assert!(target(None).is_err());
        assert!(target(Some(v1::invalidate_request::Target::All(false))).is_err());
    }
}
