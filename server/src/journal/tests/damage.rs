//! What was acknowledged is there, or its loss is known.

use super::*;

/// The store's newest log.
fn newest_log(dir: &Path) -> std::path::PathBuf {
    let logs = fs::read_dir(dir.join(DIRECTORY)).expect("is there");
    let paths = logs.map(|entry| entry.expect("reads").path());
    let log = paths.filter(|path| path.extension().is_some_and(|it| it == "log"));
    log.max().expect("a log")
}

/// A directory with ten items in the newest log of its journal, and none in a table.
async fn ten_items() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal = open(dir.path()).await;
    for at in 0..10 {
        journal
            .add(&remove(format!("key-{at}"), at))
            .await
            .expect("adds");
    }
    journal.close().await.expect("closes");
    let log = fs::read(newest_log(dir.path())).expect("reads");
    (dir, log)
}

/// A copy of a directory's journal with this for its newest log.
fn copy_with(dir: &Path, log: &[u8]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("tempdir");
    fs::create_dir(copy.path().join(DIRECTORY)).expect("creates");
    for entry in fs::read_dir(dir.join(DIRECTORY)).expect("is there") {
        let path = entry.expect("reads").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, copy.path().join(DIRECTORY).join(name)).expect("copies");
    }
    fs::write(newest_log(copy.path()), log).expect("writes");
    copy
}

