//! Who computes: the lease is asked for, and waited for.

use std::time::{Duration, Instant};

use tokio::time::{Instant as Deadline, sleep_until};

use super::{Lease, LeaseRequest, Token, give_back::Asked, put::sum_of_tags};
use crate::{
    changes::Alarm,
    clock::Timestamp,
    coherence::Link,
    config::TierName,
    engine::{Engine, Shared, available, look::Reading, looked::Looked, shared::Question},
    error::Result,
    record::Record,
    steps::{Ended, What},
    tier::{Leased, Mark, shared::SharedName},
};

/// How often in a row a caller asks again because something came and went meanwhile.
const CHANGES_MAX: usize = 8;
/// How long after a put that was too large for Redis its own daemon surely has it.
const SETTLING: Duration = Duration::from_millis(50);
/// By how much a lease is over for sure that Redis said would end: it rounds down.
const OVER: Duration = Duration::from_millis(2);

/// What came of asking for a lease.
#[derive(Debug, Clone, Copy)]
enum Election {
    /// This caller is to compute.
    Given(Lease),
    /// Somebody does, until then.
    Held(Timestamp),
    /// Something has changed: the entry is to be looked at again.
    Changed,
    /// An entry is there, and its value with another daemon.
    Withheld,
    /// There is no lease to be had for this entry now.
    Nobody,
}

/// What those who asked meanwhile are told.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Told {
    /// When the lease ends that somebody has.
    held: Option<Timestamp>,
    /// How the fences stood before Redis was asked.
    mark: Mark,
}

/// How a caller stopped waiting.
enum Woken {
    /// Something may have changed.
    Rung,
    /// Its time is over, or the daemon's.
    TimedOut,
}

impl Engine {
    /// For a read that found nothing: who is to compute is told so, others wait for the value. What
    /// comes back is what the last look found, and a lease for one caller.
    pub(in crate::engine) async fn take_part(
        &self,
        read: &Reading<'_>,
        request: LeaseRequest,
    ) -> Result<(Looked, Option<Lease>)> {
        let shared = self.shared_for(read.namespace);
        let redis = shared.map(|shared| shared.name(read.namespace, read.key));
        let Some(_taking) = self.leases.take_part() else {
            return Ok((Looked::nothing(), None));
        };
        let changes = self.local.changes();
        let mut alarm = changes.alarm(read.name, redis.as_ref().map(|it| &it.as_bytes()[..]));
        // Who comes later need not ask whether somebody has it.
        let _place = self.leases.elections.stay(read.name);
        let until = Deadline::from_std(Instant::now() + request.wait);
        let mut waits = Waits {
            begun: None,
            engine: self,
            read,
        };
        let mut looked = Looked::nothing();
        let (mut changed, mut settled) = (0, false);
        loop {
            match self.elect(read, redis.as_ref(), request).await {
                Election::Given(lease) => {
                    let lease = self.with_tags(read, redis.as_ref(), lease).await?;
                    self.leases.counts.granted.one();
                    return Ok((looked, Some(lease)));
                }
                Election::Held(held) => match waits.wait(&alarm, until, held).await {
                    Woken::Rung => changed = 0,
                    Woken::TimedOut => break,
                },
                Election::Changed if changed < CHANGES_MAX => changed += 1,
                // Put a moment ago, perhaps by this very daemon, whose copy is about to be there.
                Election::Withheld if !settled => {
                    settled = true;
                    let soon = self.now().after(SETTLING);
                    if let Woken::TimedOut = waits.wait(&alarm, until, soon).await {
                        break;
                    }
                }
                Election::Changed | Election::Withheld | Election::Nobody => break,
            }
            // Before the look: what changes from here on wakes.
            alarm.arm();
            looked = self.look_once(read).await?;
            if looked.found.is_some() {
                waits.end(Ended::Hit);
                return Ok((looked, None));
            }
        }
        Ok((looked, None))
    }

    /// The lease with the generations that its tags have now, before anything is computed.
    async fn with_tags(
        &self,
        read: &Reading<'_>,
        redis: Option<&SharedName>,
        lease: Lease,
    ) -> Result<Lease> {
        if read.tags.is_empty() {
            return Ok(lease);
        }
        // Nobody has been told of it yet.
        let asked = match (self.shared_for(read.namespace), redis, lease.token) {
            (Some(shared), Some(name), Token::Shared { stamp, .. }) => {
                Some(Asked::new(&shared.give_back, name, stamp))
            }
            _ => None,
        };
        let generations = self.generations(read.namespace, read.tags, lease.expires);
        let generations = generations.await?;
        if let Some(asked) = asked {
            asked.answered();
        }
        let token = lease.token.with_tags(sum_of_tags(read.tags, &generations));
        Ok(Lease { token, ..lease })
    }

    async fn elect(
        &self,
        read: &Reading<'_>,
        redis: Option<&SharedName>,
        request: LeaseRequest,
    ) -> Election {
        let (Some(shared), Some(name)) = (self.shared_for(read.namespace), redis) else {
            return self.elect_here(read, None, request).await;
        };
        match shared.coherence.link() {
            Some(link) => {
                self.elect_among_all(shared, &link, (read, name), request)
                    .await
            }
            None => self.elect_here(read, Some((shared, name)), request).await,
        }
    }

