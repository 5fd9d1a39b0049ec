use std::{fs, ops::Range, time::Duration};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    config::Size,
    glob::Glob,
    key::NamespaceName,
    stamp::Stamp,
    tier::{
        Leased, Stored,
        conformance::{self, name, record},
    },
};

const MIB: u64 = 1 << 20;
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const LONG: Duration = Duration::from_secs(24 * 3600);

/// A tier with its directory; stopped when dropped.
struct Opened {
    tier: LocalTier,
    maintenance: Maintenance,
    stop: CancellationToken,
}

impl Opened {
    async fn close(self) {
        self.stop.cancel();
        self.maintenance.await.expect("maintenance did not panic");
        self.tier.close().await.expect("closes");
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct Stop(CancellationToken);

async fn open_with(dir: &Path, clock: &Clock, disk: u64) -> Opened {
    let config = LocalConfig {
        data_dir: dir.to_owned(),
        disk_budget: Size(disk),
        memory_budget: Size(16 * MIB),
    };
    let stop = CancellationToken::new();
    let opened = LocalTier::open(&config, LONG, "test", clock.clone(), stop.clone());
    let (tier, maintenance) = opened.await.expect("opens");
    Opened {
        tier,
        maintenance,
        stop,
    }
}

async fn open(dir: &Path, clock: &Clock) -> Opened {
    open_with(dir, clock, 64 * MIB).await
}

fn end() -> Timestamp {
    START.after(Duration::from_secs(3600))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_tier_conforms() {
    conformance::check(|clock| async move {
        let dir = tempfile::tempdir().expect("tempdir");
        let opened = open(dir.path(), &clock).await;
        (opened.tier.clone(), (Stop(opened.stop), dir))
    })
    .await;
}

#[tokio::test]
async fn entries_survive_an_orderly_close() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let (small, large) = (record(1, 100, end()), record(2, 1 << 20, end()));
    let opened = open(dir.path(), &clock).await;
    opened
        .tier
        .put(&name("n", "small"), &small, end())
        .await
        .expect("puts");
    opened
        .tier
        .put(&name("n", "large"), &large, end())
        .await
        .expect("puts");
    opened.close().await;

    let opened = open(dir.path(), &clock).await;
    for (key, record) in [("small", &small), ("large", &large)] {
        let found = opened
            .tier
            .get(&name("n", key))
            .await
            .expect("works")
            .expect("is there");
        assert_eq!(found.record.as_bytes(), record.as_bytes());
    }
    opened.close().await;
}

#[tokio::test]
async fn a_lease_is_given_once_and_is_nothing_to_others() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    let (tier, key) = (&opened.tier, name("n", "k"));
    let stamp = |number: u8| Stamp::from_bytes([number; 16]);
    let soon = START.after(Duration::from_millis(10));
    let ask = async |number, expires, epoch, over| {
        let lease = Record::lease(stamp(number), START, expires);
        let mark = Mark { epoch, sequence: 0 };
        let told = tier.lease(&key, &lease, expires, mark, over).await;
        told.expect("works")
    };
    let put = async |record: &Record, condition| {
        let stored = tier.put_if(&key, record, end(), Mark::default(), condition);
        stored.await.expect("works")
    };
    let value = record(9, 50, end());
    assert_eq!(ask(1, soon, 7, None).await, Leased::Given);
    assert_eq!(ask(2, end(), 7, None).await, Leased::Held(soon));
    // Nothing to whoever looks.
    assert!(tier.get(&key).await.expect("works").is_none());
    assert!(tier.head(&key).await.expect("works").is_none());
    let many = tier.get_many(std::slice::from_ref(&key)).await;
    assert!(many[0].as_ref().expect("works").is_none());
    assert!(!tier.delete(&key).await.expect("works"));
    for (condition, stored) in [
        (Condition::Lease(stamp(1)), Stored::Refused),
        (Condition::Lease(stamp(3)), Stored::Written),
        (Condition::Lease(stamp(3)), Stored::Refused),
    ] {
        if stored == Stored::Written {
            assert_eq!(ask(3, soon, 7, None).await, Leased::Given);
        }
        assert_eq!(put(&value, condition).await, stored);
    }
    // An entry is in its way, but for the version that may go.
    let version = value.head().stamp;
    assert_eq!(ask(4, soon, 7, None).await, Leased::Taken);
    assert_eq!(ask(4, soon, 7, Some(stamp(4))).await, Leased::Taken);
    assert_eq!(ask(4, soon, 7, Some(version)).await, Leased::Given);
    for condition in [Condition::Version(stamp(4)), Condition::Version(version)] {
        assert_eq!(put(&value, condition).await, Stored::Refused);
    }
    assert_eq!(put(&value, Condition::Absent).await, Stored::Written);
    assert!(tier.delete(&key).await.expect("works"));
    // Of another outage, or over.
    assert_eq!(ask(5, end(), 7, None).await, Leased::Given);
    assert_eq!(ask(6, soon, 8, None).await, Leased::Given);
    assert_eq!(
        put(&value, Condition::Lease(stamp(5))).await,
        Stored::Refused
    );
    clock.advance(Duration::from_millis(10));
    assert_eq!(
        put(&value, Condition::Lease(stamp(6))).await,
        Stored::Refused
    );
    assert_eq!(ask(7, end(), 8, None).await, Leased::Given);
    // A scan removes it, and does not count it.
    let key2 = name("n", "k2");
    tier.put(&key2, &value, end()).await.expect("works");
    let namespace = NamespaceName::new("n").expect("valid");
    let removed = tier.delete_selected(&namespace, Selection::All).await;
    assert_eq!(removed.expect("works"), 1);
    assert!(tier.get(&key2).await.expect("works").is_none());
    assert_eq!(
        put(&value, Condition::Lease(stamp(7))).await,
        Stored::Refused
    );
    opened.close().await;
}

#[tokio::test]
async fn conditions_are_decided_against_what_is_live() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    let (tier, key) = (&opened.tier, name("n", "k"));
    let (first, second) = (record(1, 50, end()), record(2, 50, end()));
    let put = async |record: &Record, expires, condition| {
        tier.put_if(&key, record, expires, Mark::default(), condition)
            .await
            .expect("works")
    };
    let soon = START.after(Duration::from_millis(10));
    let missing = Condition::Version(first.head().stamp);
    assert_eq!(put(&first, soon, missing).await, Stored::Refused);
    assert_eq!(put(&first, soon, Condition::Absent).await, Stored::Written);
    assert_eq!(
        put(&second, end(), Condition::Absent).await,
        Stored::Refused
    );
    let wrong = Condition::Version(second.head().stamp);
    assert_eq!(put(&second, end(), wrong).await, Stored::Refused);
    let kept = put(&first, end(), Condition::AbsentOrSame).await;
    assert_eq!(
        kept,
        Stored::Kept {
            head: *first.head(),
            expires: soon
        }
    );
    assert_eq!(
        put(&second, end(), Condition::AbsentOrSame).await,
        Stored::Refused
    );
    let right = Condition::Version(first.head().stamp);
    assert_eq!(put(&second, soon, right).await, Stored::Written);
    // What has ended is as good as absent.
    clock.advance(Duration::from_millis(10));
    assert_eq!(put(&first, end(), Condition::Absent).await, Stored::Written);
    opened.close().await;
}

