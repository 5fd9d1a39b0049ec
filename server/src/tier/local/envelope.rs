//! What the local tier writes around a record.
//!
//! ```text
//! offset  size
//!      0     1  envelope version, 2
//!      1     3  reserved, zero
//!      4     4  low half of XXH3-64 over bytes 0..4 and 8..40, little-endian
//!      8     8  the tier lets go at, ms since the Unix epoch
//!     16     8  position: bytes the tier had taken in when this was written
//!     24     8  mark: epoch
//!     32     8  mark: sequence
//!     40     …  the record
//! ```
//! The store is disposable: an envelope of another version is damage, and damage is a miss.

use std::hash::Hasher;

use xxhash_rust::xxh3::Xxh3;

use crate::{clock::Timestamp, tier::Mark};

const VERSION: u8 = 2;
/// Bytes before the record.
pub(super) const ENVELOPE_BYTES: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) expires: Timestamp,
    pub(super) position: u64,
    pub(super) mark: Mark,
}

impl Envelope {
    /// Envelope and record as one value of the store.
    pub(super) fn wrap(self, record: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + record.len());
        bytes.resize(ENVELOPE_BYTES, 0);
        bytes[0] = VERSION;
        bytes[8..16].copy_from_slice(&self.expires.as_millis().to_le_bytes());
        bytes[16..24].copy_from_slice(&self.position.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.mark.epoch.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.mark.sequence.to_le_bytes());
        let sum = checksum(&bytes);
        bytes[4..8].copy_from_slice(&sum);
        bytes.extend_from_slice(record);
        bytes
    }

    /// Takes the envelope off; `None` when it is damaged or of another version.
    pub(super) fn unwrap(value: &[u8]) -> Option<(Self, &[u8])> {
        let (envelope, record) = value.split_at_checked(ENVELOPE_BYTES)?;
        if envelope[..4] != [VERSION, 0, 0, 0] || envelope[4..8] != checksum(envelope) {
            return None;
        }
        let number = |at: usize| envelope[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let own = Self {
            expires: Timestamp::from_millis(number(8)?),
            position: number(16)?,
            mark: Mark {
                epoch: number(24)?,
                sequence: number(32)?,
            },
        };
        Some((own, record))
    }
}

fn checksum(envelope: &[u8]) -> [u8; 4] {
    let mut hasher = Xxh3::new();
    hasher.write(&envelope[..4]);
    hasher.write(&envelope[8..ENVELOPE_BYTES]);
    let [a, b, c, d, ..] = hasher.digest().to_le_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let envelope = Envelope {
            expires: Timestamp::from_millis(77),
            position: 1 << 40,
            mark: Mark {
                epoch: 3,
                sequence: 1 << 33,
            },
        };
        let good = envelope.wrap(b"record");
        assert_eq!(Envelope::unwrap(&good), Some((envelope, &b"record"[..])));
        for bit in 0..ENVELOPE_BYTES * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Envelope::unwrap(&bad), None, "bit {bit}");
        }
        for cut in 0..ENVELOPE_BYTES {
            assert_eq!(Envelope::unwrap(&good[..cut]), None, "cut at {cut}");
        }
    }
}
