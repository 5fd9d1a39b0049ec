//! The tracking connection to one master: what changed there, and that it is still there.
//!
//! Redis is asked to push the name of every key that changes under our prefixes (CLIENT TRACKING
//! in broadcast mode), and to deliver the messages of one channel. Both come in the order in which
//! they happened, between the answers to our own signs of life. So when a sign of life is answered,
//! everything that happened before Redis saw it has been handed on.
//!
//! A connection lives once: whatever is wrong with it ends it, and the owner builds a new one.
//! Nothing is repeated here and nothing is decided about entries.

mod pulse;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rustls::ClientConfig;
use tokio::{
    sync::Notify,
    task::yield_now,
    time::{Instant, sleep_until},
};

use self::pulse::Pulse;
use crate::{
    clock::{Clock, Timestamp},
    config::{Address, SharedConfig, Topology},
    resp::{Connection, Fault, Value},
};

/// Oldest server we can speak to.
const VERSION_MIN: (u32, u32) = (6, 2);

/// What Redis said happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Push {
    /// These keys were written, removed, evicted, or have expired.
    Keys(Vec<Bytes>),
    /// Every key may have changed: a flush, or a new copy from a master.
    Flush,
    /// A message of the channel.
    Message(Bytes),
}

/// An answered sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    /// Our time right before it was sent.
    pub(super) sent_at: Timestamp,
    /// The same in microseconds since the Unix epoch.
    pub(super) sent_micros: u64,
    /// The time of the server between sending and answer, in microseconds since the Unix epoch.
    pub(super) server_micros: u64,
    /// From sending to answer.
    pub(super) round_trip: Duration,
}

/// A connection on which tracking is on.
pub(super) struct Tracking {
    connection: Connection,
    at: Address,
    client_id: i64,
    hears_messages: bool,
    heartbeat: Duration,
    lease: Duration,
}

/// What a connection is made with.
struct Wish<'a> {
    at: &'a Address,
    config: &'a SharedConfig,
    prefixes: &'a [String],
    channel: &'a str,
    client_name: &'a str,
}

impl Tracking {
    /// Connects to a master and turns tracking on; every step is confirmed and takes at most
    /// `connect_timeout`. Keys below any of `prefixes` are reported, all keys when one is empty.
    ///
    /// The error is a sentence for the log with the address in front.
    pub(super) async fn connect(
        at: &Address,
        config: &SharedConfig,
        tls: Option<Arc<ClientConfig>>,
        prefixes: &[String],
        channel: &str,
        client_name: &str,
    ) -> Result<Self, String> {
        let wish = Wish {
            at,
            config,
            prefixes,
            channel,
            client_name,
        };
        let connection = Connection::open(at, config, tls.as_ref()).await;
        let made = match connection {
            Ok(connection) => wish.fulfil(connection).await,
            Err(fault) => Err(fault.to_string()),
        };
        made.map_err(|reason| format!("{at}: {reason}"))
    }

    /// What Redis calls this connection.
    pub(super) fn client_id(&self) -> i64 {
        self.client_id
    }

    /// Whether messages of the channel arrive; not when the user may not subscribe.
    pub(super) fn hears_messages(&self) -> bool {
        self.hears_messages
    }

    /// Hands on what arrives until something is wrong, and says what.
    ///
    /// Every `heartbeat`, and whenever `nudge` is notified, the server is asked for its role and
    /// time. It ends when an answer is overdue after everything that had arrived was handed on
    /// (`lease` after the last answered question was sent), at the end of the connection, and at
    /// any answer that is not a master's. When the daemon itself was late to ask or to look, the
    /// server is not blamed for it.
    pub(super) async fn run(
        mut self,
        clock: &Clock,
        nudge: &Notify,
        mut push: impl FnMut(Push),
        mut beat: impl FnMut(Beat),
    ) -> String {
        let reason = self.listen(clock, nudge, &mut push, &mut beat).await;
        format!("{}: {reason}", self.at)
    }

