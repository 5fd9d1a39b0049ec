//! A stream of Watch: news until the caller has enough, the deadline passes or the daemon stops.

use std::pin::Pin;

use futures_util::stream::unfold;
use pannier_proto::v1::{
    ContinuityLost, KeyList, Progress, WatchResponse, watch_response::Event as Wire,
};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    deadline::{Deadline, passed},
    status::status,
};
use crate::{
    changes::Selected,
    engine::{News, Told, Watcher},
};

/// What a stream of replies is.
pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Watching {
    watcher: Watcher,
    deadline: Option<Deadline>,
    stop: CancellationToken,
}

/// The stream of a watcher. It ends with a status: there is no other way to say why.
pub(super) fn stream(
    watcher: Watcher,
    deadline: Option<Deadline>,
    stop: CancellationToken,
) -> Replies<WatchResponse> {
    let watching = Watching {
        watcher,
        deadline,
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
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Status::unavailable("the daemon is stopping")),
            late = passed(self.deadline) => Err(late),
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
