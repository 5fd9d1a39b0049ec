//! How a record keeps what is said about its value.

use super::{length, u32_at};
use crate::{entry::Attributes, stamp::Stamp};

/// Appends them, with the generations of the tags if they have any.
pub(super) fn encode(out: &mut Vec<u8>, attributes: &Attributes, generations: &[Stamp]) {
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
    for generation in generations {
        out.extend_from_slice(generation.as_bytes());
    }
}

/// The reverse; `None` when the bytes are anything else.
pub(super) fn decode(bytes: &[u8], is_tagged: bool) -> Option<(Attributes, Vec<Stamp>)> {
    if bytes.is_empty() {
        return Some((Attributes::default(), Vec::new()));
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
    let mut generations = Vec::new();
    if is_tagged {
        for _ in &tags {
            let (generation, tail) = rest.split_first_chunk()?;
            generations.push(Stamp::from_bytes(*generation));
            rest = tail;
        }
    }
    let attributes = Attributes::from_record(content_type, metadata, tags);
    rest.is_empty().then_some((attributes, generations))
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
