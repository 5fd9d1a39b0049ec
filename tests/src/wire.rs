//! A port, below the level of any client: HTTP by hand, and gRPC frame by frame, for what a client
//! does not let a test decide: what is sent when, and what is not.
//!
//! RFC 9113 has the frames of HTTP/2, RFC 7541 its header fields.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(60);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// On SETTINGS and PING.
const ACKNOWLEDGED: u8 = 1;
/// On DATA and HEADERS.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The error code of a caller that has gone.
const CANCEL: u32 = 8;
/// What every peer takes in one frame, and in all frames before it says more.
const FRAME_BYTES_MAX: usize = 16 << 10;
const WINDOW_BYTES: i64 = (64 << 10) - 1;

/// An answer over HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// The status.
    pub status: u16,
    /// The lines of the head, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl HttpReply {
    /// The value of a header, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(it, _)| *it == name).map(|(_, value)| value)
    }
}

/// Status and body of a GET over HTTP/1.1; an error when nobody answers.
pub async fn http_get(address: &str, path: &str) -> io::Result<(u16, String)> {
    let reply = http(address, "GET", path, "").await?;
    Ok((reply.status, reply.body))
}

/// One request over HTTP/1.1 on a connection of its own; `headers` are lines that end in CRLF. An
/// error when nobody answers.
pub async fn http(address: &str, method: &str, path: &str, headers: &str) -> io::Result<HttpReply> {
    http_host((address, address), method, path, headers).await
}

/// As [`http`], asking for another host than the address that is connected to.
///
/// # Errors
/// When nobody answers.
pub async fn http_host(
    (address, host): (&str, &str),
    method: &str,
    path: &str,
    headers: &str,
) -> io::Result<HttpReply> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut reply)).await??;
    let status = reply
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    match (status, reply.split_once("\r\n\r\n")) {
        (Some(status), Some((head, body))) => Ok(HttpReply {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }),
        _ => Err(io::Error::other(format!("not HTTP: {reply:?}"))),
    }
}

/// A connection of HTTP/2 that does what it is told and nothing else.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    authority: String,
    next_call: u32,
    /// Bytes of DATA that the daemon still takes.
    window: i64,
}

/// A call on a [`Connection`]: its stream identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call(u32);

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    body: Vec<u8>,
}

impl Connection {
    /// Opens one; the daemon has answered when this returns.
    ///
    /// # Panics
    /// When it does not.
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address)
            .await
            .expect("the daemon listens");
        // Or each small frame would wait for the daemon's delayed acknowledgement.
        stream.set_nodelay(true).expect("a TCP stream");
        let authority = address.to_owned();
        let mut connection = Self {
            stream,
            authority,
            next_call: 1,
            window: WINDOW_BYTES,
        };
        connection
            .send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
            .await;
        connection.seen().await;
        // The windows that the daemon offers hold from here on.
        connection
            .send(&frame(SETTINGS, ACKNOWLEDGED, 0, &[]))
            .await;
        connection.seen().await;
        connection
    }

    /// Begins a call of CacheService and sends no message. `timeout` becomes `grpc-timeout`.
    pub async fn begin(&mut self, method: &str, timeout: Option<Duration>) -> Call {
        let call = Call(self.next_call);
        self.next_call += 2;
        // Indexed: `:method: POST`, `:scheme: http`; then literals, not indexed, not compressed.
        let mut fields = vec![0x83, 0x86];
        fields.extend(field(
            &[0x04],
            &format!("/pannier.v1.CacheService/{method}"),
        ));
        fields.extend(field(&[0x01], &self.authority));
        fields.extend(field(&[0x0f, 0x10], "application/grpc"));
        fields.extend(field(b"\x00\x02te", "trailers"));
        if let Some(timeout) = timeout {
            fields.extend(field(
                b"\x00\x0cgrpc-timeout",
                &format!("{}m", timeout.as_millis()),
            ));
        }
        self.send(&frame(HEADERS, END_HEADERS, call.0, &fields))
            .await;
        call
    }

    /// Sends the message of a call, all of it, as soon as the daemon takes it.
    pub async fn finish(&mut self, call: Call, message: &[u8]) {
        let length = u32::try_from(message.len()).expect("a message of less than 4 GiB");
        // Not compressed, the length, the message.
        let message = [&[0][..], &length.to_be_bytes(), message].concat();
        let needed = i64::try_from(message.len()).expect("the same");
        while self.window < needed {
            self.receive().await;
        }
        self.window -= needed;
        let parts = message.chunks(FRAME_BYTES_MAX);
        let last = parts.len() - 1;
        let frames = parts.enumerate().flat_map(|(index, part)| {
            let flags = if index == last { END_STREAM } else { 0 };
            frame(DATA, flags, call.0, part)
        });
        let frames: Vec<u8> = frames.collect();
        self.send(&frames).await;
    }

    /// Leaves a call.
    pub async fn cancel(&mut self, call: Call) {
        self.send(&frame(RST_STREAM, 0, call.0, &CANCEL.to_be_bytes()))
            .await;
    }

    /// Waits for the end of a call's answer, whatever it says.
    pub async fn answered(&mut self, call: Call) {
        loop {
            let frame = self.receive().await;
            let ends = match frame.kind {
                DATA | HEADERS => frame.flags & END_STREAM != 0,
                RST_STREAM => true,
                _ => false,
            };
            if ends && frame.stream == call.0 {
                return;
            }
        }
    }

    /// Returns when the daemon has seen everything sent so far: frames are handled in order, so it
    /// has when it answers a ping.
    pub async fn seen(&mut self) {
        self.send(&frame(PING, 0, 0, b"are you?")).await;
        loop {
            let frame = self.receive().await;
            if frame.kind == PING && frame.flags & ACKNOWLEDGED != 0 {
                return;
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        sent.expect("in time").expect("the daemon reads");
    }

    async fn receive(&mut self) -> Frame {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut body = vec![0; length as usize];
            self.stream.read_exact(&mut body).await?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Ok::<_, io::Error>(Frame {
                kind: head[3],
                flags: head[4],
                stream,
                body,
            })
        };
        let frame = timeout(PATIENCE, read)
            .await
            .expect("in time")
            .expect("a whole frame");
        if frame.kind == WINDOW_UPDATE && frame.stream == 0 {
            let more = frame.body[..4]
                .try_into()
                .map(u32::from_be_bytes)
                .expect("four bytes");
            self.window += i64::from(more);
        }
        frame
    }
}

/// The message of a Put of some value; the stubs' messages do not encode themselves.
pub fn put_message(namespace: &str, key: &str, value: &[u8]) -> Vec<u8> {
    [
        text(1, namespace.as_bytes()),
        text(2, key.as_bytes()),
        text(3, value),
    ]
    .concat()
}

/// The message of an Invalidate of one key.
pub fn invalidate_message(namespace: &str, key: &str) -> Vec<u8> {
    [
        text(1, namespace.as_bytes()),
        text(2, &text(1, key.as_bytes())),
    ]
    .concat()
}

/// A field of bytes as protobuf writes it.
fn text(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = vec![number << 3 | 2];
    let mut rest = bytes.len();
    while rest >= 0x80 {
        encoded.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
        rest >>= 7;
    }
    encoded.push(u8::try_from(rest).expect("seven bits"));
    encoded.extend(bytes);
    encoded
}

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len())
        .expect("a short frame")
        .to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(body);
    frame
}

fn field(name: &[u8], value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("a short value");
    assert!(length < 127, "longer lengths are written otherwise");
    [name, &[length], value.as_bytes()].concat()
}
