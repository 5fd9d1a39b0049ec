//! The manifest: what a record says of a value that lies in chunks beside it.
//!
//! ```text
//! offset  size   (the "value as stored" of a record with codec 5)
//!      0    16  the set: names the chunks, together with their index
//!     16     4  bytes of a chunk; the last may be shorter
//!     20     1  1: the SHA-256 is known
//!     21     3  reserved, zero
//!     24    32  SHA-256 of the value, or zero
//!     56   8 n  XXH3-64 of each chunk, seed 0
//! ```
//! A chunk is bytes of the value and nothing else: where it lies and what vouches for it stands
//! here. The set is a stamp of its own, drawn when the first chunk was written, so a chunk never
//! changes: another value has another set, and the same content under a new version keeps it.

use std::{hash::Hasher, sync::Arc};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{Codec, HEADER_BYTES, Head, Record, attributes, corrupt};
use crate::{
    clock::Timestamp,
    entry::Attributes,
    error::{Error, Result},
    stamp::Stamp,
};

/// Bytes of every chunk but the last. Values of up to this size are not cut.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Largest value in chunks, in bytes: what the record has room to say, in whole MiB.
pub const LARGE_VALUE_BYTES_MAX: u64 = 4095 << 20;
/// What a chunk may have at most, whoever wrote it.
const CHUNK_BYTES_MAX: usize = 16 << 20;
const FIXED_BYTES: usize = 56;

/// A SHA-256.
pub type Digest = [u8; 32];

/// Where the chunks of a value are, and what they must be. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Names the chunks.
    pub set: Stamp,
    /// SHA-256 of the value, when whoever put it said so.
    pub digest: Option<Digest>,
    /// Bytes of the value.
    pub value_bytes: u64,
    chunk_bytes: usize,
    checksums: Arc<[u64]>,
}

impl Manifest {
    /// Of a value that was cut into chunks of [`CHUNK_BYTES`] with these checksums.
    pub fn new(
        set: Stamp,
        value_bytes: u64,
        checksums: impl Into<Arc<[u64]>>,
        digest: Option<Digest>,
    ) -> Self {
        Self {
            set,
            digest,
            value_bytes,
            chunk_bytes: CHUNK_BYTES,
            checksums: checksums.into(),
        }
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.checksums.len()).expect("bounded by the largest value")
    }

    /// The chunk that holds the byte at `offset`.
    pub fn chunk_at(&self, offset: u64) -> u32 {
        u32::try_from(offset / self.chunk_bytes as u64).unwrap_or(u32::MAX)
    }

    /// Where a chunk begins in the value.
    pub fn start_of(&self, index: u32) -> u64 {
        u64::from(index) * self.chunk_bytes as u64
    }

    /// Bytes of a chunk.
    pub fn bytes_of(&self, index: u32) -> usize {
        let rest = self.value_bytes.saturating_sub(self.start_of(index));
        usize::try_from(rest).map_or(self.chunk_bytes, |rest| rest.min(self.chunk_bytes))
    }

    /// Whether these bytes are that chunk.
    pub fn vouches_for(&self, index: u32, bytes: &[u8]) -> bool {
        let wanted = self.checksums.get(index as usize);
        bytes.len() == self.bytes_of(index) && wanted == Some(&checksum_of(bytes))
    }

    /// Whether both are of the same content. Without two digests the checksums say so.
    pub fn is_of_same_content(&self, other: &Self) -> bool {
        let same = self.value_bytes == other.value_bytes
            && self.chunk_bytes == other.chunk_bytes
            && self.checksums == other.checksums;
        match (self.digest, other.digest) {
            (Some(one), Some(two)) => same && one == two,
            _ => same,
        }
    }

    /// Whether a value that is not in chunks is this one.
    fn is_of(&self, value: &[u8]) -> bool {
        let chunks = (0..).zip(value.chunks(self.chunk_bytes));
        value.len() as u64 == self.value_bytes
            && chunks
                .into_iter()
                .all(|(index, chunk)| self.vouches_for(index, chunk))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + 8 * self.checksums.len());
        bytes.extend_from_slice(self.set.as_bytes());
        let chunk = u32::try_from(self.chunk_bytes).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&chunk.to_le_bytes());
        bytes.extend_from_slice(&[u8::from(self.digest.is_some()), 0, 0, 0]);
        bytes.extend_from_slice(&self.digest.unwrap_or_default());
        for checksum in &*self.checksums {
            bytes.extend_from_slice(&checksum.to_le_bytes());
        }
        bytes
    }

    fn decode(stored: &[u8], value_bytes: u64) -> Option<Self> {
        let (fixed, checksums) = stored.split_at_checked(FIXED_BYTES)?;
        let chunk_bytes = u32::from_le_bytes(fixed[16..20].try_into().ok()?) as usize;
        if !(1..=CHUNK_BYTES_MAX).contains(&chunk_bytes) || fixed[21..24] != [0; 3] {
            return None;
        }
        let digest: Digest = fixed[24..56].try_into().ok()?;
        let (checksums, rest) = checksums.as_chunks::<8>();
        let whole = checksums.len() as u64 == value_bytes.div_ceil(chunk_bytes as u64);
        (whole && rest.is_empty()).then_some(())?;
        Some(Self {
            set: Stamp::from_bytes(fixed[..16].try_into().ok()?),
            digest: (fixed[20] == 1).then_some(digest),
            value_bytes,
            chunk_bytes,
            checksums: checksums.iter().map(|it| u64::from_le_bytes(*it)).collect(),
        })
    }
}

