//! Tags: what they are invalidated by, at the same cost for ten entries and ten million (P15).
//!
//! A tag is an entry itself, without a value, in a namespace of its own (`n!tags` for `n`). Its
//! version is its *generation*. A put notes the generations of its tags in its record, and makes
//! those that are missing; a read counts as a miss unless every tag is there with the generation
//! noted. To invalidate a tag is to remove its entry.
//!
//! So all that holds for entries holds for tags: who hears of a removal and when, what is believed
//! after a gap, how an invalidation of an outage is kept and carried out, that a copy is verified
//! by a few bytes. Nothing is searched for, and nothing has to be told which entries have a tag.
//!
//! Invariants:
//! - (T1) Generations are taken before the entry is written, and from Redis while it can be
//!   reached: what a removal overtakes has one that is gone, what follows one has the next.
//! - (T2) A generation never comes back: a tag that is made anew is another version. Whoever loses
//!   a tag, by eviction, flush or failover, makes its entries misses, never the reverse.
//! - (T3) A tag lives at least as long as the entries that are put with it.
//! - (T4) Without Redis a tag that is not at hand is one that is gone. One that is made then is
//!   this daemon's own, and its entries end with the outage, as all that is put in one.

use std::time::Instant;

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::{
    Engine, ReadOptions, Source, Standing, WriteMode, available, looked::Looked, placed::Placed,
    write::Put,
};
use crate::{
    clock::Timestamp,
    config::TierName,
    entry::{Attributes, Entry},
    error::{Error, Kind, Result},
    key::{EntryName, Key},
    namespace::Namespace,
    record::{Compression, Record},
    stamp::Stamp,
    steps::{Ended, Steps, What},
    tier::{Condition, Found, shared::There},
};

/// How often a tag is looked for that others make and remove meanwhile.
const TRIES_MAX: usize = 4;

impl Engine {
    /// The present generations of tags, for an entry that ends at `expires`. Those that are missing
    /// are made. `Overloaded` when others keep removing one.
    pub(super) async fn generations(
        &self,
        namespace: &Namespace,
        tags: &[String],
        expires: Timestamp,
    ) -> Result<Vec<Stamp>> {
        let Some(of_tags) = namespace.tags.as_ref().filter(|_| !tags.is_empty()) else {
            return Ok(Vec::new());
        };
        let all = tags
            .iter()
            .map(|tag| self.generation(of_tags, tag, expires));
        try_join_all(all).await
    }

    async fn generation(
        &self,
        of_tags: &Namespace,
        tag: &str,
        expires: Timestamp,
    ) -> Result<Stamp> {
        let key = Key::new(tag)?;
        for _ in 0..TRIES_MAX {
            let there = match self.tag_in_redis(of_tags, &key).await {
                Some(None) => None,
                Some(Some(there)) if there.expires >= expires => return Ok(there.record.stamp),
                Some(Some(_)) => {
                    let options = ReadOptions {
                        require_shared: true,
                        ..ReadOptions::default()
                    };
                    match self.look_for_tag(of_tags, &key, options).await {
                        Ok(looked) if looked.found.is_some() => looked.found,
                        _ => continue,
                    }
                }
                None => {
                    let looked = self.look_for_tag(of_tags, &key, ReadOptions::default());
                    let looked = looked.await?;
                    let found = looked.found.as_ref();
                    // Without Redis it cannot be prolonged; nor do its entries outlive the outage.
                    match found.filter(|it| looked.stale || it.expires >= expires) {
                        Some(found) => return Ok(found.record.head().stamp),
                        None => looked.found,
                    }
                }
            };
            if let Some(stamp) = self.make(of_tags, &key, there.as_ref()).await? {
                return Ok(stamp);
            }
        }
        let text = "tags: others made and removed one of them all the time; try again";
        Err(Error::new(Kind::Overloaded, text))
    }

    /// What Redis itself has; `None` when it cannot be asked. A copy here may be of a tag whose
    /// invalidation has returned elsewhere and is not heard of here yet: what is put with it would
    /// be lost.
    async fn tag_in_redis(&self, of_tags: &Namespace, key: &Key) -> Option<Option<There>> {
        let shared = self.shared_for(of_tags)?;
        let link = shared.coherence.link()?;
        let name = shared.name(of_tags, key);
        let there = shared.noted(&link, link.tier().check(&name).await);
        there.ok()
    }

