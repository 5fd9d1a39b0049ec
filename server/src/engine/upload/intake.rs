//! The parts of a stream, cut into chunks anew and held against what the header said of them.

use std::mem::take;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::Part;
use crate::{
    error::{Error, Result},
    record::Digest,
};

/// A stream of parts, cut into chunks anew.
pub(super) struct Intake<S> {
    parts: S,
    limit: u64,
    setting: &'static str,
    size: Option<u64>,
    received: u64,
    rest: Bytes,
    /// Of the chunk at hand.
    pieces: Vec<Bytes>,
    finish: Option<Option<Digest>>,
}

impl<S: Stream<Item = Result<Part>> + Unpin> Intake<S> {
    /// Of a stream that may have `limit` bytes, by the setting of that name, and says `size`.
    pub(super) fn new(parts: S, (limit, setting): (u64, &'static str), size: Option<u64>) -> Self {
        Self {
            parts,
            limit,
            setting,
            size,
            received: 0,
            rest: Bytes::new(),
            pieces: Vec::new(),
            finish: None,
        }
    }

    /// What the end said, once it has come.
    pub(super) fn finish(&self) -> Option<Option<Digest>> {
        self.finish
    }

    /// The next `bytes`, in pieces; fewer at the end only. Once that has come, `finish` tells.
    /// Cancel safe.
    pub(super) async fn chunk(&mut self, bytes: usize) -> Result<Vec<Bytes>> {
        loop {
            let here: usize = self.pieces.iter().map(Bytes::len).sum();
            let missing = bytes.saturating_sub(here);
            if !self.rest.is_empty() {
                // One more is looked at, so that the end is known with the last chunk.
                if missing == 0 {
                    return Ok(take(&mut self.pieces));
                }
                let piece = self.rest.split_to(self.rest.len().min(missing));
                self.pieces.push(piece);
                continue;
            }
            if self.finish.is_some() {
                return Ok(take(&mut self.pieces));
            }
            match self.parts.next().await {
                Some(Ok(Part::Chunk(chunk))) => {
                    self.received += chunk.len() as u64;
                    self.check_size(self.received)?;
                    self.rest = chunk;
                }
                Some(Ok(Part::Finish(digest))) => self.finish = Some(digest),
                Some(Err(error)) => return Err(error),
                None => {
                    let text = "finish: the stream ended without it; it is discarded";
                    return Err(Error::invalid(text));
                }
            }
        }
    }

    pub(super) fn check_size(&self, bytes: u64) -> Result<()> {
        let (limit, setting) = (self.limit, self.setting);
        if bytes > limit {
            return Err(Error::invalid(format!(
                "value: {bytes} bytes or more, the namespace's {setting} is {limit}"
            )));
        }
        match self.size.filter(|size| bytes > *size) {
            Some(size) => Err(disagrees(size, bytes, " or more")),
            None => Ok(()),
        }
    }

    pub(super) fn check_end(&self) -> Result<()> {
        match self.size.filter(|size| *size != self.received) {
            Some(size) => Err(disagrees(size, self.received, "")),
            None => Ok(()),
        }
    }
}

fn disagrees(said: u64, sent: u64, more: &str) -> Error {
    Error::invalid(format!(
        "size_bytes: the header says {said}, the stream has {sent}{more}"
    ))
}
