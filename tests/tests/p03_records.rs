//! P3, damage: a record that fails its checksum or does not decode is a miss, is removed and is
//! counted; it is never served and never an error.
//!
//! Proven on the files of a real store: whatever bit is flipped in tables, blob files, logs and the
//! store's own books, and wherever they are cut or even removed, the daemon becomes ready and every
//! key reads exactly its newest value or nothing, by every way of reading; loss is seen in the
//! statistics; writes work afterwards. And on single records, written past the daemon: every bit of
//! envelope, header, attributes and value, and every length.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use bytes::Bytes;
use pannier_proto::v1::{PutRequest, cache_service_client::CacheServiceClient};
use pannier_tests::{Daemon, load::noise, request};
use rocksdb::{DB, DBCompactionStyle, Options};
use tempfile::TempDir;
use tonic::transport::Channel;

type Stub = CacheServiceClient<Channel>;
/// What each key must read as, if anything; `None`: it was invalidated.
type Expected = BTreeMap<String, Option<Bytes>>;

/// How the last writes of a prepared store lie on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// In tables and blob files: the daemon was stopped in order.
    InTables,
    /// In the write-ahead log: it was killed.
    InLog,
}

/// A store with two generations of values and what its keys hold.
struct Prepared {
    home: TempDir,
    expected: Expected,
}

async fn prepare(last: Last) -> Prepared {
    let home = TempDir::with_prefix("pannier-prepared-").unwrap();
    let how = Daemon::builder().data_dir(Some(&home.path().join("data")));
    let mut expected = Expected::new();
    let mut daemon = how.start();
    let size = |index: u64| match index % 10 {
        0 => 20_000 + 10_000 * usize::try_from(index).unwrap() / 10,
        1 => 12_000,
        _ => 50 + 37 * usize::try_from(index).unwrap(),
    };
    for index in 0..60 {
        write(
            &daemon,
            &mut expected,
            index,
            Some(noise(index, size(index))),
        )
        .await;
    }
    assert_eq!(daemon.terminate().code(), Some(0));
    let mut daemon = daemon.restart();
    // The second generation: overwritten, invalidated, new; the rest stays in the first tables.
    for index in 60..80 {
        write(
            &daemon,
            &mut expected,
            index,
            Some(noise(index, size(index % 60))),
        )
        .await;
    }
    for index in 0..30 {
        let value = (index % 3 != 2).then(|| noise(1000 + index, size(index)));
        write(&daemon, &mut expected, index, value).await;
    }
    match last {
        Last::InTables => assert_eq!(daemon.terminate().code(), Some(0)),
        Last::InLog => daemon.kill(),
    }
    Prepared { home, expected }
}

async fn write(daemon: &Daemon, expected: &mut Expected, index: u64, value: Option<Bytes>) {
    let (mut stub, key) = (daemon.stub(), format!("key-{index}"));
    match value.clone() {
        Some(value) => drop(stub.put(request::put("n", &key, value)).await.unwrap()),
        None => drop(
            stub.invalidate(request::invalidate_keys("n", [&key]))
                .await
                .unwrap(),
        ),
    }
    expected.insert(key, value);
}

impl Prepared {
    /// Its files with one of these endings, longest first.
    fn files(&self, endings: &[&str]) -> Vec<String> {
        let mut files: Vec<_> = fs::read_dir(self.home.path().join("data/entries"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.metadata().unwrap().len(), entry.file_name()))
            .map(|(length, name)| (length, name.into_string().unwrap()))
            .filter(|(length, name)| *length > 0 && endings.iter().any(|it| name.ends_with(it)))
            .collect();
        files.sort();
        files.into_iter().rev().map(|(_, name)| name).collect()
    }

    fn length(&self, file: &str) -> u64 {
        fs::metadata(self.home.path().join("data/entries").join(file))
            .unwrap()
            .len()
    }

