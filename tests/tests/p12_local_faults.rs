//! P12, the local tier may fail: requests go on, nothing old comes back, repair is by itself.
//!
//! Proven with a real directory and a real small disk: a second daemon on a directory is told whose
//! it is; a directory that is removed, taken over by another daemon, full, or read-only makes reads
//! misses and writes UNAVAILABLE, never another error; what a failed write or invalidation should
//! have replaced is not served, neither during the fault nor after it; once the cause is gone the
//! tier works again without help; what could not be opened at the start is said; a directory in
//! place of a file, or a file in place of a directory, costs entries at most.
//! Needs root or user namespaces (`sandbox`).
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use bytes::Bytes;
use pannier_proto::v1::{
    HealthRequest, LocalTierStats, PartHealth, cache_service_client::CacheServiceClient,
    invalidate_request::Target,
};
use pannier_tests::{Daemon, eventually, load::noise, request, sandbox, wire};
use tonic::{Code, Status, transport::Channel};

type Stub = CacheServiceClient<Channel>;

/// A get is always answered.
async fn value_of(stub: &mut Stub, key: &str) -> Option<Bytes> {
    let reply = stub.get(request::get("n", key)).await;
    reply
        .expect("a fault of the tier is a miss")
        .into_inner()
        .entry
        .map(|entry| entry.value)
}

/// Whether a write was applied; the only other answer is UNAVAILABLE.
#[track_caller]
fn applied<T>(answer: Result<T, Status>) -> bool {
    match answer {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            false
        }
    }
}

async fn put(stub: &mut Stub, key: &str, value: Bytes) -> bool {
    applied(stub.put(request::put("n", key, value)).await)
}

async fn invalidate(stub: &mut Stub, key: &str) -> bool {
    applied(stub.invalidate(request::invalidate_keys("n", [key])).await)
}

async fn local_stats(daemon: &Daemon) -> LocalTierStats {
    daemon.stats().await.local.expect("a local tier")
}

