//! What to invalidate and what became of it.

use crate::{Provenance, TierOutcome, proto};

/// What to remove from a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// These keys, 1 to 1000.
    Keys(Vec<String>),
    /// Every key that begins with this, 1 to 1024 bytes.
    Prefix(String),
    /// Every key that matches this glob in the syntax of Redis (`* ? [a-z] [^a-z] \`), 1 to 1024
    /// bytes.
    Pattern(String),
    /// Every entry put with this tag.
    Tag(String),
    /// Every entry of the namespace.
    All,
}

impl Target {
    /// One key.
    pub fn key(key: impl Into<String>) -> Self {
        Self::Keys(vec![key.into()])
    }

    pub(crate) fn into_proto(self) -> proto::invalidate_request::Target {
        use proto::invalidate_request::Target as Wire;
        match self {
            Self::Keys(keys) => Wire::Keys(proto::KeyList { keys }),
            Self::Prefix(prefix) => Wire::Prefix(prefix),
            Self::Pattern(pattern) => Wire::Pattern(pattern),
            Self::Tag(tag) => Wire::Tag(tag),
            Self::All => Wire::All(true),
        }
    }
}

/// What an invalidation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalidated {
    /// How many live entries were removed, as far as the daemon can count them.
    pub count: u64,
    /// What became of it in the local tier.
    pub local: TierOutcome,
    /// What became of it in the shared tier.
    pub shared: TierOutcome,
    /// How long it took.
    pub provenance: Provenance,
}

impl Invalidated {
    pub(crate) fn from_proto(response: proto::InvalidateResponse) -> Self {
        Self {
            count: response.count,
            local: response.local_outcome(),
            shared: response.shared_outcome(),
            provenance: Provenance::from_proto(response.provenance),
        }
    }
}
