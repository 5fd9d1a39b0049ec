//! Names of entries: checked when they are made, never later.

use std::fmt;

use crate::error::{Error, Result};

/// Longest key, prefix or pattern, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest namespace name, in bytes.
pub const NAMESPACE_BYTES_MAX: usize = 63;
/// Ends the name of a namespace that holds the tags of another. No caller's name can.
const TAGS_SUFFIX: &str = "!tags";

/// A namespace's name: `[a-z0-9][a-z0-9._-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceName(String);

impl NamespaceName {
    /// Checks a name; `Invalid` names the rule.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        check_namespace(&name)?;
        Ok(Self(name))
    }

    /// A name that a daemon wrote down: a caller's, or that of a namespace of tags.
    pub fn parse(name: &str) -> Result<Self> {
        match name.strip_suffix(TAGS_SUFFIX) {
            Some(tagged) => Ok(Self::new(tagged)?.of_tags()),
            None => Self::new(name),
        }
    }

    /// The namespace that holds the tags of this one.
    #[must_use]
    pub fn of_tags(&self) -> Self {
        Self(format!("{}{TAGS_SUFFIX}", self.0))
    }

    /// Whose tags it holds; `None` for a caller's namespace.
    pub fn tagged(&self) -> Option<&str> {
        self.0.strip_suffix(TAGS_SUFFIX)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks a namespace's name without keeping it.
pub fn check_namespace(name: &str) -> Result<()> {
    let bytes = name.as_bytes();
    let first = bytes
        .first()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest = bytes
        .iter()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
    if first && rest && bytes.len() <= NAMESPACE_BYTES_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "namespace: {} does not match [a-z0-9][a-z0-9._-]{{0,62}}",
        Shown(name)
    )))
}

/// A key as its caller gave it: UTF-8, 1 to 1024 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// Checks a key; `Invalid` says its length and the limit.
    pub fn new(key: impl Into<String>) -> Result<Self> {
        let key = key.into();
        check_length("key", &key)?;
        Ok(Self(key))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What stands for a key where it must not be told: in traces and the list of slow requests. The
/// same key gives the same number everywhere. Whoever knows a key can recognise it.
pub fn key_hash(key: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key.as_bytes())
}

/// Checks that `text`, sent in `field`, has 1 to 1024 bytes.
pub fn check_length(field: &str, text: &str) -> Result<()> {
    match text.len() {
        0 => Err(Error::invalid(format!(
            "{field}: empty, must have 1 to {KEY_BYTES_MAX} bytes"
        ))),
        1..=KEY_BYTES_MAX => Ok(()),
        len => Err(Error::invalid(format!(
            "{field}: {len} bytes, must have 1 to {KEY_BYTES_MAX} bytes"
        ))),
    }
}

/// The name of an entry inside a tier: namespace, a zero byte, key.
///
/// A namespace holds no zero byte, so no two pairs share a name, and all names of a namespace are
/// neighbours in byte order.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryName(Box<[u8]>);

impl EntryName {
    /// The name of `key` in `namespace`.
    pub fn new(namespace: &NamespaceName, key: &Key) -> Self {
        Self(joined(namespace, key.as_str()))
    }

    /// The name that these bytes are, as far as they are one.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let name = Self(bytes.into());
        name.parts().is_some().then_some(name)
    }

    /// Namespace and key.
    pub fn parts(&self) -> Option<(NamespaceName, Key)> {
        let (namespace, key) = self.0.split_at(self.0.iter().position(|b| *b == 0)?);
        let namespace = NamespaceName::parse(str::from_utf8(namespace).ok()?).ok()?;
        Some((namespace, Key::new(str::from_utf8(&key[1..]).ok()?).ok()?))
    }

    /// What all names of `namespace` whose key begins with `prefix` begin with.
    pub fn prefix(namespace: &NamespaceName, prefix: &str) -> Box<[u8]> {
        joined(namespace, prefix)
    }

    /// The key inside a name's bytes; `None` when the bytes are no name.
    pub fn key_of(name: &[u8]) -> Option<&[u8]> {
        let zero = name
            .iter()
            .take(NAMESPACE_BYTES_MAX + 1)
            .position(|b| *b == 0)?;
        Some(&name[zero + 1..])
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryName({} bytes)", self.0.len())
    }
}

fn joined(namespace: &NamespaceName, rest: &str) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(namespace.0.len() + 1 + rest.len());
    bytes.extend_from_slice(namespace.0.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(rest.as_bytes());
    bytes.into_boxed_slice()
}

/// Text from outside, shortened to 32 characters for messages and logs.
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head: String = self.0.chars().take(32).collect();
        let more = if head.len() < self.0.len() { "…" } else { "" };
        write!(f, "{head:?}{more}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_at_the_edges_of_the_rule() {
        for good in ["a", "0", "a.b_c-d", &"a".repeat(63)] {
            assert!(NamespaceName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            ".a",
            "-a",
            "a b",
            "ä",
            "a/b",
            "a\0",
            &"a".repeat(64),
        ] {
            let error = NamespaceName::new(bad).expect_err(bad);
            assert!(
                error.message().contains("[a-z0-9][a-z0-9._-]{0,62}"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_namespace_of_tags_is_no_caller_s() {
        let of_tags = NamespaceName::new("n").expect("valid").of_tags();
        assert_eq!((of_tags.as_str(), of_tags.tagged()), ("n!tags", Some("n")));
        assert!(NamespaceName::new(of_tags.as_str()).is_err());
        assert_eq!(NamespaceName::parse("n!tags").ok(), Some(of_tags));
        assert_eq!(NamespaceName::parse("n").expect("valid").tagged(), None);
        assert!(NamespaceName::parse("n!tags!tags").is_err());
    }

    #[test]
    fn keys_at_the_edges_of_the_rule() {
        assert!(Key::new("k".repeat(1024)).is_ok());
        assert!(Key::new("\0").is_ok());
        assert_eq!(
            Key::new("k".repeat(1025)).expect_err("too long").message(),
            "key: 1025 bytes, must have 1 to 1024 bytes"
        );
        assert!(Key::new("").is_err());
    }

    #[test]
    fn a_name_gives_its_key_back_even_with_zero_bytes_in_it() {
        let name = EntryName::new(
            &NamespaceName::new("n").expect("valid"),
            &Key::new("a\0b").expect("valid"),
        );
        assert_eq!(EntryName::key_of(name.as_bytes()), Some(&b"a\0b"[..]));
        let (namespace, key) = name.parts().expect("is a name");
        assert_eq!((namespace.as_str(), key.as_str()), ("n", "a\0b"));
        assert_eq!(EntryName::from_bytes(name.as_bytes().to_vec()), Some(name));
        assert_eq!(EntryName::from_bytes(b"none".to_vec()), None);
    }
}