/// The checksum of a chunk.
pub fn checksum_of(chunk: &[u8]) -> u64 {
    xxh3_64(chunk)
}

/// The checksum of a chunk that comes in pieces.
#[derive(Default)]
pub struct Checksum(Xxh3);

impl Checksum {
    /// Takes the next piece in.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.write(piece);
    }

    /// The checksum of all pieces; the next chunk begins.
    pub fn end(&mut self) -> u64 {
        let checksum = self.0.digest();
        self.0.reset();
        checksum
    }
}

impl Record {
    /// The record of a value in chunks, with the generation of each tag. `Invalid` when the value
    /// is larger than [`LARGE_VALUE_BYTES_MAX`].
    pub fn of_chunks(
        manifest: &Manifest,
        (attributes, generations): (&Attributes, &[Stamp]),
        stamp: Stamp,
        (created, expires): (Timestamp, Timestamp),
    ) -> Result<Self> {
        let value_bytes = manifest.value_bytes;
        if value_bytes > LARGE_VALUE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "value: {value_bytes} bytes, a value in chunks has at most {LARGE_VALUE_BYTES_MAX}"
            )));
        }
        let stored = manifest.encode();
        let mut bytes = vec![0; HEADER_BYTES];
        attributes::encode(&mut bytes, attributes, generations);
        let head = Head {
            stamp,
            created,
            expires,
            value_bytes: usize::try_from(value_bytes).unwrap_or(usize::MAX),
            is_tagged: !generations.is_empty(),
            is_negative: false,
            codec: Codec::InChunks,
            attribute_bytes: bytes.len() - HEADER_BYTES,
            stored_bytes: stored.len(),
        };
        bytes.extend_from_slice(&stored);
        Ok(Self::sealed(head, bytes))
    }

    /// Where its value lies when it is in chunks; `None` when it is here. `Corrupt` when that does
    /// not decode, which the checksum makes all but impossible.
    pub fn manifest(&self) -> Result<Option<Manifest>> {
        if self.head.codec != Codec::InChunks {
            return Ok(None);
        }
        let stored = &self.bytes[self.value_at()..];
        let manifest = Manifest::decode(stored, self.head.value_bytes as u64);
        manifest
            .map(Some)
            .ok_or_else(|| corrupt("a manifest does not decode"))
    }

    /// Whether both hold the same value and say the same about it, in chunks or not.
    pub fn says_the_same(&self, other: &Self) -> Result<bool> {
        let same_value = match (self.manifest()?, other.manifest()?) {
            (None, None) => return Ok(self.entry()? == other.entry()?),
            (Some(one), Some(two)) => one.is_of_same_content(&two),
            (Some(manifest), None) => manifest.is_of(&other.entry()?.value),
            (None, Some(manifest)) => manifest.is_of(&self.entry()?.value),
        };
        Ok(same_value && self.attributes()? == other.attributes()?)
    }
}

