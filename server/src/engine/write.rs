//! Writing: put, put many.

use std::time::{Duration, Instant};

use super::{Engine, Outcome, Provenance, Source, check_batch};
use crate::{
    clock::Timestamp,
    config::Policy,
    entry::Entry,
    error::{Error, Kind, Result},
    key::{EntryName, Key},
    namespace::Namespace,
    record::Record,
    stamp::Stamp,
    tier::{Condition, Mark, Stored},
};

/// Shortest lifetime that can be asked for.
const TTL_MIN: Duration = Duration::from_millis(1);

/// Which tiers must have accepted before the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteMode {
    /// Local and, when it can be reached, shared.
    #[default]
    Through,
    /// Local only.
    Local,
    /// Shared.
    Shared,
}

/// How a caller wants to write.
#[derive(Debug, Clone, Copy)]
pub struct PutOptions {
    /// Lifetime asked for.
    pub ttl: Option<Duration>,
    /// Which tiers must have accepted.
    pub mode: WriteMode,
    /// What must hold for the write to happen.
    pub condition: Condition,
}

/// A put that was accepted.
#[derive(Debug)]
pub struct Written {
    /// Version of the entry.
    pub stamp: Stamp,
    /// When its lifetime ends.
    pub expires: Timestamp,
    /// What became of it in the local tier.
    pub local: Outcome,
    /// Where it went.
    pub provenance: Provenance,
}

impl Engine {
    /// Writes one entry. `Exists` or `Precondition` when a condition does not hold; `Unavailable`
    /// when no tier took it.
    pub async fn put(
        &self,
        namespace: &str,
        key: String,
        entry: Entry,
        options: PutOptions,
    ) -> Result<Written> {
        let namespace = self.namespaces.get(namespace)?;
        let result = self.put_in(&namespace, key, entry, options).await;
        Self::counted_write(&namespace, result)
    }

    /// Checks what all items of a batch of puts have in common; each is then put by itself.
    pub fn check_put_many(
        &self,
        namespace: &str,
        items: usize,
        options: &PutOptions,
    ) -> Result<()> {
        let namespace = self.namespaces.get(namespace)?;
        let checked = check_batch("items", items).and_then(|()| {
            if matches!(options.condition, Condition::Version(_)) {
                let text = "options.if_version: cannot be used with PutMany";
                return Err(Error::invalid(text));
            }
            check_mode(options.mode)
        });
        Self::counted_write(&namespace, checked)
    }

    fn counted_write<T>(namespace: &Namespace, result: Result<T>) -> Result<T> {
        match &result {
            // Not an error of anybody: the caller asked to be refused.
            Err(error) if matches!(error.kind(), Kind::Exists | Kind::Precondition) => {
                namespace.counters.refusals.one();
                result
            }
            _ => Self::counted(namespace, result),
        }
    }

    async fn put_in(
        &self,
        namespace: &Namespace,
        key: String,
        entry: Entry,
        options: PutOptions,
    ) -> Result<Written> {
        let name = EntryName::new(&namespace.name, &Key::new(key)?);
        let policy = &namespace.policy;
        check(policy, &entry, &options)?;
        let condition = match options.condition {
            Condition::Always if policy.immutable => Condition::AbsentOrSame,
            condition => condition,
        };
        let begun = Instant::now();
        let stamp = self.stamper.next();
        let created = self.now();
        let expires = created.after(lifetime(policy, options.ttl));
        let record = Record::encode(&entry, stamp, created, expires, policy.compression)?;
        if !namespace.uses_local() {
            let provenance = Provenance {
                store: Some(begun.elapsed()),
                ..Provenance::default()
            };
            return Ok(Written {
                stamp,
                expires,
                local: Outcome::Skipped,
                provenance,
            });
        }
        let (stamp, expires) = match self
            .local
            .put_if(&name, &record, expires, Mark::default(), condition)
            .await?
        {
            Stored::Written => (stamp, expires),
            Stored::Kept { head, expires } => (head.stamp, expires),
            Stored::Refused => return Err(refusal(condition)),
        };
        namespace.counters.puts.one();
        let provenance = Provenance {
            source: Source::Local,
            store: Some(begun.elapsed()),
            ..Provenance::default()
        };
        Ok(Written {
            stamp,
            expires,
            local: Outcome::Applied,
            provenance,
        })
    }
}

fn check(policy: &Policy, entry: &Entry, options: &PutOptions) -> Result<()> {
    let limit = policy.max_value_size.0;
    if entry.value.len() as u64 > limit {
        return Err(Error::invalid(format!(
            "value: {} bytes, the namespace's max_value_size is {limit}; larger values go through \
             Write",
            entry.value.len()
        )));
    }
    if options.ttl.is_some_and(|ttl| ttl < TTL_MIN) {
        return Err(Error::invalid("ttl: must be at least 1ms"));
    }
    if policy.immutable && matches!(options.condition, Condition::Version(_)) {
        return Err(Error::invalid(
            "options.if_version: the namespace is immutable, its entries have one version",
        ));
    }
    check_mode(options.mode)
}

fn check_mode(mode: WriteMode) -> Result<()> {
    match mode {
        WriteMode::Through | WriteMode::Local => Ok(()),
        WriteMode::Shared => {
            let text = "options.mode: SHARED asks for the shared tier, but none is configured";
            Err(Error::new(Kind::Precondition, text))
        }
    }
}

/// Lifetime of a put: what was asked for or the default, at most the maximum, less the jitter.
fn lifetime(policy: &Policy, wish: Option<Duration>) -> Duration {
    let lifetime = policy.lifetime(wish);
    if policy.ttl_jitter == 0.0 {
        return lifetime;
    }
    lifetime
        .mul_f64(1.0 - policy.ttl_jitter * fastrand::f64())
        .max(TTL_MIN)
}

fn refusal(condition: Condition) -> Error {
    match condition {
        Condition::Version(_) => Error::new(
            Kind::Precondition,
            "options.if_version: the entry has another version or does not exist",
        ),
        Condition::AbsentOrSame => Error::new(
            Kind::Exists,
            "key: the namespace is immutable and holds a different value for it",
        ),
        Condition::Absent | Condition::Always => {
            Error::new(Kind::Exists, "options.if_absent: the key has a live entry")
        }
    }
}
