//! The record: one self-describing form of an entry, the same bytes in every tier (P3).
//!
//! ```text
//! offset  size
//!      0    16  version stamp (see `stamp`); first, so that it can be read on its own
//!     16     3  magic "PNR"
//!     19     1  format version, 1
//!     20     1  codec of the value: 0 as it is, 1 LZ4 block, 2 Zstandard frame,
//!               3 not here: whoever put the entry has it, this only says that it exists,
//!               4 in chunks beside it: stored is where they are (see `manifest`)
//!     21     3  reserved, zero
//!     24     8  put at, ms since the Unix epoch      (numbers are little-endian)
//!     32     8  lifetime ends at, ms since the Unix epoch
//!     40     4  A: bytes of attributes
//!     44     4  bytes of the value as stored
//!     48     4  bytes of the value as put
//!     52     4  reserved, zero
//!     56     8  XXH3-64 over bytes 0..56 and 64..end, seed 0
//!     64     A  attributes: content type, count, pairs, count, tags; each text u32 length + UTF-8
//!   64+A     …  value as stored
//! ```
//!
//! Invariants: a record that decodes is bit for bit what was encoded (checksum); a decoder reads
//! every format version ever released or says `Corrupt`; lengths are checked before anything is
//! allocated. `server/tests/golden/` keeps records of every released version.

mod manifest;

use std::{borrow::Cow, hash::Hasher};

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

pub use self::manifest::{CHUNK_BYTES, Digest, LARGE_VALUE_BYTES_MAX, Manifest, checksum_of};
use crate::{
    clock::Timestamp,
    entry::{Attributes, Entry},
    error::{Error, Kind, Result},
    stamp::Stamp,
};

const HEADER_BYTES: usize = 64;
/// Bytes that tell the version of a record, and whether its value is there: stamp to codec.
pub const BEGINNING_BYTES: usize = 21;
const CHECKSUM_AT: usize = 56;
const MAGIC: &[u8; 3] = b"PNR";
const FORMAT: u8 = 1;
const ZSTD_LEVEL: i32 = 1;
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
    InChunks = 4,
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
    /// Encodes an entry. `Invalid` when the value is larger than [`VALUE_BYTES_MAX`].
    pub fn encode(
        entry: &Entry,
        stamp: Stamp,
        created: Timestamp,
        expires: Timestamp,
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
        encode_attributes(&mut bytes, &entry.attributes);
        let head = Head {
            stamp,
            created,
            expires,
            value_bytes: entry.value.len(),
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
        let head = Head {
            codec: Codec::Elsewhere,
            attribute_bytes: 0,
            stored_bytes: 0,
            ..self.head
        };
        Self::sealed(head, vec![0; HEADER_BYTES])
    }

    /// Whether the value is in the tier that the record is from: in it, or in chunks beside it.
    pub fn has_value(&self) -> bool {
        self.head.codec != Codec::Elsewhere
    }

    /// The fixed part.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The encoded form.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The entry of a value that is here. An uncompressed value shares the record's memory. `Corrupt` when a part does not
    /// decode, which the checksum makes all but impossible.
    pub fn entry(&self) -> Result<Entry> {
        let value_at = HEADER_BYTES + self.head.attribute_bytes;
        let attributes = self.attributes()?;
        let stored = self.bytes.slice(value_at..);
        let value = decompress(stored, self.head.codec, self.head.value_bytes)?;
        Ok(Entry { value, attributes })
    }
}

/// What the first [`BEGINNING_BYTES`] of a record say: its version, and whether it has its value.
/// `None` when they are not the beginning of a record.
pub fn beginning(bytes: &[u8]) -> Option<(Stamp, bool)> {
    let bytes: &[u8; BEGINNING_BYTES] = bytes.try_into().ok()?;
    let known = bytes[16..19] == *MAGIC && bytes[19] == FORMAT;
    let stamp = Stamp::from_bytes(bytes[..16].try_into().ok()?);
    known.then_some((stamp, bytes[20] != Codec::Elsewhere as u8))
}

