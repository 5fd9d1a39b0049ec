//! Names of entries in Redis.
//!
//! ```text
//! normal namespace   {key_prefix}{namespace}:{key}    value: the record's bytes
//! raw namespace      {raw_prefix}{key}                value: the value's bytes
//! ```
//! A namespace holds no colon, so no two pairs of namespace and key share a name. What a raw
//! namespace may share with other programs is up to who configured its prefix.

use std::{fmt, time::Duration};

use bytes::Bytes;

use crate::{
    config::{Policy, SharedConfig},
    key::NamespaceName,
    tier::local::Selection,
};

/// Largest share of a value that a read waits longer for.
const EXPECTED_BYTES_MAX: u64 = 16 << 20;

/// All that is the same for the entries of one namespace in Redis. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SharedSpace {
    prefix: Bytes,
    raw: bool,
    lifetime_max: Duration,
    value_bytes_max: usize,
}

impl SharedSpace {
    /// The place of a namespace.
    pub fn new(shared: &SharedConfig, namespace: &NamespaceName, policy: &Policy) -> Self {
        let prefix = match policy.raw {
            true => policy.raw_prefix.clone(),
            false => format!("{}{}:", shared.key_prefix, namespace.as_str()),
        };
        let expected = policy.max_value_size.0.min(EXPECTED_BYTES_MAX);
        Self {
            prefix: prefix.into(),
            raw: policy.raw,
            lifetime_max: policy.max_ttl.0,
            value_bytes_max: usize::try_from(expected).unwrap_or(usize::MAX),
        }
    }

    /// All namespaces that are not raw.
    pub fn whole(shared: &SharedConfig) -> Self {
        Self {
            prefix: shared.key_prefix.clone().into(),
            raw: false,
            lifetime_max: Duration::MAX,
            value_bytes_max: 0,
        }
    }

    /// What every key of this namespace begins with in Redis; may be empty when it is raw.
    pub fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// Whether values are kept as plain strings.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// The name of a key.
    pub fn name(&self, key: &str) -> SharedName {
        let mut bytes = Vec::with_capacity(self.prefix.len() + key.len());
        bytes.extend_from_slice(&self.prefix);
        bytes.extend_from_slice(key.as_bytes());
        SharedName {
            key: bytes.into(),
            raw: self.raw,
            lifetime_max: self.lifetime_max,
            value_bytes_max: self.value_bytes_max,
        }
    }

    /// A pattern for `SCAN MATCH` that lets everything through that is selected, and little else.
    /// Only the literal beginning: Redis matches byte by byte, our patterns go by character.
    pub(super) fn pattern(&self, selection: &Selection) -> Bytes {
        let literal = match selection {
            Selection::All => "",
            Selection::Prefix(prefix) => prefix,
            Selection::Pattern(glob) => glob.literal_prefix(),
        };
        let mut pattern = Vec::with_capacity(self.prefix.len() + literal.len() + 1);
        for byte in self.prefix.iter().chain(literal.as_bytes()) {
            if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\') {
                pattern.push(b'\\');
            }
            pattern.push(*byte);
        }
        pattern.push(b'*');
        pattern.into()
    }

    /// Whether a key that Redis has is one of those selected.
    pub(super) fn selects(&self, selection: &Selection, redis_key: &[u8]) -> bool {
        let Some(key) = redis_key.strip_prefix(&*self.prefix) else {
            return false;
        };
        match selection {
            Selection::All => true,
            Selection::Prefix(prefix) => key.starts_with(prefix.as_bytes()),
            Selection::Pattern(glob) => std::str::from_utf8(key).is_ok_and(|key| glob.matches(key)),
        }
    }
}

impl fmt::Debug for SharedSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedSpace({} bytes)", self.prefix.len())
    }
}

/// The name of one entry in Redis.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SharedName {
    key: Bytes,
    raw: bool,
    lifetime_max: Duration,
    value_bytes_max: usize,
}

impl SharedName {
    /// The name of `key` in a namespace.
    pub fn new(
        shared: &SharedConfig,
        namespace: &NamespaceName,
        policy: &Policy,
        key: &str,
    ) -> Self {
        SharedSpace::new(shared, namespace, policy).name(key)
    }

    /// The key in Redis, as tracking reports it.
    pub fn as_bytes(&self) -> &Bytes {
        &self.key
    }

    /// Whether its value is kept as a plain string.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// Longest lifetime of an entry here.
    pub(super) fn lifetime_max(&self) -> Duration {
        self.lifetime_max
    }

    /// Bytes that an answer may have, as far as they change how long it is waited for.
    pub(super) fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }
}

impl fmt::Debug for SharedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedName({} bytes)", self.key.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob::Glob;

    fn space(prefix: &'static str) -> SharedSpace {
        SharedSpace {
            prefix: Bytes::from_static(prefix.as_bytes()),
            raw: false,
            lifetime_max: Duration::from_secs(1),
            value_bytes_max: 0,
        }
    }

    #[test]
    fn what_means_something_to_redis_is_escaped() {
        let space = space(r"p*?[a]\:");
        assert_eq!(space.pattern(&Selection::All), r"p\*\?\[a\]\\:*");
        let prefix = Selection::Prefix("x*".into());
        assert_eq!(space.pattern(&prefix), r"p\*\?\[a\]\\:x\**");
        let glob = Selection::Pattern(Glob::new(r"a\*b?c").expect("valid"));
        assert_eq!(space.pattern(&glob), r"p\*\?\[a\]\\:a\*b*");
    }

    #[test]
    fn only_what_is_selected_is_let_through() {
        let space = space("p:");
        assert!(space.selects(&Selection::All, b"p:\xff"));
        assert!(!space.selects(&Selection::All, b"q:a"));
        let prefix = Selection::Prefix("ab".into());
        assert!(space.selects(&prefix, b"p:abc"));
        assert!(!space.selects(&prefix, b"p:ac"));
        let glob = Selection::Pattern(Glob::new("ü?").expect("valid"));
        assert!(space.selects(&glob, "p:üß".as_bytes()));
        assert!(!space.selects(&glob, "p:üßa".as_bytes()));
        assert!(
            !space.selects(&glob, b"p:\xc3\xbc\xff"),
            "no text, no match"
        );
    }
}
