//! Finding an entry: a look into the tiers, and an election if one was asked for.

use super::{Engine, Lease, ReadOptions, look::Reading, looked::Looked};
use crate::{
    error::Result,
    key::{EntryName, Key},
    namespace::Namespace,
    steps::Steps,
};

impl Engine {
    /// What the tiers have for a key, its value perhaps in chunks, and whether this caller is the
    /// one to compute it.
    pub(super) async fn look_or_elect(
        &self,
        namespace: &Namespace,
        key: &Key,
        (options, tags, steps): (ReadOptions, &[String], &Steps),
    ) -> Result<(Looked, Option<Lease>)> {
        let name = EntryName::new(&namespace.name, key);
        options.check(namespace, self.shared_for(namespace))?;
        let read = Reading {
            namespace,
            key,
            name: &name,
            options,
            tags,
            steps,
        };
        let (mut looked, mut lease) = (self.look_once(&read).await?, None);
        if let Some(request) = options.lease {
            // In boxes: they are large, and most reads never come here.
            if looked.found.is_none() {
                (looked, lease) = Box::pin(self.take_part(&read, request)).await?;
            } else if request.early_refresh.is_some() {
                lease = Box::pin(self.refresh(&read, &looked, request)).await;
            }
        }
        Ok((looked, lease))
    }

    /// What the tiers have for a key and its tags let live, its value perhaps in chunks.
    pub(super) async fn look_at(
        &self,
        namespace: &Namespace,
        key: &Key,
        options: ReadOptions,
        steps: &Steps,
    ) -> Result<Looked> {
        let name = EntryName::new(&namespace.name, key);
        options.check(namespace, self.shared_for(namespace))?;
        let how = (options, steps);
        let looked = self.look_in(namespace, key, &name, how).await?;
        self.live(namespace, key, looked, how).await
    }
}
