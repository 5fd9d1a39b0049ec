//! Large values: `Write` and `Read` as streams, over both tiers.
//!
//! Proven:
//!
//!     whole        what was written is read, whatever its size, here and by another daemon, and in
//!                  parts; in a Cluster its chunks lie on all masters
//!     atomic       nothing is visible before the last part is in and agrees; what ends badly in
//!                  any way leaves nothing, neither file nor chunk
//!     never short  a chunk that has gone, here or in Redis, is a miss of the whole; one that goes
//!                  while it is read ends the stream with an error
//!     coherent     an invalidation or another value, large or small, is seen by who has a copy; a
//!                  version is checked, a condition is decided, staleness is marked as for others
//!     bounded      the memory of a daemon does not grow with the value, nor its disk beyond the
//!                  budget; a value beyond a limit is refused, and stays out of a tier that it is
//!                  not for
//!     not twice    content that is there already is not sent again
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::path::Path;

use bytes::Bytes;
use pannier_proto::v1::{
    GetRequest, ReadOptions, ReadRequest, Tier, TierOutcome, WriteFinish, WriteHeader, WriteMode,
    WriteOptions, WriteResponse, invalidate_request::Target, write_options::Condition,
    write_request::Part,
};
use pannier_tests::{
    Caller, Cluster, Daemon, Mode, Pair, Redis, eventually,
    load::noise,
    pannier, request, shared, stderr, stdout,
    stream::{self, part, parts},
};
use tonic::Code;

const MIB: usize = 1 << 20;

/// SHA-256 of a value, by the program that everybody has.
fn sha256(value: &Bytes) -> Bytes {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(value).unwrap();
    child.wait_with_output().unwrap().stdout.into()
}

fn outcomes(reply: &WriteResponse) -> (TierOutcome, TierOutcome) {
    (reply.local_outcome(), reply.shared_outcome())
}

/// Files of large values, whole or not; those that wait to be written over are no longer theirs.
fn files(daemon: &Daemon) -> Vec<String> {
    let path = daemon.data_dir().join("entries/large");
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let names = entries.map(|it| it.file_name().to_string_lossy().into_owned());
    names.filter(|it| !it.ends_with(".spare")).collect()
}

/// Names of chunks in Redis.
fn chunks(redis: &Redis) -> Vec<String> {
    let reply = redis.command(&["KEYS", "pannier:!chunk:*"]);
    reply
        .array()
        .iter()
        .map(pannier_tests::Reply::text)
        .collect()
}

async fn has_no_chunks(redis: &Redis) {
    eventually("no chunk is left in Redis", async || {
        chunks(redis).is_empty()
    })
    .await;
}

async fn has_no_files(daemon: &Daemon) {
    eventually("no file is left", async || files(daemon).is_empty()).await;
}

async fn assert_holds(caller: &Caller, key: &str, expected: &Bytes) {
    let got = caller.read(key).await;
    assert!(got.is_hit(), "{key} is there");
    assert_eq!(got.header.size_bytes, expected.len() as u64);
    assert!(got.value == *expected, "{key} is not as it was written");
}

