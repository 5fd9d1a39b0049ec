//! The shared tier: records in Redis, for all sidecars (P1-P4, P11).
//!
//! One [`SharedTier`] is one attachment: connected once, used until the first sign of trouble,
//! then dropped and replaced by another. It speaks to the master(s) only.
//!
//! Invariants:
//! - (S1) Value and lifetime are written in one command; a lifetime is never longer than the
//!   namespace's longest.
//! - (S2) What is found ends at the time its question was sent plus the lifetime left by then, so
//!   not later than in Redis; an entry without an end gets the namespace's longest lifetime.
//! - (S3) A record that does not decode is a miss, is removed if it is still the same, and counted.
//! - (S4) Nothing is sent twice, and after the first [`Trouble::Lost`] nothing is sent at all
//!   (`connection`).
//! - (S5) What is returned shares no memory with the connection's buffers: a small value would keep
//!   a large one in memory.
//!
//! What it does not do: it knows nothing of the local tier, does not decide whether an entry is
//! current, keeps no journal and does not connect again.

mod asking;
mod call;
mod chunks;
mod connection;
mod inspect;
mod lease;
mod moving;
mod name;
mod remove;
mod scripts;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
mod trouble;

use std::{
    fmt,
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fred::types::Value;
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_128;

use self::{
    asking::Asking,
    call::{Call, bytes_of, count_of},
    chunks::Bulk,
    connection::{Connection, Metering},
    scripts::PUT_VERSION,
    settings::Settings,
    trouble::unexpected,
};
pub use self::{
    inspect::ServerFacts,
    name::{SharedName, SharedSpace},
    remove::Scans,
    settings::Target,
    trouble::{SharedError, Trouble},
};
use super::{Condition, Found, Mark, Stored};
use crate::{
    clock::{Clock, Timestamp},
    config::SharedConfig,
    entry::{Attributes, Entry},
    error::Error,
    record::{Beginning, Compression, Content, Record},
    stamp::Stamp,
};

/// Scans at once; further ones wait.
const SCANS_MAX: usize = 2;
/// How often a put looks again when what was in its way has gone meanwhile.
const LOOKS_MAX: usize = 3;
/// Longest lifetime that is written: 100 years. Redis adds it to its own clock.
const LIFETIME_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// The part of a damaged record that says whether it is still the same.
const DAMAGED_HEAD_BYTES: usize = 64;

/// Result of everything here.
type Result<T> = std::result::Result<T, SharedError>;

/// Records in Redis. Cheap to clone; all clones are one connection, and one for large values.
#[derive(Clone)]
pub struct SharedTier {
    connection: Arc<Connection>,
    /// For chunks of large values.
    bulk: Arc<Bulk>,
    clock: Clock,
    corrupt: Arc<AtomicU64>,
    /// Scans that may run.
    turns: Arc<Semaphore>,
    scans: Arc<Scans>,
}

impl fmt::Debug for SharedTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedTier")
    }
}

/// What is there under a name, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct There {
    /// What the record says.
    pub record: Beginning,
    /// When its lifetime ends in Redis.
    pub expires: Timestamp,
}

impl SharedTier {
    /// Connects one client. Each step is given `connect_timeout`. Its connections are named
    /// `client_name`, which must not hold spaces. Cancel safe: leaves nothing behind.
    pub async fn connect(
        at: &Target,
        config: &SharedConfig,
        tls: Option<Arc<rustls::ClientConfig>>,
        clock: Clock,
        client_name: &str,
    ) -> Result<Self> {
        let asking = Asking::new(config, tls.clone(), client_name);
        let bulk = Bulk::new(at, config, tls.clone(), client_name);
        let settings = Settings::new(at, config, tls);
        Ok(Self {
            connection: Arc::new(Connection::open(settings, asking, client_name).await?),
            bulk: Arc::new(bulk),
            clock,
            corrupt: Arc::default(),
            turns: Arc::new(Semaphore::new(SCANS_MAX)),
            scans: Arc::default(),
        })
    }

    /// The same, with its scans counted there.
    #[must_use]
    pub fn counting(self, scans: &Arc<Scans>) -> Self {
        Self {
            scans: Arc::clone(scans),
            ..self
        }
    }