/// Interleaving: each task reads nothing and writes if absent. Without the lock around decision
/// and write two of them would both find the key absent.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_put_if_absent_one_wins() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    for round in 0..20 {
        let mut tasks = tokio::task::JoinSet::new();
        for seed in 0..16_u64 {
            let (tier, key) = (opened.tier.clone(), name("n", &format!("k{round}")));
            let record = record(seed, if seed % 2 == 0 { 50 } else { 40 << 10 }, end());
            tasks.spawn(async move {
                tier.put_if(&key, &record, end(), Mark::default(), Condition::Absent)
                    .await
                    .expect("works")
            });
        }
        let outcomes = tasks.join_all().await;
        let won = outcomes
            .iter()
            .filter(|stored| **stored == Stored::Written)
            .count();
        assert_eq!(won, 1, "round {round}");
    }
    opened.close().await;
}

/// Interleaving: a large put is on its blocking thread when its caller goes away; a delete of the
/// same name is acknowledged after that. Without the lock going along with the put, the put could
/// land after the delete and bring the value back (L2).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_whose_caller_left_never_undoes_a_later_delete() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    let (tier, key) = (&opened.tier, name("n", "k"));
    let large = record(1, 2 << 20, end());
    for _ in 0..40 {
        {
            let put = tier.put(&key, &large, end());
            tokio::pin!(put);
            // Polled until it has handed its work over, then dropped.
            for _ in 0..3 {
                let poll = std::future::poll_fn(|cx| {
                    std::task::Poll::Ready(put.as_mut().poll(cx).is_ready())
                });
                if poll.await {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        tier.delete(&key).await.expect("deletes");
        // Everything that was under way has run once the lock is free again.
        drop(tier.lock(&key).await);
        assert!(
            tier.get(&key).await.expect("works").is_none(),
            "the value came back"
        );
    }
    opened.close().await;
}

async fn fill(tier: &LocalTier, keys: Range<u64>) {
    for i in keys {
        let record = record(i, 20, end());
        tier.put(&name("n", &format!("{}:{i}", i % 2)), &record, end())
            .await
            .expect("puts");
    }
}

#[tokio::test]
async fn selections_remove_what_they_name_and_nothing_else() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    let (tier, namespace) = (&opened.tier, NamespaceName::new("n").expect("valid"));
    // More than two slices.
    fill(tier, 0..5000).await;
    let neighbour = name("na", "0:0");
    tier.put(&neighbour, &record(1, 20, end()), end())
        .await
        .expect("puts");

    let prefix = Selection::Prefix("0:".into());
    assert_eq!(
        tier.delete_selected(&namespace, prefix)
            .await
            .expect("works"),
        2500
    );
    assert!(
        tier.get(&name("n", "0:4998"))
            .await
            .expect("works")
            .is_none()
    );
    assert!(
        tier.get(&name("n", "1:4999"))
            .await
            .expect("works")
            .is_some()
    );

    let glob = Selection::Pattern(Glob::new("1:*9").expect("valid"));
    assert_eq!(
        tier.delete_selected(&namespace, glob).await.expect("works"),
        500
    );
    assert!(
        tier.get(&name("n", "1:4999"))
            .await
            .expect("works")
            .is_none()
    );

    assert_eq!(
        tier.delete_selected(&namespace, Selection::All)
            .await
            .expect("works"),
        2000
    );
    assert_eq!(
        tier.delete_selected(&namespace, Selection::All)
            .await
            .expect("works"),
        0
    );
    assert!(tier.get(&neighbour).await.expect("works").is_some());
    opened.close().await;
}

#[tokio::test]
async fn ended_entries_are_dropped_by_merging_and_not_counted_as_removed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    let soon = START.after(Duration::from_secs(1));
    let tier = &opened.tier;
    tier.put(&name("n", "short"), &record(1, 20, soon), soon)
        .await
        .expect("puts");
    clock.advance(Duration::from_secs(2));
    let namespace = NamespaceName::new("n").expect("valid");
    let count = tier
        .delete_selected(&namespace, Selection::All)
        .await
        .expect("works");
    assert_eq!(count, 0);
    // Every other entry ends soon, until so many tables have come that merging sets in.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    for i in 0.. {
        let at = if i % 2 == 0 {
            end()
        } else {
            clock.now().after(Duration::from_millis(1))
        };
        tier.put(&name("n", &format!("l{i}")), &record(i, 1000, at), at)
            .await
            .expect("puts");
        if i % 1000 == 0 {
            clock.advance(Duration::from_millis(1));
            if tier.stats().await.expect("stats").expired_records > 0 {
                break;
            }
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "merging has dropped nothing"
        );
    }
    opened.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_outlives_what_is_not_and_the_budget_holds() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    let tier = &opened.tier;
    let (hot, cold) = (name("n", "hot"), name("n", "cold"));
    tier.put(&hot, &record(1, 1000, end()), end())
        .await
        .expect("puts");
    tier.put(&cold, &record(2, 1000, end()), end())
        .await
        .expect("puts");
    let mut worst = 0;
    // Four times the budget.
    for i in 0..4096 {
        let key = name("n", &format!("filler{i}"));
        tier.put(&key, &record(i, 64 << 10, end()), end())
            .await
            .expect("no put fails");
        assert!(
            tier.get(&hot).await.expect("works").is_some(),
            "lost after {i} puts"
        );
        if i % 64 == 0 {
            worst = worst.max(store::disk_bytes(dir.path()));
        }
    }
    assert!(
        tier.get(&cold).await.expect("works").is_none(),
        "nothing was evicted"
    );
    assert!(worst < 64 * MIB * 11 / 10, "{worst} bytes on disk");
    assert!(tier.stats().await.expect("stats").refreshed_records > 0);
    opened.close().await;
}

