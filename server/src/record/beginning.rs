//! What a record tells by its first bytes, without its value.

use std::time::Duration;

use super::{BEGINNING_BYTES, Codec, FORMAT, MAGIC, NEGATIVE, TAGGED, time_at};
use crate::stamp::Stamp;

/// What a record has in the place of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The value.
    Value,
    /// Nothing: whoever put the entry has it.
    Elsewhere,
    /// Nothing: there is no entry yet, somebody is computing it. To readers it is a miss.
    Lease,
}

/// What the first [`BEGINNING_BYTES`] of a record say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// Version of the entry.
    pub stamp: Stamp,
    /// What it has in the place of a value.
    pub content: Content,
    /// As in the head of the whole record.
    pub is_tagged: bool,
    /// As in the head of the whole record.
    pub is_negative: bool,
    /// How long the entry lives from when it was put.
    pub lifetime: Duration,
}

impl Beginning {
    /// `None` when the bytes are not what a record begins with.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BEGINNING_BYTES] = bytes.try_into().ok()?;
        let known = bytes[16..19] == *MAGIC && bytes[19] == FORMAT;
        let beginning = Self {
            stamp: Stamp::from_bytes(bytes[..16].try_into().ok()?),
            content: Codec::of(bytes[20])?.content(),
            is_tagged: bytes[21] & TAGGED != 0,
            is_negative: bytes[21] & NEGATIVE != 0,
            lifetime: time_at(bytes, 32)?.since(time_at(bytes, 24)?),
        };
        known.then_some(beginning)
    }
}

/// Whether these bytes begin as a lease does.
pub fn is_lease(bytes: &[u8]) -> bool {
    let begin = bytes.get(..BEGINNING_BYTES).and_then(Beginning::read);
    begin.is_some_and(|it| it.content == Content::Lease)
}