impl Head {
    fn write(&self, bytes: &mut [u8]) {
        bytes[..16].copy_from_slice(self.stamp.as_bytes());
        bytes[16..19].copy_from_slice(MAGIC);
        bytes[19] = FORMAT;
        bytes[20] = self.codec as u8;
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
            && header[21..24] == [0; 3]
            && header[52..56] == [0; 4];
        if !known {
            return None;
        }
        let codec = match header[20] {
            0 => Codec::Raw,
            1 => Codec::Lz4,
            2 => Codec::Zstd,
            3 => Codec::Elsewhere,
            4 => Codec::InChunks,
            _ => return None,
        };
        let size = |at: usize| u32_at(header, at).map(|size| size as usize);
        let time = |at: usize| {
            let bytes: [u8; 8] = header.get(at..at + 8)?.try_into().ok()?;
            Some(Timestamp::from_millis(u64::from_le_bytes(bytes)))
        };
        let head = Self {
            stamp: Stamp::from_bytes(header[..16].try_into().ok()?),
            created: time(24)?,
            expires: time(32)?,
            attribute_bytes: size(40)?,
            stored_bytes: size(44)?,
            value_bytes: size(48)?,
            codec,
        };
        let whole = HEADER_BYTES + head.attribute_bytes + head.stored_bytes == bytes.len();
        let raw = match codec {
            Codec::Raw => head.stored_bytes == head.value_bytes,
            Codec::Elsewhere => head.stored_bytes == 0 && head.attribute_bytes == 0,
            Codec::Lz4 | Codec::Zstd | Codec::InChunks => true,
        };
        let largest = match codec {
            Codec::InChunks => usize::try_from(LARGE_VALUE_BYTES_MAX).unwrap_or(usize::MAX),
            _ => VALUE_BYTES_MAX,
        };
        (whole && raw && head.value_bytes <= largest).then_some(head)
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.write(&bytes[..CHECKSUM_AT]);
    hasher.write(&bytes[HEADER_BYTES..]);
    hasher.digest()
}

/// Compresses when asked to and when it saves at least a sixteenth.
fn compress(value: &[u8], wish: Compression) -> (Codec, Cow<'_, [u8]>) {
    if value.len() < COMPRESS_BYTES_MIN {
        return (Codec::Raw, value.into());
    }
    let (codec, packed) = match wish {
        Compression::None => return (Codec::Raw, value.into()),
        Compression::Lz4 => (Codec::Lz4, lz4_flex::block::compress(value)),
        Compression::Zstd => match zstd::bulk::compress(value, ZSTD_LEVEL) {
            Ok(packed) => (Codec::Zstd, packed),
            Err(_) => return (Codec::Raw, value.into()),
        },
    };
    if packed.len() + value.len() / 16 > value.len() {
        return (Codec::Raw, value.into());
    }
    (codec, packed.into())
}

fn decompress(stored: Bytes, codec: Codec, value_bytes: usize) -> Result<Bytes> {
    let value = match codec {
        Codec::Raw => return Ok(stored),
        Codec::Elsewhere | Codec::InChunks => return Err(corrupt("the value is not here")),
        Codec::Lz4 => lz4_flex::block::decompress(&stored, value_bytes)
            .map_err(|error| corrupt("value is not LZ4").caused_by(error))?,
        Codec::Zstd => zstd::bulk::decompress(&stored, value_bytes)
            .map_err(|error| corrupt("value is not Zstandard").caused_by(error))?,
    };
    if value.len() != value_bytes {
        return Err(corrupt("value has another size than the record says"));
    }
    Ok(value.into())
}

fn encode_attributes(out: &mut Vec<u8>, attributes: &Attributes) {
    if attributes.is_empty() {
        return;
    }
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(&length(text.len()));
        out.extend_from_slice(text.as_bytes());
    };
    text(out, attributes.content_type());
    out.extend_from_slice(&length(attributes.metadata().len()));
    for (key, value) in attributes.metadata() {
        text(out, key);
        text(out, value);
    }
    out.extend_from_slice(&length(attributes.tags().len()));
    for tag in attributes.tags() {
        text(out, tag);
    }
}

fn decode_attributes(bytes: &[u8]) -> Option<Attributes> {
    if bytes.is_empty() {
        return Some(Attributes::default());
    }
    let mut rest = bytes;
    let content_type = take_text(&mut rest)?;
    let mut metadata = Vec::new();
    for _ in 0..take_u32(&mut rest)? {
        metadata.push((take_text(&mut rest)?, take_text(&mut rest)?));
    }
    let mut tags = Vec::new();
    for _ in 0..take_u32(&mut rest)? {
        tags.push(take_text(&mut rest)?);
    }
    rest.is_empty()
        .then(|| Attributes::from_record(content_type, metadata, tags))
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_at_checked(4)?;
    *rest = tail;
    u32_at(head, 0)
}

fn take_text(rest: &mut &[u8]) -> Option<String> {
    let length = take_u32(rest)? as usize;
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    String::from_utf8(text.to_vec()).ok()
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