    /// The live record of this name and when it ends; `None` is a miss, also when something is
    /// there that is no entry. Its mark is empty.
    ///
    /// Another client may write between the two commands this takes; then the push for its write
    /// comes, and the end may be that of the new record.
    pub async fn get(&self, name: &SharedName) -> Result<Option<Found>> {
        let sent = self.clock.now();
        let key = name.as_bytes();
        let calls = vec![
            Call::read(key, name.value_bytes_max()),
            Call::time_left(key),
        ];
        let [value, left] = self.two(calls).await?;
        let value = match value? {
            Value::Array(mut values) if values.len() == 1 => values.pop(),
            _ => None,
        };
        let value = match value {
            Some(Value::Null) => return Ok(None),
            value => value.and_then(bytes_of).ok_or_else(|| unexpected("MGET"))?,
        };
        let Some(expires) = end(sent, &left?, name)? else {
            return Ok(None);
        };
        if name.is_raw() {
            return raw(value, sent, expires).map(Some);
        }
        let Ok(record) = Record::decode(Bytes::copy_from_slice(&value)) else {
            self.remove_damaged(name, &value).await;
            return Ok(None);
        };
        if !record.has_value() {
            return Ok(None);
        }
        Ok(Some(Found {
            record,
            expires,
            mark: Mark::default(),
        }))
    }

    /// The live record of this name without its value. `None` when there is none, also when what is
    /// there is too short for a record, or a lease.
    pub async fn check(&self, name: &SharedName) -> Result<Option<There>> {
        let there = self.check_or_lease(name).await?;
        Ok(there.filter(|it| it.record.content != Content::Lease))
    }

    /// Writes a record for `lifetime`, at least 1 ms and at most the namespace's longest, if the
    /// condition holds; decided atomically. A raw namespace keeps the value alone, has no versions
    /// ([`Condition::Version`] is an error) and compares values alone.
    pub async fn put(
        &self,
        name: &SharedName,
        record: &Record,
        lifetime: Duration,
        condition: Condition,
    ) -> Result<Stored> {
        let value = match name.is_raw() {
            true => entry_of(record)?.value,
            false => record.as_bytes().clone(),
        };
        let lifetime = lifetime.min(name.lifetime_max()).min(LIFETIME_MAX);
        let millis = i64::try_from(lifetime.as_millis().max(1)).unwrap_or(i64::MAX);
        match condition {
            Condition::Always => self.set(name, value, millis, false).await,
            Condition::Absent => self.put_absent(name, &value, millis).await,
            Condition::Version(stamp) | Condition::Lease(stamp) => {
                self.put_version(name, value, millis, stamp).await
            }
            Condition::AbsentOrSame => self.put_or_keep(name, record, value, millis).await,
        }
    }

    async fn set(
        &self,
        name: &SharedName,
        value: Bytes,
        millis: i64,
        only_absent: bool,
    ) -> Result<Stored> {
        let call = Call::write(name.as_bytes(), value, millis, only_absent);
        match self.connection.call(call).await? {
            Value::Null if only_absent => Ok(Stored::Refused),
            told => match bytes_of(told).as_deref() {
                Some(b"OK") => Ok(Stored::Written),
                _ => Err(unexpected("SET")),
            },
        }
    }

    async fn put_version(
        &self,
        name: &SharedName,
        value: Bytes,
        millis: i64,
        wanted: Stamp,
    ) -> Result<Stored> {
        if name.is_raw() {
            let message = "a raw namespace has no versions to compare";
            return Err(SharedError::new(Trouble::Unexpected, message));
        }
        let wanted = Bytes::copy_from_slice(wanted.as_bytes());
        let args = [wanted, value, millis.to_string().into()];
        let written = self.run(&PUT_VERSION, name.as_bytes(), &args).await?;
        Ok(match count_of("a script", &written)? {
            0 => Stored::Refused,
            _ => Stored::Written,
        })
    }

    async fn put_or_keep(
        &self,
        name: &SharedName,
        record: &Record,
        value: Bytes,
        millis: i64,
    ) -> Result<Stored> {
        for _ in 0..LOOKS_MAX {
            match self.put_absent(name, &value, millis).await? {
                Stored::Refused => {}
                stored => return Ok(stored),
            }
            let Some(found) = self.get(name).await? else {
                // It has ended, or was damaged and is gone: there is room now.
                continue;
            };
            let same = match name.is_raw() {
                true => entry_of(&found.record)?.value == entry_of(record)?.value,
                false => found.record.says_the_same(record).map_err(undecoded)?,
            };
            return Ok(match same {
                true => Stored::Kept {
                    head: *found.record.head(),
                    expires: found.expires,
                },
                false => Stored::Refused,
            });
        }
        // Something that is no entry keeps its place.
        Ok(Stored::Refused)
    }