impl Head {
    /// Whether the value is in chunks.
    pub fn is_in_chunks(&self) -> bool {
        self.codec == Codec::InChunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(value_bytes: u64, digest: Option<Digest>) -> Manifest {
        let chunks = value_bytes.div_ceil(CHUNK_BYTES as u64);
        let checksums: Vec<_> = (0..chunks).collect();
        Manifest::new(Stamp::from_bytes([7; 16]), value_bytes, checksums, digest)
    }

    fn record(manifest: &Manifest) -> Record {
        let (stamp, at) = (Stamp::from_bytes([1; 16]), Timestamp::from_millis(5));
        let attributes = Attributes::new("a/b".into(), [].into(), vec!["t".into()]);
        let attributes = attributes.expect("valid");
        Record::of_chunks(manifest, (&attributes, &[stamp]), stamp, (at, at)).expect("encodes")
    }

    #[test]
    fn a_manifest_comes_back_as_it_was() {
        for bytes in [CHUNK_BYTES as u64 + 1, 3 << 20, LARGE_VALUE_BYTES_MAX] {
            for digest in [None, Some([9; 32])] {
                let manifest = manifest(bytes, digest);
                let bytes = record(&manifest).as_bytes().clone();
                let decoded = Record::decode(bytes).expect("decodes");
                assert_eq!(decoded.manifest().expect("decodes"), Some(manifest));
                assert_eq!(decoded.attributes().expect("decodes").content_type(), "a/b");
                assert!(decoded.has_value() && decoded.head().is_in_chunks());
                assert!(decoded.entry().is_err(), "the value is not here");
            }
        }
        let too_large = manifest(LARGE_VALUE_BYTES_MAX + 1, None);
        let (stamp, at) = (Stamp::from_bytes([1; 16]), Timestamp::from_millis(5));
        let refused = Record::of_chunks(&too_large, (&Attributes::default(), &[]), stamp, (at, at));
        assert!(refused.is_err());
    }

    #[test]
    fn chunks_are_where_they_were_cut() {
        let manifest = manifest((2 << 20) + 5, None);
        assert_eq!(manifest.chunks(), 3);
        assert_eq!(
            [0, 1, 2].map(|it| manifest.bytes_of(it)),
            [1 << 20, 1 << 20, 5]
        );
        let at = |offset| manifest.chunk_at(offset);
        assert_eq!(
            [at(0), at((1 << 20) - 1), at(1 << 20), at(2 << 20)],
            [0, 0, 1, 2]
        );
        assert!(!manifest.vouches_for(2, b"12345"), "another checksum");
        let checksums = vec![checksum_of(b"12345 "); 1];
        let small = Manifest::new(Stamp::from_bytes([0; 16]), 6, checksums, None);
        assert!(small.vouches_for(0, b"12345 "));
        assert!(!small.vouches_for(0, b"12345"), "cut short");
        assert!(!small.vouches_for(1, b""), "there is no other");
    }

    #[test]
    fn the_same_content_is_known_whatever_it_is_called() {
        let (one, mut two) = (manifest(3 << 20, None), manifest(3 << 20, Some([1; 32])));
        two.set = Stamp::from_bytes([8; 16]);
        assert!(record(&one).says_the_same(&record(&two)).expect("decodes"));
        let other = manifest(3 << 20, Some([2; 32]));
        assert!(
            !record(&two)
                .says_the_same(&record(&other))
                .expect("decodes")
        );
        let longer = manifest((3 << 20) + 1, None);
        assert!(
            !record(&one)
                .says_the_same(&record(&longer))
                .expect("decodes")
        );
        let value = vec![3; (1 << 20) + 7];
        let (first, last) = value.split_at(1 << 20);
        let checksums = vec![checksum_of(first), checksum_of(last)];
        let cut = Manifest::new(
            Stamp::from_bytes([0; 16]),
            value.len() as u64,
            checksums,
            None,
        );
        assert!(cut.is_of(&value));
        assert!(!cut.is_of(first) && !cut.is_of(&vec![4; value.len()]));
    }

    #[test]
    fn what_is_cut_short_is_no_manifest() {
        let encoded = manifest((1 << 20) + 1, None).encode();
        assert!(Manifest::decode(&encoded, (1 << 20) + 1).is_some());
        for cut in 0..encoded.len() {
            assert!(Manifest::decode(&encoded[..cut], (1 << 20) + 1).is_none());
        }
        assert!(
            Manifest::decode(&encoded, 1 << 20).is_none(),
            "a chunk too many"
        );
        let mut nothing = encoded;
        nothing[16..20].copy_from_slice(&[0; 4]);
        assert!(Manifest::decode(&nothing, (1 << 20) + 1).is_none());
    }
}
