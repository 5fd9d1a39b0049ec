//! Whether what Redis has still lives, and until when.

use std::time::Duration;

use super::{Question, Shared};
use crate::{
    clock::Timestamp,
    coherence::Link,
    record::Content,
    stamp::Stamp,
    tier::{
        Found,
        shared::{SharedError, SharedName, There},
    },
};

/// A live entry, as far as a few bytes tell.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Alive {
    pub(in crate::engine) expires: Timestamp,
    pub(in crate::engine) is_tagged: bool,
    pub(in crate::engine) is_negative: bool,
}

impl Shared {
    /// Whether an entry is there, asking Redis for a few bytes only. `own` is the version of the
    /// local copy: where Redis has a version without its value, only that counts.
    pub(in crate::engine) async fn exists(
        &self,
        link: &Link,
        question: &Question<'_>,
        own: Option<Stamp>,
    ) -> Result<Option<Alive>, SharedError> {
        let name = question.shared_name;
        if name.is_raw() {
            let found = self.noted(link, link.tier().get(name).await)?;
            return Ok(found.map(|found| Alive {
                expires: found.expires,
                is_tagged: false,
                is_negative: false,
            }));
        }
        let checked = self.noted(link, link.tier().check(name).await)?;
        let there = checked
            .filter(|it| it.record.content == Content::Value || own == Some(it.record.stamp));
        let alive = there.map(|it| Alive {
            expires: self.end_there(&it),
            is_tagged: it.record.is_tagged,
            is_negative: it.record.is_negative,
        });
        Ok(alive.filter(|it| it.expires > self.stamper.now()))
    }

    pub(super) fn alive(&self, name: &SharedName, mut found: Found) -> Option<Found> {
        if !name.is_raw() {
            let head = found.record.head();
            found.expires = self.end(&head.stamp, head.lifetime(), found.expires);
        }
        (found.expires > self.stamper.now()).then_some(found)
    }

    /// When an entry ends that ends in Redis at `expires`: its lifetime after it was put at the
    /// latest. Redis counts from when it carried the put out, which may be long after whoever put
    /// it has given up on it.
    pub(in crate::engine) fn end(
        &self,
        stamp: &Stamp,
        lifetime: Duration,
        expires: Timestamp,
    ) -> Timestamp {
        expires.min(self.stamper.latest(stamp).after(lifetime))
    }

    pub(super) fn end_there(&self, there: &There) -> Timestamp {
        self.end(&there.record.stamp, there.record.lifetime, there.expires)
    }
}
