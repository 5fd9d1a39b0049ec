//! The parts of a stream, held against what the header said of them.

use std::mem::take;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::Part;
use crate::{
    error::{Error, Result},
    record::Digest,
};

/// A stream of parts.
pub(super) struct Intake<S> {
    parts: S,
    limit: u64,
    setting: &'static str,
    size: Option<u64>,
    received: u64,
    /// What has come already and is to be given next.
    rest: Bytes,
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
            finish: None,
        }
    }

    /// What the end said, once it has come.
    pub(super) fn finish(&self) -> Option<Option<Digest>> {
        self.finish
    }

    /// The first `bytes`, in pieces; fewer when that is all, which `finish` then tells.
    pub(super) async fn first(&mut self, bytes: usize) -> Result<Vec<Bytes>> {
        let (mut pieces, mut missing) = (Vec::new(), bytes);
        while let Some(mut piece) = self.next().await? {
            if missing == 0 {
                // One more was looked at to know whether it is all.
                self.rest = piece;
                break;
            }
            self.rest = piece.split_off(piece.len().min(missing));
            missing -= piece.len();
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// What comes next; `None` once the end has come. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if !self.rest.is_empty() {
                return Ok(Some(take(&mut self.rest)));
            }
            if self.finish.is_some() {
                return Ok(None);
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
