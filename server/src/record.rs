//! The record: one self-describing form of an entry, the same bytes in every tier (P3).
//!
//! ```text
//! offset  size
//!      0    16  version stamp (see `stamp`); first, so that it can be read on its own
//!     16     3  magic "PNR"
//!     19     1  format version, 1
//!     20     1  codec of the value: 0 as it is, 1 LZ4 block, 2 Zstandard frame,
//!               3 not here: whoever put the entry has it, this only says that it exists,
//!               4 none: no entry, only the lease of one; somebody is computing the value,
//!               5 in chunks beside it: stored is where they are (see `manifest`)
//!     21     1  flags: 1 generations of tags follow the attributes, 2 negative: the entry says
//!               that there is nothing
//!     22     2  reserved, zero
//!     24     8  put at, ms since the Unix epoch      (numbers are little-endian)
//!     32     8  lifetime ends at, ms since the Unix epoch
//!     40     4  A: bytes of attributes
//!     44     4  bytes of the value as stored
//!     48     4  bytes of the value as put
//!     52     4  reserved, zero
//!     56     8  XXH3-64 over bytes 0..56 and 64..end, seed 0
//!     64     A  attributes: content type, count, pairs, count, tags; each text u32 length + UTF-8;
//!               then 16 bytes for each tag, its generation
//!   64+A     …  value as stored
//! ```
//!
//! Invariants: a record that decodes is bit for bit what was encoded (checksum); a decoder reads
//! every format version ever released or says `Corrupt`; lengths are checked before anything is
//! allocated. `server/tests/golden/` keeps records of every released version.

mod attributes;
mod beginning;
mod manifest;
mod packing;

use std::{hash::Hasher, time::Duration};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use self::packing::{compress, decompress};
pub use self::{
    beginning::{Beginning, Content, is_lease},
    manifest::{CHUNK_BYTES, Checksum, Digest, LARGE_VALUE_BYTES_MAX, Manifest, checksum_of},
};
use crate::{
    clock::Timestamp,
    entry::{Attributes, Entry},
    error::{Error, Kind, Result},
    stamp::Stamp,
};

const HEADER_BYTES: usize = 64;
/// Bytes that tell the version of a record, whether its value is there and its lifetime.
pub const BEGINNING_BYTES: usize = 40;
/// Bytes of a lease.
pub const LEASE_BYTES: usize = HEADER_BYTES;
const CHECKSUM_AT: usize = 56;
const MAGIC: &[u8; 3] = b"PNR";
const FORMAT: u8 = 1;
const TAGGED: u8 = 1;
const NEGATIVE: u8 = 2;
/// Largest value a record can hold, in bytes: 1 GiB.
pub const VALUE_BYTES_MAX: usize = 1 << 30;
/// Values below this many bytes are never compressed: the gain would not pay for the work.
pub const COMPRESS_BYTES_MIN: usize = 1024;

/// How a namespace wants its values kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// LZ4: fast, moderate gain.
    Lz4,
    /// Zstandard, level 1: slower, better gain.
    Zstd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Raw = 0,
    Lz4 = 1,
    Zstd = 2,
    Elsewhere = 3,
    Lease = 4,
    InChunks = 5,
}

impl Codec {
    fn content(self) -> Content {
        match self {
            Self::Raw | Self::Lz4 | Self::Zstd | Self::InChunks => Content::Value,
            Self::Elsewhere => Content::Elsewhere,
            Self::Lease => Content::Lease,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Raw,
            Self::Lz4,
            Self::Zstd,
            Self::Elsewhere,
            Self::Lease,
            Self::InChunks,
        ];
        all.get(usize::from(byte)).copied()
    }
}

/// What the fixed part of a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Version of the entry.
    pub stamp: Stamp,
    /// When it was put.
    pub created: Timestamp,
    /// When its lifetime ends, as far as the record knows; a tier may know better.
    pub expires: Timestamp,
    /// Size of the value as put, in bytes.
    pub value_bytes: usize,
    /// Whether it has tags, and so lives only as long as none of them is invalidated.
    pub is_tagged: bool,
    /// Whether it says that there is nothing.
    pub is_negative: bool,
    codec: Codec,
    attribute_bytes: usize,
    stored_bytes: usize,
}

