//! The span of a call: what it is told, and calls that are traced and not otherwise observed.

use tonic::{Code, Response, Status, metadata::MetadataMap};

use crate::{
    observe::{CODES, NAMESPACE},
    trace::{Fact, Span, Tracer},
};

/// Begins the span of a call, if it is to be traced.
pub(super) fn begin(
    tracer: &Tracer,
    method: &'static str,
    metadata: &MetadataMap,
) -> Option<Box<Span>> {
    tracer.begin(method, |name| metadata.get(name)?.to_str().ok())
}

/// Tells the span what was called and how it was answered: names of the semantic conventions for
/// RPC (<https://opentelemetry.io/docs/specs/semconv/rpc/grpc/>).
pub(super) fn tell(span: &mut Span, code: Code) {
    let name = CODES[(code as usize).min(CODES.len() - 1)];
    span.facts.extend([
        ("rpc.system.name", Fact::Word("grpc")),
        ("rpc.method", Fact::Word(span.name)),
        ("rpc.response.status_code", Fact::Word(name)),
    ]);
    if is_failure(code) {
        span.failure = Some(name);
    }
}

/// Whether the code says that the server failed; the others are the caller's affair.
fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The code of an answer.
pub(super) fn code<T>(answer: &Result<Response<T>, Status>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

/// A call that is traced until it is answered; of a stream that is its beginning. When its caller
/// goes away before, it leaves no span.
pub(super) async fn traced<T>(
    tracer: &Tracer,
    (method, namespace): (&'static str, &str),
    metadata: &MetadataMap,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Response<T>, Status> {
    let Some(mut span) = begin(tracer, method, metadata) else {
        return answer.await;
    };
    let answer = answer.await;
    tell(&mut span, code(&answer));
    if !namespace.is_empty() {
        span.facts
            .push((NAMESPACE, Fact::Text(namespace.to_owned())));
    }
    tracer.end(span);
    answer
}