    /// Makes a tag, or prolongs the one that is there. `None` when somebody else was quicker.
    async fn make(
        &self,
        of_tags: &Namespace,
        key: &Key,
        there: Option<&Found>,
    ) -> Result<Option<Stamp>> {
        let now = self.now();
        let (stamp, created, condition) = match there.map(|it| it.record.head()) {
            Some(head) => (head.stamp, head.created, Condition::Version(head.stamp)),
            None => (self.stamper.next(), now, self.condition_of_new(of_tags)),
        };
        let expires = now.after(of_tags.policy.lifetime(None));
        let entry = Entry {
            value: Bytes::new(),
            attributes: Attributes::default(),
            negative: false,
        };
        let put = Put {
            namespace: of_tags,
            key,
            name: EntryName::new(&of_tags.name, key),
            record: Record::encode(&entry, stamp, created, expires, Compression::None)?,
            expires,
            condition,
            lease: None,
            mode: WriteMode::Through,
            placed: Placed::Inside { too_large: false },
            steps: &Steps::default(),
        };
        match self.store(&put).await {
            Ok(_) => Ok(Some(stamp)),
            Err(error) if matches!(error.kind(), Kind::Exists | Kind::Precondition) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn condition_of_new(&self, of_tags: &Namespace) -> Condition {
        let attached = self
            .shared_for(of_tags)
            .is_none_or(|shared| shared.coherence.is_attached());
        match attached {
            true => Condition::Absent,
            // What is here has been out of contact for too long.
            false => Condition::Always,
        }
    }

    /// What is left of what was found under a key once its tags have been asked. An entry that is
    /// gone with one of them is removed, so that it is neither found again nor in the way.
    pub(super) async fn live(
        &self,
        namespace: &Namespace,
        key: &Key,
        mut looked: Looked,
        (options, steps): (ReadOptions, &Steps),
    ) -> Result<Looked> {
        let Some(of_tags) = &namespace.tags else {
            return Ok(looked);
        };
        // The second time it is what Redis has in place of the copy here.
        for may_look_again in [true, false] {
            let tagged = |found: &&Found| found.record.head().is_tagged;
            let Some(found) = looked.found.as_ref().filter(tagged) else {
                return Ok(looked);
            };
            let verdict = self.judge_all(namespace, of_tags, found, (options, steps));
            match verdict.await? {
                Verdict::Current => return Ok(looked),
                Verdict::Stale => {
                    looked.stale = true;
                    looked.standing = Some(Standing::Detached);
                    return Ok(looked);
                }
                Verdict::Unknown => {
                    looked.standing = Some(Standing::Detached);
                    break;
                }
                Verdict::Gone => self.bury(namespace, key, found).await,
            }
            if !may_look_again || looked.source != Source::Local {
                break;
            }
            let name = EntryName::new(&namespace.name, key);
            looked = Box::pin(self.look_in(namespace, key, &name, (options, steps))).await?;
        }
        Ok(Looked {
            shared: looked.shared,
            standing: looked.standing,
            ..Looked::nothing()
        })
    }

    /// How the tag stands that stands worst.
    async fn judge_all(
        &self,
        namespace: &Namespace,
        of_tags: &Namespace,
        found: &Found,
        (options, steps): (ReadOptions, &Steps),
    ) -> Result<Verdict> {
        let begun = Instant::now();
        let tags = available(namespace, found.record.tags().map(Some)).unwrap_or_default();
        let asked = tags
            .iter()
            .map(|(tag, generation)| self.judge(of_tags, tag, *generation, options));
        let judged: Vec<_> = try_join_all(asked).await?;
        let worst = judged.iter().map(|(verdict, _)| *verdict).max();
        let worst = worst.unwrap_or(Verdict::Unknown);
        if judged.iter().any(|(_, asked_redis)| *asked_redis) {
            let ended = match worst {
                Verdict::Current | Verdict::Stale => Ended::Hit,
                Verdict::Unknown | Verdict::Gone => Ended::Miss,
            };
            steps.note(What::Verify, TierName::Shared, ended, begun);
        }
        Ok(worst)
    }

    /// Whether a tag still has the generation that an entry was put with, and whether that took
    /// asking Redis.
    async fn judge(
        &self,
        of_tags: &Namespace,
        tag: &str,
        generation: Stamp,
        options: ReadOptions,
    ) -> Result<(Verdict, bool)> {
        let key = Key::new(tag)?;
        let options = ReadOptions {
            local_only: false,
            ..options
        };
        let has = |looked: &Looked| {
            let found = looked.found.as_ref();
            found.is_some_and(|found| found.record.head().stamp == generation)
        };
        let looked = self.look_for_tag(of_tags, &key, options).await?;
        let asked_redis = looked.shared.is_some();
        let verdict = match (has(&looked), self.shared_for(of_tags)) {
            (true, _) if looked.stale => Verdict::Stale,
            (true, _) => Verdict::Current,
            (false, None) => Verdict::Gone,
            (false, Some(shared)) if !shared.coherence.is_attached() => Verdict::Unknown,
            (false, Some(_)) if asked_redis => Verdict::Gone,
            // The copy of the tag may be older than the entry: the word of a change is on its way.
            (false, Some(_)) => {
                let options = ReadOptions {
                    require_shared: true,
                    ..options
                };
                match self.look_for_tag(of_tags, &key, options).await {
                    Ok(looked) if has(&looked) => Verdict::Current,
                    Ok(_) => Verdict::Gone,
                    Err(_) => Verdict::Unknown,
                }
            }
        };
        Ok((verdict, asked_redis))
    }

    async fn look_for_tag(
        &self,
        of_tags: &Namespace,
        key: &Key,
        options: ReadOptions,
    ) -> Result<Looked> {
        let name = EntryName::new(&of_tags.name, key);
        // In a box: it is large, and entries without tags never come here.
        Box::pin(self.look_in(of_tags, key, &name, (options, &Steps::default()))).await
    }

    async fn bury(&self, namespace: &Namespace, key: &Key, found: &Found) {
        let stamp = found.record.head().stamp;
        // What fails here is found and judged again.
        let name = EntryName::new(&namespace.name, key);
        let _ = self.local.remove_version(&name, stamp).await;
        let shared = self.shared_for(namespace);
        if let Some((shared, link)) = shared.and_then(|it| Some((it, it.coherence.link()?))) {
            let name = shared.name(namespace, key);
            let removed = link.tier().remove_version(&name, &stamp).await;
            let _ = shared.noted(&link, removed);
        }
    }
}

/// What is known of a tag of an entry, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// It has the generation.
    Current,
    /// It had it when Redis could last be asked.
    Stale,
    /// Redis cannot be asked, and nothing here tells.
    Unknown,
    /// It has another or none, for good.
    Gone,
}
