//! The caller's deadline, sent as `grpc-timeout`.
//!
//! tonic ends a request when it has passed, but answers CANCELLED; the contract says
//! DEADLINE_EXCEEDED. So the request is ended here, a millisecond (the timer's resolution) earlier.
//! What a dropped request had begun is its tier's affair: every call there is cancel safe.

use std::{future::Future, time::Duration};

use tokio::time::timeout;
use tonic::{Response, Status, metadata::MetadataMap};

use super::status::status;
use crate::error::Result;

const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

/// Answers a request within its caller's deadline.
pub(super) async fn answer<T>(
    deadline: Option<Duration>,
    request: impl Future<Output = Result<T>>,
) -> Result<Response<T>, Status> {
    let result = match deadline {
        None => request.await,
        Some(deadline) => match timeout(deadline.saturating_sub(TIMER_RESOLUTION), request).await {
            Ok(result) => result,
            Err(_) => {
                let text = format!("the caller's deadline of {deadline:?} has passed");
                return Err(Status::deadline_exceeded(text));
            }
        },
    };
    result.map(Response::new).map_err(status)
}

/// The deadline in a request's metadata; one that does not parse counts as none, as in tonic.
/// Format: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
pub(super) fn of(metadata: &MetadataMap) -> Option<Duration> {
    parse(metadata.get("grpc-timeout")?.as_bytes())
}

fn parse(header: &[u8]) -> Option<Duration> {
    let (unit, digits) = header.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        let table = [
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("50m", Some(Duration::from_millis(50))),
            ("7u", Some(Duration::from_micros(7))),
            ("8n", Some(Duration::from_nanos(8))),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("1x", None),
            ("-1S", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_told_so() {
        let never = std::future::pending::<Result<()>>();
        let status = answer(Some(Duration::from_millis(50)), never)
            .await
            .expect_err("too long");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        let at_once = std::future::ready(Ok(1));
        let reply = answer(Some(Duration::ZERO), at_once)
            .await
            .expect("was ready");
        assert_eq!(reply.into_inner(), 1);
    }
}
