//! The caller's deadline, sent as `grpc-timeout`.
//!
//! tonic ends a request when it has passed, but answers CANCELLED; the contract says
//! DEADLINE_EXCEEDED. So [`Timely`] ends it a millisecond (the timer's resolution) earlier. Both
//! count from the request's head, before its body has come and before anything waits for its turn.
//! What a dropped request had begun is its tier's affair: every call there is cancel safe.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::Either;
use tokio::time::{Instant, sleep_until};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service,
        http::{Extensions, HeaderMap, Request, Response},
    },
    server::NamedService,
};

const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

/// When a request's caller no longer waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// As the caller said it.
    said: Duration,
    at: Instant,
}

impl Deadline {
    /// Of a request that came through [`Timely`].
    pub(super) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }

    /// That a request has which comes now. One that does not parse counts as none, as in tonic,
    /// and so does one too far away to be told.
    fn begin(headers: &HeaderMap) -> Option<Self> {
        let said = parse(headers.get("grpc-timeout")?.as_bytes())?;
        let at = Instant::now().checked_add(said.saturating_sub(TIMER_RESOLUTION))?;
        Some(Self { said, at })
    }

    pub(super) fn has_passed(self) -> bool {
        self.at <= Instant::now()
    }

    /// Ends when it has passed.
    async fn passed(self) {
        if !self.has_passed() {
            sleep_until(self.at).await;
        }
    }

    fn status(self) -> Status {
        let text = format!("the caller's deadline of {:?} has passed", self.said);
        Status::deadline_exceeded(text)
    }
}

/// Ends when the deadline has passed, with what its caller is told; without one it never does.
pub(super) async fn passed(deadline: Option<Deadline>) -> Status {
    match deadline {
        Some(deadline) => {
            deadline.passed().await;
            deadline.status()
        }
        None => std::future::pending().await,
    }
}

/// A service that begins its answers within their callers' deadlines, which it leaves in the
/// extensions of the requests: a stream must keep its own once it has begun.
#[derive(Debug, Clone)]
pub(super) struct Timely<S>(pub(super) S);

impl<S: NamedService> NamedService for Timely<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Timely<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Answer<S>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(deadline) = Deadline::begin(request.headers()) else {
            return Either::Left(self.0.call(request));
        };
        request.extensions_mut().insert(deadline);
        let answer = self.0.call(request);
        Either::Right(Box::pin(async move {
            tokio::select! {
                biased;
                answer = answer => answer,
                () = deadline.passed() => Ok(deadline.status().into_http()),
            }
        }))
    }
}

/// What is answered within a deadline.
type Answer<S> = Pin<
    Box<
        dyn Future<
                Output = Result<
                    <S as Service<Request<Body>>>::Response,
                    <S as Service<Request<Body>>>::Error,
                >,
            > + Send,
    >,
>;

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
    use std::convert::Infallible;

    use tower::service_fn;

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

    fn asked(deadline: &str) -> Request<Body> {
        let request = Request::builder().header("grpc-timeout", deadline);
        request.body(Body::empty()).expect("is one")
    }

    fn code(response: &Response<Body>) -> Option<tonic::Code> {
        Status::from_header_map(response.headers()).map(|status| status.code())
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_told_so() {
        let mut never = Timely(service_fn(|request: Request<Body>| {
            assert!(Deadline::of(request.extensions()).is_some());
            std::future::pending::<Result<Response<Body>, Infallible>>()
        }));
        for deadline in ["50m", "1m", "1n", "0n"] {
            let answer = never.call(asked(deadline)).await.expect("infallible");
            assert_eq!(
                code(&answer),
                Some(tonic::Code::DeadlineExceeded),
                "{deadline}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_ready_is_answered_however_short_the_deadline() {
        let mut ready = Timely(service_fn(|_| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        }));
        for request in [asked("0n"), asked("99999999H"), Request::new(Body::empty())] {
            let answer = ready.call(request).await.expect("infallible");
            assert_eq!(code(&answer), None);
        }
    }
}
