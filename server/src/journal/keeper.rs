//! The journal's thread: it alone touches the store, so that what is planned and what is written
//! cannot come apart.
//!
//! It takes what has gathered in the queue since the last turn, plans all of it into one write,
//! syncs once and answers. So the callers of one turn share one sync, and their order is that of
//! the queue.
//!
//! ```text
//! WORKING --a write or a read failed, or the directory is gone--> FAILING
//!    ^                                                              |
//!    +---- the directory takes a file, and the store opens ---------+   tried at the next call,
//!                                                                       once a second at most
//! ```
//! RocksDB may go on refusing writes after a fault that has passed, so the store is always opened
//! again before the next write. Until then it can be read.

mod opening;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Deferred, Figures,
    index::{Edits, Index},
    item::Item,
    store::{CONTACT, EPOCH, LOST, StateEdit, Store},
};
use crate::{
    clock::Timestamp,
    error::{Error, Kind, Result},
    stamp::Stamper,
};

/// Jobs that share a write.
const TURN_MAX: usize = 1024;

pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// What the thread is asked for.
pub(super) enum Job {
    Add(Deferred, Reply<()>),
    Done(Vec<u64>, Reply<()>),
    Contact(u64, Timestamp, Reply<()>),
    SettleLoss(Reply<()>),
    Next(usize, Reply<Vec<(u64, Deferred)>>),
    Close(Reply<()>),
}

pub(super) struct Keeper {
    data_dir: PathBuf,
    limit: usize,
    figures: Arc<Figures>,
    daemon_id: u64,
    open: Option<Open>,
    /// The number of the last change that was acknowledged, whatever becomes of the store.
    acknowledged: u64,
    /// Past every sequence that was given out.
    next_sequence: u64,
    trouble: Option<Trouble>,
}

struct Open {
    store: Store,
    index: Index,
    /// Nothing lies below: spares the reader what is done and not merged away yet.
    from: u64,
}

struct Trouble {
    reason: String,
    retry_at: Instant,
}

/// The writes of one turn.
#[derive(Default)]
struct Turn {
    edits: Edits,
    state: Vec<StateEdit>,
    contact: Option<(u64, Timestamp)>,
    settles_loss: bool,
    sync: bool,
    replies: Vec<Reply<()>>,
}

impl Keeper {
    /// Opens the journal of `data_dir`. What is damaged is set aside.
    pub(super) fn open(data_dir: &Path, limit: usize, figures: Arc<Figures>) -> Result<Self> {
        let mut keeper = Self {
            data_dir: data_dir.to_owned(),
            limit: limit.max(1),
            figures,
            daemon_id: Stamper::random_writer()?,
            open: None,
            acknowledged: 0,
            next_sequence: 1,
            trouble: None,
        };
        keeper.open_or_set_aside()?;
        Ok(keeper)
    }

    pub(super) fn daemon_id(&self) -> u64 {
        self.daemon_id
    }