/// Opens and closes: the number of items, and whether some were lost.
async fn look(dir: &Path) -> (usize, bool) {
    let journal = open(dir).await;
    let found = removals(&journal).await.len();
    let lost = journal.lost();
    journal.close().await.expect("closes");
    (found, lost)
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_noticed() {
    let (dir, log) = ten_items().await;
    assert_eq!(look(copy_with(dir.path(), &log).path()).await, (10, false));
    for cut in [1, 2, 7, 20, 60, 61, log.len() / 2, log.len()] {
        let copy = copy_with(dir.path(), &log[..log.len() - cut]);
        assert_eq!(look(copy.path()).await, (0, true), "{cut} bytes cut off");
        assert!(copy.path().join(DAMAGED).exists());
    }
}

#[tokio::test]
async fn a_contact_that_a_power_cut_took_is_no_damage() {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal = open(dir.path()).await;
    journal.add(&remove("k", 1)).await.expect("adds");
    let before = fs::read(newest_log(dir.path())).expect("reads");
    let contact = journal.set_last_contact(3, Timestamp::from_millis(7)).await;
    contact.expect("keeps");
    journal.close().await.expect("closes");
    let after = fs::read(newest_log(dir.path())).expect("reads");
    assert!(before.len() < after.len());
    let copy = copy_with(dir.path(), &before);
    let journal = open(copy.path()).await;
    assert_eq!(
        (journal.depth(), journal.last_contact(), journal.lost()),
        (1, None, false)
    );
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn a_write_that_a_kill_interrupted_is_no_damage() {
    let (dir, log) = ten_items().await;
    // The head of a record and a part of its body, as the first page of a longer write.
    for torn in [1, 6, 7, 30] {
        let mut longer = log.clone();
        longer.extend_from_slice(&log[..torn]);
        let copy = copy_with(dir.path(), &longer);
        assert_eq!(
            look(copy.path()).await,
            (10, false),
            "{torn} bytes of a record"
        );
    }
}

#[tokio::test]
async fn no_flipped_bit_loses_an_item_without_a_word() {
    let (dir, log) = ten_items().await;
    let mut noticed = 0;
    for at in (0..log.len()).step_by(31).chain(log.len() - 60..log.len()) {
        let mut flipped = log.clone();
        flipped[at] ^= 1 << (at % 8);
        let copy = copy_with(dir.path(), &flipped);
        let found = look(copy.path()).await;
        assert!(
            [(10, false), (0, true)].contains(&found),
            "byte {at}: {found:?}"
        );
        noticed += usize::from(found.1);
    }
    assert!(noticed > 60, "{noticed}");
}

#[tokio::test]
async fn damaged_books_and_a_missing_table_are_noticed() {
    let (dir, log) = ten_items().await;
    let first = copy_with(dir.path(), &log);
    // Opening wrote the log into a table.
    assert_eq!(look(first.path()).await, (10, false));
    let kinds: [fn(&str) -> bool; 4] = [
        |name| name == "CURRENT",
        |name| name.starts_with("MANIFEST"),
        |name| name.ends_with(".sst"),
        |name| name == "WATERMARK",
    ];
    for (nth, is_kind) in kinds.iter().enumerate() {
        for removed in [false, true] {
            let log = fs::read(newest_log(first.path())).expect("reads");
            let copy = copy_with(first.path(), &log);
            let entries = fs::read_dir(copy.path().join(DIRECTORY)).expect("is there");
            let mut paths = entries.map(|entry| entry.expect("reads").path());
            let wanted = |path: &std::path::PathBuf| {
                is_kind(&path.file_name().expect("a name").to_string_lossy())
            };
            let path = paths.find(wanted).expect("is there");
            if removed {
                fs::remove_file(&path).expect("removes");
            } else {
                let mut bytes = fs::read(&path).expect("reads");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x20;
                bytes[0] ^= 0x20;
                fs::write(&path, bytes).expect("writes");
            }
            let expected = match (nth, removed) {
                // Nothing was lost; the mark only says what should be there.
                (3, true) => (10, false),
                _ => (0, true),
            };
            assert_eq!(
                look(copy.path()).await,
                expected,
                "{nth} removed: {removed}"
            );
        }
    }
}

#[tokio::test]
async fn a_loss_is_known_until_it_is_settled() {
    let (dir, log) = ten_items().await;
    let copy = copy_with(dir.path(), &log[..log.len() - 30]);
    for _ in 0..2 {
        assert!(look(copy.path()).await.1, "over restarts");
    }
    // A crash after it was set aside and before a new one was begun.
    fs::remove_dir_all(copy.path().join(DIRECTORY)).expect("removes");
    assert!(look(copy.path()).await.1);
    let journal = open(copy.path()).await;
    journal.add(&remove("k", 1)).await.expect("adds");
    journal.settle_loss().await.expect("settles");
    assert!(!journal.lost());
    journal.close().await.expect("closes");
    assert_eq!(look(copy.path()).await, (1, false));
}

#[tokio::test]
async fn a_directory_removed_under_the_journal_is_noticed_by_the_next_add() {
    let dir = tempfile::tempdir().expect("tempdir");
    let data = dir.path().join("data");
    let journal = open(&data).await;
    let id = journal.daemon_id();
    journal.add(&remove("gone", 1)).await.expect("adds");
    fs::remove_dir_all(&data).expect("removes");
    journal.add(&remove("k", 2)).await.expect("adds");
    assert!(journal.lost());
    assert_eq!(
        removals(&journal).await,
        BTreeMap::from([("k".to_owned(), 2)])
    );
    journal.close().await.expect("closes");
    let journal = open(&data).await;
    assert_eq!((journal.depth(), journal.lost()), (1, true));
    assert_eq!(journal.daemon_id(), id);
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_unavailable_and_later_works_again() {
    let dir = tempfile::tempdir().expect("tempdir");
    let data = dir.path().join("data");
    fs::write(&data, "in the way").expect("writes");
    let error = Journal::open(&data, LIMIT).await.expect_err("no directory");
    assert_eq!(error.kind(), Kind::Unavailable);
    fs::remove_file(&data).expect("removes");

    let journal = open(&data).await;
    journal.add(&remove("before", 1)).await.expect("adds");
    let aside = dir.path().join("aside");
    fs::rename(&data, &aside).expect("renames");
    fs::write(&data, "in the way").expect("writes");
    for _ in 0..2 {
        let error = journal
            .add(&remove("k", 2))
            .await
            .expect_err("no directory");
        assert_eq!(error.kind(), Kind::Unavailable);
    }
    assert_eq!(journal.depth(), 1);
    fs::remove_file(&data).expect("removes");
    fs::rename(&aside, &data).expect("renames");
    eventually(async || journal.add(&remove("k", 2)).await.ok()).await;
    assert!(!journal.lost());
    assert_eq!(removals(&journal).await.len(), 2);
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn a_second_owner_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let journal = open(dir.path()).await;
    journal.add(&remove("k", 1)).await.expect("adds");
    let error = Journal::open(dir.path(), LIMIT).await.expect_err("is held");
    assert_eq!(error.kind(), Kind::Unavailable);
    journal.add(&remove("l", 1)).await.expect("adds");
    journal.close().await.expect("closes");
    assert_eq!(look(dir.path()).await, (2, false));
}
