//! How to read and how to write.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

use crate::{Error, Kind, Lease, LeaseOptions, Result, Version, WriteMode, proto, time};

/// How to read. The default: as the namespace says, from whichever tier has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The staleness accepted while the shared tier is out of reach; the smaller of this and the
    /// namespace's counts, zero asks for fresh entries only. Absent: the namespace's.
    pub max_stale: Option<Duration>,
    /// Look in the local tier only. Cannot be combined with `require_shared`.
    pub local_only: bool,
    /// Bypass the local tier; unreachable Redis is then an error.
    pub require_shared: bool,
    /// On a miss, take part in the election of the one who computes the value. For
    /// [`get_with`](crate::Client::get_with) only, and not with `local_only`.
    pub lease: Option<LeaseOptions>,
}

impl ReadOptions {
    /// # Errors
    /// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) when `max_stale` is too long to be
    /// said.
    pub(crate) fn to_proto(&self) -> Result<Option<proto::ReadOptions>> {
        if *self == Self::default() {
            return Ok(None);
        }
        Ok(Some(proto::ReadOptions {
            max_stale: self
                .max_stale
                .map(|span| time::to_proto(span, "max_stale"))
                .transpose()?,
            local_only: self.local_only,
            require_shared: self.require_shared,
            lease: self
                .lease
                .as_ref()
                .map(LeaseOptions::to_proto)
                .transpose()?,
        }))
    }
}

/// How to write, and what to write beside the value. The default: the namespace's lifetime,
/// through both tiers, without a condition.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    ttl: Option<Duration>,
    metadata: HashMap<String, String>,
    content_type: String,
    tags: Vec<String>,
    mode: WriteMode,
    condition: Option<proto::write_options::Condition>,
    lease_token: Bytes,
    negative: bool,
}

impl PutOptions {
    /// The default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lifetime from now, 1 ms or more; one beyond the namespace's `max_ttl` is shortened to it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Adds one pair of the caller's own words. At most 64 pairs, 16 KiB together.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The media type of the value, at most 255 bytes.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Adds a tag by which the entry can be invalidated. At most 16 of 1 to 128 bytes.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds several tags.
    pub fn tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Which tiers must have accepted before the reply. Default: through.
    pub fn mode(mut self, mode: WriteMode) -> Self {
        self.mode = mode;
        self
    }

    /// Write only if the key has no live entry; otherwise [`Kind::Refused`](crate::Kind::Refused).
    /// Replaces an earlier condition.
    pub fn if_absent(mut self) -> Self {
        self.condition = Some(proto::write_options::Condition::IfAbsent(true));
        self
    }

    /// Write only if the live entry has this version; otherwise
    /// [`Kind::Refused`](crate::Kind::Refused). Replaces an earlier condition.
    pub fn if_version(mut self, version: Version) -> Self {
        let version = Bytes::copy_from_slice(&version.0);
        self.condition = Some(proto::write_options::Condition::IfVersion(version));
        self
    }

    /// Write only if this lease has not ended; otherwise [`Kind::Refused`](crate::Kind::Refused).
    /// Not together with a condition, nor with the mode LOCAL.
    pub fn lease(self, lease: &Lease) -> Self {
        self.lease_token(lease.token.clone())
    }

    /// Says that where values come from there is none, so that nobody looks again. The value must
    /// be empty; without a ttl the namespace's `negative_ttl` counts (default 1 min). For unary
    /// puts only, and not in a raw or immutable namespace.
    pub fn negative(mut self) -> Self {
        self.negative = true;
        self
    }

    /// The same for a negative entry, whose lifetime is the namespace's to say.
    pub(crate) fn negated(mut self) -> Self {
        self.ttl = None;
        self.negative()
    }

    /// The tags so far.
    pub(crate) fn own_tags(&self) -> impl Iterator<Item = String> {
        self.tags.iter().cloned()
    }

