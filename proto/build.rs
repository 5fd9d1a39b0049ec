//! Compiles the protos without the protoc program (ADR 0004).

use std::{env, error::Error, fs, path::PathBuf};

const PROTOS: [&str; 3] = [
    "pannier/v1/types.proto",
    "pannier/v1/cache.proto",
    "pannier/v1/admin.proto",
];

#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells build scripts by environment"
)]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=pannier");
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        // Values travel as reference-counted buffers.
        .bytes(".")
        .compile_fds(descriptors.clone())?;
    fs::write(
        out.join("pannier.v1.fds"),
        protox::prost::Message::encode_to_vec(&descriptors),
    )?;
    Ok(())
}
