//! Why a message was not taken, and whether to send it again:
//! <https://opentelemetry.io/docs/specs/otlp/#failures>, `#failures-1`.

use std::time::Duration;

use http::StatusCode;
use prost::Message;
use tonic::{Code, Status};

/// A message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// For people.
    pub(super) text: String,
    /// Whether it may be taken later.
    pub(super) passes: bool,
    /// How long the collector wants to be left alone.
    pub(super) wait: Option<Duration>,
}

impl Fault {
    /// One that may pass.
    pub(super) fn passing(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            passes: true,
            wait: None,
        }
    }

    /// One that will not.
    pub(super) fn lasting(text: impl Into<String>) -> Self {
        Self {
            passes: false,
            ..Self::passing(text)
        }
    }

    /// What an answer over gRPC means.
    pub(super) fn of_status(status: &Status) -> Self {
        let wait = retry_delay(status.details());
        let passes = match status.code() {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => true,
            // Only a collector that says when has room later.
            Code::ResourceExhausted => wait.is_some(),
            _ => false,
        };
        let (code, message) = (status.code(), status.message());
        Self {
            text: format!("{code:?}: {message}{}", because(status)),
            passes,
            wait,
        }
    }

    /// What an answer over HTTP means. `wait` is its `Retry-After`.
    pub(super) fn of_answer(code: StatusCode, wait: Option<&str>, body: &str) -> Self {
        let passes = matches!(code.as_u16(), 429 | 502 | 503 | 504);
        // The other form of the header is a date, which collectors do not send.
        let seconds = wait.and_then(|text| text.trim().parse().ok());
        let line = body.lines().next().unwrap_or_default();
        Self {
            text: format!("{code}: {}", line.chars().take(200).collect::<String>()),
            passes,
            wait: seconds.filter(|_| passes).map(Duration::from_secs),
        }
    }
}

/// The cause that tonic keeps behind `transport error`.
fn because(error: &dyn std::error::Error) -> String {
    let mut causes = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    causes
}

/// `google.rpc.Status`, as far as it concerns us.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// How long to wait, if the details say it.
fn retry_delay(details: &[u8]) -> Option<Duration> {
    let details = Details::decode(details).ok()?.details;
    let info = details
        .iter()
        .find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    Duration::try_from(delay).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_what_the_protocol_says() {
        let passing = [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unavailable,
            Code::DataLoss,
        ];
        for number in 1..=16 {
            let code = Code::from_i32(number);
            let fault = Fault::of_status(&Status::new(code, "why"));
            assert_eq!(fault.passes, passing.contains(&code), "{code:?}");
        }
        for number in [400, 401, 404, 413, 429, 500, 501, 502, 503, 504] {
            let code = StatusCode::from_u16(number).expect("a code");
            let fault = Fault::of_answer(code, Some("3"), "why\nmore");
            assert_eq!(
                fault.passes,
                [429, 502, 503, 504].contains(&number),
                "{number}"
            );
            let wait = fault.passes.then(|| Duration::from_secs(3));
            assert_eq!(fault.wait, wait, "{number}");
            assert!(!fault.text.contains("more"), "{}", fault.text);
        }
    }

    #[test]
    fn a_full_collector_that_says_when_is_asked_again() {
        let info = RetryInfo {
            retry_delay: Some(prost_types::Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
        };
        let any = prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
            value: info.encode_to_vec(),
        };
        let details = Details { details: vec![any] }.encode_to_vec();
        let status = Status::with_details(Code::ResourceExhausted, "full", details.into());
        let fault = Fault::of_status(&status);
        assert!(fault.passes);
        assert_eq!(fault.wait, Some(Duration::from_millis(1500)));
    }
}
