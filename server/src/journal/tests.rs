//! The journal on a real store: restarts, kills, damage, full disks.

mod child;
mod damage;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    future::Future,
    pin::pin,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use super::*;
use crate::glob::Glob;

const LIMIT: usize = 10_000;

fn stamp(time: u64) -> Stamp {
    let mut bytes = [0; Stamp::LEN];
    bytes[..8].copy_from_slice(&time.to_be_bytes());
    Stamp::from_bytes(bytes)
}

fn remove(key: impl Into<String>, at: u64) -> Deferred {
    Deferred::Remove {
        namespace: "n".into(),
        key: key.into(),
        stamp: stamp(at),
    }
}

fn publish(key: &str) -> Deferred {
    Deferred::Publish {
        namespace: "immutable".into(),
        key: key.into(),
    }
}

async fn open(dir: &Path) -> Journal {
    Journal::open(dir, LIMIT).await.expect("opens")
}

/// Keys of the removals there are, with the times of their stamps.
async fn removals(journal: &Journal) -> BTreeMap<String, u64> {
    let items = journal.next(usize::MAX).await.expect("reads");
    assert_eq!(items.len(), journal.depth());
    let numbers = items.windows(2).all(|pair| pair[0].0 < pair[1].0);
    assert!(numbers, "oldest first");
    let removal = |(_, item)| match item {
        Deferred::Remove { key, stamp, .. } => {
            let time = stamp.as_bytes()[..8].try_into().expect("8 bytes");
            Some((key, u64::from_be_bytes(time)))
        }
        _ => None,
    };
    items.into_iter().filter_map(removal).collect()
}

#[tokio::test]
async fn items_come_back_oldest_first_until_they_are_done() {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal = open(dir.path()).await;
    let selection = Selection::Pattern(Glob::new("a*[0-9]").expect("good"));
    let items = [
        remove("k", 1),
        publish("p"),
        Deferred::RemoveSelected {
            namespace: "m".into(),
            selection,
            stamp: stamp(2),
        },
        remove("l", 3),
    ];
    for item in &items {
        journal.add(item).await.expect("adds");
    }
    journal.close().await.expect("closes");

    let journal = open(dir.path()).await;
    assert_eq!(journal.depth(), 4);
    let found = journal.next(3).await.expect("reads");
    let texts = found.iter().map(|(_, item)| format!("{item:?}"));
    let expected = items.iter().take(3).map(|item| format!("{item:?}"));
    assert!(texts.eq(expected), "{found:?}");
    let numbers: Vec<_> = found.iter().map(|(number, _)| *number).collect();
    journal.add(&remove("k", 9)).await.expect("replaces");
    journal.done(&numbers).await.expect("ends");
    let left = BTreeMap::from([("l".to_owned(), 3), ("k".to_owned(), 9)]);
    assert_eq!(removals(&journal).await, left);
    drop(journal);
    assert_eq!(removals(&reopen(dir.path()).await).await, left);
}

/// Opens the journal once its last owner, who is going away, has let go.
async fn reopen(dir: &Path) -> Journal {
    eventually(async || Journal::open(dir, LIMIT).await.ok()).await
}

