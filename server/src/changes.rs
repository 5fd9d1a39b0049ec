//! The changes that watchers are told of: written by whoever makes or hears of one, read by each
//! watcher from its own position.
//!
//! ```text
//!   tier::local   own puts and removals, once they are in the store ──┐
//!   coherence     keys that Redis pushes, gaps ───────────────────────┼──▶ ring ──▶ followers
//!   engine        wishes of other daemons, namespaces without a tier ─┘
//! ```
//! A change is written here **after** it has taken effect: who is told and reads again does not
//! see what was there before. One that is written twice, or though nothing changed, does no harm.
//!
//! Whoever waits for a change of one entry has an `alarm` for it, beside the ring.
//!
//! Nobody who writes ever waits for a reader. A reader whose position has left the ring is told
//! so. While nobody follows, and for [`LINGER`] after, so that a broken connection can be taken up
//! again, changes are kept; later the ring is empty and writing costs one look at a flag.
//!
//! What it does not do: it knows nothing of policies. Which changes concern a namespace, and what
//! its key is called in Redis, the reader finds out.

mod alarm;
mod ring;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Notify;

pub use self::alarm::Alarm;
use self::{alarm::Alarms, ring::Ring};
use crate::{
    clock::{Clock, Timestamp},
    error::{Error, Kind, Result},
    key::{EntryName, KEY_BYTES_MAX, NamespaceName},
};

/// Changes kept.
pub const CHANGES_MAX: usize = 1 << 16;
/// Bytes of changes kept, as [`Change::bytes`] counts them.
const BYTES_MAX: usize = 8 << 20;
/// Changes that a follower takes at once.
const BATCH_MAX: usize = 256;
/// How long changes are still kept after the last follower has gone.
pub const LINGER: Duration = Duration::from_secs(300);
/// Longest resume token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 64;
/// Longer keys of Redis are those of other programs: a prefix of 128 bytes, a namespace, a key.
const REDIS_KEY_BYTES_MAX: usize = KEY_BYTES_MAX + 256;
/// What a change costs besides its text, roughly.
const OVERHEAD_BYTES: usize = 64;

/// Something that may have changed what reads return.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// The entry of this name was put, removed, or wished away.
    Name(EntryName),
    /// Redis says that this key of its own changed.
    Redis(Box<[u8]>),
    /// Many entries of a namespace were wished away.
    Selected(NamespaceName, Selected),
    /// Changes in the shared tier may have gone unheard.
    SharedGap,
    /// Every entry of every namespace may have changed.
    Everything,
}

/// Which entries of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// All.
    All,
    /// Those whose key begins with this.
    Prefix(String),
    /// Those whose key matches this glob.
    Pattern(String),
}

impl Change {
    /// Bytes that it counts for.
    fn bytes(&self) -> usize {
        OVERHEAD_BYTES
            + match self {
                Self::Name(name) => name.as_bytes().len(),
                Self::Redis(key) => key.len(),
                Self::Selected(_, Selected::Prefix(text) | Selected::Pattern(text)) => text.len(),
                Self::Selected(..) | Self::SharedGap | Self::Everything => 0,
            }
    }
}

/// Figures of watching.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChangesStats {
    /// Followers whose position is still in the ring.
    pub followers: u64,
    /// Messages told to them so far.
    pub told: u64,
    /// Followers whose position has left the ring so far.
    pub dropped: u64,
}

/// The changes of one process. Cheap to clone.
#[derive(Clone)]
pub struct Changes {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    /// Tells the tokens of this process from those of others.
    process: u64,
    /// Whether changes are kept. Changed with `state` locked.
    kept: AtomicBool,
    state: Mutex<State>,
    news: Notify,
    told: AtomicU64,
    dropped: AtomicU64,
    alarms: Arc<Alarms>,
}

struct State {
    ring: Ring,
    /// The position of each.
    followers: HashMap<u64, u64>,
    followers_made: u64,
    /// Since when there is none.
    alone_since: Timestamp,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Changes({:016x})", self.inner.process)
    }
}

impl Changes {
    /// Nothing yet, and nobody who follows.
    pub fn new(clock: Clock) -> Self {
        Self::bounded(clock, CHANGES_MAX, BYTES_MAX)
    }

    fn bounded(clock: Clock, changes_max: usize, bytes_max: usize) -> Self {
        let state = State {
            ring: Ring::new(changes_max, bytes_max),
            followers: HashMap::new(),
            followers_made: 0,
            alone_since: clock.now(),
        };
        Self {
            inner: Arc::new(Inner {
                clock,
                process: fastrand::u64(..),
                kept: AtomicBool::new(false),
                state: Mutex::new(state),
                news: Notify::new(),
                told: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
                alarms: Arc::default(),
            }),
        }
    }

    /// To be called when an entry has been put, removed or wished away, or may have been.
    pub fn changed(&self, name: &EntryName) {
        if self.are_kept() {
            self.keep([Change::Name(name.clone())]);
        }
        self.inner.alarms.ring([name.as_bytes()]);
    }

    /// To be called when Redis says that these keys changed.
    pub fn pushed(&self, keys: &[Bytes]) {
        if self.are_kept() {
            let ours = keys.iter().filter(|key| key.len() <= REDIS_KEY_BYTES_MAX);
            self.keep(ours.map(|key| Change::Redis(key.to_vec().into())));
        }
        self.inner.alarms.ring(keys.iter().map(|key| &key[..]));
    }

