//! A command on its way to Redis, and what comes back.
//!
//! The frequent commands go through fred's own methods: those it lets wait for each other and puts
//! into one write. What goes by name (`custom`) it writes to the socket at once, each on its own.

use bytes::Bytes;
use fred::{
    clients::Client,
    error::Error as FredError,
    interfaces::{ClientLike, KeysInterface},
    types::{
        ClusterHash, CustomCommand, Expiration, SetOptions, Value,
        config::{Options, Server},
    },
    util::redis_keyslot,
};

use super::trouble::{SharedError, unexpected};
use crate::record::BEGINNING_BYTES;

/// One command. Cheap to clone: keys and values are shared.
#[derive(Clone)]
pub(super) struct Call {
    command: Command,
    expected: usize,
}

#[derive(Clone)]
enum Command {
    Read(Bytes),
    Beginning(Bytes),
    TimeLeft(Bytes),
    Write {
        key: Bytes,
        value: Bytes,
        millis: i64,
        only_absent: bool,
    },
    Remove(Vec<Bytes>),
    Named(Named),
}

#[derive(Clone)]
struct Named {
    verb: &'static str,
    args: Vec<Value>,
    key: Option<Bytes>,
    node: Option<Server>,
}

impl Call {
    fn of(command: Command) -> Self {
        Self {
            command,
            expected: 0,
        }
    }

    /// Reads a value of up to about `expected` bytes; the reply is a list of one.
    ///
    /// MGET: a list or a hash is no error then, and fred does not look at the value, which it
    /// takes for a redirection when it begins like one.
    pub(super) fn read(key: &Bytes, expected: usize) -> Self {
        Self {
            command: Command::Read(key.clone()),
            expected,
        }
    }

    /// Reads what a record begins with.
    pub(super) fn beginning(key: &Bytes) -> Self {
        Self::of(Command::Beginning(key.clone()))
    }

    /// Asks for the milliseconds that are left of a key's lifetime.
    pub(super) fn time_left(key: &Bytes) -> Self {
        Self::of(Command::TimeLeft(key.clone()))
    }

    /// Writes a value with its lifetime.
    pub(super) fn write(key: &Bytes, value: Bytes, millis: i64, only_absent: bool) -> Self {
        Self::of(Command::Write {
            key: key.clone(),
            value,
            millis,
            only_absent,
        })
    }

    /// Removes keys, in a Cluster keys of one slot.
    pub(super) fn remove(keys: &[Bytes]) -> Self {
        Self::of(Command::Remove(keys.to_vec()))
    }

    /// A command of this name.
    pub(super) fn named(verb: &'static str) -> Self {
        Self::of(Command::Named(Named {
            verb,
            args: Vec::with_capacity(6),
            key: None,
            node: None,
        }))
    }

    /// A further argument of a command made by [`Call::named`], as are all below.
    fn argument(mut self, value: Value) -> Self {
        if let Command::Named(named) = &mut self.command {
            named.args.push(value);
        }
        self
    }

    /// The key that decides which node gets the command.
    pub(super) fn key(mut self, key: &Bytes) -> Self {
        if let Command::Named(named) = &mut self.command {
            named.key = Some(key.clone());
        }
        self.bytes(key.clone())
    }

    /// Bytes as they are.
    pub(super) fn bytes(self, bytes: Bytes) -> Self {
        self.argument(Value::Bytes(bytes))
    }

    /// A text.
    pub(super) fn text(self, text: &str) -> Self {
        self.argument(Value::from(text))
    }

    /// A number.
    pub(super) fn number(self, number: i64) -> Self {
        self.argument(Value::Integer(number))
    }

    /// No argument: this node of a Cluster gets the command.
    pub(super) fn at(mut self, master: Option<Server>) -> Self {
        if let Command::Named(named) = &mut self.command {
            named.node = master;
        }
        self
    }

    /// Bytes the answer may have.
    pub(super) fn expected(&self) -> usize {
        self.expected
    }

