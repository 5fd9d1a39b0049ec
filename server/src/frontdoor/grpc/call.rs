//! One request of the cache, from its arrival to its answer.

use std::time::Instant;

use tonic::{Code, Response, Status};

use crate::{
    engine::Provenance,
    observe::{Finished, Method, Observer},
    steps::Steps,
};

/// A request; noted when dropped, with what it did so far: also when its caller has gone away.
pub(super) struct Call<'a> {
    observer: &'a Observer,
    method: Method,
    begun: Instant,
    /// As the caller wrote it.
    pub(super) namespace: String,
    /// A hash of the key, where there is one.
    pub(super) key: Option<u64>,
    pub(super) steps: Steps,
    /// Once it is known.
    pub(super) provenance: Option<Provenance>,
    code: Code,
}

impl<'a> Call<'a> {
    pub(super) fn begin(observer: &'a Observer, method: Method) -> Self {
        Self {
            observer,
            method,
            begun: Instant::now(),
            namespace: String::new(),
            key: None,
            steps: Steps::default(),
            provenance: None,
            code: Code::Cancelled,
        }
    }

    /// Notes how it was answered.
    pub(super) fn answered<T>(mut self, result: &Result<Response<T>, Status>) {
        self.code = match result {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        };
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.observer.note(&Finished {
            method: self.method,
            namespace: &self.namespace,
            key: self.key,
            begun: self.begun,
            took: self.begun.elapsed(),
            steps: &self.steps,
            provenance: self.provenance.as_ref(),
            code: usize::try_from(self.code as i32).unwrap_or(2),
            trace: None,
        });
    }
}
