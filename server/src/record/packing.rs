//! How values are made smaller.

use std::borrow::Cow;

use bytes::Bytes;

use super::{COMPRESS_BYTES_MIN, Codec, Compression, corrupt};
use crate::error::Result;

const ZSTD_LEVEL: i32 = 1;

/// Compresses when asked to and when it saves at least a sixteenth.
pub(super) fn compress(value: &[u8], wish: Compression) -> (Codec, Cow<'_, [u8]>) {
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

pub(super) fn decompress(stored: Bytes, codec: Codec, value_bytes: usize) -> Result<Bytes> {
    let value = match codec {
        Codec::Raw => return Ok(stored),
        Codec::Elsewhere | Codec::Lease | Codec::InChunks => {
            return Err(corrupt("the value is not here"));
        }
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