    /// Bytes that are sent, about.
    pub(super) fn size(&self) -> usize {
        match &self.command {
            Command::Read(key) | Command::Beginning(key) | Command::TimeLeft(key) => key.len(),
            Command::Write { key, value, .. } => key.len() + value.len(),
            Command::Remove(keys) => keys.iter().map(Bytes::len).sum(),
            Command::Named(named) => {
                let size = |value: &Value| value.as_bytes().map_or(8, <[u8]>::len);
                named.args.iter().map(size).sum()
            }
        }
    }

    /// The slot of a Cluster that its key is in; `None` when it has none.
    pub(super) fn slot(&self) -> Option<u16> {
        let key = match &self.command {
            Command::Read(key) | Command::Beginning(key) | Command::TimeLeft(key) => key,
            Command::Write { key, .. } => key,
            Command::Remove(keys) => keys.first()?,
            Command::Named(named) => named.key.as_ref()?,
        };
        Some(redis_keyslot(key))
    }

    /// The command as it goes over the wire.
    pub(super) fn arguments(&self) -> Vec<Bytes> {
        let word = |word: &'static str| Bytes::from_static(word.as_bytes());
        let number = |number: i64| Bytes::from(number.to_string());
        match &self.command {
            Command::Read(key) => vec![word("MGET"), key.clone()],
            Command::Beginning(key) => {
                let last = Bytes::from((BEGINNING_BYTES - 1).to_string());
                vec![word("GETRANGE"), key.clone(), word("0"), last]
            }
            Command::TimeLeft(key) => vec![word("PTTL"), key.clone()],
            Command::Write {
                key,
                value,
                millis,
                only_absent,
            } => {
                let (key, value) = (key.clone(), value.clone());
                let mut all = vec![word("SET"), key, value, word("PX"), number(*millis)];
                all.extend(only_absent.then(|| word("NX")));
                all
            }
            Command::Remove(keys) => {
                let keys = keys.iter().cloned();
                [word("UNLINK")].into_iter().chain(keys).collect()
            }
            Command::Named(named) => {
                let args = named.args.iter().map(|arg| match arg {
                    Value::Integer(integer) => number(*integer),
                    arg => bytes_of(arg.clone()).unwrap_or_default(),
                });
                [word(named.verb)].into_iter().chain(args).collect()
            }
        }
    }

    /// Hands it to fred and waits for the reply, for ever.
    pub(super) async fn send(self, client: &Client, clustered: bool) -> Result<Value, FredError> {
        match self.command {
            Command::Read(key) => client.mget(key).await,
            Command::Beginning(key) => client.getrange(key, 0, BEGINNING_BYTES - 1).await,
            Command::TimeLeft(key) => client.pttl(key).await,
            Command::Write {
                key,
                value,
                millis,
                only_absent,
            } => {
                let only_absent = only_absent.then_some(SetOptions::NX);
                let lifetime = Some(Expiration::PX(millis));
                client.set(key, value, lifetime, only_absent, false).await
            }
            Command::Remove(keys) => client.unlink(keys).await,
            Command::Named(named) => named.send(client, clustered).await,
        }
    }
}

impl Named {
    async fn send(self, client: &Client, clustered: bool) -> Result<Value, FredError> {
        // Named as a slot: fred would take the digest of a script for the key.
        let hash = match self.key.filter(|_| clustered) {
            Some(key) => ClusterHash::Custom(redis_keyslot(&key)),
            None => ClusterHash::Random,
        };
        let command = CustomCommand::new_static(self.verb, hash, false);
        let Some(node) = self.node else {
            return client.custom(command, self.args).await;
        };
        let options = Options {
            cluster_node: Some(node),
            ..Options::default()
        };
        client
            .with_options(&options)
            .custom(command, self.args)
            .await
    }
}

/// The bytes of a string reply, still part of the buffer they were read into: copy what is kept.
pub(super) fn bytes_of(value: Value) -> Option<Bytes> {
    match value {
        Value::String(text) => Some(text.into_inner()),
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// The text of a string reply.
pub(super) fn text_of(what: &str, value: Value) -> Result<String, SharedError> {
    let bytes = bytes_of(value).ok_or_else(|| unexpected(what))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A number of things done.
pub(super) fn count_of(what: &str, value: &Value) -> Result<u64, SharedError> {
    match value {
        Value::Integer(count) => u64::try_from(*count).map_err(|_| unexpected(what)),
        _ => Err(unexpected(what)),
    }
}
