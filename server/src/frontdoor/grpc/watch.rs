//! A stream of Watch: news until the caller has enough, the deadline passes or the daemon stops.

use std::{pin::Pin, time::Duration};

use futures_util::stream::unfold;
use pannier_proto::v1::{
    ContinuityLost, KeyList, Progress, WatchResponse, watch_response::Event as Wire,
};
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status::status;
use crate::{
    changes::Selected,
    engine::{News, Told, Watcher},
};

/// What a stream of replies is.
pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Watching {
    watcher: Watcher,
    ends_at: Option<Instant>,
    deadline: Duration,
    stop: CancellationToken,
}

/// The stream of a watcher. It ends with a status: there is no other way to say why.
pub(super) fn stream(
    watcher: Watcher,
    deadline: Option<Duration>,
    stop: CancellationToken,
) -> Replies<WatchResponse> {
    let watching = Watching {
        watcher,
        // One too far away to be told is none.
        ends_at: deadline.and_then(|deadline| Instant::now().checked_add(deadline)),
        deadline: deadline.unwrap_or_default(),
        stop,
    };
    Box::pin(unfold(Some(watching), async |watching| {
        let mut watching = watching?;
        match watching.next().await {
            Ok(response) => Some((Ok(response), Some(watching))),
            Err(end) => Some((Err(end), None)),
        }
    }))
}

impl Watching {
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        let deadline = async {
            match self.ends_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Status::unavailable("the daemon is stopping")),
            () = deadline => {
                let text = format!("the caller's deadline of {:?} has passed", self.deadline);
                Err(Status::deadline_exceeded(text))
            }
            told = self.watcher.next() => told.map(response).map_err(status),
        }
    }
}

fn response(told: Told) -> WatchResponse {
    let event = match told.news {
        News::Nothing => Wire::Progress(Progress {}),
        News::Keys(keys) => Wire::Keys(KeyList { keys }),
        News::Selected(Selected::All) => Wire::All(true),
        News::Selected(Selected::Prefix(prefix)) => Wire::Prefix(prefix),
        News::Selected(Selected::Pattern(pattern)) => Wire::Pattern(pattern),
        News::Tag(tag) => Wire::Tag(tag),
        News::Lost => Wire::ContinuityLost(ContinuityLost {}),
    };
    WatchResponse {
        resume_token: told.token,
        event: Some(event),
    }
}
