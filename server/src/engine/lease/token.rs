//! What a holder shows with its put.
//!
//! ```text
//! offset  size
//!      0     1  kind: 1 given in Redis, 2 given in the local tier, 3 while the entry is there
//!      1    16  stamp of the lease
//!     17     8  the tags it was asked for with, as they were then; 0 for none, big-endian
//!   of kind 2:
//!     25     8  epoch in which it was given, big-endian; 0 where there is no shared tier
//!     33    16  a stamp above all that were given out before it
//!   of kind 3, to compute an entry anew:
//!      1    16  version of the entry
//!     17     8  when the lease ends, ms since the Unix epoch, big-endian
//! ```

use bytes::Bytes;

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    stamp::Stamp,
    tier::Condition,
};

/// Longest token there will ever be.
const TOKEN_BYTES_MAX: usize = 64;

const SHARED: u8 = 1;
const LOCAL: u8 = 2;
const REFRESH: u8 = 3;

/// The token of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Redis has the lease, and decides whether it still does.
    Shared {
        /// Of the lease.
        stamp: Stamp,
        /// As [`Token::tags`] says.
        tags: u64,
    },
    /// The local tier has it.
    Local {
        /// Of the lease.
        stamp: Stamp,
        /// As [`Token::tags`] says.
        tags: u64,
        /// Good for puts in this epoch only: another one began or ended an outage, and nobody knows
        /// what others did meanwhile.
        epoch: u64,
        /// What is less is older than the lease: to be removed from Redis at its return. What
        /// others put since is not.
        bound: Stamp,
    },
    /// The entry is there, and has to be of this version still.
    Refresh {
        /// Of the entry.
        version: Stamp,
        /// When the lease ends.
        until: Timestamp,
    },
}

impl Token {
    /// What must hold for a put.
    pub fn condition(&self) -> Condition {
        match self {
            Self::Shared { stamp, .. } | Self::Local { stamp, .. } => Condition::Lease(*stamp),
            Self::Refresh { version, .. } => Condition::Version(*version),
        }
    }

    /// The tags that the value was to be put with, and their generations when the lease was given,
    /// as one number; 0 when there were none.
    pub fn tags(&self) -> u64 {
        match self {
            Self::Shared { tags, .. } | Self::Local { tags, .. } => *tags,
            Self::Refresh { .. } => 0,
        }
    }

    /// The same token for these tags.
    #[must_use]
    pub fn with_tags(self, of_tags: u64) -> Self {
        match self {
            Self::Shared { stamp, .. } => Self::Shared {
                stamp,
                tags: of_tags,
            },
            Self::Local {
                stamp,
                epoch,
                bound,
                ..
            } => Self::Local {
                stamp,
                tags: of_tags,
                epoch,
                bound,
            },
            Self::Refresh { .. } => self,
        }
    }

    /// Whether its time is over, as far as the token knows.
    pub fn is_over(&self, now: Timestamp) -> bool {
        matches!(self, Self::Refresh { until, .. } if *until <= now)
    }

    /// As callers get it.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES_MAX);
        match self {
            Self::Shared { stamp, tags } => {
                bytes.push(SHARED);
                bytes.extend_from_slice(stamp.as_bytes());
                bytes.extend_from_slice(&tags.to_be_bytes());
            }
            Self::Local {
                stamp,
                tags,
                epoch,
                bound,
            } => {
                bytes.push(LOCAL);
                bytes.extend_from_slice(stamp.as_bytes());
                bytes.extend_from_slice(&tags.to_be_bytes());
                bytes.extend_from_slice(&epoch.to_be_bytes());
                bytes.extend_from_slice(bound.as_bytes());
            }
            Self::Refresh { version, until } => {
                bytes.push(REFRESH);
                bytes.extend_from_slice(version.as_bytes());
                bytes.extend_from_slice(&until.as_millis().to_be_bytes());
            }
        }
        bytes.into()
    }

    /// As callers give it back in `field`. `Invalid` when it is no token.
    pub fn parse(field: &str, bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).ok_or_else(|| {
            let length = bytes.len();
            Error::invalid(format!(
                "{field}: {length} bytes that are no token of a lease, which has 25 to \
                 {TOKEN_BYTES_MAX}"
            ))
        })
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (stamp, rest) = rest.split_first_chunk()?;
        let stamp = Stamp::from_bytes(*stamp);
        let (number, rest) = rest.split_first_chunk()?;
        let number = u64::from_be_bytes(*number);
        match *kind {
            SHARED => rest.is_empty().then_some(Self::Shared {
                stamp,
                tags: number,
            }),
            LOCAL => {
                let (epoch, bound) = rest.split_first_chunk()?;
                Some(Self::Local {
                    stamp,
                    tags: number,
                    epoch: u64::from_be_bytes(*epoch),
                    bound: Stamp::from_bytes(bound.try_into().ok()?),
                })
            }
            REFRESH => rest.is_empty().then_some(Self::Refresh {
                version: stamp,
                until: Timestamp::from_millis(number),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was_given() {
        let (stamp, bound) = (Stamp::from_bytes([7; 16]), Stamp::from_bytes([9; 16]));
        let local = Token::Local {
            stamp,
            tags: 1 << 50,
            epoch: 1 << 60,
            bound,
        };
        let refresh = Token::Refresh {
            version: stamp,
            until: Timestamp::from_millis(77),
        };
        let shared = Token::Shared { stamp, tags: 3 };
        for token in [shared, local, refresh] {
            let bytes = token.to_bytes();
            assert!(bytes.len() <= TOKEN_BYTES_MAX);
            assert_eq!(Token::parse("token", &bytes).expect("valid"), token);
            for cut in 0..bytes.len() {
                assert!(
                    Token::parse("token", &bytes[..cut]).is_err(),
                    "cut at {cut}"
                );
            }
            let long = [&bytes[..], &[0]].concat();
            assert!(Token::parse("token", &long).is_err());
        }
        let error = Token::parse("options.lease_token", b"abc").expect_err("no token");
        assert!(
            error.message().starts_with("options.lease_token: 3 bytes"),
            "{error}"
        );
    }
}