    /// Sends a message to all who listen to a channel; in a Cluster to all of its nodes. Who may
    /// not publish goes without: Redis itself tells of every key it has.
    pub async fn publish(&self, channel: &str, message: Bytes) -> Result<()> {
        static TOLD: Once = Once::new();
        let call = Call::named("PUBLISH").text(channel).bytes(message);
        match self.connection.call(call).await {
            Err(error) if error.trouble == Trouble::Denied => {
                TOLD.call_once(|| {
                    tracing::warn!(
                        channel,
                        "the user may not PUBLISH: other daemons do not hear of invalidations of \
                         entries that Redis does not have; grant the channel with ACL SETUSER"
                    );
                });
                Ok(())
            }
            published => published.map(drop),
        }
    }

    /// Asks every master for a sign of life.
    pub async fn ping(&self) -> Result<()> {
        let masters = self.connection.masters()?.into_iter();
        let calls = masters.map(|master| Call::named("PING").at(master));
        let replies = self.connection.calls(calls.collect(), Metering::Exempt);
        replies.await?.into_iter().try_for_each(|it| it.map(drop))
    }

    /// Records that did not decode.
    pub fn corrupt(&self) -> u64 {
        self.corrupt.load(Ordering::Relaxed)
    }

    /// Waits until this tier answers nothing any more, and says why.
    pub async fn lost(&self) -> SharedError {
        self.connection.ended().await
    }

    /// Ends the connection of all clones at once: what is in flight fails as [`Trouble::Lost`],
    /// what was not sent is not sent.
    pub fn give_up(&self, reason: &str) {
        self.connection
            .lose(SharedError::new(Trouble::Lost, reason));
        self.bulk.give_up(reason);
    }

    /// Ends the connection of all clones; never hangs. What is in flight fails as
    /// [`Trouble::Lost`], what was not sent is not sent.
    pub async fn close(self) {
        self.connection.close().await;
        self.bulk.close().await;
    }

    async fn two(&self, calls: Vec<Call>) -> Result<[Result<Value>; 2]> {
        let replies = self.connection.calls(calls, Metering::Counted).await?;
        replies.try_into().map_err(|_| unexpected("a pipeline"))
    }
}

/// The version of a value in a raw namespace: its content is all there is.
pub fn raw_stamp(value: &[u8]) -> Stamp {
    Stamp::from_bytes(xxh3_128(value).to_be_bytes())
}

/// When something ends whose remaining lifetime was asked for at `sent` (S2); `None`: it has.
fn end(sent: Timestamp, left: &Value, name: &SharedName) -> Result<Option<Timestamp>> {
    let left = match left {
        Value::Integer(-2) => return Ok(None),
        Value::Integer(-1) => name.lifetime_max(),
        Value::Integer(millis) => {
            let millis = u64::try_from(*millis).map_err(|_| unexpected("PTTL"))?;
            Duration::from_millis(millis).min(name.lifetime_max())
        }
        _ => return Err(unexpected("PTTL")),
    };
    Ok(Some(sent.after(left)).filter(|expires| *expires > sent))
}

/// The record of a plain string, put when it was asked for as far as anybody knows.
fn raw(value: Bytes, sent: Timestamp, expires: Timestamp) -> Result<Found> {
    let stamp = raw_stamp(&value);
    let entry = Entry {
        value,
        attributes: Attributes::default(),
        negative: false,
    };
    let record = Record::encode(&entry, stamp, sent, expires, Compression::None);
    let record = record.map_err(|_| unexpected("MGET"))?;
    Ok(Found {
        record,
        expires,
        mark: Mark::default(),
    })
}

fn entry_of(record: &Record) -> Result<Entry> {
    record.entry().map_err(undecoded)
}

fn undecoded(_: Error) -> SharedError {
    SharedError::new(Trouble::Unexpected, "a record does not decode")
}

#[cfg(test)]
mod tests;