    async fn listen(
        &mut self,
        clock: &Clock,
        nudge: &Notify,
        push: &mut impl FnMut(Push),
        beat: &mut impl FnMut(Beat),
    ) -> String {
        for values in self.connection.take_early() {
            match read_push(values) {
                Ok(None) => {}
                Ok(Some(pushed)) => push(pushed),
                Err(reason) => return reason.into(),
            }
        }
        let mut pulse = Pulse::new(self.heartbeat, self.lease);
        loop {
            // Looked at before every read: pushes without a pause must not hold it up.
            if pulse.is_due(Instant::now()) {
                pulse.sent(clock.micros(), Instant::now());
                let sent = self.connection.send(&[&["ROLE"], &["TIME"]], self.lease);
                if let Err(fault) = sent.await {
                    return fault.to_string();
                }
            }
            let answer = match self.next(&mut pulse, nudge).await {
                Ok(None) => continue,
                Ok(Some(Value::Push(values))) => match read_push(values) {
                    Ok(None) => continue,
                    Ok(Some(pushed)) => {
                        push(pushed);
                        continue;
                    }
                    Err(reason) => return reason.into(),
                },
                Ok(Some(answer)) => answer,
                Err(fault) => return fault.to_string(),
            };
            match pulse.answered(answer, Instant::now()) {
                Ok(None) => {}
                Ok(Some(answered)) => beat(answered),
                Err(reason) => return reason,
            }
        }
    }

    /// What arrived; `None` when it is time for the next question. An error when the answer to an
    /// earlier one is overdue and nothing has arrived that was not looked at.
    async fn next(&mut self, pulse: &mut Pulse, nudge: &Notify) -> Result<Option<Value>, Fault> {
        tokio::select! {
            biased;
            arrived = self.connection.next() => return arrived.map(Some),
            () = nudge.notified() => {
                pulse.hurry(Instant::now());
                return Ok(None);
            }
            () = sleep_until(pulse.wake()) => {}
        }
        // The runtime may have been late for both: give it the turn in which it learns of what the
        // kernel has for us.
        yield_now().await;
        tokio::select! {
            biased;
            arrived = self.connection.next() => return arrived.map(Some),
            () = std::future::ready(()) => {}
        }
        if pulse.is_overdue(Instant::now()) {
            return Err(Fault::Silent(self.lease));
        }
        Ok(None)
    }
}

