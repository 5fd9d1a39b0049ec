//! Slots of a Cluster on their way from one master to another.
//!
//! While a slot moves, each of its keys lies with the one or with the other. The old master
//! answers for what it still has and sends the rest away with `ASK`; the new one is then asked as
//! `asking` does. Source: the Redis Cluster specification, "ASK redirection", and the output of
//! `CLUSTER NODES`.
//!
//! A new master that has no slot yet is not one of those that are tracked, so it is not asked: then
//! the slot is not ready ([`Trouble::NotReady`]) until the first one has arrived there.

use std::collections::{HashMap, hash_map::Entry};

use fred::types::{Value, config::Server};

use super::{
    call::{Call, text_of},
    connection::{Connection, Metering, REDIRECTIONS_MAX},
    trouble::{SharedError, Trouble, unexpected},
};

impl Connection {
    /// Sends commands one behind the other; as many replies, in the same order. In a Cluster the
    /// order holds for each key. Together they count as one. A dropped call takes effect if it was
    /// handed to fred, and before any later call for the same key does.
    pub(super) async fn calls(
        &self,
        calls: Vec<Call>,
        metering: Metering,
    ) -> Result<Vec<Result<Value, SharedError>>, SharedError> {
        if !self.is_clustered() {
            return self.once(calls, metering).await;
        }
        let mut replies = self.once(calls.clone(), metering).await?;
        for _ in 0..REDIRECTIONS_MAX {
            let elsewhere = self.ask_elsewhere(&calls, &mut replies).await?;
            if elsewhere.is_empty() {
                break;
            }
            // fred has looked at the slots again and may have connected to a new master.
            self.set_names().await?;
            let again = elsewhere.iter().map(|index| calls[*index].clone());
            let told = self.once(again.collect(), metering).await?;
            for (index, reply) in elsewhere.into_iter().zip(told) {
                replies[index] = reply;
            }
        }
        Ok(replies)
    }

    /// Asks again where the slot is moving to; tells which are to go to another node for good.
    async fn ask_elsewhere(
        &self,
        calls: &[Call],
        replies: &mut [Result<Value, SharedError>],
    ) -> Result<Vec<usize>, SharedError> {
        let mut destinations = HashMap::new();
        let mut elsewhere = Vec::new();
        for (index, reply) in replies.iter_mut().enumerate() {
            if !reply.as_ref().is_err_and(SharedError::is_redirected) {
                continue;
            }
            let Some(slot) = calls[index].slot() else {
                continue;
            };
            let destination = match destinations.entry(slot) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(self.destination(slot).await?),
            };
            match destination {
                Some(server) => *reply = self.ask(server, &calls[index]).await,
                None => elsewhere.push(index),
            }
        }
        Ok(elsewhere)
    }

    async fn ask(&self, server: &Server, call: &Call) -> Result<Value, SharedError> {
        let unfinished = Unfinished(Some(self));
        let told = self.asking.call(server, call).await;
        unfinished.finish();
        if let Err(error) = &told
            && error.trouble == Trouble::Lost
        {
            self.lose(error.clone());
        }
        told
    }

    /// The master that a slot is moving to, if it is, by the word of the one that still has it.
    async fn destination(&self, slot: u16) -> Result<Option<Server>, SharedError> {
        let known = self.cluster()?;
        let Some(owner) = known.get_server(slot) else {
            return Ok(None);
        };
        let nodes = Call::named("CLUSTER").text("NODES").at(Some(owner.clone()));
        let mut told = self.once(vec![nodes], Metering::Exempt).await?;
        let told = match told.pop() {
            // Without the permission it is as if it were not moving.
            Some(Err(error)) if error.trouble == Trouble::Denied => return Ok(None),
            told => told.unwrap_or_else(|| Err(unexpected("CLUSTER NODES")))?,
        };
        let told = text_of("CLUSTER NODES", told)?;
        let id = migrating(&told, slot);
        let to = known.slots().iter().find(|range| id == Some(&*range.id));
        Ok(to.map(|range| range.primary.clone()))
    }

    /// What each master says of its own slots, those on the move included; `None` without a
    /// Cluster. An error when there are masters that this client does not know.
    pub(super) async fn slots(&self) -> Result<Option<Vec<String>>, SharedError> {
        if !self.is_clustered() {
            return Ok(None);
        }
        let known = self.cluster()?;
        let mut all = Vec::new();
        for master in known.unique_primary_nodes() {
            let nodes = Call::named("CLUSTER").text("NODES").at(Some(master));
            let told = text_of("CLUSTER NODES", self.call(nodes).await?)?;
            for (id, slots) in told.lines().filter_map(slots_of) {
                let strange = !known.slots().iter().any(|range| *range.id == *id);
                if strange && !slots.is_empty() {
                    let text = "the Cluster has a master that was not there before";
                    return Err(SharedError::new(Trouble::NotReady, text));
                }
            }
            let own = told.lines().find(|line| is_own(line));
            all.push(own.and_then(slots_of).map_or_else(String::new, |it| it.1));
        }
        Ok(Some(all))
    }
}

/// Ends the connection when it is dropped before a command was answered: what is sent later could
/// otherwise be carried out before it.
struct Unfinished<'a>(Option<&'a Connection>);

impl Unfinished<'_> {
    fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            let text = "a caller has gone while a slot of the Cluster was moving";
            connection.lose(SharedError::new(Trouble::Lost, text));
        }
    }
}

/// Fields of a line of `CLUSTER NODES` before the slots.
const FIELDS: usize = 8;

/// Whether a line of `CLUSTER NODES` is about the node that was asked.
fn is_own(line: &str) -> bool {
    let flags = line.split(' ').nth(2).unwrap_or_default();
    flags.split(',').any(|flag| flag == "myself")
}

/// The node and the slots of a line of `CLUSTER NODES`.
fn slots_of(line: &str) -> Option<(&str, String)> {
    let id = line.split(' ').next().filter(|id| !id.is_empty())?;
    let slots: Vec<_> = line.split(' ').skip(FIELDS).collect();
    Some((id, slots.join(" ")))
}

/// The id of the node that `slot` is moving to, as `[93->-292f8b36…]` says.
fn migrating(nodes: &str, slot: u16) -> Option<&str> {
    let own = nodes.lines().find(|line| is_own(line))?;
    let begin = format!("[{slot}->-");
    let mut slots = own.split(' ').skip(FIELDS);
    slots.find_map(|it| it.strip_prefix(&begin)?.strip_suffix(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
a1 127.0.0.1:7001@17001 master - 0 0 1 connected 0-92 94-5460 [77-<-b2]
b2 127.0.0.1:7002@17002,host myself,master - 0 0 2 connected 5461-10922 [93->-a1] [94->-c3]
c3 127.0.0.1:7003@17003 master - 0 0 3 connected
";

    #[test]
    fn a_moving_slot_is_told_by_the_node_that_has_it() {
        assert_eq!(migrating(NODES, 93), Some("a1"));
        assert_eq!(migrating(NODES, 94), Some("c3"));
        for other in [9, 77, 5461] {
            assert_eq!(migrating(NODES, other), None);
        }
        assert_eq!(migrating("", 93), None);
        assert_eq!(migrating("nonsense", 93), None);
    }

    #[test]
    fn slots_are_the_end_of_a_line() {
        let all: Vec<_> = NODES.lines().filter_map(slots_of).collect();
        assert_eq!(all[0], ("a1", "0-92 94-5460 [77-<-b2]".to_owned()));
        assert_eq!(all[2], ("c3", String::new()));
    }
}