fn mode(mode: WriteMode) -> Option<WriteOptions> {
    Some(WriteOptions {
        mode: mode.into(),
        ..WriteOptions::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_read_whatever_its_size() {
    let daemon = Daemon::start();
    let caller = Caller::new(&daemon, "n");
    for size in [
        0,
        1,
        1000,
        MIB - 1,
        MIB,
        MIB + 1,
        2 * MIB,
        3 * MIB + 7,
        9 * MIB,
    ] {
        let value = noise(size as u64, size);
        let reply = caller.write("k", &value).await;
        assert_eq!(reply.size_bytes, size as u64);
        let skipped = (TierOutcome::Applied, TierOutcome::Skipped);
        assert_eq!(outcomes(&reply), skipped, "{size}");
        assert_holds(&caller, "k", &value).await;
        let got = caller.read("k").await;
        assert_eq!(got.tier(), Tier::Local);
        assert_eq!(got.header.entry.unwrap().version, reply.version);
    }
    // And again by the next daemon on the same data.
    let value = noise(9 * MIB as u64, 9 * MIB);
    let daemon = daemon.restart();
    assert_holds(&Caller::new(&daemon, "n"), "k", &value).await;
    eventually("only the last is kept", async || files(&daemon).len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_said_of_a_value_comes_with_it() {
    let daemon = Daemon::start();
    let caller = Caller::new(&daemon, "n");
    let value = noise(1, 2 * MIB);
    let header = WriteHeader {
        ttl: Some(request::milliseconds(60_000)),
        metadata: [("lang".to_owned(), "en".to_owned())].into(),
        content_type: "a/b".into(),
        tags: vec!["t".into()],
        size_bytes: Some(value.len() as u64),
        sha256: sha256(&value),
        ..caller.header("k")
    };
    let written = caller.try_write(header, &value).await.unwrap();
    let entry = caller.read("k").await.header.entry.unwrap();
    assert_eq!(
        (entry.content_type.as_str(), &*entry.tags),
        ("a/b", &["t".to_owned()][..])
    );
    assert_eq!(entry.metadata["lang"], "en");
    assert_eq!(entry.version, written.version);
    assert_eq!(entry.expire_time, written.expire_time);
    let life = request::epoch_milliseconds(entry.expire_time.as_ref())
        - request::epoch_milliseconds(entry.create_time.as_ref());
    assert_eq!(life, 60_000);
    assert!(caller.exists("k").await.exists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_read_as_it_was_asked_for() {
    let pair = Pair::start("", "").await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    let value = noise(3, 5 * MIB + 11);
    near.write("k", &value).await;
    let ranges = [
        (0, Some(1)),
        (MIB as u64 - 1, Some(2)),
        (MIB as u64, Some(MIB as u64)),
        (3, None),
        (4 * MIB as u64 + 5, Some(99 * MIB as u64)),
        (5 * MIB as u64 + 10, None),
        (5 * MIB as u64 + 11, None),
        (7, Some(0)),
    ];
    for caller in [&near, &other] {
        for (offset, length) in ranges {
            let request = ReadRequest {
                offset,
                length,
                ..stream::read("n", "k")
            };
            let got = caller.try_read(request).await.unwrap();
            let from = usize::try_from(offset).unwrap();
            let length = length.map_or(value.len(), |it| usize::try_from(it).unwrap());
            let to = value.len().min(from + length);
            assert_eq!(got.header.size_bytes, value.len() as u64);
            assert!(got.value == value[from..to], "{offset} {length}");
        }
        let request = ReadRequest {
            offset: value.len() as u64 + 1,
            ..stream::read("n", "k")
        };
        let status = caller.try_read(request).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        assert!(status.message().contains("5242891 bytes"), "{status:?}");
    }
    assert!(files(&pair.other).is_empty(), "a part is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_daemon_reads_it_from_redis_and_keeps_it() {
    let pair = Pair::start("", "").await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    let value = noise(4, 6 * MIB + 1);
    let reply = near.write("k", &value).await;
    assert_eq!(
        outcomes(&reply),
        (TierOutcome::Applied, TierOutcome::Applied)
    );
    assert_eq!(chunks(&pair.redis).len(), 7);
    assert_eq!(near.read("k").await.tier(), Tier::Local);
    let got = other.read("k").await;
    assert_eq!(got.tier(), Tier::Shared);
    assert!(got.value == value);
    let got = other.read("k").await;
    assert_eq!(got.tier(), Tier::Local, "it was kept");
    assert!(got.value == value);
    assert_eq!(files(&pair.other).len(), 1);
    // From Redis itself, whatever is here.
    let request = ReadRequest {
        options: Some(ReadOptions {
            require_shared: true,
            ..ReadOptions::default()
        }),
        ..stream::read("n", "k")
    };
    let got = near.try_read(request).await.unwrap();
    assert_eq!(got.tier(), Tier::Shared);
    assert!(got.value == value);
}

#[tokio::test(flavor = "multi_thread")]
async fn get_gives_it_whole_while_it_fits_and_says_what_to_do_when_it_does_not() {
    let pair = Pair::start("", "").await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    let (fits, larger) = (noise(5, 3 * MIB), noise(6, 5 * MIB));
    near.write("fits", &fits).await;
    near.write("larger", &larger).await;
    near.put("small", "v").await;
    for caller in [&near, &other] {
        assert!(caller.value("fits").await.unwrap() == fits);
        let status = caller.try_get("larger", None).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains("read it with Read"), "{status:?}");
        assert!(caller.exists("larger").await.exists);
        let keys = ["small", "fits", "larger", "fits", "none"];
        let many = caller.stub().get_many(request::get_many("n", keys)).await;
        let items = many.unwrap().into_inner().items;
        let codes = items.iter().map(|it| it.fault.as_ref().map(|it| it.code));
        let exhausted = Code::ResourceExhausted as u32;
        let refused = Code::FailedPrecondition as u32;
        let expected = [None, None, Some(refused), Some(exhausted), None];
        assert!(codes.eq(expected), "{items:?}");
        assert!(items[1].entry.as_ref().unwrap().value == fits);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_visible_before_the_end() {
    let pair = Pair::start("", "").await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    near.put("k", "before").await;
    let value = noise(7, 3 * MIB);
    let sender = near.sender();
    sender.send(Part::Header(near.header("k"))).await;
    sender.chunks(&value).await;
    eventually("chunks are on their way", async || {
        chunks(&pair.redis).len() >= 2 && files(&pair.near).len() == 1
    })
    .await;
    for caller in [&near, &other] {
        assert_eq!(caller.value("k").await.unwrap(), "before");
    }
    // Until then they are not to stay.
    let chunk = &chunks(&pair.redis)[0];
    let left = pair.redis.command(&["PTTL", chunk]).integer();
    assert!((1..=120_000).contains(&left), "{left}");
    sender.send(Part::Finish(WriteFinish::default())).await;
    sender.answer().await.unwrap();
    for caller in [&near, &other] {
        assert_holds(caller, "k", &value).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_in_redis_live_as_long_as_the_entry() {
    let pair = Pair::start("", "").await;
    let near = pair.near("n");
    let header = WriteHeader {
        ttl: Some(request::milliseconds(3_600_000)),
        ..near.header("k")
    };
    near.try_write(header, &noise(8, 3 * MIB)).await.unwrap();
    let entry = shared::key("n", "k");
    let of_entry = pair.redis.command(&["PTTL", &entry]).integer();
    let all = chunks(&pair.redis);
    assert_eq!(all.len(), 3);
    for chunk in all {
        let left = pair.redis.command(&["PTTL", &chunk]).integer();
        assert!(
            (of_entry..=3_610_000).contains(&left),
            "{left}, entry {of_entry}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_badly_leaves_nothing() {
    let pair = Pair::start("", "").await;
    let near = pair.near("n");
    let value = noise(9, 4 * MIB);
    let other_digest = sha256(&noise(10, MIB));
    let with = |size_bytes, sha256: &Bytes| WriteHeader {
        size_bytes,
        sha256: sha256.clone(),
        ..near.header("k")
    };
    let none = Bytes::new();
    let finish = |sha256: &Bytes| {
        let mut all = parts(with(None, &none), &value);
        all.pop();
        all.push(part(Part::Finish(WriteFinish {
            sha256: sha256.clone(),
        })));
        all
    };
    let without = |index: usize| {
        let mut all = parts(with(None, &none), &value);
        all.remove(index);
        all
    };
    let last = parts(with(None, &none), &value).len() - 1;
    let mut twice = parts(with(None, &none), &value);
    twice.insert(last, part(Part::Header(near.header("k"))));
    let mut empty = parts(with(None, &none), &value);
    empty.insert(last, part(Part::Chunk(Bytes::new())));
    let mut large = parts(with(None, &none), &value);
    large.insert(last, part(Part::Chunk(noise(1, MIB + 1))));
    let faults = [
        (
            "size_bytes",
            parts(with(Some(4 * MIB as u64 + 1), &none), &value),
        ),
        (
            "size_bytes",
            parts(with(Some(4 * MIB as u64 - 1), &none), &value),
        ),
        ("size_bytes", parts(with(Some(1), &none), &Bytes::new())),
        ("sha256", parts(with(None, &other_digest), &value)),
        (
            "sha256: 3 bytes",
            parts(with(None, &Bytes::from_static(b"abc")), &value),
        ),
        ("sha256", finish(&other_digest)),
        ("sha256", parts(with(None, &other_digest), &noise(1, 10))),
        ("finish", without(last)),
        ("header: must come first", without(0)),
        ("header: must come once", twice),
        ("chunk: 0 bytes", empty),
        ("chunk: 1048577 bytes", large),
    ];
    for (told, parts) in faults {
        let status = near.try_parts(parts).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{told}: {status:?}");
        assert!(status.message().starts_with(told), "{told}: {status:?}");
    }
    // One that goes away in the middle.
    let sender = near.sender();
    sender.send(Part::Header(near.header("k"))).await;
    sender.chunks(&value).await;
    eventually("chunks are on their way", async || {
        !chunks(&pair.redis).is_empty()
    })
    .await;
    sender.give_up();
    has_no_chunks(&pair.redis).await;
    has_no_files(&pair.near).await;
    assert!(!near.read("k").await.is_hit());
    // And the right digest is taken, in either place.
    let digest = sha256(&value);
    near.try_parts(finish(&digest)).await.unwrap();
    assert_holds(&near, "k", &value).await;
    near.try_write(with(None, &digest), &value).await.unwrap();
    assert_holds(&near, "k", &value).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_daemon_was_writing_is_gone() {
    let mut pair = Pair::start("", "").await;
    let near = pair.near("n");
    near.write("whole", &noise(1, 2 * MIB)).await;
    let sender = near.sender();
    sender.send(Part::Header(near.header("k"))).await;
    sender.chunks(&noise(2, 3 * MIB)).await;
    eventually("chunks are on their way", async || {
        files(&pair.near).len() == 2 && chunks(&pair.redis).len() >= 3
    })
    .await;
    pair.restart_near();
    shared::attached(&pair.near).await;
    let near = pair.near("n");
    assert_eq!(files(&pair.near).len(), 1, "the half-written file is gone");
    assert!(!near.read("k").await.is_hit());
    assert_holds(&near, "whole", &noise(1, 2 * MIB)).await;
    // In Redis nobody is left to remove them: they end by themselves.
    for chunk in chunks(&pair.redis) {
        assert!(pair.redis.command(&["PTTL", &chunk]).integer() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_has_gone_is_a_miss_of_the_whole() {
    let pair = Pair::start("", "").await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    let value = noise(11, 3 * MIB + 9);
    // The first one, before the stream begins.
    near.write("first", &value).await;
    let first = chunks(&pair.redis);
    let first = first.iter().find(|it| it.ends_with(":0")).unwrap();
    pair.redis.command(&["DEL", first]);
    let got = other.read("first").await;
    assert!(
        !got.is_hit() && got.value.is_empty(),
        "a miss, not a short value"
    );
    assert!(other.value("first").await.is_none());
    eventually("it is a miss for who wrote it, too", async || {
        !near.read("first").await.is_hit()
    })
    .await;
    // The last one, when much has been sent already.
    pair.redis.command(&["FLUSHALL"]);
    near.write("last", &value).await;
    let last = chunks(&pair.redis);
    let last = last.iter().find(|it| it.ends_with(":3")).unwrap();
    pair.redis.command(&["DEL", last]);
    let status = other.try_read(stream::read("n", "last")).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert!(files(&pair.other).iter().all(|it| it.ends_with(".part")));
    assert!(
        other.value("last").await.is_none(),
        "Get has all of it or nothing"
    );
    // One that is not what it should be is none.
    pair.redis.command(&["FLUSHALL"]);
    near.write("changed", &value).await;
    let one = &chunks(&pair.redis)[0];
    pair.redis.command(&["SETRANGE", one, "77", "other"]);
    let read = other.try_read(stream::read("n", "changed")).await;
    assert!(read.is_err() || !read.unwrap().is_hit());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_has_gone_or_is_damaged_is_made_up_for_by_redis() {
    let pair = Pair::start("", "").await;
    let near = pair.near("n");
    let value = noise(12, 3 * MIB);
    near.write("k", &value).await;
    let file = |daemon: &Daemon| {
        let name = files(daemon).pop().unwrap();
        daemon.data_dir().join("entries/large").join(name)
    };
    std::fs::remove_file(file(&pair.near)).unwrap();
    let got = near.read("k").await;
    assert_eq!(got.tier(), Tier::Shared);
    assert!(got.value == value);
    assert_eq!(
        near.read("k").await.tier(),
        Tier::Local,
        "it was fetched again"
    );
    damage(&file(&pair.near), 4096 + MIB + 5);
    assert_holds(&near, "k", &value).await;
    // Without Redis it is a miss.
    damage_or_skip(&pair.near, &near, &value).await;
}

fn damage(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

async fn damage_or_skip(daemon: &Daemon, near: &Caller, value: &Bytes) {
    // Fetched again by now or by this.
    assert_holds(near, "k", value).await;
    eventually("it is kept again", async || {
        near.read("k").await.tier() == Tier::Local && files(daemon).len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_tier_alone_never_gives_a_short_value() {
    let daemon = Daemon::start();
    let caller = Caller::new(&daemon, "n");
    let value = noise(13, 3 * MIB);
    caller.write("k", &value).await;
    let path = daemon.data_dir().join("entries/large");
    let path = path.join(files(&daemon).pop().unwrap());
    // The first chunk: a miss. A later one: the stream ends with an error.
    damage(&path, 4096 + 2 * MIB + 1);
    let status = caller.try_read(stream::read("n", "k")).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert!(
        !caller.read("k").await.is_hit(),
        "what is damaged is dropped"
    );
    assert!(caller.value("k").await.is_none());
    has_no_files(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_seen_by_who_has_a_copy() {
    let pair = Pair::start("", "").await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    let (one, two) = (noise(14, 3 * MIB), noise(15, 2 * MIB + 5));
    near.write("k", &one).await;
    assert_holds(&other, "k", &one).await;
    // Another large value.
    near.write("k", &two).await;
    eventually("the other daemon reads the new value", async || {
        other.read("k").await.value == two
    })
    .await;
    // A small one.
    near.put("k", "small").await;
    eventually("the other daemon reads the small value", async || {
        other.read("k").await.value == "small"
    })
    .await;
    has_no_files(&pair.near).await;
    has_no_files(&pair.other).await;
    has_no_chunks(&pair.redis).await;
    // None.
    near.write("k", &one).await;
    assert_holds(&other, "k", &one).await;
    near.invalidate("k").await;
    assert!(!near.read("k").await.is_hit());
    eventually("the other daemon knows it is gone", async || {
        !other.read("k").await.is_hit()
    })
    .await;
    has_no_files(&pair.near).await;
    has_no_chunks(&pair.redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_takes_it_along_everywhere() {
    let pair = Pair::start("", "").await;
    let (near, other) = (pair.near("n"), pair.other("n"));
    let value = noise(29, 2 * MIB);
    let tagged = || WriteHeader {
        tags: vec!["t".into()],
        ..near.header("k")
    };
    near.try_write(tagged(), &value).await.unwrap();
    assert_holds(&other, "k", &value).await;
    other.invalidate_by(Target::Tag("t".into())).await;
    eventually("it is gone with its tag", async || {
        !near.read("k").await.is_hit() && !other.read("k").await.is_hit()
    })
    .await;
    near.try_write(tagged(), &value).await.unwrap();
    assert_holds(&near, "k", &value).await;
    assert_holds(&other, "k", &value).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_decided_at_the_end() {
    let pair = Pair::start("", "[namespaces.once]\nimmutable = true\n").await;
    let near = pair.near("n");
    let (one, two) = (noise(16, 2 * MIB), noise(17, 2 * MIB));
    let under = |condition| WriteHeader {
        options: Some(WriteOptions {
            condition: Some(condition),
            ..WriteOptions::default()
        }),
        ..near.header("k")
    };
    let absent = || under(Condition::IfAbsent(true));
    let first = near.try_write(absent(), &one).await.unwrap();
    let status = near.try_write(absent(), &two).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    let version = under(Condition::IfVersion(vec![1; 16].into()));
    let status = near.try_write(version, &two).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert_holds(&near, "k", &one).await;
    let version = under(Condition::IfVersion(first.version));
    near.try_write(version, &two).await.unwrap();
    assert_holds(&near, "k", &two).await;
    // Decided at the end: it comes to be there meanwhile.
    near.invalidate("k").await;
    let sender = near.sender();
    sender.send(Part::Header(absent())).await;
    sender.chunks(&one).await;
    pair.other("n").put("k", "came first").await;
    sender.send(Part::Finish(WriteFinish::default())).await;
    let status = sender.answer().await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    assert_eq!(near.value("k").await.unwrap(), "came first");
    // Write-once.
    let other = pair.other("once");
    let first = other.write("k", &one).await;
    let again = other.write("k", &one).await;
    assert_eq!(again.version, first.version, "the same content stays");
    let status = other.try_write(other.header("k"), &two).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    assert_holds(&other, "k", &one).await;
    eventually("what was refused is swept", async || {
        chunks(&pair.redis).len() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_it_stays_here_and_is_marked_stale() {
    let pair = Pair::start("", "").await;
    let near = pair.near("n");
    let (one, two) = (noise(18, 2 * MIB), noise(19, 3 * MIB));
    near.write("before", &one).await;
    pair.cut_off().await;
    let got = near.read("before").await;
    assert!(got.value == one && got.header.provenance.as_ref().unwrap().stale);
    let reply = near.write("k", &two).await;
    assert_eq!(
        outcomes(&reply),
        (TierOutcome::Applied, TierOutcome::Deferred)
    );
    let got = near.read("k").await;
    assert!(got.value == two && got.header.provenance.as_ref().unwrap().stale);
    let shared = WriteHeader {
        options: mode(WriteMode::Shared),
        ..near.header("s")
    };
    let status = near.try_write(shared, &two).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    pair.come_back().await;
    // As any put of an outage: it was for the outage.
    eventually("what was put meanwhile is not trusted", async || {
        !near.read("k").await.is_hit()
    })
    .await;
    assert!(!pair.other("n").read("k").await.is_hit());
    assert_holds(&near, "before", &one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_goes_away_in_the_middle_costs_the_write_nothing() {
    let pair = Pair::start("", "").await;
    let near = pair.near("n");
    let value = noise(20, 6 * MIB);
    let (first, rest) = (value.slice(..3 * MIB), value.slice(3 * MIB..));
    let sender = near.sender();
    sender.send(Part::Header(near.header("k"))).await;
    sender.chunks(&first).await;
    eventually("chunks are on their way", async || {
        !chunks(&pair.redis).is_empty()
    })
    .await;
    pair.proxy.set(Mode::Cut);
    sender.chunks(&rest).await;
    sender.send(Part::Finish(WriteFinish::default())).await;
    let reply = sender.answer().await.unwrap();
    assert_eq!(reply.local_outcome(), TierOutcome::Applied);
    assert_ne!(reply.shared_outcome(), TierOutcome::Applied);
    assert_holds(&near, "k", &value).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_there_is_not_sent_again() {
    let pair = Pair::start("", "").await;
    let near = pair.near("n");
    for value in [noise(21, 3 * MIB), noise(22, 1000)] {
        let digest = sha256(&value);
        let header = |content_type: &str| WriteHeader {
            sha256: digest.clone(),
            size_bytes: Some(value.len() as u64),
            content_type: content_type.into(),
            ttl: Some(request::milliseconds(3_600_000)),
            ..near.header("k")
        };
        let first = near.try_write(header("a/first"), &value).await.unwrap();
        let before = chunks(&pair.redis);
        // Only the header: the answer comes all the same.
        let sender = near.sender();
        sender.send(Part::Header(header("a/second"))).await;
        let again = sender.answer().await.unwrap();
        assert_eq!(again.size_bytes, value.len() as u64);
        assert_ne!(again.version, first.version, "it is a put");
        assert_eq!(
            outcomes(&again),
            (TierOutcome::Applied, TierOutcome::Applied)
        );
        for caller in [&near, &pair.other("n")] {
            let got = caller.read("k").await;
            assert!(got.value == value);
            assert_eq!(got.header.entry.unwrap().content_type, "a/second");
        }
        assert_eq!(chunks(&pair.redis), before, "the same chunks");
        // Of another key or digest nothing is known.
        let status = near.try_parts(vec![part(Part::Header(WriteHeader {
            key: "other".into(),
            ..header("a/b")
        }))]);
        assert_eq!(status.await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_stay_out_of_a_tier_that_they_are_not_for() {
    let redis = Redis::start();
    let config = "[namespaces.small]\nshared_value_max = \"2MiB\"\n\
                  [namespaces.shared]\ntiers = [\"shared\"]\n\
                  [namespaces.limited]\nmax_stream_size = \"2MiB\"\n\
                  [namespaces.raw]\nraw = true\nraw_prefix = \"raw:\"\n";
    let daemon = shared::start(&redis.url(), config).await;
    let value = noise(23, 3 * MIB);
    let small = Caller::new(&daemon, "small");
    for size_bytes in [None, Some(3 * MIB as u64)] {
        let header = WriteHeader {
            size_bytes,
            ..small.header("k")
        };
        let reply = small.try_write(header, &value).await.unwrap();
        assert_eq!(
            outcomes(&reply),
            (TierOutcome::Applied, TierOutcome::Skipped)
        );
        assert_holds(&small, "k", &value).await;
        has_no_chunks(&redis).await;
    }
    let alone = Caller::new(&daemon, "shared");
    let reply = alone.write("k", &value).await;
    assert_eq!(
        outcomes(&reply),
        (TierOutcome::Skipped, TierOutcome::Applied)
    );
    let got = alone.read("k").await;
    assert!(got.value == value && got.tier() == Tier::Shared);
    assert_eq!(
        alone.read("k").await.tier(),
        Tier::Shared,
        "it is not kept here"
    );
    let local = Caller::new(&daemon, "n");
    let header = WriteHeader {
        options: mode(WriteMode::Local),
        ..local.header("k")
    };
    let reply = local.try_write(header, &value).await.unwrap();
    assert_eq!(
        outcomes(&reply),
        (TierOutcome::Applied, TierOutcome::Skipped)
    );
    assert!(redis.command(&["EXISTS", "pannier:n:k"]).integer() == 0);
    let limited = Caller::new(&daemon, "limited");
    for size_bytes in [None, Some(3 * MIB as u64)] {
        let header = WriteHeader {
            size_bytes,
            ..limited.header("k")
        };
        let status = limited.try_write(header, &value).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().contains("max_stream_size is 2097152"),
            "{status:?}"
        );
    }
    // A plain string is one string.
    let raw = Caller::new(&daemon, "raw");
    let plain = noise(24, 2 * MIB);
    raw.write("k", &plain).await;
    assert!(redis.command(&["STRLEN", "raw:k"]).integer() == 2 * MIB as i64);
    assert_holds(&raw, "k", &plain).await;
    let status = raw.try_write(raw.header("k"), &noise(25, 4 * MIB)).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("max_value_size"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_the_chunks_lie_on_all_masters() {
    let cluster = Cluster::start().await;
    let one = shared::start(&cluster.url(), "").await;
    let two = shared::start(&cluster.url(), "").await;
    let value = noise(26, 20 * MIB + 3);
    let reply = Caller::new(&one, "n").write("k", &value).await;
    assert_eq!(reply.shared_outcome(), TierOutcome::Applied);
    let shares: Vec<_> = cluster.nodes().iter().map(|it| chunks(it).len()).collect();
    assert_eq!(shares.iter().sum::<usize>(), 21, "{shares:?}");
    assert!(shares.iter().all(|it| *it > 0), "{shares:?}");
    let other = Caller::new(&two, "n");
    assert_holds(&other, "k", &value).await;
    other.invalidate("k").await;
    eventually("its chunks are swept", async || {
        cluster.nodes().iter().all(|it| chunks(it).is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_value() {
    const VALUE_BYTES: usize = 64 * MIB;
    const GROWTH_MAX: u64 = 48 << 20;
    let redis = Redis::start();
    let budgets = ["--memory-budget", "16MiB", "--disk-budget", "256MiB"];
    let start = || shared::builder(&redis.url(), "").arguments(budgets).start();
    let (one, two) = (start(), start());
    for daemon in [&one, &two] {
        shared::attached(daemon).await;
        Caller::new(daemon, "n").put("warm", noise(1, MIB)).await;
    }
    let value = noise(27, VALUE_BYTES);
    let before = [&one, &two].map(Daemon::resident_bytes);
    Caller::new(&one, "n").write("k", &value).await;
    assert_holds(&Caller::new(&one, "n"), "k", &value).await;
    assert_holds(&Caller::new(&two, "n"), "k", &value).await;
    for (daemon, before) in [&one, &two].into_iter().zip(before) {
        let grown = daemon.resident_bytes().saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{} KiB more", grown >> 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_budget_holds_for_large_and_small_together() {
    const BUDGET: u64 = 128 << 20;
    let daemon = Daemon::builder()
        .arguments(["--disk-budget", "128MiB", "--memory-budget", "32MiB"])
        .start();
    let caller = Caller::new(&daemon, "n");
    // First full of small ones, so that room has to be made.
    for index in 0..800 {
        caller
            .put(&format!("small-{index}"), noise(index, MIB / 4))
            .await;
    }
    let mut worst = 0;
    for index in 0..30 {
        caller
            .write(&format!("large-{index}"), &noise(index, 8 * MIB))
            .await;
        caller
            .put(&format!("more-{index}"), noise(index, MIB / 4))
            .await;
        worst = worst.max(disk_bytes(daemon.data_dir()));
    }
    assert!(worst <= BUDGET, "{} MiB", worst >> 20);
    assert_holds(&caller, "large-29", &noise(29, 8 * MIB)).await;
    assert!(
        !caller.read("large-0").await.is_hit(),
        "the oldest had to go"
    );
    assert!(caller.value("more-29").await.is_some());
    // One that can never fit.
    let header = WriteHeader {
        size_bytes: Some(100 << 20),
        ..caller.header("huge")
    };
    let status = caller
        .try_write(header, &noise(1, 2 * MIB))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("local.disk_budget"), "{status:?}");
    // What they took is given back.
    for index in 0..30 {
        caller.invalidate(&format!("large-{index}")).await;
    }
    has_no_files(&daemon).await;
}

fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused() {
    let daemon = Daemon::builder()
        .config("[server]\nmax_transfers = 1\n")
        .start();
    let caller = Caller::new(&daemon, "n");
    let sender = caller.sender();
    sender.send(Part::Header(caller.header("k"))).await;
    sender.chunks(&noise(1, 2 * MIB)).await;
    eventually("it is under way", async || !files(&daemon).is_empty()).await;
    let status = caller.try_read(stream::read("n", "k")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status.message().contains("server.max_transfers: 1"),
        "{status:?}"
    );
    let get = GetRequest {
        namespace: "n".into(),
        key: "k".into(),
        options: None,
    };
    assert!(caller.stub().get(get).await.is_ok(), "others are served");
    sender.give_up();
    eventually("there is room again", async || {
        caller.try_read(stream::read("n", "k")).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_sends_what_has_changed_and_goes_on_where_it_broke_off() {
    let daemon = Daemon::start();
    let folder = daemon.how().home().join("files");
    std::fs::create_dir(&folder).unwrap();
    let (source, copy) = (folder.join("source"), folder.join("copy"));
    let value = noise(28, 5 * MIB + 1);
    std::fs::write(&source, &value).unwrap();
    let run = |arguments: &[&str]| {
        let all = [&["-n", "n", "--json"], arguments].concat();
        let output = pannier(daemon.grpc(), &all);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_str::<serde_json::Value>(&stdout(&output)).unwrap()
    };
    let (source, copy) = (source.to_str().unwrap(), copy.to_str().unwrap());
    let write = ["write", "k", source, "--if-changed"];
    let first = run(&write);
    let before = files(&daemon);
    let second = run(&write);
    assert_ne!(first["version"], second["version"]);
    assert_eq!(second["size_bytes"], 5 * MIB + 1);
    assert_eq!(files(&daemon), before, "the same file");
    // Two chunks and a bit have arrived, of this version and of another.
    let read = ["read", "k", "-o", copy, "--continue"];
    let kept = |version: &str| folder.join(format!(".copy.{version}.part"));
    let half = kept(second["version"].as_str().unwrap());
    std::fs::write(&half, &value[..2 * MIB + 3]).unwrap();
    run(&read);
    assert!(std::fs::read(copy).unwrap() == value, "it went on");
    std::fs::write(kept(&"01".repeat(16)), b"another value").unwrap();
    run(&read);
    assert!(std::fs::read(copy).unwrap() == value, "it began anew");
    std::fs::write(kept(&"01".repeat(16)), noise(1, 6 * MIB)).unwrap();
    run(&read);
    assert!(std::fs::read(copy).unwrap() == value, "more than there is");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
}
