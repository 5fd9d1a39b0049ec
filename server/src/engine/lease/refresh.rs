//! Early refresh: one caller is asked to compute an entry anew while it is still good.
//!
//! Who is asked is drawn by XFetch: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache
//! Stampede Prevention", VLDB 2015. With a computation that takes `d`, a read at `t` of an entry
//! that ends at `e` is asked if `t - d * ln(u) >= e` for a random `u`: hardly ever long before the
//! end, surely at it, and in between seldom by two at once.
//!
//! That is chance; so that it is never two at once there is a mark for each version of an entry
//! that somebody is at: in this process, and in Redis under a key of its own, which ends with the
//! lease.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{Lease, LeaseRequest, Token};
use crate::{
    clock::Timestamp,
    engine::{Engine, look::Reading, looked::Looked},
    stamp::Stamp,
    tier::Found,
};

/// Entries that are being computed anew, of which this process remembers that they are.
const MARKS_MAX: usize = 4096;

/// Which versions somebody of this daemon computes anew, and until when.
#[derive(Debug, Default)]
pub(super) struct Refreshes(Mutex<HashMap<Stamp, Timestamp>>);

impl Refreshes {
    /// Whether nobody was at it; then somebody is from now on.
    fn begin(&self, stamp: Stamp, now: Timestamp, until: Timestamp) -> bool {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.get(&stamp).is_some_and(|until| now < *until) {
            return false;
        }
        if marks.len() >= MARKS_MAX {
            marks.retain(|_, until| now < *until);
        }
        if marks.len() >= MARKS_MAX {
            return false;
        }
        marks.insert(stamp, until);
        true
    }
}

impl Engine {
    /// For a read that found something: the lease to compute it anew, for one of many and seldom.
    pub(in crate::engine) async fn refresh(
        &self,
        read: &Reading<'_>,
        looked: &Looked,
        request: LeaseRequest,
    ) -> Option<Lease> {
        let found = looked.found.as_ref().filter(|_| !looked.stale)?;
        let now = self.now();
        if read.namespace.policy.immutable || !is_due(found, request.early_refresh?, now) {
            return None;
        }
        let stamp = found.record.head().stamp;
        let expires = now.after(request.duration);
        let attached = match self.shared_for(read.namespace) {
            None => None,
            Some(shared) => Some((shared, shared.coherence.link()?)),
        };
        if !self.leases.refreshes.begin(stamp, now, expires) {
            return None;
        }
        if let Some((shared, link)) = attached {
            let space = &shared.config.key_prefix;
            let first = link.tier().mark_refresh(space, &stamp, request.duration);
            // Who cannot tell is not asked: the entry is still good.
            if !shared.noted(&link, first.await).unwrap_or(false) {
                return None;
            }
        }
        self.leases.counts.refreshes.one();
        Some(Lease {
            token: Token::Refresh {
                version: stamp,
                until: expires,
            },
            expires,
        })
    }
}

fn is_due(found: &Found, takes: Duration, now: Timestamp) -> bool {
    // From 0, exclusive, to 1.
    let drawn = 1.0 - fastrand::f64();
    found.expires.since(now).as_secs_f64() <= takes.as_secs_f64() * -drawn.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entry::{Attributes, Entry},
        record::{Compression, Record},
        tier::Mark,
    };

    fn stamp(number: u8) -> Stamp {
        Stamp::from_bytes([number; 16])
    }

    #[test]
    fn the_nearer_the_end_the_likelier() {
        let expires = Timestamp::from_millis(100_000);
        let entry = Entry {
            value: bytes::Bytes::new(),
            attributes: Attributes::default(),
            negative: false,
        };
        let none = Compression::None;
        let record = Record::encode(&entry, stamp(1), expires, expires, none).expect("encodes");
        let found = Found {
            record,
            expires,
            mark: Mark::default(),
        };
        let share = |left: u64| {
            let now = Timestamp::from_millis(100_000 - left);
            let takes = Duration::from_secs(1);
            (0..10_000).filter(|_| is_due(&found, takes, now)).count()
        };
        // e^-20, e^-1 and e^0 of them.
        assert_eq!(share(20_000), 0);
        assert!((3300..4100).contains(&share(1000)));
        assert_eq!(share(0), 10_000);
    }

    #[test]
    fn one_at_a_time_and_the_next_when_its_time_is_over() {
        let refreshes = Refreshes::default();
        let at = Timestamp::from_millis;
        assert!(refreshes.begin(stamp(1), at(0), at(10)));
        assert!(!refreshes.begin(stamp(1), at(9), at(19)));
        assert!(refreshes.begin(stamp(2), at(9), at(19)));
        assert!(refreshes.begin(stamp(1), at(10), at(20)));
    }
}