#[tokio::test]
async fn clearing_drops_everything_and_goes_on() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    fill(&opened.tier, 0..100).await;
    opened.tier.clear().await.expect("clears");
    assert!(
        opened
            .tier
            .get(&name("n", "0:0"))
            .await
            .expect("works")
            .is_none()
    );
    fill(&opened.tier, 0..1).await;
    assert!(
        opened
            .tier
            .get(&name("n", "0:0"))
            .await
            .expect("works")
            .is_some()
    );
    opened.close().await;
}

/// A store that was open when the machine went down may have lost its newest removals.
#[tokio::test]
async fn a_power_cut_empties_the_store() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    fill(&opened.tier, 0..10).await;
    opened.close().await;
    let lock = dir.path().join("pannierd.lock");
    let text = fs::read_to_string(&lock)
        .expect("reads")
        .replace("closed = true", "closed = false");
    let boot = text
        .lines()
        .find(|line| line.starts_with("boot"))
        .expect("has one")
        .to_owned();
    fs::write(&lock, text.replace(&boot, "boot = another")).expect("writes");
    let opened = open(dir.path(), &clock).await;
    assert!(
        opened
            .tier
            .get(&name("n", "0:0"))
            .await
            .expect("works")
            .is_none()
    );
    opened.close().await;
}

