//! The front doors: from the wire to the engine and back. No decision of the cache is made here.

pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod listen;