/// An encoded entry whose checksum has been verified or just been computed.
#[derive(Debug, Clone)]
pub struct Record {
    head: Head,
    bytes: Bytes,
}

impl Record {
    /// Encodes an entry whose tags, if it has any, mean nothing. `Invalid` when the value is larger
    /// than [`VALUE_BYTES_MAX`].
    pub fn encode(
        entry: &Entry,
        stamp: Stamp,
        created: Timestamp,
        expires: Timestamp,
        compression: Compression,
    ) -> Result<Self> {
        Self::encode_tagged(entry, &[], stamp, (created, expires), compression)
    }

    /// The same with the generation of each tag, in their order.
    pub fn encode_tagged(
        entry: &Entry,
        generations: &[Stamp],
        stamp: Stamp,
        (created, expires): (Timestamp, Timestamp),
        compression: Compression,
    ) -> Result<Self> {
        if entry.value.len() > VALUE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "value: {} bytes, a record holds at most {VALUE_BYTES_MAX}",
                entry.value.len()
            )));
        }
        let (codec, stored) = compress(&entry.value, compression);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + stored.len() + 64);
        bytes.resize(HEADER_BYTES, 0);
        attributes::encode(&mut bytes, &entry.attributes, generations);
        let head = Head {
            stamp,
            created,
            expires,
            value_bytes: entry.value.len(),
            is_tagged: !generations.is_empty(),
            is_negative: entry.negative,
            codec,
            attribute_bytes: bytes.len() - HEADER_BYTES,
            stored_bytes: stored.len(),
        };
        bytes.extend_from_slice(&stored);
        Ok(Self::sealed(head, bytes))
    }

    /// Puts the header over the beginning of `bytes`, which are complete otherwise.
    fn sealed(head: Head, mut bytes: Vec<u8>) -> Self {
        head.write(&mut bytes);
        let sum = checksum(&bytes);
        bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        Self {
            head,
            bytes: bytes.into(),
        }
    }

    /// Takes a record apart far enough to trust it. `Corrupt` when it is damaged, cut short, not a
    /// record or of a format this version does not know.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let head = Self::check(&bytes)?;
        Ok(Self { head, bytes })
    }

    /// As [`Record::decode`] for bytes that stay where they are.
    pub fn check(bytes: &[u8]) -> Result<Head> {
        let head = Head::read(bytes).ok_or_else(|| corrupt("not a record of a known format"))?;
        if bytes[CHECKSUM_AT..HEADER_BYTES] != checksum(bytes).to_le_bytes() {
            return Err(corrupt("checksum does not agree"));
        }
        Ok(head)
    }

    /// The same entry without attributes and value: what a tier is given that does not take the
    /// value, so that it still knows of the version.
    #[must_use]
    pub fn without_value(&self) -> Self {
        Self::of_head(Head {
            codec: Codec::Elsewhere,
            is_tagged: false,
            attribute_bytes: 0,
            stored_bytes: 0,
            ..self.head
        })
    }

    /// A lease: it holds the place of an entry that somebody is computing.
    pub fn lease(stamp: Stamp, created: Timestamp, expires: Timestamp) -> Self {
        Self::of_head(Head {
            stamp,
            created,
            expires,
            value_bytes: 0,
            is_tagged: false,
            is_negative: false,
            codec: Codec::Lease,
            attribute_bytes: 0,
            stored_bytes: 0,
        })
    }

    fn of_head(head: Head) -> Self {
        Self::sealed(head, vec![0; HEADER_BYTES])
    }

    /// Whether the value is in the tier that the record is from: in it, or in chunks beside it.
    pub fn has_value(&self) -> bool {
        self.head.content() == Content::Value
    }

    /// The fixed part.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The encoded form.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The entry of a value that is here. An uncompressed value shares the record's memory.
    /// `Corrupt` when a part does not decode, which the checksum makes all but impossible.
    pub fn entry(&self) -> Result<Entry> {
        let (attributes, _) = self.said()?;
        let stored = self.bytes.slice(self.value_at()..);
        let value = decompress(stored, self.head.codec, self.head.value_bytes)?;
        Ok(Entry {
            value,
            attributes,
            negative: self.head.is_negative,
        })
    }

    /// Its tags with the generation of each when it was put. `Corrupt` as [`Record::entry`].
    pub fn tags(&self) -> Result<Vec<(String, Stamp)>> {
        let (attributes, generations) = self.said()?;
        let (_, _, tags) = attributes.into_parts();
        Ok(tags.into_iter().zip(generations).collect())
    }

    fn value_at(&self) -> usize {
        HEADER_BYTES + self.head.attribute_bytes
    }

    /// What is said about the value. `Corrupt` as [`Record::entry`].
    pub fn attributes(&self) -> Result<Attributes> {
        Ok(self.said()?.0)
    }

    fn said(&self) -> Result<(Attributes, Vec<Stamp>)> {
        let bytes = &self.bytes[HEADER_BYTES..self.value_at()];
        attributes::decode(bytes, self.head.is_tagged)
            .ok_or_else(|| corrupt("attributes do not decode"))
    }
}

