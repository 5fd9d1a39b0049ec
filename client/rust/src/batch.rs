//! Many keys of one namespace in one call.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

use crate::{
    Client, Error, Hit, Lookup, Outcome, Provenance, ReadOptions, Result, Stored, Version,
    WriteMode, proto, time,
};

/// One entry to put. Made by [`PutItem::new`]; the fields beside key and value may be set then.
#[derive(Debug, Clone, Default)]
pub struct PutItem {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// Lifetime from now; absent: the namespace's.
    pub ttl: Option<Duration>,
    /// The caller's own words about the value.
    pub metadata: HashMap<String, String>,
    /// The media type of the value.
    pub content_type: String,
    /// Tags by which the entry can be invalidated.
    pub tags: Vec<String>,
    /// As [`PutOptions::negative`](crate::PutOptions::negative).
    pub negative: bool,
}

impl PutItem {
    /// A value under a key with everything else by default.
    pub fn new(key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            ..Self::default()
        }
    }

    fn into_proto(self) -> Result<proto::PutManyItem> {
        Ok(proto::PutManyItem {
            key: self.key,
            value: self.value,
            ttl: self.ttl.map(|ttl| time::to_proto(ttl, "ttl")).transpose()?,
            metadata: self.metadata,
            content_type: self.content_type,
            tags: self.tags,
            negative: self.negative,
        })
    }
}

/// How to write each item of a batch. The default: through both tiers, no condition.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchOptions {
    /// Which tiers must have accepted.
    pub mode: WriteMode,
    /// Write an item only if its key has no live entry; otherwise it is
    /// [`Kind::Refused`](crate::Kind::Refused).
    pub if_absent: bool,
}

impl Client {
    /// Reads 1 to 1000 keys; `answers[i]` belongs to `keys[i]`. One item's fault never fails its
    /// neighbours. Items that no longer fit into one reply fail with
    /// [`Kind::Overloaded`](crate::Kind::Overloaded) and are to be asked for again.
    pub async fn get_many<K: Into<String>>(
        &self,
        namespace: &str,
        keys: impl IntoIterator<Item = K>,
        options: &ReadOptions,
    ) -> Result<Vec<Result<Lookup>>> {
        let keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        let asked = keys.len();
        let request = self.request(proto::GetManyRequest {
            namespace: namespace.to_owned(),
            keys,
            options: options.to_proto()?,
        });
        let response = match self.answer(self.cache.clone().get_many(request)).await {
            Ok(response) => response,
            Err(error) => {
                let lookup = Lookup::skipped(self.pass_over(error)?);
                return Ok(vec![Ok(lookup); asked]);
            }
        };
        check_count(asked, response.items.len())?;
        let batch = Provenance::from_proto(response.provenance);
        let items = response.items.into_iter();
        Ok(items.map(|item| self.looked_up(item, &batch)).collect())
    }

    /// Writes 1 to 1000 entries in order, each as [`put`](Self::put) would; `answers[i]` belongs to
    /// `items[i]`. The whole is at most 4 MiB. Not a transaction: one item's fault never fails its
    /// neighbours. What is wrong with namespace or options fails the call as a whole.
    pub async fn put_many(
        &self,
        namespace: &str,
        items: impl IntoIterator<Item = PutItem>,
        options: BatchOptions,
    ) -> Result<Vec<Result<Outcome<Stored>>>> {
        let items = items
            .into_iter()
            .map(PutItem::into_proto)
            .collect::<Result<Vec<_>>>()?;
        let asked = items.len();
        let condition = options
            .if_absent
            .then_some(proto::write_options::Condition::IfAbsent(true));
        let request = self.request(proto::PutManyRequest {
            namespace: namespace.to_owned(),
            items,
            options: Some(proto::WriteOptions {
                mode: options.mode.into(),
                lease_token: Bytes::new(),
                condition,
            }),
        });
        let response = match self.answer(self.cache.clone().put_many(request)).await {
            Ok(response) => response,
            Err(error) => return Ok(vec![Ok(Outcome::Skipped(self.pass_over(error)?)); asked]),
        };
        check_count(asked, response.results.len())?;
        let batch = Provenance::from_proto(response.provenance);
        let results = response.results.into_iter();
        Ok(results.map(|result| self.stored(result, &batch)).collect())
    }

    fn looked_up(&self, item: proto::GetManyItem, batch: &Provenance) -> Result<Lookup> {
        let (tier, stale) = (item.tier(), item.stale);
        if let Some(fault) = item.fault {
            return self
                .pass_over(Error::from_fault(fault))
                .map(Lookup::skipped);
        }
        Ok(Lookup {
            lease: None,
            hit: item.entry.map(Hit::from_proto).transpose()?,
            provenance: Provenance {
                tier,
                stale,
                ..batch.clone()
            },
            skipped: None,
        })
    }

    fn stored(&self, result: proto::PutManyResult, batch: &Provenance) -> Result<Outcome<Stored>> {
        let (local, shared) = (result.local_outcome(), result.shared_outcome());
        if let Some(fault) = result.fault {
            return self
                .pass_over(Error::from_fault(fault))
                .map(Outcome::Skipped);
        }
        Ok(Outcome::Done(Stored {
            version: Version::from_proto(&result.version)?,
            expires: time::instant(result.expire_time, "no expire_time")?,
            local,
            shared,
            provenance: batch.clone(),
        }))
    }
}

fn check_count(asked: usize, answered: usize) -> Result<()> {
    if asked == answered {
        return Ok(());
    }
    Err(Error::malformed(&format!("{answered} items for {asked}")))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::{BatchOptions, PutItem};
    use crate::{
        Client, Kind, ReadOptions,
        fake::{Behaviour, FakeDaemon},
    };

    #[tokio::test]
    async fn items_answer_one_by_one() {
        let daemon = FakeDaemon::start().await;
        let client = Client::connect(daemon.address()).expect("a client");
        let items = [
            PutItem::new("a", "1"),
            PutItem::new("", "2"),
            PutItem::new("b", "3"),
        ];
        let put = client
            .put_many("n", items, BatchOptions::default())
            .await
            .expect("answers");
        let kinds: Vec<_> = put
            .iter()
            .map(|item| item.as_ref().err().map(|e| e.kind()))
            .collect();
        assert_eq!(kinds, [None, Some(Kind::InvalidArgument), None]);

        let keys = ["b", "missing", "a"];
        let got = client
            .get_many("n", keys, &ReadOptions::default())
            .await
            .expect("answers");
        let values: Vec<_> = got
            .into_iter()
            .map(|item| item.expect("no fault").hit.map(|hit| hit.value))
            .collect();
        assert_eq!(values, [Some("3".into()), None, Some("1".into())]);
    }

    #[tokio::test]
    async fn fail_open_answers_for_every_item() {
        let daemon = FakeDaemon::start().await;
        daemon.behave(Behaviour::Fail(Code::Unavailable));
        let client = Client::builder()
            .address(daemon.address())
            .fail_open(true)
            .build();
        let client = client.expect("a client");
        let got = client
            .get_many("n", ["a", "b"], &ReadOptions::default())
            .await
            .expect("misses");
        assert_eq!(got.len(), 2);
        assert!(
            got.into_iter()
                .all(|item| item.expect("a miss").skipped.is_some())
        );
        let items = [PutItem::new("a", "1")];
        let put = client
            .put_many("n", items, BatchOptions::default())
            .await
            .expect("skips");
        assert!(
            put.into_iter()
                .all(|item| item.expect("a skip").is_skipped())
        );
    }
}
