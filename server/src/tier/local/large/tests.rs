use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    clock::{Clock, Timestamp},
    config::{LocalConfig, Size},
    entry::Attributes,
    record::{CHUNK_BYTES, Record, checksum_of},
    tier::{Tier, conformance::name},
};

const MIB: u64 = 1 << 20;
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

struct Opened {
    tier: LocalTier,
    maintenance: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
    dropped: mpsc::Receiver<Dropped>,
}

impl Opened {
    async fn open(dir: &Path, clock: &Clock) -> Self {
        let config = LocalConfig {
            data_dir: dir.to_owned(),
            disk_budget: Size(64 * MIB),
            memory_budget: Size(16 * MIB),
        };
        let stop = CancellationToken::new();
        let opened = LocalTier::open(&config, HOUR, "test", clock.clone(), stop.clone());
        let (tier, maintenance) = opened.await.expect("opens");
        let (listener, dropped) = mpsc::channel(8);
        tier.tell_of_dropped(listener);
        Self {
            tier,
            maintenance,
            stop,
            dropped,
        }
    }

    async fn close(self) {
        self.stop.cancel();
        self.maintenance.await.expect("maintenance did not panic");
        self.tier.close().await.expect("closes");
    }

    /// Writes the chunks of a value, and its manifest if it is to be found.
    async fn write(&self, key: &str, seed: u8, chunks: usize) -> (Manifest, Pinned) {
        let set = Stamp::from_bytes([seed; 16]);
        let writer = self.tier.begin_large(&name("n", key), set, 0).await;
        let mut writer = writer.expect("works").expect("is the first");
        let chunk = Bytes::from(vec![seed; CHUNK_BYTES]);
        for _ in 0..chunks {
            let pieces: Vec<_> = (0..40)
                .map(|it| chunk.slice(it * 7..(it + 1) * 7))
                .collect();
            writer.append(&pieces).await.expect("there is room");
            let rest = chunk.slice(40 * 7..);
            writer.append(&[rest]).await.expect("there is room");
        }
        let pinned = writer.finish().await.expect("works");
        let checksums = vec![checksum_of(&chunk); chunks];
        let bytes = (chunks * CHUNK_BYTES) as u64;
        (Manifest::new(set, bytes, checksums, None), pinned)
    }

    async fn publish(&self, key: &str, manifest: &Manifest) {
        let said = (&Attributes::default(), &[][..]);
        let times = (START, START.after(HOUR));
        let record = Record::of_chunks(manifest, said, manifest.set, times).expect("encodes");
        let name = name("n", key);
        let put = self.tier.put(&name, &record, times.1).await;
        put.expect("works");
    }

    async fn delete(&mut self, key: &str) {
        let deleted = self.tier.delete(&name("n", key)).await;
        assert!(deleted.expect("works"));
        let gone = self.dropped.recv().await.expect("is told");
        assert_eq!(gone.name, name("n", key));
    }

    async fn holds(&self, manifest: &Manifest) -> bool {
        let Some(file) = self.tier.open_large(manifest.set).await else {
            return false;
        };
        for index in 0..manifest.chunks() {
            if self.tier.read_large(&file, manifest, index).await.is_none() {
                return false;
            }
        }
        true
    }
}

#[tokio::test]
async fn a_file_lives_as_long_as_an_entry_names_it() {
    let (dir, clock) = (tempfile::tempdir().expect("tempdir"), Clock::mock(START));
    let mut opened = Opened::open(dir.path(), &clock).await;
    let (named, pinned) = opened.write("named", 1, 3).await;
    opened.publish("named", &named).await;
    drop(pinned);
    let (pinned_only, pinned) = opened.write("pinned", 2, 2).await;
    let (nobodys, unpinned) = opened.write("nobody's", 3, 2).await;
    drop(unpinned);
    let gone = opened.dropped.recv().await.expect("is told");
    assert_eq!(
        (gone.set, gone.chunks, gone.name),
        (nobodys.set, 2, name("n", "nobody's"))
    );
    assert!(!opened.holds(&nobodys).await);
    assert!(opened.holds(&named).await && opened.holds(&pinned_only).await);
    drop(pinned);
    let gone = opened.dropped.recv().await.expect("is told");
    assert_eq!(gone.set, pinned_only.set);
    let deleted = opened.tier.delete(&name("n", "named")).await;
    assert!(deleted.expect("works"));
    let gone = opened.dropped.recv().await.expect("is told");
    assert_eq!((gone.set, gone.chunks), (named.set, 3));
    opened.close().await;
}

