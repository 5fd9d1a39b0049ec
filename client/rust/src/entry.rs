//! What reads and writes return.

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{Error, Lease, Provenance, Result, TierOutcome, proto, time};

/// The stamp of one write. Compare for equality only; no two writes anywhere share one.
///
/// Displayed and parsed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(pub [u8; 16]);

/// The text is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionInvalid;

impl fmt::Display for VersionInvalid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a version is 32 hexadecimal digits")
    }
}

impl std::error::Error for VersionInvalid {}

impl Version {
    pub(crate) fn from_proto(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes
            .try_into()
            .map_err(|_| Error::malformed("no version of 16 bytes"))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Version({self})")
    }
}

impl FromStr for Version {
    type Err = VersionInvalid;

    fn from_str(text: &str) -> Result<Self, VersionInvalid> {
        // `from_str_radix` also takes a sign and other lengths.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(VersionInvalid);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| VersionInvalid)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// An entry that was found.
#[derive(Clone, PartialEq, Eq)]
pub struct Hit {
    /// The value as it was put. Empty in a [`Reader`](crate::Reader), which yields it in chunks.
    pub value: Bytes,
    /// The caller's own words about the value.
    pub metadata: HashMap<String, String>,
    /// The media type as put; empty when none was given.
    pub content_type: String,
    /// The tags as put.
    pub tags: Vec<String>,
    /// The stamp of the write.
    pub version: Version,
    /// When it was put.
    pub created: SystemTime,
    /// When its lifetime ends.
    pub expires: SystemTime,
    /// Whether it was put as [negative](crate::PutOptions::negative): where values come from there
    /// is none, and `value` is empty.
    pub negative: bool,
}

impl Hit {
    /// Remaining lifetime by this machine's clock; zero when it is over.
    #[expect(
        clippy::disallowed_methods,
        reason = "a caller asks by its own clock; `expires` is there for another"
    )]
    pub fn remaining(&self) -> Duration {
        self.expires
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }

    pub(crate) fn from_proto(entry: proto::Entry) -> Result<Self> {
        Ok(Self {
            version: Version::from_proto(&entry.version)?,
            created: time::instant(entry.create_time, "no create_time")?,
            expires: time::instant(entry.expire_time, "no expire_time")?,
            value: entry.value,
            metadata: entry.metadata,
            content_type: entry.content_type,
            tags: entry.tags,
            negative: entry.negative,
        })
    }
}

// Without the value and the metadata, which must not end up in a log by way of `{:?}`.
impl fmt::Debug for Hit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Hit")
            .field("value_bytes", &self.value.len())
            .field("content_type", &self.content_type)
            .field("version", &self.version)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The answer to a read, hit or miss.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// The entry; absent on a miss.
    pub hit: Option<Hit>,
    /// Where the answer came from.
    pub provenance: Provenance,
    /// This caller is the one to compute the value; only if [`ReadOptions`](crate::ReadOptions)
    /// asked for it.
    pub lease: Option<Lease>,
    /// Why the daemon was passed over; only under fail-open, and then `hit` is absent.
    pub skipped: Option<Error>,
}

impl Lookup {
    pub(crate) fn skipped(error: Error) -> Self {
        Self {
            hit: None,
            provenance: Provenance::nowhere(),
            lease: None,
            skipped: Some(error),
        }
    }
}

/// The answer to the question whether an entry is there.
#[derive(Debug, Clone)]
pub struct Presence {
    /// Remaining lifetime; absent when there is no live entry.
    pub remaining: Option<Duration>,
    /// Whether the entry says that there is no value.
    pub negative: bool,
    /// Where the answer came from.
    pub provenance: Provenance,
    /// Why the daemon was passed over; only under fail-open, and then `remaining` is absent.
    pub skipped: Option<Error>,
}

/// What a write left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The stamp the entry got.
    pub version: Version,
    /// When its lifetime ends, after the namespace's limit and jitter.
    pub expires: SystemTime,
    /// What became of it in the local tier.
    pub local: TierOutcome,
    /// What became of it in the shared tier.
    pub shared: TierOutcome,
    /// Where it went and how long it took; in a batch, that of the whole batch.
    pub provenance: Provenance,
}

#[cfg(test)]
mod tests {
    use super::{Version, VersionInvalid};

    #[test]
    fn a_version_survives_its_text_form() {
        let version = Version([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(version.to_string(), "000102030405060708090a0b0c0d0eff");
        assert_eq!(version.to_string().parse(), Ok(version));
        assert_eq!(version.to_string().to_uppercase().parse(), Ok(version));
    }

    #[test]
    fn other_texts_are_no_version() {
        for text in [
            "",
            "00",
            "+00102030405060708090a0b0c0d0eff",
            "zz0102030405060708090a0b0c0d0eff",
        ] {
            assert_eq!(text.parse::<Version>(), Err(VersionInvalid), "{text}");
        }
    }
}