    /// Works until it is closed or nobody can ask any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        while queue.blocking_recv_many(&mut jobs, TURN_MAX) > 0 {
            if let Some(reply) = self.serve(&mut jobs) {
                let synced = self.open.take().map_or(Ok(()), |open| open.store.sync());
                // The store is closed before the caller is told.
                let _ = reply.send(synced);
                return;
            }
        }
    }

    /// One turn. Returns who asked for the end.
    fn serve(&mut self, jobs: &mut Vec<Job>) -> Option<Reply<()>> {
        let mut turn = Turn::default();
        let mut reads = Vec::new();
        let mut close = None;
        let writes = |job: &Job| !matches!(job, Job::Next(..) | Job::Close(_));
        let usable = if jobs.iter().any(writes) {
            self.make_usable()
        } else {
            Ok(())
        };
        for job in jobs.drain(..) {
            let (planned, reply) = match job {
                Job::Next(max, reply) => {
                    reads.push((max, reply));
                    continue;
                }
                Job::Close(reply) => {
                    close = Some(reply);
                    continue;
                }
                Job::Add(item, reply) => (self.plan(&usable, |it| it.add(&item, &mut turn)), reply),
                Job::Done(list, reply) => {
                    (self.plan(&usable, |it| it.done(&list, &mut turn)), reply)
                }
                Job::Contact(epoch, at, reply) => {
                    turn.contact = Some((epoch, at));
                    (copied(&usable), reply)
                }
                Job::SettleLoss(reply) => {
                    turn.settles_loss = true;
                    (copied(&usable), reply)
                }
            };
            match planned {
                Ok(()) => turn.replies.push(reply),
                Err(error) => _ = reply.send(Err(error)),
            }
        }
        if usable.is_ok() {
            self.commit(turn);
        }
        for (max, reply) in reads {
            let _ = reply.send(self.next(max));
        }
        close
    }

    fn plan(
        &mut self,
        usable: &Result<()>,
        plan: impl FnOnce(&mut Open) -> Result<()>,
    ) -> Result<()> {
        copied(usable)?;
        let open = self.open.as_mut().ok_or_else(closed)?;
        plan(open).map_err(|error| match error.kind() {
            Kind::Invalid | Kind::Overloaded => error,
            _ => self.failed(&error),
        })
    }

    /// Writes what was planned, and answers.
    fn commit(&mut self, mut turn: Turn) {
        if let Some((epoch, at)) = turn.contact {
            turn.state.push((EPOCH, Some(epoch.to_be_bytes())));
            turn.state
                .push((CONTACT, Some(at.as_millis().to_be_bytes())));
        }
        if turn.settles_loss {
            turn.state.push((LOST, None));
            turn.sync = true;
        }
        let result = match (&mut self.open, &self.trouble) {
            // A plan found damage: what was planned besides it is not written.
            (_, Some(trouble)) => Err(Error::new(Kind::Unavailable, trouble.reason.clone())),
            (None, None) => Err(closed()),
            (Some(open), None) => {
                let edits = &turn.edits;
                let nothing =
                    edits.puts.is_empty() && edits.deletes.is_empty() && turn.state.is_empty();
                if nothing {
                    Ok(())
                } else {
                    open.store.write(edits, &turn.state, turn.sync)
                }
            }
        };
        let result = match result {
            Ok(()) => {
                self.publish_figures(&turn);
                Ok(())
            }
            Err(error) => Err(self.failed(&error)),
        };
        for reply in turn.replies {
            let _ = reply.send(copied(&result));
        }
    }

    fn publish_figures(&mut self, turn: &Turn) {
        let figures = &self.figures;
        if let Some((epoch, at)) = turn.contact {
            figures.contact_epoch.store(epoch, Ordering::Relaxed);
            figures
                .last_contact
                .store(at.as_millis(), Ordering::Relaxed);
        }
        if turn.settles_loss {
            figures.lost.store(false, Ordering::Relaxed);
        }
        let Some(open) = &mut self.open else { return };
        self.acknowledged = open.store.acknowledged();
        self.next_sequence = open.index.next_sequence();
        let dropped = std::mem::take(&mut open.index.dropped);
        let collapses = std::mem::take(&mut open.index.collapses);
        figures.dropped.fetch_add(dropped, Ordering::Relaxed);
        figures.collapses.fetch_add(collapses, Ordering::Relaxed);
        figures.depth.store(open.index.depth(), Ordering::Relaxed);
    }

    fn next(&mut self, max: usize) -> Result<Vec<(u64, Deferred)>> {
        if self.open.is_none() {
            self.make_usable()?;
        }
        let open = self.open.as_mut().ok_or_else(closed)?;
        if self.trouble.is_none() && open.index.depth() == 0 {
            // The store would look through everything that is done and not merged away yet.
            return Ok(Vec::new());
        }
        match open.next(max) {
            Ok(items) => Ok(items),
            Err(error) => {
                let error = self.failed(&error);
                // What cannot be read must be opened again, or set aside.
                self.open = None;
                Err(error)
            }
        }
    }

    /// Notes a failure. The caller is told `Unavailable` whatever the store called it.
    fn failed(&mut self, error: &Error) -> Error {
        if self.trouble.is_none() {
            tracing::error!(%error, "the journal stopped taking items; it will be opened again");
        }
        let reason = error.message().to_owned();
        self.trouble = Some(Trouble {
            reason: reason.clone(),
            retry_at: Instant::now(),
        });
        Error::new(Kind::Unavailable, reason)
    }
}

impl Open {
    fn add(&mut self, item: &Deferred, turn: &mut Turn) -> Result<()> {
        turn.sync = true;
        self.index.add(&Item::of(item), &mut turn.edits)
    }

    fn done(&mut self, sequences: &[u64], turn: &mut Turn) -> Result<()> {
        // An item that came back after a power cut would be replayed when others, by then, have
        // gone on; harmless for a removal, not for a publication.
        turn.sync = true;
        for sequence in sequences {
            if let Some(item) = self.store.item(*sequence)? {
                let item = Item::decode(&item)?;
                self.index.forget(*sequence, &item, &mut turn.edits);
            }
        }
        Ok(())
    }

    fn next(&mut self, max: usize) -> Result<Vec<(u64, Deferred)>> {
        let mut items = Vec::new();
        if max == 0 {
            return Ok(items);
        }
        self.store.items(self.from, |sequence, item| {
            items.push((sequence, Item::decode(item)?.into_deferred()?));
            Ok(items.len() < max)
        })?;
        if let Some((first, _)) = items.first() {
            self.from = *first;
        }
        Ok(items)
    }
}

fn closed() -> Error {
    Error::new(Kind::Unavailable, "journal: the store is closed for repair")
}

fn copied(result: &Result<()>) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(Error::new(error.kind(), error.message().to_owned())),
    }
}
