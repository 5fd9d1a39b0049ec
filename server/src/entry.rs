//! What a caller stores: a value and what is said about it.

use std::collections::HashMap;

use bytes::Bytes;

use crate::error::{Error, Result};

/// Most pairs of metadata.
pub const METADATA_PAIRS_MAX: usize = 64;
/// Longest metadata key, in bytes.
pub const METADATA_KEY_BYTES_MAX: usize = 128;
/// Most bytes of all metadata keys and values together.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;
/// Longest content type, in bytes.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Most tags.
pub const TAGS_MAX: usize = 16;
/// Longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;

/// What is said about a value. Within its limits by construction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    content_type: String,
    metadata: Vec<(String, String)>,
    tags: Vec<String>,
}

impl Attributes {
    /// Checks the limits; metadata is kept in key order, a repeated tag once.
    pub fn new(
        content_type: String,
        metadata: HashMap<String, String>,
        tags: Vec<String>,
    ) -> Result<Self> {
        if content_type.is_empty() && metadata.is_empty() && tags.is_empty() {
            return Ok(Self::default());
        }
        limit(
            "content_type",
            content_type.len(),
            CONTENT_TYPE_BYTES_MAX,
            "bytes",
        )?;
        limit("metadata", metadata.len(), METADATA_PAIRS_MAX, "pairs")?;
        let total = metadata
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        limit("metadata", total, METADATA_BYTES_MAX, "bytes in all")?;
        for key in metadata.keys() {
            not_empty("metadata key", key)?;
            limit("metadata key", key.len(), METADATA_KEY_BYTES_MAX, "bytes")?;
        }
        let mut metadata: Vec<_> = metadata.into_iter().collect();
        metadata.sort();
        let mut unique: Vec<String> = Vec::with_capacity(tags.len().min(TAGS_MAX));
        for tag in tags {
            check_tag(&tag)?;
            if !unique.contains(&tag) {
                limit("tags", unique.len() + 1, TAGS_MAX, "tags")?;
                unique.push(tag);
            }
        }
        Ok(Self {
            content_type,
            metadata,
            tags: unique,
        })
    }

    /// Attributes read from a record, whose checksum has vouched for them.
    pub(crate) fn from_record(
        content_type: String,
        metadata: Vec<(String, String)>,
        tags: Vec<String>,
    ) -> Self {
        Self {
            content_type,
            metadata,
            tags,
        }
    }

    /// Media type; empty when none was given.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Pairs in key order.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Tags in the order given.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// The three parts, for the wire.
    pub fn into_parts(self) -> (String, Vec<(String, String)>, Vec<String>) {
        (self.content_type, self.metadata, self.tags)
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.content_type.is_empty() && self.metadata.is_empty() && self.tags.is_empty()
    }
}

/// A value with what is said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// What is said about it.
    pub attributes: Attributes,
    /// There is nothing: the caller has looked where values come from. The value is empty then.
    pub negative: bool,
}

/// Checks a tag; `Invalid` says its length and the limit.
pub fn check_tag(tag: &str) -> Result<()> {
    not_empty("tag", tag)?;
    limit("tag", tag.len(), TAG_BYTES_MAX, "bytes")
}

fn limit(field: &str, found: usize, max: usize, unit: &str) -> Result<()> {
    if found <= max {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{field}: {found} {unit}, the limit is {max}"
    )))
}

fn not_empty(field: &str, text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(Error::invalid(format!(
            "{field}: empty, must have at least 1 byte"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_tags(tags: Vec<String>) -> Result<Attributes> {
        Attributes::new(String::new(), HashMap::new(), tags)
    }

    fn with_pair(key: usize, value: usize) -> Result<Attributes> {
        let pair = ("k".repeat(key), "v".repeat(value));
        Attributes::new(String::new(), HashMap::from([pair]), Vec::new())
    }

    #[test]
    fn limits_hold_at_their_edges() {
        let many = |n: usize| (0..n).map(|i| format!("t{i}")).collect::<Vec<_>>();
        assert!(with_tags(many(16)).is_ok());
        assert_eq!(
            with_tags(many(17)).expect_err("17").message(),
            "tags: 17 tags, the limit is 16"
        );
        assert!(with_tags(vec!["t".repeat(128)]).is_ok());
        assert!(with_tags(vec!["t".repeat(129)]).is_err());
        assert!(with_tags(vec![String::new()]).is_err());
        assert!(with_pair(128, 0).is_ok());
        assert!(with_pair(129, 0).is_err());
        assert!(with_pair(0, 1).is_err());
        assert!(with_pair(1, METADATA_BYTES_MAX - 1).is_ok());
        assert!(with_pair(1, METADATA_BYTES_MAX).is_err());
        let pairs = |n: usize| (0..n).map(|i| (i.to_string(), String::new())).collect();
        assert!(Attributes::new(String::new(), pairs(64), Vec::new()).is_ok());
        assert!(Attributes::new(String::new(), pairs(65), Vec::new()).is_err());
        assert!(Attributes::new("c".repeat(256), HashMap::new(), Vec::new()).is_err());
    }

    #[test]
    fn a_repeated_tag_counts_once() {
        let tags = vec!["a".to_owned(); 40];
        assert_eq!(with_tags(tags).expect("one tag").tags(), ["a"]);
    }
}
