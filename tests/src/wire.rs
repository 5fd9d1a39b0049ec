//! A port, below the level of any client: HTTP by hand, and a gRPC call that is never finished.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(60);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACKNOWLEDGED: u8 = 1;
const END_HEADERS: u8 = 4;

/// Status and body of a GET over HTTP/1.1; an error when nobody answers.
pub async fn http_get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut reply)).await??;
    let status = reply
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = reply
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned());
    match (status, body) {
        (Some(status), Some(body)) => Ok((status, body)),
        _ => Err(std::io::Error::other(format!("not HTTP: {reply:?}"))),
    }
}

/// Begins a Put and never sends its message. The daemon has seen the call when this returns; it
/// lasts until the stream is dropped. RFC 9113 has the frames, RFC 7541 the header fields.
pub async fn half_sent_put(address: &str) -> TcpStream {
    // Indexed: `:method: POST`, `:scheme: http`; then literals, never indexed, not compressed.
    let mut fields = vec![0x83, 0x86];
    fields.extend(field(&[0x04], "/pannier.v1.CacheService/Put"));
    fields.extend(field(&[0x01], address));
    fields.extend(field(&[0x0f, 0x10], "application/grpc"));
    fields.extend(field(&[b"\x00\x02".as_slice(), b"te"].concat(), "trailers"));
    connection(address, &frame(HEADERS, END_HEADERS, 1, &fields)).await
}

/// Opens a connection, makes no call and does not react to anything from then on.
pub async fn idle_connection(address: &str) -> TcpStream {
    connection(address, &[]).await
}

/// A connection on which the daemon has seen these frames.
async fn connection(address: &str, frames: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the daemon listens");
    let settings = frame(SETTINGS, 0, 0, &[]);
    let bytes = [PREFACE, &settings, frames, &frame(PING, 0, 0, b"are you?")].concat();
    stream.write_all(&bytes).await.expect("the daemon reads");
    let answered = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut body = vec![0; length as usize];
            stream.read_exact(&mut body).await.expect("the whole frame");
            // Frames are handled in order: who answers the ping has seen the call.
            if head[3] == PING && head[4] & ACKNOWLEDGED != 0 {
                return;
            }
        }
    };
    timeout(PATIENCE, answered)
        .await
        .expect("the ping is answered");
    stream
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