    /// The same with nothing but the token of the lease.
    pub fn lease_token(mut self, token: impl Into<Bytes>) -> Self {
        self.lease_token = token.into();
        self
    }

    fn write_options(&self) -> Option<proto::WriteOptions> {
        let plain = self.condition.is_none() && self.lease_token.is_empty();
        if self.mode == WriteMode::default() && plain {
            return None;
        }
        Some(proto::WriteOptions {
            mode: self.mode.into(),
            lease_token: self.lease_token.clone(),
            condition: self.condition.clone(),
        })
    }

    fn proto_ttl(&self) -> Result<Option<prost_types::Duration>> {
        self.ttl.map(|ttl| time::to_proto(ttl, "ttl")).transpose()
    }

    pub(crate) fn into_put(
        self,
        namespace: &str,
        key: &str,
        value: Bytes,
    ) -> Result<proto::PutRequest> {
        Ok(proto::PutRequest {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            value,
            ttl: self.proto_ttl()?,
            options: self.write_options(),
            metadata: self.metadata,
            content_type: self.content_type,
            tags: self.tags,
            negative: self.negative,
        })
    }

    pub(crate) fn into_header(
        self,
        namespace: &str,
        key: &str,
        content: Content,
    ) -> Result<proto::WriteHeader> {
        if self.negative {
            let text = "negative: cannot be used with a stream";
            return Err(Error::local(Kind::InvalidArgument, text));
        }
        Ok(proto::WriteHeader {
            namespace: namespace.to_owned(),
            key: key.to_owned(),
            ttl: self.proto_ttl()?,
            options: self.write_options(),
            metadata: self.metadata,
            content_type: self.content_type,
            tags: self.tags,
            size_bytes: content.size_bytes,
            sha256: content
                .sha256
                .map_or_else(Bytes::new, |sha256| Bytes::copy_from_slice(&sha256)),
        })
    }
}

/// What is known of a value before it is written as a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Content {
    /// Its size: a stream of another size is refused.
    pub size_bytes: Option<u64>,
    /// Its SHA-256: a stream with another one is refused, and what the daemon has already under
    /// this key is not sent again.
    pub sha256: Option<[u8; 32]>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::{PutOptions, ReadOptions};
    use crate::{Kind, WriteMode, proto::write_options::Condition};

    #[test]
    fn defaults_are_absent_on_the_wire() {
        assert_eq!(ReadOptions::default().to_proto().expect("options"), None);
        let put = PutOptions::new()
            .into_put("n", "k", Bytes::new())
            .expect("request");
        assert_eq!((put.options, put.ttl), (None, None));
    }

    #[test]
    fn what_was_asked_for_is_on_the_wire() {
        let options = PutOptions::new()
            .ttl(Duration::from_millis(1500))
            .metadata("a", "b")
            .tag("t")
            .tags(["u"])
            .mode(WriteMode::Local)
            .if_absent();
        let put = options.into_put("n", "k", Bytes::new()).expect("request");
        let ttl = put.ttl.expect("a ttl");
        assert_eq!((ttl.seconds, ttl.nanos), (1, 500_000_000));
        assert_eq!((put.tags.len(), put.metadata.len()), (2, 1));
        let write = put.options.expect("options");
        assert_eq!(write.mode(), WriteMode::Local);
        assert_eq!(write.condition, Some(Condition::IfAbsent(true)));
    }

    #[test]
    fn a_span_beyond_the_protos_is_an_invalid_argument() {
        let put = PutOptions::new()
            .ttl(Duration::MAX)
            .into_put("n", "k", Bytes::new());
        assert_eq!(put.expect_err("too long").kind(), Kind::InvalidArgument);
        let read = ReadOptions {
            max_stale: Some(Duration::MAX),
            ..ReadOptions::default()
        };
        assert_eq!(
            read.to_proto().expect_err("too long").kind(),
            Kind::InvalidArgument
        );
    }
}
