//! Decodes RESP3 as it arrives, in one pass.
//!
//! Every complete token is taken out of the buffer at once and its bytes are copied, so nothing
//! that is returned keeps the buffer alive, and a large frame that comes in small pieces is not
//! read again and again. Lists that are not complete stand on a stack of limited depth: there is no
//! recursion. Memory grows with the bytes that have arrived, never with the lengths they announce.
//!
//! Understood are RESP3 and the null forms of RESP2. Attributes are skipped. Streamed types, which
//! no server sends, are refused.

use bytes::{Buf, Bytes, BytesMut};

/// Largest frame, in bytes.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// Most values of one frame: each takes more memory than its bytes on the wire.
const FRAME_VALUES_MAX: usize = 1 << 20;
/// Longest line: a simple string, an error, a number, a length.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Deepest nesting of lists.
const DEPTH_MAX: usize = 8;
/// A buffer that grew beyond this is given back once it is empty.
const BUFFER_BYTES_KEPT: usize = 256 << 10;

/// One value of RESP3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A string of any kind, a double or a big number, as written.
    Text(Bytes),
    /// An error reply. May repeat what was sent, so it is never shown as it is.
    Error(Bytes),
    /// An integer or a boolean.
    Integer(i64),
    /// Nothing.
    Null,
    /// An array or a set; of a map, keys and values in turn.
    List(Vec<Value>),
    /// What the server says without being asked; never inside another value.
    Push(Vec<Value>),
}

impl Value {
    /// The bytes of a string.
    pub(crate) fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Text(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A string that is UTF-8.
    pub(crate) fn utf8(&self) -> Option<&str> {
        self.text().and_then(|bytes| str::from_utf8(bytes).ok())
    }

    /// An integer, also one written as a string.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => self.utf8()?.parse().ok(),
        }
    }

    /// The values of a list.
    pub(crate) fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }

    /// What a map has under a key.
    pub(crate) fn field(&self, key: &str) -> Option<&Self> {
        let pairs = self.list()?.chunks_exact(2);
        let mut found = pairs.filter(|pair| pair[0].text() == Some(key.as_bytes()));
        found.next().map(|pair| &pair[1])
    }
}

/// What arrived is not RESP3, or is beyond a limit. The text holds nothing of what arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A list that is not complete yet.
struct Open {
    kind: Kind,
    missing: usize,
    values: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    List,
    Push,
    /// Skipped when complete: what it describes follows.
    Attribute,
}

/// What a token is.
enum Token {
    Value(Value),
    Open(Kind, usize),
}

/// Bytes that have arrived, and the frame they have come to so far.
#[derive(Default)]
pub(crate) struct Decoder {
    /// What has not been taken apart.
    buffer: BytesMut,
    /// How much of it is known to hold no end of a line.
    searched: usize,
    open: Vec<Open>,
    /// Of the frame at hand, already taken out of the buffer.
    frame_bytes: usize,
    frame_values: usize,
}

