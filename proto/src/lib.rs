//! The generated messages and stubs of `pannier.v1`, and its descriptor set.
//!
//! The contract is in the comments of `proto/pannier/v1/*.proto`.

/// Messages, clients and servers of the package `pannier.v1`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
pub mod v1 {
    tonic::include_proto!("pannier.v1");
}

/// The encoded `FileDescriptorSet` of the package, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pannier.v1.fds"));