async fn local_health(daemon: &Daemon) -> PartHealth {
    let health = daemon
        .admin()
        .health(HealthRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(health.serving, "a daemon without tiers still answers");
    health
        .parts
        .into_iter()
        .find(|part| part.name == "local")
        .expect("a local tier")
}

async fn works_again(daemon: &Daemon) {
    let mut stub = daemon.stub();
    eventually("the local tier works again", async || {
        let value = Bytes::from("probe");
        put(&mut stub, "probe", value.clone()).await
            && value_of(&mut stub, "probe").await == Some(value)
    })
    .await;
    let health = local_health(daemon).await;
    assert!(health.healthy && health.message.is_empty(), "{health:?}");
    assert!(local_stats(daemon).await.reopens > 0, "it was opened again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_told_who_has_the_directory() {
    let first = Daemon::start();
    first.stub().put(request::put("n", "k", "v")).await.unwrap();
    let second = Daemon::builder().data_dir(Some(first.data_dir())).run();
    assert_eq!(second.code(), Some(3), "{}", second.stderr);
    let directory = first.data_dir().display().to_string();
    for part in [
        &first.id().to_string(),
        first.grpc(),
        &directory,
        "--data-dir",
    ] {
        assert!(
            second.stderr.contains(part),
            "no {part:?} in {}",
            second.stderr
        );
    }
    assert_eq!(second.stdout, "", "it never said that it was ready");
    let first = first.restart();
    let got = first
        .stub()
        .get(request::get("n", "k"))
        .await
        .unwrap()
        .into_inner();
    assert!(got.entry.is_some(), "the first one's data is untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_used_ends_the_start_with_1() {
    let how = Daemon::builder();
    let file = how.home().join("file");
    fs::write(&file, "a regular file").unwrap();
    for path in [file.join("below"), file.clone(), "/proc/no/such".into()] {
        let ended = how.clone().data_dir(Some(&path)).run();
        assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
        let shown = path.display().to_string();
        assert!(
            ended.stderr.contains(&shown),
            "{shown} is not named: {}",
            ended.stderr
        );
        assert_eq!(ended.stdout, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_directory_is_made_anew() {
    for removed in ["", "entries", "pannierd.lock"] {
        let mut daemon = Daemon::start();
        let mut stub = daemon.stub();
        for index in 0..10 {
            let value = noise(
                index,
                if index.is_multiple_of(2) {
                    100
                } else {
                    300_000
                },
            );
            assert!(put(&mut stub, &format!("k{index}"), value).await);
        }
        let path = daemon.data_dir().join(removed);
        match path.is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        eventually("the loss is noticed", async || {
            // All the while requests are answered, with what was put or nothing.
            for index in 0..10 {
                let value = noise(
                    index,
                    if index.is_multiple_of(2) {
                        100
                    } else {
                        300_000
                    },
                );
                let got = value_of(&mut stub, &format!("k{index}")).await;
                assert!(
                    got.is_none() || got == Some(value),
                    "{removed:?} removed: {index}"
                );
            }
            put(&mut stub, "new", "v".into()).await;
            local_stats(&daemon).await.reopens > 0
        })
        .await;
        works_again(&daemon).await;
        assert!(
            daemon.data_dir().join("entries/CURRENT").is_file(),
            "{removed:?}"
        );
        assert!(put(&mut stub, "kept", "v".into()).await);
        assert_eq!(daemon.terminate().code(), Some(0), "{removed:?}");
        let daemon = daemon.restart();
        assert!(
            value_of(&mut daemon.stub(), "kept").await.is_some(),
            "{removed:?}"
        );
    }
}

/// Puts something of the other kind in the place of each file or directory that `chosen` names.
fn misplace(data_dir: &Path, chosen: impl Fn(&str) -> bool) -> usize {
    let folders = [data_dir.to_owned(), data_dir.join("entries")];
    let entries = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    let chosen = paths.iter().filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        chosen(&name)
    });
    let mut count = 0;
    for path in chosen {
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
            fs::write(path, "a file").unwrap();
        } else {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "in a directory").unwrap();
        }
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_in_the_place_of_a_file_or_directory_does_not_stop_the_start() {
    let places = [
        // Tables, blobs and logs, then the store's own books, then the tier's.
        ".sst",
        ".blob",
        ".log",
        "MANIFEST-",
        "CURRENT",
        "IDENTITY",
        "LOCK",
        "WATERMARK",
        "pannierd.lock",
        "entries",
    ];
    for what in places {
        let chosen = |name: &str| name.starts_with(what) || name.ends_with(what);
        let mut daemon = Daemon::start();
        let mut stub = daemon.stub();
        for index in 0..10 {
            let (key, value) = old(index);
            assert!(put(&mut stub, &key, value).await);
        }
        assert_eq!(daemon.terminate().code(), Some(0));
        let mut daemon = daemon.restart();
        assert!(put(&mut daemon.stub(), "k", "in the log".into()).await);
        daemon.kill();
        // Also in the place of what is set aside.
        fs::write(daemon.data_dir().join("damaged-1"), "a file").unwrap();
        fs::create_dir(daemon.data_dir().join("probe")).unwrap();
        assert!(misplace(daemon.data_dir(), chosen) > 0, "no {what}");
        let mut daemon = daemon.restart();
        let mut stub = daemon.stub();
        for index in 0..10 {
            let (key, value) = old(index);
            let got = value_of(&mut stub, &key).await;
            assert!(got.is_none_or(|got| got == value), "{what}: {key}");
        }
        assert!(put(&mut stub, "k", "new".into()).await, "{what}");
        assert_eq!(daemon.terminate().code(), Some(0), "{what}");
        let daemon = daemon.restart();
        let got = value_of(&mut daemon.stub(), "k").await;
        assert_eq!(got, Some("new".into()), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_into_the_place_of_a_file_or_directory_is_put_right() {
    for what in ["entries", "pannierd.lock"] {
        let daemon = Daemon::start();
        assert!(put(&mut daemon.stub(), "k", "v".into()).await);
        fs::create_dir(daemon.data_dir().join("probe")).unwrap();
        assert_eq!(misplace(daemon.data_dir(), |name| name == what), 1);
        eventually("it is noticed", async || {
            local_stats(&daemon).await.reopens > 0
        })
        .await;
        works_again(&daemon).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_another_daemon_took_over_is_left_to_it() {
    let first = Daemon::start();
    let mut stub = first.stub();
    assert!(put(&mut stub, "k", "of the first".into()).await);
    // While the first stands still the directory is replaced and taken, so that it cannot be first.
    first.freeze();
    fs::remove_dir_all(first.data_dir()).unwrap();
    let mut second = Daemon::builder().data_dir(Some(first.data_dir())).start();
    assert!(put(&mut second.stub(), "k", "of the second".into()).await);
    first.thaw();
    eventually("the first one says who is in its way", async || {
        let health = local_health(&first).await;
        assert!(
            value_of(&mut stub, "k")
                .await
                .is_none_or(|value| value == "of the first")
        );
        !health.healthy && health.message.contains(&second.id().to_string())
    })
    .await;
    assert!(value_of(&mut stub, "k").await.is_none());
    assert!(!put(&mut stub, "k", "v".into()).await);
    assert_eq!(
        value_of(&mut second.stub(), "k").await.unwrap(),
        "of the second"
    );
    assert_eq!(second.terminate().code(), Some(0));
    works_again(&first).await;
    assert!(
        value_of(&mut stub, "k").await.is_none(),
        "a failed put's key has no value"
    );
}

/// A daemon on a disk of its own.
fn on_small_disk(mebibytes: u32) -> Daemon {
    let how = Daemon::builder().arguments(["--disk-budget", "64MiB"]);
    let directory = how.home().join("data");
    let how = how.behind(sandbox::small_disk(&directory, mebibytes));
    how.start()
}

/// Fills the disk to the last byte; the filler is what to remove.
fn fill(daemon: &Daemon) -> std::path::PathBuf {
    let path = sandbox::seen_by(daemon.id(), &daemon.data_dir().join("filler"));
    let mut file = File::create(&path).unwrap();
    for size in [1 << 20, 4096, 1] {
        let block = vec![1; size];
        while file.write_all(&block).is_ok() {}
    }
    path
}

/// Puts until the disk's fault is met: there is room in what the store has allocated before.
async fn put_until_refused(stub: &mut Stub) -> Vec<(String, Bytes)> {
    let mut taken = Vec::new();
    for index in 0..200 {
        let (key, value) = (format!("late-{index}"), noise(index, 200_000));
        if !put(stub, &key, value.clone()).await {
            return taken;
        }
        taken.push((key, value));
    }
    panic!("40 MB were taken by a disk that takes nothing");
}

fn old(index: u64) -> (String, Bytes) {
    (
        format!("old-{index}"),
        noise(
            index,
            if index.is_multiple_of(2) {
                100
            } else {
                100_000
            },
        ),
    )
}

/// Keys whose overwrite (0, 1) and invalidation (2, 3) fails; the others are left alone.
async fn fail_on_old_keys(stub: &mut Stub) {
    for index in [0, 1] {
        let new = Bytes::from(vec![9; if index == 0 { 100 } else { 100_000 }]);
        assert!(
            !put(stub, &old(index).0, new).await,
            "{index} was overwritten"
        );
    }
    for index in [2, 3] {
        assert!(
            !invalidate(stub, &old(index).0).await,
            "{index} was invalidated"
        );
    }
}

async fn check_old_keys(stub: &mut Stub, when: &str) {
    for index in 0..4 {
        let got = value_of(stub, &old(index).0).await;
        assert!(
            got.is_none(),
            "{when}: old-{index} is served, though its change had failed"
        );
    }
    for index in 4..10 {
        let (key, value) = old(index);
        let got = value_of(stub, &key).await;
        assert!(
            got.is_none_or(|got| got == value),
            "{when}: {key} has another value"
        );
    }
}

/// The whole course of a fault that `begin` makes and `end` takes away.
async fn refuse_and_recover(
    daemon: &Daemon,
    begin: impl FnOnce(&Daemon) -> std::path::PathBuf,
    end: impl FnOnce(&Daemon, &Path),
) {
    let mut stub = daemon.stub();
    for index in 0..10 {
        let (key, value) = old(index);
        assert!(put(&mut stub, &key, value).await);
    }
    let cause = begin(daemon);
    let taken = put_until_refused(&mut stub).await;
    let health = local_health(daemon).await;
    assert!(!health.healthy && !health.message.is_empty(), "{health:?}");
    fail_on_old_keys(&mut stub).await;
    check_old_keys(&mut stub, "during the fault").await;
    assert_eq!(
        wire::http_get(daemon.http(), "/readyz").await.unwrap().0,
        200
    );
    let many = stub
        .get_many(request::get_many("n", (0..10).map(|i| old(i).0)))
        .await
        .unwrap();
    assert!(
        many.into_inner()
            .items
            .iter()
            .all(|item| item.fault.is_none())
    );

    end(daemon, &cause);
    works_again(daemon).await;
    check_old_keys(&mut stub, "after the repair").await;
    for index in 4..10 {
        let (key, value) = old(index);
        assert!(
            value_of(&mut stub, &key).await == Some(value),
            "{key} was lost for nothing"
        );
    }
    for (key, value) in taken {
        assert!(
            value_of(&mut stub, &key).await == Some(value),
            "{key} was acknowledged"
        );
    }
    for index in 0..4 {
        let (key, value) = old(index);
        assert!(
            put(&mut stub, &key, value.clone()).await,
            "{key} can be put again"
        );
        assert!(value_of(&mut stub, &key).await == Some(value));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_serves_nothing_old() {
    let daemon = on_small_disk(80);
    refuse_and_recover(&daemon, fill, |_, filler| fs::remove_file(filler).unwrap()).await;
    assert_eq!(
        local_stats(&daemon).await.set_asides,
        0,
        "a full disk is no damage"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_disk_refuses_writes_and_serves_nothing_old() {
    let daemon = on_small_disk(80);
    // Over the directory itself, because the store has files open for writing below.
    let cover = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"";
    let begin = |daemon: &Daemon| {
        sandbox::run_beside(daemon.id(), cover, &[daemon.data_dir()]);
        daemon.data_dir().to_owned()
    };
    let end = |daemon: &Daemon, path: &Path| {
        sandbox::run_beside(daemon.id(), "umount \"$1\"", &[path]);
    };
    refuse_and_recover(&daemon, begin, end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_that_could_not_be_removed_is_gone_all_the_same() {
    let daemon = on_small_disk(80);
    let mut stub = daemon.stub();
    for index in 0..10 {
        let (key, value) = old(index);
        assert!(put(&mut stub, &key, value).await);
    }
    let filler = fill(&daemon);
    put_until_refused(&mut stub).await;
    let prefix = request::invalidate("n", Target::Prefix("old-".into()));
    assert!(
        !applied(stub.invalidate(prefix).await),
        "a full disk takes no removal"
    );
    for index in 0..10 {
        assert!(
            value_of(&mut stub, &old(index).0).await.is_none(),
            "{index} during the fault"
        );
    }
    fs::remove_file(filler).unwrap();
    works_again(&daemon).await;
    for index in 0..10 {
        assert!(
            value_of(&mut stub, &old(index).0).await.is_none(),
            "{index} after the repair"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_on_a_full_disk_stops_in_order() {
    let mut daemon = on_small_disk(80);
    let mut stub = daemon.stub();
    let _filler = fill(&daemon);
    put_until_refused(&mut stub).await;
    let begun = std::time::Instant::now();
    let ended = daemon.terminate();
    assert!(ended.code().is_some(), "it crashed: {}", ended.stderr);
    assert!(begun.elapsed().as_secs() < 8, "{:?}", begun.elapsed());
}