    /// Damages a copy, starts a daemon on it, checks every answer; returns what became of it.
    async fn round(&self, file: &str, damage: Damage) -> Aftermath {
        let what = format!("{damage:?} in {file} of {} bytes", self.length(file));
        let copy = TempDir::with_prefix("pannier-damaged-").unwrap();
        copy_all(&self.home.path().join("data"), copy.path());
        damage.apply(&copy.path().join("entries").join(file));
        let daemon = Daemon::builder().data_dir(Some(copy.path())).start();
        let mut stub = daemon.stub();
        let mut misses = 0;
        // Twice: what is found to be damaged the first time is gone the second time.
        for _ in 0..2 {
            misses = self.read_all(&mut stub, &what).await;
        }
        let stats = daemon.stats().await;
        let failed = request::counters(&stats, "n").errors;
        let stats = stats.local.unwrap();
        self.write_again(&mut stub, &what).await;
        let set_aside = fs::read_dir(copy.path())
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
                name.starts_with("damaged-")
            })
            .count();
        assert_eq!(set_aside as u64, stats.set_asides.min(1), "{what}");
        let (corrupt, set_asides) = (stats.corrupt_records, stats.set_asides);
        Aftermath {
            what,
            misses,
            corrupt,
            set_asides,
            failed,
        }
    }

    /// Reads every key by every way; returns how many are missing.
    async fn read_all(&self, stub: &mut Stub, what: &str) -> usize {
        let keys = self.expected.keys();
        let many = stub
            .get_many(request::get_many("n", keys))
            .await
            .expect(what)
            .into_inner();
        let mut misses = 0;
        for ((key, expected), item) in self.expected.iter().zip(many.items) {
            assert!(item.fault.is_none(), "{key}: {item:?}: {what}");
            let one = stub
                .get(request::get("n", key))
                .await
                .expect(what)
                .into_inner();
            for got in [item.entry, one.entry] {
                let Some(got) = got else { continue };
                let good = expected
                    .as_ref()
                    .is_some_and(|expected| *expected == got.value);
                assert!(
                    good,
                    "{key} has {} bytes that it must not have: {what}",
                    got.value.len()
                );
            }
            let exists = stub
                .exists(request::exists("n", key))
                .await
                .expect(what)
                .into_inner();
            assert!(!exists.exists || expected.is_some(), "{key} exists: {what}");
            misses += usize::from(expected.is_some() && !exists.exists);
        }
        misses
    }

    /// Every key can be put and read again.
    async fn write_again(&self, stub: &mut Stub, what: &str) {
        for (index, key) in self.expected.keys().enumerate() {
            let value = noise(5000 + index as u64, 100 + 400 * index);
            stub.put(request::put("n", key, value.clone()))
                .await
                .expect(what);
            let got = stub
                .get(request::get("n", key))
                .await
                .expect(what)
                .into_inner();
            assert!(got.entry.expect(what).value == value, "{key}: {what}");
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    /// This bit of the byte at this offset is turned.
    Flip { offset: u64, bit: u8 },
    /// The file ends here.
    Cut { length: u64 },
    /// There is no such file.
    Removal,
}

impl Damage {
    fn apply(self, path: &Path) {
        match self {
            Self::Flip { offset, bit } => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(path)
                    .unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset).unwrap();
                file.write_all_at(&[byte[0] ^ (1 << bit)], offset).unwrap();
            }
            Self::Cut { length } => {
                OpenOptions::new()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .set_len(length)
                    .unwrap();
            }
            Self::Removal => fs::remove_file(path).unwrap(),
        }
    }

    /// Flips at `count` places from the first to the last byte.
    fn flips(length: u64, count: u64) -> impl Iterator<Item = Self> {
        (0..count).map(move |index| {
            let offset = (length - 1) * index / (count - 1);
            Self::Flip {
                offset,
                bit: (index % 8) as u8,
            }
        })
    }

    fn cuts(length: u64) -> impl Iterator<Item = Self> {
        let cuts = [
            0,
            1,
            length / 3,
            length / 2,
            length.saturating_sub(100),
            length - 1,
        ];
        cuts.into_iter().map(|length| Self::Cut { length })
    }
}