#[tokio::test]
async fn a_directory_that_vanishes_is_noticed_and_begun_anew() {
    let dir = TempDir::new().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    fill(&opened.tier, 0..10).await;
    fs::remove_dir_all(dir.path()).expect("removes");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while opened.tier.stats().await.expect("stats").reopens == 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            opened.tier.trouble()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        opened
            .tier
            .get(&name("n", "0:0"))
            .await
            .expect("works")
            .is_none()
    );
    fill(&opened.tier, 0..10).await;
    assert!(
        opened
            .tier
            .get(&name("n", "0:0"))
            .await
            .expect("works")
            .is_some()
    );
    opened.close().await;
}

/// Interleaving: scans take all permits of blocking calls and wait for `slices`, which a
/// conditional put holds while it waits for a permit to read a large value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_and_conditional_puts_do_not_wait_for_each_other() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    fill(&opened.tier, 0..3000).await;
    let large = record(1, 64 << 10, end());
    for i in 0..40 {
        let key = name("n", &format!("large{i}"));
        opened.tier.put(&key, &large, end()).await.expect("puts");
    }
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..40 {
        let (scanner, putter) = (opened.tier.clone(), opened.tier.clone());
        tasks.spawn(async move {
            let namespace = NamespaceName::new("n").expect("valid");
            let glob = Selection::Pattern(Glob::new("*none").expect("valid"));
            scanner
                .delete_selected(&namespace, glob)
                .await
                .expect("scans");
        });
        let record = large.clone();
        tasks.spawn(async move {
            let key = name("n", &format!("large{i}"));
            let condition = Condition::Version(record.head().stamp);
            putter
                .put_if(&key, &record, end(), Mark::default(), condition)
                .await
                .expect("puts");
        });
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .expect("all come to an end");
    opened.close().await;
}

/// Takes a record from the store as it does itself for space, and makes the rest look old.
async fn drop_for_space(tier: &LocalTier, name: &EntryName) {
    let slot = tier.inner.store.read().await;
    let store = slot.as_ref().expect("is open");
    store.delete(name.as_bytes()).expect("deletes");
    let way = tier.inner.sizes.data_files;
    tier.inner.position.fetch_add(way, Ordering::Relaxed);
}

async fn is_stored(tier: &LocalTier, name: &EntryName) -> bool {
    let slot = tier.inner.store.read().await;
    let store = slot.as_ref().expect("is open");
    let found = store.read(name.as_bytes(), |_| ()).expect("reads");
    found.is_some()
}

/// Puts a record, has it in the hot set, and lets the store drop it.
async fn keep_hot_only(tier: &LocalTier, name: &EntryName) {
    let put = tier.put(name, &record(1, 1000, end()), end()).await;
    put.expect("puts");
    assert!(tier.get(name).await.expect("works").is_some());
    drop_for_space(tier, name).await;
}

