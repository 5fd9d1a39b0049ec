//! One connection to a Redis server or Sentinel: commands out, replies and pushes in.
//!
//! What coherence needs, and what fred cannot do, and no more: no pool, no queue, no second try. A
//! connection that has had a fault is dropped. Errors of the server are reduced to their first
//! word, because the rest may repeat what was sent, a password for example.

mod decode;
mod stream;

use std::{fmt, io, sync::Arc, time::Duration};

use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

pub(crate) use self::decode::Value;
use self::{
    decode::{Decoder, Malformed},
    stream::Stream,
};
use crate::config::{Address, Credentials, SharedConfig};

/// Room in the buffer before each read.
const READ_BYTES: usize = 16 << 10;
/// Most pushes kept while a reply is waited for.
const EARLY_MAX: usize = 1 << 16;
/// Longest first word of an error that is repeated.
const CODE_BYTES_MAX: usize = 24;

/// Why a connection is of no use, or a command was not carried out. Holds no secret.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The other side closed it.
    Closed,
    /// No answer within this time.
    Silent(Duration),
    /// The operating system's or TLS' word.
    Io(io::Error),
    /// Something else than RESP3 came.
    Malformed(&'static str),
    /// An error reply to this command, by its first word.
    Refused(&'static str, String),
    /// A reply of another shape than expected, to this command.
    Unexpected(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection was closed by the other side"),
            Self::Silent(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
            Self::Io(error) => error.fmt(f),
            Self::Malformed(what) => write!(f, "does not speak as Redis does: {what}"),
            Self::Refused(command, code) => match code.as_str() {
                "NOPERM" => write!(f, "the user may not run {command} (NOPERM)"),
                "WRONGPASS" => f.write_str("user name or password is wrong (WRONGPASS)"),
                "NOAUTH" => f.write_str(
                    "a password is needed (NOAUTH); set shared.password_file, shared.password or \
                     PANNIER_REDIS_PASSWORD",
                ),
                "DENIED" => f.write_str(
                    "it is in protected mode (DENIED): it takes clients of other machines only \
                     with a password",
                ),
                _ => write!(f, "{command} was refused ({code})"),
            },
            Self::Unexpected(command) => {
                write!(f, "the answer to {command} is not as expected")
            }
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0)
    }
}

/// The first word of an error reply when it is one of those Redis uses, otherwise `ERR`.
pub(crate) fn code_of(error: &[u8]) -> String {
    let word = error.split(|&byte| byte == b' ').next().unwrap_or_default();
    let is_short = (1..=CODE_BYTES_MAX).contains(&word.len());
    let is_code = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'_';
    match str::from_utf8(word) {
        Ok(code) if is_short && word.iter().all(is_code) => code.to_owned(),
        _ => "ERR".to_owned(),
    }
}

/// An open connection. Closed when dropped.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    /// Pushes that came while a reply was waited for, in order.
    early: Vec<Vec<Value>>,
}

impl Connection {
    /// Opens one, TLS handshake included, within `connect_timeout`.
    pub(crate) async fn open(
        at: &Address,
        config: &SharedConfig,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, Fault> {
        let limit = config.connect_timeout.0;
        let opened = timeout(limit, stream::open(at, config.lease.0, tls)).await;
        let stream = opened.map_err(|_| Fault::Silent(limit))?;
        Ok(Self {
            stream: stream?,
            decoder: Decoder::default(),
            early: Vec::new(),
        })
    }

    /// The next reply or push. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Value, Fault> {
        loop {
            if let Some(value) = self.decoder.next()? {
                return Ok(value);
            }
            let buffer = self.decoder.buffer();
            buffer.reserve(READ_BYTES);
            match self.stream.read_buf(buffer).await {
                Ok(0) => return Err(Fault::Closed),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends commands in one go, without waiting for replies.
    pub(crate) async fn send<A: AsRef<[u8]>>(
        &mut self,
        commands: &[&[A]],
        limit: Duration,
    ) -> Result<(), Fault> {
        let bytes = encode(commands);
        let sent = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        match timeout(limit, sent).await {
            Ok(sent) => sent.map_err(Fault::from),
            Err(_) => Err(Fault::Silent(limit)),
        }
    }

    /// Sends a command and waits for its reply; `command` names it in faults. An error reply is
    /// [`Fault::Refused`].
    pub(crate) async fn call<A: AsRef<[u8]>>(
        &mut self,
        command: &'static str,
        arguments: &[A],
        limit: Duration,
    ) -> Result<Value, Fault> {
        self.call_until(command, arguments, limit, |_| false).await
    }

    /// As [`Connection::call`], for commands that are answered by a push: `is_answer` knows it.
    pub(crate) async fn call_until<A: AsRef<[u8]>>(
        &mut self,
        command: &'static str,
        arguments: &[A],
        limit: Duration,
        is_answer: impl Fn(&[Value]) -> bool,
    ) -> Result<Value, Fault> {
        self.send(&[arguments], limit).await?;
        let answered = timeout(limit, self.answer(command, is_answer)).await;
        answered.unwrap_or(Err(Fault::Silent(limit)))
    }

    async fn answer(
        &mut self,
        command: &'static str,
        is_answer: impl Fn(&[Value]) -> bool,
    ) -> Result<Value, Fault> {
        loop {
            match self.next().await? {
                Value::Push(values) if is_answer(&values) => return Ok(Value::Push(values)),
                Value::Push(_) if self.early.len() >= EARLY_MAX => {
                    return Err(Fault::Malformed("pushes without end instead of a reply"));
                }
                Value::Push(values) => self.early.push(values),
                Value::Error(error) => return Err(Fault::Refused(command, code_of(&error))),
                value => return Ok(value),
            }
        }
    }

    /// The pushes that came before replies that were waited for.
    pub(crate) fn take_early(&mut self) -> Vec<Vec<Value>> {
        std::mem::take(&mut self.early)
    }

    /// AUTH, when there is a password.
    pub(crate) async fn authenticate(
        &mut self,
        who: &Credentials,
        limit: Duration,
    ) -> Result<(), Fault> {
        let Some(password) = &who.password else {
            return Ok(());
        };
        let mut arguments = vec!["AUTH"];
        arguments.extend(who.username.as_deref());
        arguments.push(password.expose());
        self.call("AUTH", &arguments, limit).await.map(|_| ())
    }
}

/// Commands as arrays of strings, one after the other.
fn encode<A: AsRef<[u8]>>(commands: &[&[A]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in commands {
        bytes.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
        for argument in *command {
            let argument = argument.as_ref();
            bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_strings() {
        let bytes = encode(&[&["GET", "ä"][..], &["TIME"]]);
        let expected = "*2\r\n$3\r\nGET\r\n$2\r\nä\r\n*1\r\n$4\r\nTIME\r\n";
        assert_eq!(bytes, expected.as_bytes());
    }

    #[test]
    fn errors_are_reduced_to_their_first_word() {
        assert_eq!(code_of(b"NOPERM this user"), "NOPERM");
        assert_eq!(
            code_of(b"ERR unknown command `HELLO`, with args: `secret`"),
            "ERR"
        );
        assert_eq!(code_of(b"secret"), "ERR");
        assert_eq!(code_of(b"UNUSUALLYLONGFIRSTWORDINDEED x"), "ERR");
        assert_eq!(code_of(b""), "ERR");
    }
}