/// What `look` finds, once it finds something.
async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within 30 seconds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn who_the_daemon_is_and_its_last_contact_are_kept() {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal = open(dir.path()).await;
    let id = journal.daemon_id();
    assert_eq!((journal.last_contact(), journal.lost()), (None, false));
    let at = Timestamp::from_millis(1_800_000_000_123);
    journal.set_last_contact(7, at).await.expect("keeps");
    assert_eq!(journal.last_contact(), Some((7, at)));
    journal.close().await.expect("closes");
    journal.close().await.expect("closed is fine");
    let error = journal.add(&remove("k", 1)).await.expect_err("is closed");
    assert_eq!(error.kind(), Kind::Unavailable);

    let journal = open(dir.path()).await;
    assert_eq!(
        (journal.daemon_id(), journal.last_contact()),
        (id, Some((7, at)))
    );
    let other = tempfile::tempdir().expect("tempdir");
    assert_ne!(open(other.path()).await.daemon_id(), id);
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn the_limit_holds_over_restarts_and_frees_itself() {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal = Journal::open(dir.path(), 100).await.expect("opens");
    for at in 0..100 {
        journal
            .add(&remove(at.to_string(), at))
            .await
            .expect("adds");
    }
    journal.add(&publish("p")).await.expect("is dropped");
    assert_eq!((journal.depth(), journal.dropped()), (100, 1));
    journal.add(&remove("last", 100)).await.expect("adds");
    assert_eq!((journal.depth(), journal.collapses()), (1, 1));
    journal.close().await.expect("closes");

    let journal = Journal::open(dir.path(), 100).await.expect("opens");
    journal
        .add(&remove("later", 101))
        .await
        .expect("is taken in");
    let items = journal.next(10).await.expect("reads");
    let [
        (
            number,
            Deferred::RemoveSelected {
                selection,
                stamp: at,
                ..
            },
        ),
    ] = &items[..]
    else {
        panic!("{items:?}");
    };
    assert!(matches!(selection, Selection::All) && *at == stamp(101));
    journal.done(&[*number]).await.expect("ends");
    journal.add(&remove("k", 102)).await.expect("adds");
    assert_eq!(removals(&journal).await.len(), 1);
    journal.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_at_once_lose_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal = open(dir.path()).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..64_u64 {
        let journal = journal.clone();
        callers.spawn(async move {
            for at in 0..20 {
                let own = remove(format!("{caller}-{at}"), at);
                journal.add(&own).await.expect("adds");
                let shared = remove(format!("shared-{at}"), caller);
                journal.add(&shared).await.expect("adds");
            }
        });
    }
    callers.join_all().await;
    let found = removals(&journal).await;
    assert_eq!(found.len(), 64 * 20 + 20);
    assert!((0..20).all(|at| found[&format!("shared-{at}")] == 63));
    drop(journal);
    assert_eq!(removals(&reopen(dir.path()).await).await, found);
}

#[tokio::test]
async fn an_add_that_was_dropped_takes_effect_before_later_calls_or_never() {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal = open(dir.path()).await;
    for round in 0..50 {
        {
            let item = remove("k", 2 * round + 1_000);
            let add = pin!(journal.add(&item));
            let mut context = Context::from_waker(Waker::noop());
            let _ = add.poll(&mut context);
        }
        let numbers: Vec<_> = {
            let items = journal.next(10).await.expect("reads");
            items.iter().map(|(number, _)| *number).collect()
        };
        journal.done(&numbers).await.expect("ends");
        assert_eq!(
            journal.depth(),
            0,
            "nothing comes after what was called later"
        );
    }
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn a_long_outage_is_replayed_in_pieces() {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal = open(dir.path()).await;
    let key = |at: u64| format!("{at}{}", "k".repeat(1000));
    let mut callers = tokio::task::JoinSet::new();
    for at in 0..5_000 {
        let journal = journal.clone();
        callers.spawn(async move { journal.add(&remove(key(at), at)).await.expect("adds") });
    }
    callers.join_all().await;
    journal.close().await.expect("closes");
    let journal = open(dir.path()).await;
    let mut seen = HashSet::new();
    while journal.depth() > 0 {
        let items = journal.next(500).await.expect("reads");
        assert_eq!(items.len(), 500);
        let numbers: Vec<_> = items.iter().map(|(number, _)| *number).collect();
        for (_, item) in items {
            let Deferred::Remove { key, .. } = item else {
                panic!("{item:?}");
            };
            assert!(seen.insert(key), "once each");
        }
        journal.done(&numbers).await.expect("ends");
    }
    assert_eq!(seen.len(), 5_000);
    assert!(journal.next(1).await.expect("reads").is_empty());
    journal.close().await.expect("closes");
}
