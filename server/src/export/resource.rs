//! Who exports: the attributes of the resource, and of what made the spans and figures.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

use crate::config::OtlpConfig;

/// The version of the semantic conventions that names and attributes follow.
pub(super) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.39.0";

/// The resource of this process.
pub(super) fn resource(config: &OtlpConfig) -> Resource {
    let own = [
        ("service.name", config.service_name.clone()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance_id()),
    ];
    let mut attributes: Vec<_> = own
        .into_iter()
        // What is configured wins.
        .filter(|(name, _)| !config.resource.contains_key(*name))
        .map(|(name, value)| text(name, value))
        .collect();
    let pid = i64::from(std::process::id());
    attributes.push(attribute("process.pid", Value::IntValue(pid)));
    let configured = config.resource.iter();
    attributes.extend(configured.map(|(name, value)| text(name, value.clone())));
    Resource {
        attributes,
        ..Resource::default()
    }
}

/// What made the spans and figures.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "pannier".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

/// An attribute with a text.
pub(super) fn text(name: &str, value: impl Into<String>) -> KeyValue {
    attribute(name, Value::StringValue(value.into()))
}

/// An attribute.
pub(super) fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// A random UUID (version 4), new with each start.
fn instance_id() -> String {
    let random = fastrand::u128(..) & !(0xf << 76) & !(0b11 << 62);
    let id = format!("{:032x}", random | (0x4 << 76) | (0b10 << 62));
    let (a, b, c) = (&id[..8], &id[8..12], &id[12..16]);
    format!("{a}-{b}-{c}-{}-{}", &id[16..20], &id[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_a_uuid_of_its_own() {
        let id = instance_id();
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4", "{id}");
        assert!(["8", "9", "a", "b"].contains(&&id[19..20]), "{id}");
        assert_ne!(id, instance_id());
    }
}
