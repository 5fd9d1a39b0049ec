//! The open loop: tells the slots of one worker when the next call is due.
//!
//! A timer of tokio is exact to a millisecond only, and that would be most of the latency that is
//! measured. So a thread sleeps until a call is due (exact to about 60 us) and adds a permit; slots
//! take permits in turn. The n-th permit stands for the call that is due at `first + n * interval`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// The due instants of one worker.
#[derive(Debug)]
pub(super) struct Pacer {
    first: Instant,
    interval: Duration,
    total: u32,
    taken: AtomicU32,
    due: Semaphore,
}

impl Pacer {
    /// `rate` calls a second from `first` until `end`.
    pub(super) fn new(rate: f64, first: Instant, end: Instant) -> Arc<Self> {
        let span = end.saturating_duration_since(first);
        #[expect(clippy::cast_possible_truncation, reason = "saturates")]
        let total = (span.as_secs_f64() * rate) as u32;
        Arc::new(Self {
            first,
            interval: Duration::from_secs_f64(1.0 / rate),
            total,
            taken: AtomicU32::new(0),
            due: Semaphore::new(0),
        })
    }

    /// Adds permits as calls fall due; returns after the last one. Blocks: a thread of its own.
    #[expect(clippy::disallowed_methods, reason = "sleeps on a thread of its own")]
    pub(super) fn run(&self) {
        let mut released = 0;
        while released < self.total {
            let wait = self
                .instant(released)
                .saturating_duration_since(Instant::now());
            thread::sleep(wait);
            let mut due = 1;
            let now = Instant::now();
            while released + due < self.total && self.instant(released + due) <= now {
                due += 1;
            }
            released += due;
            self.due
                .add_permits(usize::try_from(due).unwrap_or(usize::MAX));
        }
        // Slots that wait now wait for nothing.
        self.due.close();
    }

    /// Waits for the next call and returns when it was due; none when the run is over.
    pub(super) async fn next(&self) -> Option<Instant> {
        match self.due.acquire().await {
            Ok(permit) => permit.forget(),
            // Closed, but calls that fell due before that may still be waiting for a slot.
            Err(_) if self.taken.load(Ordering::Relaxed) < self.total => {}
            Err(_) => return None,
        }
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        (number < self.total).then(|| self.instant(number))
    }

    fn instant(&self, number: u32) -> Instant {
        self.first + self.interval * number
    }
}

#[cfg(test)]
mod tests {
    use std::{
        thread,
        time::{Duration, Instant},
    };

    use super::Pacer;

    #[tokio::test]
    async fn every_due_instant_is_handed_out_once_and_in_order() {
        let first = Instant::now();
        let pacer = Pacer::new(1000.0, first, first + Duration::from_millis(20));
        let thread = thread::spawn({
            let pacer = pacer.clone();
            move || pacer.run()
        });
        let mut seen = Vec::new();
        while let Some(due) = pacer.next().await {
            assert!(due <= Instant::now());
            seen.push(due.duration_since(first).as_millis());
        }
        assert!(thread.join().is_ok());
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }
}
