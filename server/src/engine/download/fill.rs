//! One fetch of a large value from Redis for all who read it (P1).
//!
//! ```text
//! Redis, chunk by chunk ─▶ file, as it grows ─┬─▶ reader
//!                                             └─▶ reader, each at its own pace
//! ```
//! It goes as fast as Redis and the disk, on the threads of large values. The first reader begins
//! it and nobody owns it: it ends early when the last reader has gone. When it ends without the
//! whole value (Redis or the disk in trouble, no room, a chunk gone), the readers go on without.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures_util::{StreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::AHEAD;
use crate::{
    coherence::Link,
    key::EntryName,
    record::Manifest,
    stamp::Stamp,
    tier::local::{LargeFile, LocalTier},
};

/// All that are under way.
#[derive(Debug, Default)]
pub(in crate::engine) struct Fills {
    by_set: Mutex<HashMap<Stamp, Weak<Fill>>>,
}

impl Fills {
    /// The one of this set, which the caller then is a reader of.
    pub(super) fn join(
        &self,
        local: &LocalTier,
        link: Arc<Link>,
        (name, manifest): (&EntryName, &Manifest),
    ) -> Arc<Fill> {
        let mut fills = self.by_set.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fill) = fills.get(&manifest.set).and_then(Weak::upgrade) {
            return fill;
        }
        let (progress, receiver) = watch::channel(Progress::default());
        let gone = CancellationToken::new();
        let fill = Arc::new(Fill {
            progress: receiver,
            _readers: gone.clone().drop_guard(),
        });
        fills.retain(|_, fill| fill.strong_count() > 0);
        fills.insert(manifest.set, Arc::downgrade(&fill));
        let filling = Filling {
            local: local.clone(),
            link,
            name: name.clone(),
            manifest: manifest.clone(),
            progress,
        };
        local.start_large(filling.run(gone));
        fill
    }
}

/// Held by each reader.
#[derive(Debug)]
pub(super) struct Fill {
    progress: watch::Receiver<Progress>,
    _readers: DropGuard,
}

#[derive(Debug, Default)]
struct Progress {
    file: Option<LargeFile>,
    /// Chunks that the file has.
    chunks: u32,
}

impl Fill {
    /// Waits until the file has a chunk; `None` when it will not have it.
    pub(super) async fn file_with(&self, index: u32) -> Option<LargeFile> {
        let mut progress = self.progress.clone();
        let progress = progress.wait_for(|it| it.chunks > index).await.ok()?;
        progress.file.clone()
    }
}

struct Filling {
    local: LocalTier,
    link: Arc<Link>,
    name: EntryName,
    manifest: Manifest,
    progress: watch::Sender<Progress>,
}

impl Filling {
    async fn run(self, gone: CancellationToken) {
        let Self {
            local,
            link,
            name,
            manifest,
            progress,
        } = self;
        let count = manifest.chunks();
        let mut file = match local
            .begin_large(&name, manifest.set, manifest.value_bytes)
            .await
        {
            Ok(Some(file)) => file,
            // It came since the first reader looked, or it is no use waiting for it.
            Ok(None) => {
                let file = local.open_large(manifest.set).await;
                let chunks = file.as_ref().map_or(0, |_| count);
                progress.send_replace(Progress { file, chunks });
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "a large value is not kept");
                return;
            }
        };
        progress.send_modify(|it| it.file = file.so_far());
        let chunks = stream::iter(0..count).map(|index| link.tier().chunk(&manifest, index));
        let mut chunks = chunks.buffered(AHEAD);
        for index in 0..count {
            let chunk = tokio::select! {
                biased;
                () = gone.cancelled() => return,
                chunk = chunks.next() => chunk,
            };
            let Some(Ok(Some(chunk))) = chunk else {
                tracing::debug!("a chunk could not be read to be kept");
                return;
            };
            if let Err(error) = file.append(&[chunk]).await {
                tracing::debug!(%error, "a large value is not kept");
                return;
            }
            if index + 1 < count {
                progress.send_modify(|it| it.chunks += 1);
            }
        }
        // Its manifest is there since it was found. Who has read to the end finds the file next
        // time: so the last chunk is told of last.
        match file.finish().await {
            Ok(_) => progress.send_modify(|it| it.chunks = count),
            Err(error) => tracing::debug!(%error, "a large value is not kept"),
        }
    }
}
