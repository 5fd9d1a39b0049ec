//! What a connection is for, as its first bytes tell.
//!
//! An HTTP/2 client speaks first: 24 bytes that are always the same, then its SETTINGS (RFC 9113,
//! section 3.4). One that announces [`TRANSFER_WINDOW_BYTES`] as the window of a stream moves large
//! values. A gRPC client can say that in most languages, and who does not know of it loses nothing.
//! The bytes are read, not peeked at: whoever serves the connection gets them before the rest.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

/// SETTINGS_INITIAL_WINDOW_SIZE of connections that are for transfers: 4 MiB, and the number of the
/// port, so that nobody says it by accident.
pub(crate) const TRANSFER_WINDOW_BYTES: u32 = (4 << 20) + 7466;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of a frame: length (3), type, flags, stream (4).
const FRAME_HEAD_BYTES: usize = 9;
const SETTINGS: u8 = 4;
/// Of a setting: identifier (2), value (4).
const SETTING_BYTES: usize = 6;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// More settings than anybody has.
const FIRST_BYTES_MAX: usize = 512;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Ordinary,
    Transfers,
}

/// Reads until it is clear what a connection is for; gives what was read. Who does not say it in
/// time is as good as any other.
pub(super) async fn purpose(
    socket: &mut (impl AsyncRead + Unpin),
    patience: Duration,
) -> (Purpose, Bytes) {
    let mut first = BytesMut::with_capacity(FIRST_BYTES_MAX);
    let read = async {
        loop {
            if let Some(purpose) = purpose_of(&first) {
                return purpose;
            }
            // The end, or an error, is met again by whoever serves it.
            if !matches!(socket.read_buf(&mut first).await, Ok(1..)) {
                return Purpose::Ordinary;
            }
        }
    };
    let purpose = timeout(patience, read).await.unwrap_or(Purpose::Ordinary);
    (purpose, first.freeze())
}

/// `None` when there is too little to tell.
fn purpose_of(first: &[u8]) -> Option<Purpose> {
    let ordinary = Some(Purpose::Ordinary);
    let known = first.len().min(PREFACE.len());
    if first[..known] != PREFACE[..known] {
        return ordinary;
    }
    let frame = &first[known..];
    let head = frame.get(..FRAME_HEAD_BYTES)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    if head[3] != SETTINGS || PREFACE.len() + FRAME_HEAD_BYTES + length >= FIRST_BYTES_MAX {
        return ordinary;
    }
    let settings = frame.get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length)?;
    let mut announced = settings.chunks_exact(SETTING_BYTES).map(|mut setting| {
        let identifier = setting.get_u16();
        (identifier, setting.get_u32())
    });
    match announced.any(|it| it == (INITIAL_WINDOW_SIZE, TRANSFER_WINDOW_BYTES)) {
        true => Some(Purpose::Transfers),
        false => ordinary,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(settings: &[(u16, u32)]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        let length = u8::try_from(settings.len() * SETTING_BYTES).expect("few");
        bytes.extend([0, 0, length, SETTINGS, 0, 0, 0, 0, 0]);
        for (identifier, value) in settings {
            bytes.extend(identifier.to_be_bytes());
            bytes.extend(value.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn the_window_tells_as_soon_as_it_is_there() {
        let all = opening(&[(2, 0), (4, TRANSFER_WINDOW_BYTES), (5, 16384)]);
        for known in 0..all.len() {
            assert_eq!(purpose_of(&all[..known]), None, "{known} bytes");
        }
        assert_eq!(purpose_of(&all), Some(Purpose::Transfers));
        let more = [&*all, b"more"].concat();
        assert_eq!(purpose_of(&more), Some(Purpose::Transfers));
    }

    #[test]
    fn everything_else_is_ordinary_and_nobody_waits_for_more() {
        let mut no_settings = opening(&[]);
        no_settings[PREFACE.len() + 3] = 1;
        let mut huge = opening(&[]);
        huge[PREFACE.len()] = 255;
        for first in [
            b"GET / HTTP/1.1".to_vec(),
            b"PRI * HTTP/1".to_vec(),
            opening(&[]),
            opening(&[(4, TRANSFER_WINDOW_BYTES + 1), (6, TRANSFER_WINDOW_BYTES)]),
            no_settings,
            huge,
        ] {
            assert_eq!(purpose_of(&first), Some(Purpose::Ordinary), "{first:?}");
        }
    }

    #[tokio::test]
    async fn what_was_read_is_given_on() {
        let all = opening(&[(4, TRANSFER_WINDOW_BYTES)]);
        let hour = Duration::from_secs(3600);
        let more = Bytes::from([&*all, b"more"].concat());
        let told = purpose(&mut &*more, hour).await;
        assert_eq!(told, (Purpose::Transfers, more.clone()));
        let cut = more.slice(..30);
        let told = purpose(&mut &*cut, hour).await;
        assert_eq!(told, (Purpose::Ordinary, cut));
    }

    #[tokio::test]
    async fn who_says_nothing_is_ordinary_after_a_while() {
        let (mut here, _there) = tokio::io::duplex(64);
        let told = purpose(&mut here, Duration::from_millis(1)).await;
        assert_eq!(told, (Purpose::Ordinary, Bytes::new()));
    }
}
