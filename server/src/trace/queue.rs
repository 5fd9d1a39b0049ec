//! Spans between the end of their request and their export.
//!
//! Whoever puts one in never waits and wakes nobody, except once for a full batch: the exporter
//! looks at intervals. Counted are spans as they will be exported, children included.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, mpsc};

use super::Span;
use crate::stats::Count;

#[derive(Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<Box<Span>>,
    /// Spans in it.
    depth: AtomicUsize,
    max: usize,
    batch: usize,
    full: Notify,
    dropped: Count,
}

/// The end of the queue that the exporter empties.
#[derive(Debug)]
pub struct Waiting {
    receiver: mpsc::Receiver<Box<Span>>,
    /// Taken, but for the next batch.
    next: Option<Box<Span>>,
    queue: Arc<Queue>,
}

/// A queue of at most `max` spans, whose exporter is woken for `batch` of them.
pub(super) fn queue(max: usize, batch: usize) -> (Arc<Queue>, Waiting) {
    let (sender, receiver) = mpsc::channel(max);
    let queue = Arc::new(Queue {
        sender,
        depth: AtomicUsize::new(0),
        max,
        batch,
        full: Notify::new(),
        dropped: Count::default(),
    });
    let waiting = Waiting {
        receiver,
        next: None,
        queue: Arc::clone(&queue),
    };
    (queue, waiting)
}

impl Span {
    /// As how many spans it is exported.
    pub fn count(&self) -> usize {
        1 + self.steps.len()
    }
}

impl Queue {
    pub(super) fn push(&self, span: Box<Span>) {
        let count = span.count();
        let before = self.depth.fetch_add(count, Ordering::Relaxed);
        if before + count > self.max || self.sender.try_send(span).is_err() {
            self.depth.fetch_sub(count, Ordering::Relaxed);
            self.dropped.add(count as u64);
        } else if before < self.batch && before + count >= self.batch {
            self.full.notify_one();
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}

impl Waiting {
    /// Ready when a batch has come together since the last one was taken.
    pub async fn batch(&self) {
        self.queue.full.notified().await;
    }

    /// Takes those that make up a batch of at most `max` spans; a single request may have more.
    #[expect(clippy::vec_box, reason = "boxed already, and large to move")]
    pub fn take(&mut self, max: usize) -> Vec<Box<Span>> {
        let mut batch = Vec::new();
        let mut count = 0;
        while let Some(span) = self.next.take().or_else(|| self.receiver.try_recv().ok()) {
            if count > 0 && count + span.count() > max {
                self.next = Some(span);
                break;
            }
            count += span.count();
            batch.push(span);
        }
        self.queue.depth.fetch_sub(count, Ordering::Relaxed);
        batch
    }

    /// Drops what is left, which is counted, and refuses what is still to come.
    pub fn close(&mut self) {
        self.receiver.close();
        let left: usize = self.take(usize::MAX).iter().map(|span| span.count()).sum();
        self.queue.dropped.add(left as u64);
    }
}