    /// To be called when many entries have been wished away.
    pub fn selected(&self, namespace: &NamespaceName, selected: impl FnOnce() -> Selected) {
        if self.are_kept() {
            self.keep([Change::Selected(namespace.clone(), selected())]);
        }
        self.inner.alarms.ring_all();
    }

    /// To be called when changes in the shared tier may have gone unheard.
    pub fn gap(&self) {
        if self.are_kept() {
            self.keep([Change::SharedGap]);
        }
        self.inner.alarms.ring_all();
    }

    /// To be called when everything was dropped.
    pub fn everything(&self) {
        if self.are_kept() {
            self.keep([Change::Everything]);
        }
        self.inner.alarms.ring_all();
    }

    /// An alarm for the entry of these names: its own, and that of its key in Redis if it has one.
    pub fn alarm(&self, name: &EntryName, redis: Option<&[u8]>) -> Alarm {
        Alarm::new(&self.inner.alarms, name.as_bytes(), redis)
    }

    /// The change comes first, then this look; a follower sets the flag first, then its client
    /// reads. The fences put both into one order, so that one of them sees the other: either the
    /// change is told, or it is what the client reads.
    fn are_kept(&self) -> bool {
        fence(Ordering::SeqCst);
        self.inner.kept.load(Ordering::Relaxed)
    }

    fn keep(&self, changes: impl IntoIterator<Item = Change>) {
        let mut state = self.inner.state();
        let alone = state.followers.is_empty();
        if alone && self.inner.clock.now().since(state.alone_since) >= LINGER {
            state.ring.forget();
            self.inner.kept.store(false, Ordering::Relaxed);
            return;
        }
        for change in changes {
            state.ring.push(change);
        }
        drop(state);
        self.inner.news.notify_waiters();
    }

    /// Follows from now on, or from where a token says. `Invalid` for a token that is too long;
    /// `Overloaded` when `max` follow already, those not counted that were too slow.
    pub fn follow(&self, token: &[u8], max: usize) -> Result<(Follower, Beginning)> {
        if token.len() > TOKEN_BYTES_MAX {
            let length = token.len();
            return Err(Error::invalid(format!(
                "resume_token: {length} bytes, must have at most {TOKEN_BYTES_MAX}"
            )));
        }
        let mut state = self.inner.state();
        if state.followers_in_time() >= max {
            let text = format!("server.max_watchers: {max} watch already");
            return Err(Error::new(Kind::Overloaded, text));
        }
        self.inner.kept.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let resumed = self.inner.position(token);
        let (position, beginning) = match resumed.filter(|it| state.ring.reaches(*it)) {
            Some(position) => (position, Beginning::Resumed),
            None if token.is_empty() => (state.ring.next(), Beginning::Now),
            None => (state.ring.next(), Beginning::Lost),
        };
        let id = state.followers_made;
        state.followers_made += 1;
        state.followers.insert(id, position);
        drop(state);
        let follower = Follower {
            inner: Arc::clone(&self.inner),
            id,
            position,
        };
        Ok((follower, beginning))
    }

    /// Figures so far.
    pub fn stats(&self) -> ChangesStats {
        ChangesStats {
            followers: self.inner.state().followers_in_time() as u64,
            told: self.inner.told.load(Ordering::Relaxed),
            dropped: self.inner.dropped.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position in a token of this process.
    fn position(&self, token: &[u8]) -> Option<u64> {
        let (process, position) = token.split_first_chunk::<8>()?;
        let position = position.try_into().map(u64::from_be_bytes).ok()?;
        (*process == self.process.to_be_bytes()).then_some(position)
    }
}

impl State {
    fn followers_in_time(&self) -> usize {
        let positions = self.followers.values();
        positions.filter(|it| self.ring.reaches(**it)).count()
    }
}

/// Where a follower begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// With what comes; no token was given.
    Now,
    /// Right after what it has seen.
    Resumed,
    /// With what comes: the token is of another process, or its position has gone.
    Lost,
}

/// One reader of the changes.
pub struct Follower {
    inner: Arc<Inner>,
    id: u64,
    position: u64,
}

impl Follower {
    /// Number of the change that [`Follower::next`] will begin with.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What to resume with so that the change of this number comes first.
    pub fn token(&self, position: u64) -> Bytes {
        let process = self.inner.process.to_be_bytes();
        [process, position.to_be_bytes()].concat().into()
    }

    /// The next changes, at least one; `None` when they have gone unread. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Arc<Change>>> {
        let inner = Arc::clone(&self.inner);
        loop {
            // Made before the look, so that what comes in between wakes it.
            let news = inner.news.notified();
            match self.read() {
                None => {
                    inner.dropped.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
                Some(changes) if changes.is_empty() => news.await,
                Some(changes) => return Some(changes),
            }
        }
    }

    /// Counts a message that a client was told.
    pub fn told(&self) {
        self.inner.told.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&mut self) -> Option<Vec<Arc<Change>>> {
        let mut state = self.inner.state();
        let changes = state.ring.read(self.position, BATCH_MAX)?;
        self.position += changes.len() as u64;
        state.followers.insert(self.id, self.position);
        Some(changes)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        state.followers.remove(&self.id);
        state.alone_since = self.inner.clock.now();
    }
}

#[cfg(test)]
mod tests;