/// What a damage has cost, and what the statistics say of it.
struct Aftermath {
    what: String,
    misses: usize,
    corrupt: u64,
    set_asides: u64,
    /// Reads of a tier that could not be read.
    failed: u64,
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Nothing of what is lost may be lost silently.
fn check_counted(rounds: &[Aftermath]) {
    for round in rounds {
        let counted = round.corrupt > 0 || round.set_asides > 0 || round.failed > 0;
        let Aftermath { what, misses, .. } = round;
        assert!(
            *misses == 0 || counted,
            "{misses} lost without a word: {what}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_in_tables_and_blob_files_are_misses() {
    let prepared = prepare(Last::InTables).await;
    let mut rounds = Vec::new();
    let files = prepared.files(&[".sst", ".blob"]);
    assert!(files.iter().any(|it| it.ends_with(".sst")), "{files:?}");
    assert!(files.iter().any(|it| it.ends_with(".blob")), "{files:?}");
    for file in files {
        for damage in Damage::flips(prepared.length(&file), 14) {
            rounds.push(prepared.round(&file, damage).await);
        }
    }
    check_counted(&rounds);
    assert!(
        rounds.iter().any(|it| it.corrupt > 0 && it.set_asides == 0),
        "no read met damage"
    );
    assert!(
        rounds.iter().any(|it| it.misses < 10),
        "every flip cost almost everything"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_blob_files_that_are_cut_or_gone_are_misses() {
    let prepared = prepare(Last::InTables).await;
    let mut rounds = Vec::new();
    for file in prepared.files(&[".sst", ".blob"]) {
        let damages = Damage::cuts(prepared.length(&file)).chain([Damage::Removal]);
        for damage in damages {
            rounds.push(prepared.round(&file, damage).await);
        }
    }
    check_counted(&rounds);
    assert!(
        rounds.iter().any(|it| it.misses > 0),
        "no cut cost anything"
    );
    assert!(
        rounds.iter().any(|it| it.set_asides > 0),
        "nothing was ever set aside"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_in_the_log_bring_nothing_old_back() {
    let prepared = prepare(Last::InLog).await;
    let mut rounds = Vec::new();
    for file in prepared.files(&[".log"]) {
        for damage in Damage::flips(prepared.length(&file), 40) {
            rounds.push(prepared.round(&file, damage).await);
        }
    }
    assert!(
        rounds.iter().any(|it| it.misses > 0),
        "no flip cost anything"
    );
}

/// A record that seems to reach beyond the end of the log looks like one that a kill interrupted;
/// then what follows it must not be forgotten, or what it had removed would come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_length_at_the_end_of_the_log_brings_nothing_old_back() {
    let prepared = prepare(Last::InLog).await;
    for file in prepared.files(&[".log"]) {
        let path = prepared.home.path().join("data/entries").join(&file);
        let lengths = length_fields(&fs::read(path).unwrap());
        // Not the very last one: nothing follows it that could tell.
        for offset in lengths.into_iter().rev().skip(1).take(16) {
            prepared.round(&file, Damage::Flip { offset, bit: 6 }).await;
        }
    }
}
/// Offsets of the upper byte of each length in a write-ahead log: blocks of 32 KiB, in them records
/// of checksum (4 bytes), length (2), kind (1), contents; a rest below 7 bytes is filled up.
fn length_fields(log: &[u8]) -> Vec<u64> {
    const BLOCK: usize = 32 << 10;
    const HEAD: usize = 7;
    let (mut at, mut fields) = (0, Vec::new());
    while at + HEAD <= log.len() {
        if BLOCK - at % BLOCK < HEAD {
            at += BLOCK - at % BLOCK;
            continue;
        }
        let length = usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
        if length == 0 {
            break;
        }
        fields.push(at as u64 + 5);
        at += HEAD + length;
    }
    assert!(
        fields.len() > 40,
        "{} records: not a log as it is known",
        fields.len()
    );
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_the_stores_own_books_does_not_keep_the_daemon_down() {
    let prepared = prepare(Last::InTables).await;
    let entries = prepared.home.path().join("data/entries");
    let books: Vec<_> = fs::read_dir(&entries)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            ["CURRENT", "MANIFEST", "OPTIONS", "IDENTITY"]
                .iter()
                .any(|it| name.starts_with(it))
        })
        .collect();
    assert!(books.len() >= 4, "{books:?}");
    for file in books {
        let length = prepared.length(&file);
        let damages = Damage::flips(length, 4)
            .chain([0, length / 2].map(|length| Damage::Cut { length }))
            .chain([Damage::Removal]);
        for damage in damages {
            prepared.round(&file, damage).await;
        }
    }
}

/// The store itself, past the daemon.
fn open_store(data_dir: &Path) -> DB {
    let mut options = Options::default();
    options.set_compaction_style(DBCompactionStyle::Fifo);
    options.set_disable_auto_compactions(true);
    DB::open(&options, data_dir.join("entries")).unwrap()
}

fn stored_name(key: &str) -> Vec<u8> {
    [b"n\0", key.as_bytes()].concat()
}

/// Every way to damage a stored record a little.
fn variants(stored: &[u8]) -> Vec<Vec<u8>> {
    let mut variants: Vec<Vec<u8>> = (0..stored.len() * 8)
        .map(|bit| {
            let mut variant = stored.to_vec();
            variant[bit / 8] ^= 1 << (bit % 8);
            variant
        })
        .collect();
    variants.extend((0..stored.len()).map(|length| stored[..length].to_vec()));
    variants.push([stored, b"x"].concat());
    variants.push(vec![0; stored.len()]);
    variants
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damaged_record_is_served_and_each_is_counted_once() {
    for codec in ["none", "lz4", "zstd"] {
        let config = format!("[namespaces.n]\ncompression = \"{codec}\"\n");
        let mut daemon = Daemon::builder().config(&config).start();
        // Repetitive, so that the codecs make a short record of it; short where nothing does.
        let value = Bytes::from(vec![b'v'; if codec == "none" { 40 } else { 1100 }]);
        let put = PutRequest {
            content_type: "text/plain".into(),
            metadata: [("a".to_owned(), "b".to_owned())].into(),
            tags: vec!["t".into()],
            ..request::put("n", "intact", value.clone())
        };
        daemon.stub().put(put).await.unwrap();
        assert_eq!(daemon.terminate().code(), Some(0));

        let store = open_store(daemon.data_dir());
        let stored = store
            .get(stored_name("intact"))
            .unwrap()
            .expect("the record");
        let variants = variants(&stored);
        let keys: Vec<_> = (0..variants.len())
            .map(|index| format!("bad-{index}"))
            .collect();
        for (key, variant) in keys.iter().zip(&variants) {
            store.put(stored_name(key), variant).unwrap();
        }
        store.put(stored_name("copy"), &stored).unwrap();
        drop(store);

        let daemon = daemon.restart();
        let mut stub = daemon.stub();
        let corrupt = async || daemon.stats().await.local.unwrap().corrupt_records;
        for (index, key) in keys.iter().enumerate() {
            // By each way of reading in turn.
            let there = match index % 3 {
                0 => stub
                    .get(request::get("n", key))
                    .await
                    .unwrap()
                    .into_inner()
                    .entry
                    .is_some(),
                1 => {
                    stub.exists(request::exists("n", key))
                        .await
                        .unwrap()
                        .into_inner()
                        .exists
                }
                _ => {
                    let reply = stub.get_many(request::get_many("n", [key])).await.unwrap();
                    let item = &reply.into_inner().items[0];
                    assert!(item.fault.is_none(), "{codec} {key}: {item:?}");
                    item.entry.is_some()
                }
            };
            assert!(!there, "{codec}: {key} is served");
        }
        assert_eq!(
            corrupt().await,
            variants.len() as u64,
            "{codec}: each is counted"
        );
        for chunk in keys.chunks(1000) {
            let reply = stub
                .get_many(request::get_many("n", chunk))
                .await
                .unwrap()
                .into_inner();
            assert!(
                reply
                    .items
                    .iter()
                    .all(|item| item.entry.is_none() && item.fault.is_none())
            );
        }
        assert_eq!(
            corrupt().await,
            variants.len() as u64,
            "{codec}: what was damaged is removed"
        );
        for key in ["intact", "copy"] {
            let entry = stub
                .get(request::get("n", key))
                .await
                .unwrap()
                .into_inner()
                .entry;
            assert!(entry.expect("undamaged").value == value, "{codec}: {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_stands_in_nobodys_way() {
    let mut daemon = Daemon::builder()
        .config("[namespaces.n]\nimmutable = true\n")
        .start();
    daemon
        .stub()
        .put(request::put("n", "k", "value"))
        .await
        .unwrap();
    assert_eq!(daemon.terminate().code(), Some(0));
    let store = open_store(daemon.data_dir());
    let mut stored = store.get(stored_name("k")).unwrap().expect("the record");
    *stored.last_mut().unwrap() ^= 1;
    let keys = ["plain", "absent", "scanned", "key"];
    for key in keys {
        store.put(stored_name(key), &stored).unwrap();
    }
    drop(store);
    let daemon = daemon.restart();
    let mut stub = daemon.stub();
    stub.put(request::put("n", "plain", "other"))
        .await
        .expect("as if nothing were there");
    let if_absent = pannier_proto::v1::write_options::Condition::IfAbsent(true);
    stub.put(request::put_if("n", "absent", "other", if_absent))
        .await
        .expect("it is absent");
    stub.invalidate(request::invalidate_keys("n", ["key"]))
        .await
        .expect("it is removed");
    let all = pannier_proto::v1::invalidate_request::Target::All(true);
    stub.invalidate(request::invalidate("n", all))
        .await
        .expect("all is removed");
    for key in keys {
        assert!(
            stub.get(request::get("n", key))
                .await
                .unwrap()
                .into_inner()
                .entry
                .is_none()
        );
    }
}
