//! One question to Redis at a time for each entry (P1): who asks meanwhile waits for the answer.
//!
//! A reader takes an answer only if it is not older than the reader itself:
//!
//! ```text
//! reader A                    writer                     reader B
//! asks Redis, is told v1
//!                             puts v2, acknowledged
//!                                                        begins, joins A
//! A's answer was true for A; B must not have it: v2 was acknowledged before B began
//! ```
//! The writer has moved the fence, so B sees that the answer's mark is older than the last change
//! it found when it began, and asks itself. Nobody owns a flight: when the one who asks goes away,
//! the next in the queue asks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as StdMutex, PoisonError},
};

use tokio::sync::Mutex;

use super::Source;
use crate::{
    key::EntryName,
    tier::{Found, Mark, shared::SharedError},
};

/// What Redis said.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    /// The entry; `None` when it has none.
    pub(super) found: Result<Option<Found>, SharedError>,
    /// The tier whose copy it is: a local one when Redis has the same.
    pub(super) source: Source,
    /// How the fences stood before it was asked.
    pub(super) mark: Mark,
}

type Slot<T> = Arc<Mutex<Option<T>>>;

/// All questions under way, of one sort.
#[derive(Debug)]
pub(super) struct Flights<T = Fetched> {
    slots: StdMutex<HashMap<EntryName, Slot<T>>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self {
            slots: StdMutex::default(),
        }
    }
}

/// A place in the queue of one entry; the last to leave takes the queue away, and its last answer.
pub(super) struct Place<'a, T> {
    flights: &'a Flights<T>,
    name: &'a EntryName,
    slot: Slot<T>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        let mut slots = self.flights.lock();
        // One is in the map, one is this one's; nobody can join while the map is locked.
        if Arc::strong_count(&self.slot) == 2 {
            slots.remove(self.name);
        }
    }
}

impl<T: Clone> Flights<T> {
    /// The answer of somebody who asked lately, if `accepts` it, or that of `ask`.
    pub(super) async fn fly(
        &self,
        name: &EntryName,
        accepts: impl Fn(&T) -> bool,
        ask: impl Future<Output = T>,
    ) -> T {
        let place = self.stay(name);
        let mut answer = place.slot.lock().await;
        if let Some(known) = answer.as_ref().filter(|known| accepts(known)) {
            return known.clone();
        }
        let fetched = ask.await;
        *answer = Some(fetched.clone());
        fetched
    }
}

impl<T> Flights<T> {
    /// A place that keeps the last answer for those who come later.
    pub(super) fn stay<'a>(&'a self, name: &'a EntryName) -> Place<'a, T> {
        let slot = Arc::clone(self.lock().entry(name.clone()).or_default());
        Place {
            flights: self,
            name,
            slot,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<EntryName, Slot<T>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Poll,
    };

    use super::*;
    use crate::tier::conformance::name;

    fn answer(sequence: u64) -> Fetched {
        Fetched {
            found: Ok(None),
            source: Source::None,
            mark: Mark { epoch: 1, sequence },
        }
    }

    #[tokio::test]
    async fn those_who_wait_take_an_answer_that_is_not_older_than_themselves() {
        let (flights, key) = (Flights::default(), name("n", "k"));
        let asked = AtomicUsize::new(0);
        let ask = async |sequence| {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            answer(sequence)
        };
        let any = |_: &Fetched| true;
        let newer = |known: &Fetched| known.mark.sequence >= 9;
        let (first, second, third) = tokio::join!(
            flights.fly(&key, any, ask(5)),
            flights.fly(&key, any, ask(6)),
            flights.fly(&key, newer, ask(9)),
        );
        let sequences = [&first, &second, &third].map(|it| it.mark.sequence);
        assert_eq!(sequences, [5, 5, 9]);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn who_stays_keeps_the_answer_for_those_who_come_later() {
        let (flights, key) = (Flights::default(), name("n", "k"));
        let any = |_: &Fetched| true;
        let stay = flights.stay(&key);
        flights.fly(&key, any, async { answer(5) }).await;
        let later = flights.fly(&key, any, async { answer(6) }).await;
        assert_eq!(later.mark.sequence, 5);
        drop(stay);
        let anew = flights.fly(&key, any, async { answer(7) }).await;
        assert_eq!(anew.mark.sequence, 7);
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn when_the_one_who_asks_goes_away_the_next_one_asks() {
        let (flights, key) = (Flights::default(), name("n", "k"));
        let any = |_: &Fetched| true;
        let mut gone = Box::pin(flights.fly(&key, any, std::future::pending()));
        assert!(matches!(futures_util::poll!(&mut gone), Poll::Pending));
        let mut next = Box::pin(flights.fly(&key, any, async { answer(7) }));
        assert!(matches!(futures_util::poll!(&mut next), Poll::Pending));
        drop(gone);
        assert_eq!(next.await.mark.sequence, 7);
        assert!(flights.lock().is_empty());
    }
}