impl Decoder {
    /// Where arriving bytes are to be appended.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next complete frame; `None` when more bytes are needed. After an error the connection
    /// is of no use.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, Malformed> {
        while let Some(token) = self.token()? {
            let mut value = match token {
                Token::Open(kind, missing) => {
                    self.open_list(kind, missing)?;
                    None
                }
                Token::Value(value) => Some(value),
            };
            // One value may complete the list it is in, that one the next, and so on.
            loop {
                if let Some(value) = value.take() {
                    match self.open.last_mut() {
                        Some(open) => {
                            open.values.push(value);
                            open.missing -= 1;
                        }
                        None => {
                            self.finish_frame();
                            return Ok(Some(value));
                        }
                    }
                }
                if self.open.last().is_none_or(|open| open.missing > 0) {
                    break;
                }
                let Some(open) = self.open.pop() else { break };
                value = match open.kind {
                    Kind::List => Some(Value::List(open.values)),
                    Kind::Push => Some(Value::Push(open.values)),
                    Kind::Attribute => None,
                };
                if value.is_none() {
                    break;
                }
            }
        }
        Ok(None)
    }

    fn open_list(&mut self, kind: Kind, missing: usize) -> Result<(), Malformed> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Malformed("lists are nested too deeply"));
        }
        if kind == Kind::Push && !self.open.is_empty() {
            return Err(Malformed("a push is inside another value"));
        }
        if missing > FRAME_VALUES_MAX {
            return Err(Malformed("a list is too long"));
        }
        self.open.push(Open {
            kind,
            missing,
            values: Vec::new(),
        });
        Ok(())
    }

    fn finish_frame(&mut self) {
        self.frame_bytes = 0;
        self.frame_values = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = BytesMut::new();
        }
    }

    /// Takes one token out of the buffer.
    fn token(&mut self) -> Result<Option<Token>, Malformed> {
        let Some(line_end) = self.line_end()? else {
            return Ok(None);
        };
        let Some((&sign, line)) = self.buffer[..line_end].split_first() else {
            return Err(Malformed("an empty line"));
        };
        let text = |line: &[u8]| Token::Value(Value::Text(Bytes::copy_from_slice(line)));
        let token = match sign {
            b'$' | b'=' | b'!' if line != b"-1" => {
                let length = length(line)?;
                return self.blob(sign, line_end + 2, length);
            }
            b'*' | b'~' if line != b"-1" => Token::Open(Kind::List, length(line)?),
            b'%' => Token::Open(Kind::List, doubled(line)?),
            b'|' => Token::Open(Kind::Attribute, doubled(line)?),
            b'>' => Token::Open(Kind::Push, length(line)?),
            b'$' | b'*' | b'_' => Token::Value(Value::Null),
            b'+' | b',' | b'(' => text(line),
            b'-' => Token::Value(Value::Error(Bytes::copy_from_slice(line))),
            b':' => Token::Value(Value::Integer(number(line)?)),
            b'#' if line == b"t" => Token::Value(Value::Integer(1)),
            b'#' if line == b"f" => Token::Value(Value::Integer(0)),
            _ => return Err(Malformed("a line begins with no sign of RESP3")),
        };
        self.consume(line_end + 2)?;
        Ok(Some(token))
    }

    /// A string of `length` bytes after a head of `head` bytes.
    fn blob(&mut self, sign: u8, head: usize, length: usize) -> Result<Option<Token>, Malformed> {
        if length > FRAME_BYTES_MAX - self.frame_bytes.min(FRAME_BYTES_MAX) {
            return Err(Malformed("a frame is too large"));
        }
        let (end, all) = (head + length, head + length + 2);
        if self.buffer.len() < all {
            return Ok(None);
        }
        if &self.buffer[end..all] != b"\r\n" {
            return Err(Malformed("a string does not end where it says"));
        }
        let mut text = &self.buffer[head..end];
        if sign == b'=' {
            // Three letters say what kind of text follows the colon.
            text = text
                .split_at_checked(4)
                .filter(|(kind, _)| kind[3] == b':')
                .ok_or(Malformed("a verbatim string names no kind"))?
                .1;
        }
        let text = Bytes::copy_from_slice(text);
        self.consume(all)?;
        Ok(Some(Token::Value(match sign {
            b'!' => Value::Error(text),
            _ => Value::Text(text),
        })))
    }

    /// Where the first line in the buffer ends.
    fn line_end(&mut self) -> Result<Option<usize>, Malformed> {
        let from = self.searched.min(self.buffer.len());
        let found = self.buffer[from..].iter().position(|&byte| byte == b'\n');
        let end = found.map(|at| from + at);
        if end.unwrap_or(self.buffer.len()) > LINE_BYTES_MAX {
            return Err(Malformed("a line is too long"));
        }
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return Ok(None);
        };
        // The head of a string may be looked at again while its bytes arrive.
        self.searched = end;
        match end.checked_sub(1) {
            Some(end) if self.buffer[end] == b'\r' => Ok(Some(end)),
            _ => Err(Malformed("a line does not end with CR and LF")),
        }
    }

    fn consume(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.buffer.advance(bytes);
        self.searched = 0;
        self.frame_bytes += bytes;
        self.frame_values += 1;
        if self.frame_bytes > FRAME_BYTES_MAX || self.frame_values > FRAME_VALUES_MAX {
            return Err(Malformed("a frame is too large"));
        }
        Ok(())
    }
}

fn number(line: &[u8]) -> Result<i64, Malformed> {
    let text = str::from_utf8(line).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or(Malformed("a number is none"))
}

fn length(line: &[u8]) -> Result<usize, Malformed> {
    usize::try_from(number(line)?).map_err(|_| Malformed("a length is negative"))
}

fn doubled(line: &[u8]) -> Result<usize, Malformed> {
    length(line)?
        .checked_mul(2)
        .ok_or(Malformed("a list is too long"))
}

#[cfg(test)]
mod tests;