#[tokio::test]
async fn the_next_start_finds_what_was_whole_and_removes_what_was_not() {
    let (dir, clock) = (tempfile::tempdir().expect("tempdir"), Clock::mock(START));
    let opened = Opened::open(dir.path(), &clock).await;
    let (whole, pinned) = opened.write("whole", 1, 2).await;
    opened.publish("whole", &whole).await;
    drop(pinned);
    opened.close().await;
    let large = dir.path().join("entries").join(DIRECTORY);
    let half = large.join(format!("{:?}.part", Stamp::from_bytes([9; 16])));
    fs::write(&half, b"half").expect("writes");
    fs::write(large.join("nonsense"), b"").expect("writes");
    let opened = Opened::open(dir.path(), &clock).await;
    assert!(opened.holds(&whole).await);
    assert_eq!(fs::read_dir(&large).expect("reads").count(), 1);
    opened.close().await;
}

#[tokio::test]
async fn the_least_recently_used_goes_first_and_is_read_to_its_end() {
    let (dir, clock) = (tempfile::tempdir().expect("tempdir"), Clock::mock(START));
    let opened = Opened::open(dir.path(), &clock).await;
    let most = opened.tier.large_bytes_max() / MIB;
    assert!(
        (16..32).contains(&most),
        "about half of 64 MiB less its overhead: {most}"
    );
    let (old, old_pinned) = opened.write("old", 1, 6).await;
    let (used, used_pinned) = opened.write("used", 2, 6).await;
    for (key, manifest) in [("old", &old), ("used", &used)] {
        opened.publish(key, manifest).await;
    }
    drop((old_pinned, used_pinned));
    let reading = opened.tier.open_large(old.set).await.expect("is there");
    assert!(opened.holds(&used).await);
    let (new, _pinned) = opened.write("new", 3, 14).await;
    assert!(!opened.holds(&old).await, "it had to go");
    assert!(opened.holds(&new).await);
    let last = opened.tier.read_large(&reading, &old, 5).await;
    assert!(last.is_some(), "whoever reads it goes on reading");
    // What is pinned or being written cannot go.
    let set = Stamp::from_bytes([4; 16]);
    let writer = opened
        .tier
        .begin_large(&name("n", "too large"), set, 0)
        .await;
    let mut writer = writer.expect("works").expect("is the first");
    let chunk = Bytes::from(vec![4; CHUNK_BYTES]);
    let mut refused = None;
    for _ in 0..most {
        if let Err(error) = writer.append(std::slice::from_ref(&chunk)).await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("there is no room for it");
    assert!(refused.message().contains("local.disk_budget"), "{refused}");
    opened.close().await;
}

#[tokio::test]
async fn the_same_set_is_written_once() {
    let (dir, clock) = (tempfile::tempdir().expect("tempdir"), Clock::mock(START));
    let opened = Opened::open(dir.path(), &clock).await;
    let set = Stamp::from_bytes([1; 16]);
    let first = opened.tier.begin_large(&name("n", "k"), set, 0).await;
    let first = first.expect("works").expect("is the first");
    let second = opened.tier.begin_large(&name("n", "k"), set, 0).await;
    assert!(second.expect("works").is_none(), "one is on its way");
    drop(first);
    // Swept, and then there is room for another try.
    let again = async {
        loop {
            let again = opened.tier.begin_large(&name("n", "k"), set, 0).await;
            if matches!(again, Ok(Some(_))) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(30), again).await;
    again.expect("what was abandoned is swept");
    opened.close().await;
}

#[tokio::test]
async fn a_file_is_read_while_it_is_written() {
    let (dir, clock) = (tempfile::tempdir().expect("tempdir"), Clock::mock(START));
    let opened = Opened::open(dir.path(), &clock).await;
    let set = Stamp::from_bytes([1; 16]);
    let writer = opened.tier.begin_large(&name("n", "k"), set, 0).await;
    let mut writer = writer.expect("works").expect("is the first");
    let chunks = [1, 2].map(|seed| Bytes::from(vec![seed; CHUNK_BYTES]));
    let checksums = chunks.each_ref().map(|it| checksum_of(it)).to_vec();
    let manifest = Manifest::new(set, 2 * CHUNK_BYTES as u64, checksums, None);
    let so_far = writer.so_far().expect("is being written");
    for (index, chunk) in (0..).zip(&chunks) {
        // What is not there yet, or not as it should be, is no reason to drop the rest.
        let early = opened.tier.read_large(&so_far, &manifest, index).await;
        assert_eq!(early, None);
        let appended = writer.append(std::slice::from_ref(chunk)).await;
        appended.expect("goes on being written");
        let read = opened.tier.read_large(&so_far, &manifest, index).await;
        assert_eq!(read.as_ref(), Some(chunk));
    }
    // Nobody names it: it goes, and is not written over as long as it is read.
    drop(writer.finish().await.expect("works"));
    let gone = async {
        while !files(dir.path()).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(30), gone).await;
    gone.expect("it is removed");
    let last = opened.tier.read_large(&so_far, &manifest, 1).await;
    assert_eq!(last.as_ref(), Some(&chunks[1]));
    opened.close().await;
}

/// The files there are: number, bytes, whether it is spare.
fn files(dir: &Path) -> Vec<(u64, u64, bool)> {
    let entries = fs::read_dir(dir.join("entries").join(DIRECTORY)).expect("reads");
    let files = entries.filter_map(|entry| {
        let entry = entry.expect("reads");
        // The sweep may be faster.
        let meta = entry.metadata().ok()?;
        let spare = entry.path().extension().is_some_and(|it| it == "spare");
        Some((meta.ino(), meta.len(), spare))
    });
    files.collect()
}

#[tokio::test]
async fn a_value_is_written_over_one_that_nobody_names() {
    let (dir, clock) = (tempfile::tempdir().expect("tempdir"), Clock::mock(START));
    let mut opened = Opened::open(dir.path(), &clock).await;
    let (old, pinned) = opened.write("old", 1, 3).await;
    opened.publish("old", &old).await;
    drop(pinned);
    opened.delete("old").await;
    let [(number, _, true)] = files(dir.path())[..] else {
        panic!("{:?}", files(dir.path()));
    };
    // A shorter one, and one more that needs a file of its own.
    let (new, _pinned) = opened.write("new", 2, 2).await;
    let bytes = VALUE_AT + 2 * CHUNK_BYTES as u64;
    assert_eq!(files(dir.path()), [(number, bytes, false)]);
    assert!(!opened.holds(&old).await && opened.holds(&new).await);
    let (more, _pinned) = opened.write("more", 3, 1).await;
    assert_eq!(files(dir.path()).len(), 2);
    assert!(opened.holds(&new).await && opened.holds(&more).await);
    assert_eq!(opened.tier.inner.large.bytes(), 2 * VALUE_AT + 3 * MIB);
    opened.close().await;
    // Neither of them was named, but nothing of the old one is found either.
    let opened = Opened::open(dir.path(), &clock).await;
    assert!(!opened.holds(&old).await);
    opened.close().await;
}

#[tokio::test]
async fn what_has_to_go_is_written_over() {
    let (dir, clock) = (tempfile::tempdir().expect("tempdir"), Clock::mock(START));
    let opened = Opened::open(dir.path(), &clock).await;
    let mut numbers = Vec::new();
    for (seed, key) in [(1, "read"), (2, "old"), (3, "young")] {
        let (manifest, pinned) = opened.write(key, seed, 5).await;
        opened.publish(key, &manifest).await;
        drop(pinned);
        let path = opened.tier.inner.large.path(&manifest.set);
        numbers.push((manifest, fs::metadata(path).expect("is there").ino()));
    }
    let begin = async |seed: u8, chunks: u64| {
        let set = Stamp::from_bytes([seed; 16]);
        let name = name("n", "new");
        let writer = opened.tier.begin_large(&name, set, chunks * MIB).await;
        let writer = writer.expect("works").expect("is the first");
        let part = fs::metadata(opened.tier.inner.large.part(&set));
        (writer, part.expect("is there").ino())
    };
    let [(read, first), (old, second), (young, _)] = &numbers[..] else {
        panic!("three");
    };
    let most = opened.tier.large_bytes_max() / MIB;
    // There is room, as far as is known.
    let (writer, number) = begin(4, 0).await;
    assert!(number != *first && number != *second);
    drop(writer);
    // The first to go is being read: it is left alone.
    let reading = opened.tier.open_large(read.set).await.expect("is there");
    assert!(opened.holds(old).await && opened.holds(young).await);
    let (writer, number) = begin(5, most).await;
    assert!(number != *first && number != *second);
    drop((writer, reading));
    let (mut writer, number) = begin(6, most).await;
    assert_eq!(number, *first, "it is the least recently used");
    assert!(!opened.holds(read).await);
    assert!(opened.holds(old).await && opened.holds(young).await);
    let chunk = Bytes::from(vec![6; CHUNK_BYTES]);
    for _ in 0..3 {
        let appended = writer.append(std::slice::from_ref(&chunk)).await;
        appended.expect("has room");
    }
    drop(writer.finish().await.expect("works"));
    let bytes = opened.tier.inner.large.bytes();
    let three = 3 * VALUE_AT + 13 * MIB;
    assert!((three..=three + 2 * VALUE_AT).contains(&bytes), "{bytes}");
    opened.close().await;
}

#[tokio::test]
async fn what_is_being_read_is_not_written_over() {
    let (dir, clock) = (tempfile::tempdir().expect("tempdir"), Clock::mock(START));
    let mut opened = Opened::open(dir.path(), &clock).await;
    let (old, pinned) = opened.write("old", 1, 3).await;
    opened.publish("old", &old).await;
    drop(pinned);
    let reading = opened.tier.open_large(old.set).await.expect("is there");
    opened.delete("old").await;
    assert_eq!(files(dir.path()), [], "it is not kept");
    let (_, _pinned) = opened.write("new", 2, 3).await;
    for index in 0..3 {
        let chunk = opened.tier.read_large(&reading, &old, index).await;
        assert!(chunk.is_some(), "whoever reads it goes on reading");
    }
    opened.close().await;
}

#[tokio::test]
async fn spare_files_are_few_and_go_for_what_needs_room_and_after_a_while() {
    let (dir, clock) = (tempfile::tempdir().expect("tempdir"), Clock::mock(START));
    let mut opened = Opened::open(dir.path(), &clock).await;
    let most = opened.tier.large_bytes_max() / MIB;
    let set = Stamp::from_bytes([9; 16]);
    let writer = opened.tier.begin_large(&name("n", "large"), set, 0).await;
    let mut writer = writer.expect("works").expect("is the first");
    let keys = ["a", "b", "c", "d", "e"];
    let mut pins = Vec::new();
    for (seed, key) in (1..).zip(keys) {
        let (manifest, pinned) = opened.write(key, seed, 1).await;
        opened.publish(key, &manifest).await;
        pins.push(pinned);
    }
    drop(pins);
    for key in keys {
        opened.delete(key).await;
    }
    let spares = |dir: &Path| files(dir).iter().filter(|it| it.2).count();
    assert_eq!(spares(dir.path()), 4);
    let chunk = Bytes::from(vec![9; CHUNK_BYTES]);
    for _ in 1..most {
        writer
            .append(std::slice::from_ref(&chunk))
            .await
            .expect("has room");
    }
    assert!(spares(dir.path()) <= 1);
    drop(writer);
    let one = opened.write("one", 1, 1).await;
    opened.publish("one", &one.0).await;
    drop(one);
    opened.delete("one").await;
    assert!(spares(dir.path()) > 0);
    clock.advance(Duration::from_secs(61));
    let gone = async {
        while !files(dir.path()).is_empty() {
            opened.tier.inner.large.swept().notify_one();
            tokio::task::yield_now().await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(30), gone).await;
    gone.expect("what waited for a minute goes");
    assert_eq!(opened.tier.inner.large.bytes(), 0);
    opened.close().await;
}