    /// One question of this daemon at a time: who waited for it is told what it said, if nothing
    /// has been heard of the entry since it was asked.
    async fn elect_among_all(
        &self,
        shared: &Shared,
        link: &Link,
        (read, name): (&Reading<'_>, &SharedName),
        request: LeaseRequest,
    ) -> Election {
        let accepts = |told: &Told| {
            let holds = told.held.is_some_and(|until| self.now() < until);
            holds && shared.coherence.is_fresh(told.mark, name.as_bytes())
        };
        let mut own = None;
        let ask = async {
            let mark = shared.coherence.mark();
            let election = self.ask_redis(shared, link, name, request).await;
            own = Some(election);
            let held = match election {
                Election::Given(lease) => Some(lease.expires),
                Election::Held(until) => Some(until),
                Election::Changed | Election::Withheld | Election::Nobody => None,
            };
            Told { held, mark }
        };
        let told = self.leases.elections.fly(read.name, accepts, ask).await;
        own.unwrap_or_else(|| told.held.map_or(Election::Changed, Election::Held))
    }

    async fn ask_redis(
        &self,
        shared: &Shared,
        link: &Link,
        name: &SharedName,
        request: LeaseRequest,
    ) -> Election {
        let begun = self.now();
        let expires = begun.after(request.duration);
        let stamp = self.stamper.next();
        let lease = Record::lease(stamp, begun, expires);
        let asked = Asked::new(&shared.give_back, name, stamp);
        let told = link.tier().lease(name, &lease, request.duration).await;
        asked.answered();
        match shared.noted(link, told) {
            Ok(Leased::Given) => Election::Given(Lease {
                token: Token::Shared { stamp, tags: 0 },
                expires,
            }),
            Ok(Leased::Held(until)) => Election::Held(until),
            Ok(Leased::Taken) => Election::Changed,
            Ok(Leased::Withheld) => Election::Withheld,
            // Either Redis counts as away now, or it has no room for a lease.
            Err(error) => {
                tracing::debug!(%error, "Redis gave no lease");
                match shared.coherence.is_attached() {
                    true => Election::Nobody,
                    false => Election::Changed,
                }
            }
        }
    }

    /// This daemon alone: the local tier has the lease.
    async fn elect_here(
        &self,
        read: &Reading<'_>,
        shared: Option<(&Shared, &SharedName)>,
        request: LeaseRequest,
    ) -> Election {
        if !read.namespace.uses_local() {
            // Whoever computes could leave its value nowhere.
            return Election::Nobody;
        }
        let gate = match shared {
            None => None,
            Some((shared, _)) => {
                let gate = shared.coherence.hold_gate().await;
                if !shared.coherence.is_detached_for_sure(&gate) {
                    return Election::Changed;
                }
                Some(gate)
            }
        };
        let epoch = shared.map_or(0, |(shared, _)| shared.coherence.mark().epoch);
        let there = self.local.head(read.name).await;
        let over = match (available(read.namespace, there), shared) {
            (None, _) => None,
            (Some(_), None) => return Election::Changed,
            (Some((head, _, mark)), Some((shared, name))) => {
                let question = Question {
                    namespace: read.namespace,
                    name: read.name,
                    shared_name: name,
                    begun: 0,
                    steps: read.steps,
                };
                // Good for others, who accept more staleness than this caller.
                if shared.staleness_of(&question, &head, mark, None).is_some() {
                    return Election::Nobody;
                }
                Some(head.stamp)
            }
        };
        let begun = self.now();
        let expires = begun.after(request.duration);
        let (stamp, bound) = (self.stamper.next(), self.stamper.bound());
        let lease = Record::lease(stamp, begun, expires);
        let mark = Mark { epoch, sequence: 0 };
        let told = self
            .local
            .lease(read.name, &lease, expires, mark, over)
            .await;
        drop(gate);
        match told {
            Ok(Leased::Given) => Election::Given(Lease {
                token: Token::Local {
                    stamp,
                    tags: 0,
                    epoch,
                    bound,
                },
                expires,
            }),
            Ok(Leased::Held(until)) => Election::Held(until),
            Ok(Leased::Taken | Leased::Withheld) => Election::Changed,
            Err(error) => {
                tracing::debug!(%error, "the local tier gave no lease");
                Election::Nobody
            }
        }
    }
}

/// The waiting of one caller, from its beginning to its end.
struct Waits<'a> {
    engine: &'a Engine,
    read: &'a Reading<'a>,
    begun: Option<Instant>,
}

impl Waits<'_> {
    async fn wait(&mut self, alarm: &Alarm, until: Deadline, held: Timestamp) -> Woken {
        let leases = &self.engine.leases;
        if until <= Deadline::now() {
            return self.timed_out();
        }
        if self.begun.is_none() {
            leases.counts.waited.one();
            self.begun = Some(Instant::now());
        }
        let over = Deadline::now() + held.since(self.engine.now()) + OVER;
        tokio::select! {
            biased;
            () = alarm.rung() => Woken::Rung,
            () = leases.stopping.cancelled() => Woken::TimedOut,
            () = sleep_until(over.min(until)) => match over < until {
                true => Woken::Rung,
                false => self.timed_out(),
            },
        }
    }

    fn timed_out(&self) -> Woken {
        if self.begun.is_some() {
            self.engine.leases.counts.timed_out.one();
        }
        Woken::TimedOut
    }

    fn end(&mut self, ended: Ended) {
        if let Some(begun) = self.begun.take() {
            let tier = match self.engine.shared_for(self.read.namespace) {
                Some(_) => TierName::Shared,
                None => TierName::Local,
            };
            self.read.steps.note(What::Lease, tier, ended, begun);
        }
    }
}

impl Drop for Waits<'_> {
    /// Also when the caller has gone.
    fn drop(&mut self) {
        self.end(Ended::Miss);
    }
}
