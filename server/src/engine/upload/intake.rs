//! The parts of a stream, held against what the header said of them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

use super::Part;
use crate::{
    error::{Error, Result},
    record::Digest,
};

/// A piece below this is copied: many of them would take more room than their bytes.
const SMALL_BYTES: usize = 4 << 10;
/// So many bytes of small pieces are given at once.
const TOGETHER_BYTES: usize = 64 << 10;

/// A stream of parts.
pub(super) struct Intake<S> {
    parts: S,
    limit: u64,
    setting: &'static str,
    size: Option<u64>,
    received: u64,
    /// What is to be given next.
    ready: VecDeque<Bytes>,
    /// Small pieces, put together to be given after that.
    small: BytesMut,
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
            ready: VecDeque::new(),
            small: BytesMut::new(),
            finish: None,
        }
    }

    /// What the end said, once it has come and all before it was given.
    pub(super) fn finish(&self) -> Option<Option<Digest>> {
        self.finish.filter(|_| self.ready.is_empty())
    }

    /// The first `bytes`, in pieces; fewer when that is all, which `finish` then tells.
    pub(super) async fn first(&mut self, bytes: usize) -> Result<Vec<Bytes>> {
        let (mut pieces, mut missing) = (Vec::new(), bytes);
        while let Some(mut piece) = self.next().await? {
            if missing == 0 {
                // One more was looked at to know whether it is all.
                self.ready.push_front(piece);
                break;
            }
            let rest = piece.split_off(piece.len().min(missing));
            if !rest.is_empty() {
                self.ready.push_front(rest);
            }
            missing -= piece.len();
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// What comes next; `None` once the end has come. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.finish.is_some() {
                return Ok(None);
            }
            match self.parts.next().await {
                Some(Ok(Part::Chunk(chunk))) => {
                    self.received += chunk.len() as u64;
                    self.check_size(self.received)?;
                    self.arrange(chunk);
                }
                Some(Ok(Part::Finish(digest))) => {
                    self.end_small();
                    self.finish = Some(digest);
                }
                Some(Err(error)) => return Err(error),
                None => {
                    let text = "finish: the stream ended without it; it is discarded";
                    return Err(Error::invalid(text));
                }
            }
        }
    }

    fn arrange(&mut self, chunk: Bytes) {
        if chunk.len() >= SMALL_BYTES {
            self.end_small();
            self.ready.push_back(chunk);
            return;
        }
        self.small.extend_from_slice(&chunk);
        if self.small.len() >= TOGETHER_BYTES {
            self.end_small();
        }
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.ready.push_back(self.small.split().freeze());
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

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    /// What comes of chunks of these sizes after the first `bytes`.
    async fn pieces(sizes: &[usize], first: usize) -> (Vec<Bytes>, Vec<Bytes>) {
        let mut at = 0_u8;
        let chunks = sizes.iter().map(|size| {
            at = at.wrapping_add(1);
            Ok(Part::Chunk(vec![at; *size].into()))
        });
        let parts: Vec<_> = chunks.chain([Ok(Part::Finish(None))]).collect();
        let size = sizes.iter().sum::<usize>() as u64;
        let mut intake = Intake::new(stream::iter(parts), (1 << 30, "limit"), Some(size));
        let first = intake.first(first).await.expect("is valid");
        let mut rest = Vec::new();
        while let Some(piece) = intake.next().await.expect("is valid") {
            rest.push(piece);
        }
        intake.check_end().expect("is all there");
        assert!(intake.finish().is_some());
        (first, rest)
    }

    #[tokio::test]
    async fn every_byte_comes_once_and_in_its_order() {
        for sizes in [
            vec![1; 5000],
            vec![SMALL_BYTES, 1, SMALL_BYTES - 1, 2 * SMALL_BYTES, 7],
            vec![300_000, 300_000, 1],
            vec![],
        ] {
            for limit in [1, SMALL_BYTES, 100_000, 1 << 20] {
                let (first, rest) = pieces(&sizes, limit).await;
                let all: usize = sizes.iter().sum();
                assert_eq!(first.concat().len(), limit.min(all), "{sizes:?} {limit}");
                let mut wanted = Vec::new();
                let mut at = 0_u8;
                for size in &sizes {
                    at = at.wrapping_add(1);
                    wanted.extend(vec![at; *size]);
                }
                assert!([first, rest].concat().concat() == wanted, "{limit}");
            }
        }
    }

    #[tokio::test]
    async fn small_pieces_come_together_and_large_ones_as_they_are() {
        let (_, rest) = pieces(&[1; 200_000], 1).await;
        assert!(rest.len() <= 200_000 / TOGETHER_BYTES + 1);
        let (_, rest) = pieces(&[1, SMALL_BYTES, 1 << 20], 1).await;
        assert_eq!(
            rest.iter().map(Bytes::len).collect::<Vec<_>>(),
            [SMALL_BYTES, 1 << 20]
        );
    }
}
