//! A small client of Redis for the tests: RESP2, one command after the other, blocking.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// A command that has no answer after this long has failed.
const COMMAND_MAX: Duration = Duration::from_secs(10);

/// What Redis said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A word, as `OK`.
    Status(String),
    /// A refusal, with its code first.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Nothing there.
    Nil,
    /// Several.
    Array(Vec<Reply>),
}

impl Reply {
    /// The number.
    ///
    /// # Panics
    /// When it is none.
    pub fn integer(&self) -> i64 {
        match self {
            Self::Integer(number) => *number,
            other => panic!("not a number: {other:?}"),
        }
    }

    /// A word, a refusal or bytes as text; a number as digits.
    ///
    /// # Panics
    /// When it is none of them.
    pub fn text(&self) -> String {
        match self {
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Integer(number) => number.to_string(),
            other => panic!("not a text: {other:?}"),
        }
    }

    /// The bytes; `None` when nothing was there.
    ///
    /// # Panics
    /// When it is something else.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Nil => None,
            other => panic!("neither bytes nor nothing: {other:?}"),
        }
    }

    /// The elements.
    ///
    /// # Panics
    /// When there are none because it is something else.
    pub fn array(&self) -> &[Self] {
        match self {
            Self::Array(elements) => elements,
            other => panic!("not an array: {other:?}"),
        }
    }

    /// Whether it is `OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Status(status) if status == "OK")
    }

    /// Whether it is a refusal.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

/// A connection of its own to one Redis.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Opens one and, with a password, logs in as the default user.
    ///
    /// # Errors
    /// When nobody listens or answers, or the password is refused.
    pub fn open(address: SocketAddr, password: Option<&str>) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, COMMAND_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(COMMAND_MAX))?;
        stream.set_write_timeout(Some(COMMAND_MAX))?;
        let mut connection = Self {
            stream: BufReader::new(stream),
        };
        if let Some(password) = password {
            let reply = connection.command(&["AUTH", password])?;
            if !reply.is_ok() {
                return Err(io::Error::other(reply.text()));
            }
        }
        Ok(connection)
    }

    /// Sends a command and reads its answer, which may be a refusal.
    ///
    /// # Errors
    /// When the connection is lost or silent, or the answer is no RESP.
    pub fn command(&mut self, arguments: &[impl AsRef<[u8]>]) -> io::Result<Reply> {
        let mut message = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            let argument = argument.as_ref();
            message.extend(format!("${}\r\n", argument.len()).into_bytes());
            message.extend_from_slice(argument);
            message.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&message)?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let malformed = || io::Error::other(format!("not a reply of Redis: {line:?}"));
        let rest = line
            .strip_suffix("\r\n")
            .and_then(|line| line.get(1..))
            .ok_or_else(malformed)?;
        let number = || rest.parse::<i64>().map_err(|_| malformed());
        match line.as_bytes()[0] {
            b'+' => Ok(Reply::Status(rest.to_owned())),
            b'-' => Ok(Reply::Error(rest.to_owned())),
            b':' => Ok(Reply::Integer(number()?)),
            b'$' => match usize::try_from(number()?) {
                Err(_) => Ok(Reply::Nil),
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Ok(Reply::Bytes(bytes))
                }
            },
            b'*' => match number()? {
                -1 => Ok(Reply::Nil),
                count => {
                    let elements = (0..count).map(|_| self.reply());
                    elements.collect::<io::Result<_>>().map(Reply::Array)
                }
            },
            _ => Err(malformed()),
        }
    }
}
