//! Attributes in a record: content type, pairs, tags.

use super::{length, u32_at};
use crate::entry::Attributes;

pub(super) fn encode_attributes(out: &mut Vec<u8>, attributes: &Attributes) {
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

pub(super) fn decode_attributes(bytes: &[u8]) -> Option<Attributes> {
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
