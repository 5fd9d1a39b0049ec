//! Messages with nothing but the essential; a test sets the field it is about.

use bytes::Bytes;
use pannier_proto::v1::{
    Counters, ExistsRequest, GetManyRequest, GetRequest, InvalidateRequest, KeyList, PutManyItem,
    PutManyRequest, PutRequest, StatsResponse, WriteOptions, invalidate_request::Target,
    write_options::Condition,
};

/// Get.
pub fn get(namespace: &str, key: &str) -> GetRequest {
    GetRequest {
        namespace: namespace.into(),
        key: key.into(),
        options: None,
    }
}

/// Exists.
pub fn exists(namespace: &str, key: &str) -> ExistsRequest {
    ExistsRequest {
        namespace: namespace.into(),
        key: key.into(),
        options: None,
    }
}

/// Put.
pub fn put(namespace: &str, key: &str, value: impl Into<Bytes>) -> PutRequest {
    PutRequest {
        namespace: namespace.into(),
        key: key.into(),
        value: value.into(),
        ..PutRequest::default()
    }
}

/// Put under a condition.
pub fn put_if(
    namespace: &str,
    key: &str,
    value: impl Into<Bytes>,
    condition: Condition,
) -> PutRequest {
    let options = WriteOptions {
        condition: Some(condition),
        ..WriteOptions::default()
    };
    PutRequest {
        options: Some(options),
        ..put(namespace, key, value)
    }
}

/// GetMany.
pub fn get_many<K: Into<String>>(
    namespace: &str,
    keys: impl IntoIterator<Item = K>,
) -> GetManyRequest {
    let keys = keys.into_iter().map(Into::into).collect();
    GetManyRequest {
        namespace: namespace.into(),
        keys,
        options: None,
    }
}

/// PutMany.
pub fn put_many<V: Into<Bytes>>(
    namespace: &str,
    items: impl IntoIterator<Item = (String, V)>,
) -> PutManyRequest {
    let item = |(key, value): (String, V)| PutManyItem {
        key,
        value: value.into(),
        ..PutManyItem::default()
    };
    let items = items.into_iter().map(item).collect();
    PutManyRequest {
        namespace: namespace.into(),
        items,
        options: None,
    }
}

/// Invalidate of some target.
pub fn invalidate(namespace: &str, target: Target) -> InvalidateRequest {
    InvalidateRequest {
        namespace: namespace.into(),
        target: Some(target),
    }
}

/// Invalidate of keys.
pub fn invalidate_keys<K: Into<String>>(
    namespace: &str,
    keys: impl IntoIterator<Item = K>,
) -> InvalidateRequest {
    let keys = keys.into_iter().map(Into::into).collect();
    invalidate(namespace, Target::Keys(KeyList { keys }))
}

/// A span of time.
pub fn span(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

/// A span of milliseconds.
pub fn milliseconds(count: i64) -> prost_types::Duration {
    span(
        count / 1000,
        i32::try_from(count % 1000).expect("below 1000") * 1_000_000,
    )
}

/// The milliseconds since the Unix epoch of an instant that must be there.
pub fn epoch_milliseconds(at: Option<&prost_types::Timestamp>) -> i64 {
    let at = at.expect("an instant");
    at.seconds * 1000 + i64::from(at.nanos) / 1_000_000
}

/// The counters of one namespace; zero when it has none.
pub fn counters(stats: &StatsResponse, namespace: &str) -> Counters {
    let mut all = stats.namespaces.iter();
    all.find(|it| it.namespace == namespace)
        .and_then(|it| it.counters)
        .unwrap_or_default()
}