impl Head {
    /// What it has in the place of a value.
    pub fn content(&self) -> Content {
        self.codec.content()
    }

    /// How long the entry lives from when it was put.
    pub fn lifetime(&self) -> Duration {
        self.expires.since(self.created)
    }

    fn write(&self, bytes: &mut [u8]) {
        bytes[..16].copy_from_slice(self.stamp.as_bytes());
        bytes[16..19].copy_from_slice(MAGIC);
        bytes[19] = FORMAT;
        bytes[20] = self.codec as u8;
        bytes[21] = u8::from(self.is_tagged) * TAGGED + u8::from(self.is_negative) * NEGATIVE;
        bytes[24..32].copy_from_slice(&self.created.as_millis().to_le_bytes());
        bytes[32..40].copy_from_slice(&self.expires.as_millis().to_le_bytes());
        bytes[40..44].copy_from_slice(&length(self.attribute_bytes));
        bytes[44..48].copy_from_slice(&length(self.stored_bytes));
        bytes[48..52].copy_from_slice(&length(self.value_bytes));
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_BYTES)?;
        let known = &header[16..19] == MAGIC
            && header[19] == FORMAT
            && header[21] & !(TAGGED | NEGATIVE) == 0
            && header[22..24] == [0; 2]
            && header[52..56] == [0; 4];
        if !known {
            return None;
        }
        let codec = Codec::of(header[20])?;
        let size = |at: usize| u32_at(header, at).map(|size| size as usize);
        let head = Self {
            stamp: Stamp::from_bytes(header[..16].try_into().ok()?),
            created: time_at(header, 24)?,
            expires: time_at(header, 32)?,
            attribute_bytes: size(40)?,
            stored_bytes: size(44)?,
            value_bytes: size(48)?,
            is_tagged: header[21] & TAGGED != 0,
            is_negative: header[21] & NEGATIVE != 0,
            codec,
        };
        let whole = HEADER_BYTES + head.attribute_bytes + head.stored_bytes == bytes.len();
        let raw = match codec {
            Codec::Raw => head.stored_bytes == head.value_bytes,
            Codec::Elsewhere => head.stored_bytes == 0 && head.attribute_bytes == 0,
            Codec::Lease => bytes.len() == LEASE_BYTES && head.value_bytes == 0,
            Codec::Lz4 | Codec::Zstd | Codec::InChunks => true,
        };
        let largest = match codec {
            Codec::InChunks => usize::try_from(LARGE_VALUE_BYTES_MAX).unwrap_or(usize::MAX),
            _ => VALUE_BYTES_MAX,
        };
        let possible = !head.is_negative || head.value_bytes == 0;
        (whole && raw && possible && head.value_bytes <= largest).then_some(head)
    }
}

fn time_at(bytes: &[u8], at: usize) -> Option<Timestamp> {
    let bytes: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(Timestamp::from_millis(u64::from_le_bytes(bytes)))
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.write(&bytes[..CHECKSUM_AT]);
    hasher.write(&bytes[HEADER_BYTES..]);
    hasher.digest()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Lengths are bounded by [`VALUE_BYTES_MAX`] and the limits of [`Attributes`].
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes)
        .expect("bounded by the limits of value and attributes")
        .to_le_bytes()
}

fn corrupt(message: &'static str) -> Error {
    Error::new(Kind::Corrupt, message)
}

#[cfg(test)]
mod tests;
