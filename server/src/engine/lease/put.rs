//! Putting with a token: what it means while Redis is there and while it is not.

use xxhash_rust::xxh3::Xxh3;

use super::Token;
use crate::{
    config::Policy,
    engine::{
        Engine, PutOptions, Shared, WriteMode,
        write::{Done, Put},
    },
    error::{Error, Kind, Result},
    stamp::Stamp,
    tier::{Condition, shared::SharedName},
};

impl Put<'_> {
    /// While Redis is away. What Redis gave it alone decides on; what was `sent` may have been
    /// carried out.
    pub(in crate::engine) fn check_lease_without_redis(&self, sent: bool) -> Result<()> {
        match self.lease {
            Some(Token::Shared { .. } | Token::Refresh { .. }) if sent => Err(undecided()),
            Some(Token::Shared { .. } | Token::Refresh { .. }) => Err(self.refusal(self.condition)),
            Some(Token::Local { .. }) | None => Ok(()),
        }
    }

    /// While Redis is there. What was given while it was away: nobody knows what others did
    /// meanwhile.
    pub(in crate::engine) fn check_lease_with_redis(&self) -> Result<()> {
        match self.lease {
            Some(Token::Local { .. }) => Err(self.refusal(self.condition)),
            Some(Token::Shared { .. } | Token::Refresh { .. }) | None => Ok(()),
        }
    }
}

impl Engine {
    /// While Redis is away: what is less than this stamp is older than the value, and is to be
    /// removed from Redis at its return. An error when the lease is not of this outage.
    pub(in crate::engine) fn bound_of(&self, shared: &Shared, put: &Put<'_>) -> Result<Stamp> {
        match put.lease {
            None => Ok(self.stamper.bound()),
            // What others put since it was given is not older.
            Some(Token::Local { epoch, bound, .. }) if epoch == shared.coherence.mark().epoch => {
                Ok(bound)
            }
            Some(_) => Err(put.refusal(put.condition)),
        }
    }

    /// The local tier alone, though Redis is shared: the value is too large for it.
    pub(in crate::engine) async fn put_here_only(
        &self,
        shared: &Shared,
        put: &Put<'_>,
        name: &SharedName,
    ) -> Result<Done> {
        shared.coherence.changed(name.as_bytes());
        let condition = match put.lease {
            Some(Token::Shared { stamp, .. }) => self.use_up(shared, put, (name, stamp)).await?,
            _ => put.condition,
        };
        let mark = shared.mark(&put.namespace.policy);
        self.put_locally_if(put, mark, condition).await
    }

    /// Ends the lease of a value that will not be in Redis; what it is put under then.
    async fn use_up(
        &self,
        shared: &Shared,
        put: &Put<'_>,
        (name, lease): (&SharedName, Stamp),
    ) -> Result<Condition> {
        let Some(link) = shared.coherence.link() else {
            return Err(put.refusal(put.condition));
        };
        let used_up = link.tier().remove_lease(name, lease).await;
        match shared.noted(&link, used_up) {
            Ok(true) => Ok(Condition::AbsentOrSame),
            Ok(false) => Err(put.refusal(put.condition)),
            Err(_) => Err(undecided()),
        }
    }
}

fn undecided() -> Error {
    Error::new(
        Kind::Unavailable,
        "options.lease_token: the connection to Redis was lost in the middle of it, and whether it \
         was written cannot be told",
    )
}

/// What a token does not go together with.
pub(in crate::engine) fn check_token(policy: &Policy, options: &PutOptions) -> Result<()> {
    if options.lease.is_none() {
        return Ok(());
    }
    let refused = match (options.condition, options.mode) {
        _ if policy.raw => "the namespace is raw, it has no leases",
        (Condition::Always, WriteMode::Local) => {
            "cannot be used with mode LOCAL: others wait for the value"
        }
        (Condition::Always, _) => return Ok(()),
        _ => "is a condition of its own, it cannot be used with if_absent or if_version",
    };
    Err(Error::invalid(format!("options.lease_token: {refused}")))
}

pub(in crate::engine) fn lease_has_ended() -> Error {
    Error::new(
        Kind::Precondition,
        "options.lease_token: the lease has ended: its time was over, the entry was put or \
         invalidated meanwhile, or contact with Redis was lost or regained since it was given",
    )
}

/// Tags with their generations as one number, never 0 if there are any.
pub(in crate::engine) fn sum_of_tags(tags: &[String], generations: &[Stamp]) -> u64 {
    let mut pairs: Vec<_> = tags.iter().zip(generations).collect();
    if pairs.is_empty() {
        return 0;
    }
    pairs.sort();
    let mut hasher = Xxh3::new();
    for (tag, generation) in pairs {
        hasher.update(tag.as_bytes());
        // No tag has this byte.
        hasher.update(&[0xff]);
        hasher.update(generation.as_bytes());
    }
    hasher.digest().max(1)
}

/// Whether the tags of a put are those the lease was asked for with, and none of them has been
/// invalidated since. A lease that was asked for without says nothing of them.
pub(in crate::engine) fn check_tags_of_lease(
    token: Token,
    tags: &[String],
    generations: &[Stamp],
) -> Result<()> {
    let then = token.tags();
    if then == 0 || then == sum_of_tags(tags, generations) {
        return Ok(());
    }
    Err(lease_has_ended())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_with_their_generations_in_any_order() {
        let stamp = |number: u8| Stamp::from_bytes([number; 16]);
        let tags = |all: &[&str]| all.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let sum = |all: &[&str], generations: &[u8]| {
            let generations: Vec<_> = generations.iter().map(|it| stamp(*it)).collect();
            sum_of_tags(&tags(all), &generations)
        };
        assert_eq!(sum(&[], &[]), 0);
        let then = sum(&["a", "b"], &[1, 2]);
        assert_eq!(then, sum(&["b", "a"], &[2, 1]));
        for other in [
            sum(&["a", "b"], &[1, 3]),
            sum(&["a"], &[1]),
            sum(&["a", "b"], &[2, 1]),
        ] {
            assert_ne!(then, other);
        }
        let token = |tags| Token::Shared {
            stamp: stamp(9),
            tags,
        };
        let check = |token| check_tags_of_lease(token, &tags(&["a", "b"]), &[stamp(1), stamp(2)]);
        assert!(check(token(then)).is_ok() && check(token(0)).is_ok());
        assert!(check(token(then + 1)).is_err());
    }
}