impl Wish<'_> {
    async fn fulfil(&self, mut connection: Connection) -> Result<Tracking, String> {
        let limit = self.config.connect_timeout.0;
        let client_id = self.hello(&mut connection).await?;
        self.track(&mut connection).await?;
        let hears_messages = self.subscribe(&mut connection).await?;
        let role = connection.call("ROLE", &["ROLE"], limit).await;
        check_role(&role.map_err(|fault| fault.to_string())?)?;
        Ok(Tracking {
            connection,
            at: self.at.clone(),
            client_id,
            hears_messages,
            heartbeat: self.config.heartbeat.0,
            lease: self.config.lease.0,
        })
    }

    /// RESP3, user, name; the client's number.
    async fn hello(&self, connection: &mut Connection) -> Result<i64, String> {
        let mut arguments = vec!["HELLO", "3"];
        let who = &self.config.credentials;
        if let Some(password) = &who.password {
            let user = who.username.as_deref().unwrap_or("default");
            arguments.extend(["AUTH", user, password.expose()]);
        }
        arguments.extend(["SETNAME", self.client_name]);
        let limit = self.config.connect_timeout.0;
        let told = match connection.call("HELLO", &arguments, limit).await {
            Ok(told) => told,
            Err(Fault::Refused(_, code)) if matches!(code.as_str(), "ERR" | "NOPROTO") => {
                return Err(format!(
                    "Redis 6.2 or later with RESP3 is needed, without a proxy that lacks it \
                     (HELLO 3 was refused with {code}; also when maxclients is reached)"
                ));
            }
            Err(fault) => return Err(fault.to_string()),
        };
        check_version(told.field("version").and_then(Value::utf8))?;
        let is_cluster = matches!(self.config.topology, Some(Topology::Cluster(_)));
        match told.field("mode").and_then(Value::utf8) {
            Some("sentinel") => {
                return Err("this is a Sentinel; write redis-sentinel://…/SERVICE".into());
            }
            Some("cluster") if !is_cluster => {
                return Err("this is a node of a Cluster; write redis-cluster://…".into());
            }
            _ => {}
        }
        let id = told.field("id").and_then(Value::integer);
        id.ok_or_else(|| Fault::Unexpected("HELLO").to_string())
    }

    async fn track(&self, connection: &mut Connection) -> Result<(), String> {
        let mut arguments = vec!["CLIENT", "TRACKING", "ON", "BCAST"];
        // No prefix at all is how Redis is asked for every key.
        if self.prefixes.iter().all(|prefix| !prefix.is_empty()) {
            let prefixes = self.prefixes.iter();
            arguments.extend(prefixes.flat_map(|prefix| ["PREFIX", prefix]));
        }
        let limit = self.config.connect_timeout.0;
        match connection.call("CLIENT TRACKING", &arguments, limit).await {
            Ok(told) if told.text() == Some(b"OK") => Ok(()),
            Ok(_) => Err(Fault::Unexpected("CLIENT TRACKING").to_string()),
            Err(fault) => Err(fault.to_string()),
        }
    }

    /// Whether messages will arrive. Without the permission there is less to hear, but keys are
    /// tracked all the same.
    async fn subscribe(&self, connection: &mut Connection) -> Result<bool, String> {
        let limit = self.config.connect_timeout.0;
        let arguments = ["SUBSCRIBE", self.channel];
        let is_answer = |values: &[Value]| kind(values) == b"subscribe";
        let told = connection
            .call_until("SUBSCRIBE", &arguments, limit, is_answer)
            .await;
        match told {
            Ok(Value::Push(_)) => Ok(true),
            Ok(_) => Err(Fault::Unexpected("SUBSCRIBE").to_string()),
            Err(Fault::Refused(_, code)) if code == "NOPERM" => {
                tracing::warn!(
                    redis = %self.at,
                    channel = self.channel,
                    "the user may not SUBSCRIBE (NOPERM): invalidations of entries that Redis does \
                     not have will not reach this daemon; grant the channel with ACL SETUSER"
                );
                Ok(false)
            }
            Err(fault) => Err(fault.to_string()),
        }
    }
}

/// The first word of a push.
fn kind(values: &[Value]) -> &[u8] {
    values.first().and_then(Value::text).unwrap_or_default()
}

/// What a push means; `None` when it is of no concern. The error ends the connection.
fn read_push(values: Vec<Value>) -> Result<Option<Push>, &'static str> {
    match kind(&values) {
        b"invalidate" => match values.into_iter().nth(1) {
            Some(Value::Null) => Ok(Some(Push::Flush)),
            Some(Value::List(keys)) => {
                let keys = keys.into_iter().map(|key| match key {
                    Value::Text(key) => Ok(key),
                    _ => Err("a key of an invalidation is not a string"),
                });
                Ok(Some(Push::Keys(keys.collect::<Result<_, _>>()?)))
            }
            _ => Err("an invalidation names no keys"),
        },
        b"message" => match values.into_iter().nth(2) {
            Some(Value::Text(message)) => Ok(Some(Push::Message(message))),
            _ => Err("a message of the channel is not a string"),
        },
        b"unsubscribe" => Err("the subscription was ended by the server"),
        b"tracking-redir-broken" => Err("tracking was ended by the server"),
        _ => Ok(None),
    }
}

/// Only a master has what is current.
fn check_role(told: &Value) -> Result<(), String> {
    let role = told.list().and_then(|values| values.first()?.utf8());
    match role {
        Some("master") => Ok(()),
        Some("slave" | "replica") => Err("this is a replica, not a master".into()),
        Some("sentinel") => Err("this is a Sentinel, not a master".into()),
        _ => Err(Fault::Unexpected("ROLE").to_string()),
    }
}

fn check_version(told: Option<&str>) -> Result<(), String> {
    let mut parts = told.unwrap_or_default().split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        return Err(Fault::Unexpected("HELLO").to_string());
    };
    if (major, minor) < VERSION_MIN {
        return Err(format!(
            "Redis 6.2 or later is needed, this is {major}.{minor}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
