//! Waiting for a change of one entry, without missing one.
//!
//! ```text
//! who waits                         who changes
//! has an alarm made
//! arms it: remembers the count
//! looks: it is not as wished
//!                                   changes the entry, then rings: the count grows
//! waits: the count has grown, so it returns at once and looks again
//! ```
//! Nothing is lost whichever comes first: a change before the look is seen by it, one after it has
//! rung after the alarm was armed. A bell is shared by all who wait for the same entry and goes
//! with the last of them. While nobody waits, a change costs a fence and a load.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering, fence},
    },
};

use tokio::sync::Notify;

/// The bells of all entries that somebody waits for.
#[derive(Default)]
pub(super) struct Alarms {
    bells: Mutex<HashMap<Box<[u8]>, Arc<Bell>>>,
    /// Alarms there are.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Bell {
    rung: AtomicU64,
    news: Notify,
}

/// Waits for a change of one entry.
pub struct Alarm {
    alarms: Arc<Alarms>,
    names: Vec<Box<[u8]>>,
    bell: Arc<Bell>,
    /// How often it had rung when this was armed.
    armed_at: u64,
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alarm({})", self.armed_at)
    }
}

impl Alarms {
    /// Wakes those who wait for one of these names.
    pub(super) fn ring<'a>(&self, names: impl IntoIterator<Item = &'a [u8]>) {
        if !self.is_anybody_waiting() {
            return;
        }
        let bells = self.bells();
        for bell in names.into_iter().filter_map(|name| bells.get(name)) {
            bell.ring();
        }
    }

    /// Wakes everybody.
    pub(super) fn ring_all(&self) {
        if self.is_anybody_waiting() {
            self.bells().values().for_each(|bell| bell.ring());
        }
    }

    /// The change comes first, then this look; who waits counts itself first, then looks at the
    /// entry. The fences put both into one order, so that one of them sees the other.
    fn is_anybody_waiting(&self) -> bool {
        fence(Ordering::SeqCst);
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn bells(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Arc<Bell>>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bell {
    fn ring(&self) {
        self.rung.fetch_add(1, Ordering::AcqRel);
        self.news.notify_waiters();
    }
}

impl Alarm {
    pub(super) fn new(alarms: &Arc<Alarms>, name: &[u8], redis: Option<&[u8]>) -> Self {
        let names: Vec<Box<[u8]>> = [Some(name), redis]
            .into_iter()
            .flatten()
            .map(Into::into)
            .collect();
        let mut bells = alarms.bells();
        let bell = names.iter().find_map(|name| bells.get(name)).cloned();
        let bell = bell.unwrap_or_default();
        for name in &names {
            bells.insert(name.clone(), Arc::clone(&bell));
        }
        alarms.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        drop(bells);
        Self {
            alarms: Arc::clone(alarms),
            names,
            armed_at: bell.rung.load(Ordering::Acquire),
            bell,
        }
    }

    /// To be called before the entry is looked at: what changes from here on wakes.
    pub fn arm(&mut self) {
        self.armed_at = self.bell.rung.load(Ordering::Acquire);
    }

    /// Returns once the entry has changed, or may have, since this was armed. Cancel safe.
    pub async fn rung(&self) {
        loop {
            // Made before the look, so that what comes in between wakes it.
            let news = self.bell.news.notified();
            if self.bell.rung.load(Ordering::Acquire) != self.armed_at {
                return;
            }
            news.await;
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut bells = self.alarms.bells();
        self.alarms.waiting.fetch_sub(1, Ordering::Relaxed);
        // One for each name is in the map, one is this one's; nobody can join while it is locked.
        if Arc::strong_count(&self.bell) == self.names.len() + 1 {
            for name in &self.names {
                bells.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn has_rung(alarm: &Alarm) -> bool {
        alarm.rung().now_or_never().is_some()
    }

    #[test]
    fn what_changes_after_arming_wakes_whenever_the_waiting_begins() {
        let alarms = Arc::<Alarms>::default();
        let mut alarm = Alarm::new(&alarms, b"n k", Some(b"redis:k"));
        assert!(!has_rung(&alarm));
        for name in [&b"n k"[..], b"redis:k"] {
            alarm.arm();
            // Between the look and the waiting.
            alarms.ring([name]);
            assert!(has_rung(&alarm), "a change is lost");
            assert!(has_rung(&alarm), "until it is armed again");
            alarm.arm();
            assert!(
                !has_rung(&alarm),
                "what was before it was armed does not wake"
            );
        }
        alarms.ring([&b"another"[..]]);
        assert!(!has_rung(&alarm));
        alarms.ring_all();
        assert!(has_rung(&alarm));
    }

    #[tokio::test]
    async fn all_who_wait_are_woken_by_one_change() {
        let alarms = Arc::<Alarms>::default();
        let waiting: Vec<_> = (0..100).map(|_| Alarm::new(&alarms, b"k", None)).collect();
        let woken = futures_util::future::join_all(waiting.iter().map(Alarm::rung));
        let ring = async {
            tokio::task::yield_now().await;
            alarms.ring([&b"k"[..]]);
        };
        tokio::join!(woken, ring);
    }

    #[test]
    fn who_goes_away_leaves_nothing_behind() {
        let alarms = Arc::<Alarms>::default();
        let first = Alarm::new(&alarms, b"k", Some(b"redis:k"));
        let second = Alarm::new(&alarms, b"k", Some(b"redis:k"));
        let other = Alarm::new(&alarms, b"other", None);
        drop(first);
        alarms.ring([&b"redis:k"[..]]);
        assert!(has_rung(&second) && !has_rung(&other));
        drop(second);
        assert_eq!(alarms.bells().len(), 1);
        drop(other);
        assert!(alarms.bells().is_empty() && !alarms.is_anybody_waiting());
    }

    /// Changes on one thread, arming, looking and waiting on another, without any other order
    /// between them: nobody who looked too early may sleep through.
    #[test]
    fn no_interleaving_of_threads_loses_a_change() {
        const ROUNDS: u64 = 20_000;
        let alarms = Arc::<Alarms>::default();
        let entry = Arc::new(AtomicU64::new(0));
        let changer = {
            let (alarms, entry) = (Arc::clone(&alarms), Arc::clone(&entry));
            std::thread::spawn(move || {
                for round in 1..=ROUNDS {
                    entry.store(round, Ordering::Relaxed);
                    alarms.ring([&b"k"[..]]);
                }
            })
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let last = async {
                loop {
                    // A new one each time: the count of those who wait goes up and down.
                    let mut alarm = Alarm::new(&alarms, b"k", None);
                    alarm.arm();
                    if entry.load(Ordering::Relaxed) == ROUNDS {
                        return;
                    }
                    alarm.rung().await;
                }
            };
            let limit = std::time::Duration::from_secs(30);
            let ended = tokio::time::timeout(limit, last).await;
            ended.expect("slept through the last change");
        });
        changer.join().expect("does not panic");
    }
}