#[tokio::test]
async fn what_the_store_has_dropped_is_written_again_from_the_hot_set() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    let (tier, key) = (&opened.tier, name("n", "k"));
    keep_hot_only(tier, &key).await;
    assert!(!is_stored(tier, &key).await);
    refresh::refresh(&tier.inner, &key).await;
    assert!(is_stored(tier, &key).await);
    let found = tier.get(&key).await.expect("works").expect("is there");
    assert_eq!(
        found.record.as_bytes(),
        record(1, 1000, end()).as_bytes(),
        "unchanged"
    );
    opened.close().await;
}

#[tokio::test]
async fn a_refresh_brings_nothing_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    let (tier, key) = (&opened.tier, name("n", "k"));
    let namespace = NamespaceName::new("n").expect("valid");
    for how in ["removed", "scanned", "being scanned", "cleared", "ended"] {
        keep_hot_only(tier, &key).await;
        let mut scan = None;
        match how {
            "removed" => assert!(tier.delete(&key).await.expect("deletes"), "it was served"),
            "scanned" => {
                let scanned = tier.delete_selected(&namespace, Selection::All).await;
                scanned.expect("scans");
            }
            // It may have passed the name, and has not moved the fence yet.
            "being scanned" => scan = Arc::clone(&tier.inner.scans).try_acquire_owned().ok(),
            "cleared" => tier.clear().await.expect("clears"),
            _ => clock.advance(Duration::from_secs(3600)),
        }
        refresh::refresh(&tier.inner, &key).await;
        drop(scan);
        assert!(!is_stored(tier, &key).await, "{how}");
        assert!(tier.get(&key).await.expect("works").is_none(), "{how}");
    }
    opened.close().await;
}

/// Interleaving: a scan has passed a name that only the hot set has; before its last slice the
/// name is refreshed. Without the look at the scans under way it would come back behind the scan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_during_a_scan_undoes_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    // Several slices after the name that is looked for.
    fill(&opened.tier, 0..5000).await;
    let key = name("n", "!k");
    let first = name("n", "!first:k");
    for _ in 0..40 {
        keep_hot_only(&opened.tier, &key).await;
        let put = opened.tier.put(&first, &record(2, 10, end()), end()).await;
        put.expect("puts");
        let tier = opened.tier.clone();
        let mut scan = tokio::task::JoinSet::new();
        scan.spawn(async move {
            let namespace = NamespaceName::new("n").expect("valid");
            let glob = Selection::Pattern(Glob::new("*k").expect("valid"));
            tier.delete_selected(&namespace, glob).await.expect("scans");
        });
        while is_stored(&opened.tier, &first).await {
            tokio::task::yield_now().await;
        }
        refresh::refresh(&opened.tier.inner, &key).await;
        scan.join_all().await;
        assert!(opened.tier.get(&key).await.expect("works").is_none());
    }
    opened.close().await;
}

/// Hot records of 1 to 256 KiB: in tables and in blob files.
fn hot(index: u64) -> (EntryName, Record) {
    let record = record(index, 1 << (10 + index % 9), end());
    (name("n", &format!("hot{index}")), record)
}

/// Puts records of 1 KiB to 1 MiB until all floods together have put five times what the store
/// holds, and reads the hot ones once for each MiB of its own.
async fn flood(tier: LocalTier, flood: u64, put: Arc<AtomicU64>) {
    let records: Vec<_> = (0..11).map(|i| record(i, 1024 << i, end())).collect();
    let (mut since_read, most) = (0, 5 * tier.inner.sizes.data_files);
    for (i, record) in records.iter().cycle().enumerate() {
        let key = name("n", &format!("flood{flood}-{i}"));
        let bytes = record.as_bytes().len() as u64;
        tier.put(&key, record, end()).await.expect("no put fails");
        if put.fetch_add(bytes, Ordering::Relaxed) > most {
            return;
        }
        since_read += bytes;
        if since_read > MIB {
            since_read = 0;
            for (key, _) in (0..16).map(hot) {
                let found = tier.get(&key).await.expect("works");
                assert!(found.is_some(), "{key:?} was outrun");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_does_not_outrun_what_is_read() {
    let dir = tempfile::tempdir().expect("tempdir");
    let clock = Clock::mock(START);
    let opened = open(dir.path(), &clock).await;
    for (key, record) in (0..16).map(hot) {
        let put = opened.tier.put(&key, &record, end()).await;
        put.expect("puts");
    }
    let put = Arc::default();
    let floods = (0..4).map(|index| flood(opened.tier.clone(), index, Arc::clone(&put)));
    floods.collect::<tokio::task::JoinSet<_>>().join_all().await;
    opened.close().await;
}
