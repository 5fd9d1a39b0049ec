//! What only another process can show: kills, and a disk of its own that fills.
//!
//! The test binary starts itself again with [`CHILD`] set, for one test that does nothing
//! otherwise.

use std::{
    io::{BufRead, BufReader, Write, stdout},
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
};

use super::*;

/// `<what to play>:<directory>`.
const CHILD: &str = "PANNIER_JOURNAL_CHILD";
const ROUNDS: usize = 8;

fn child(through: &[&str], play: &str, dir: &Path) -> Command {
    let binary = std::env::current_exe().expect("has a path");
    let mut command = match through {
        [] => Command::new(&binary),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(dir).arg(&binary);
            command
        }
    };
    let name = "journal::tests::child::plays_its_part_when_started_as_a_child";
    command.args([name, "--exact", "--nocapture"]);
    command.env(CHILD, format!("{play}:{}", dir.display()));
    command.stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plays_its_part_when_started_as_a_child() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how the parent says what to play"
    )]
    let Ok(part) = std::env::var(CHILD) else {
        return;
    };
    let (play, dir) = part.split_once(':').expect("has both");
    match play {
        "add until killed" => add_until_killed(Path::new(dir)).await,
        "fill the disk" => fill_the_disk(Path::new(dir)).await,
        _ => panic!("{play}"),
    }
}

/// Adds and ends items from several callers, and says so after each.
async fn add_until_killed(dir: &Path) {
    let journal = open(dir).await;
    let run = journal.next(usize::MAX).await.expect("reads").len();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..8 {
        let journal = journal.clone();
        callers.spawn(async move {
            for at in 0.. {
                let key = format!("{run}-{caller}-{at}");
                journal.add(&remove(&key, at)).await.expect("adds");
                writeln!(stdout(), "\nadded {key}").expect("is read");
            }
        });
    }
    loop {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let Some((number, item)) = journal.next(1).await.expect("reads").pop() else {
            continue;
        };
        journal.done(&[number]).await.expect("ends");
        let Deferred::Remove { key, .. } = item else {
            panic!("{item:?}");
        };
        writeln!(stdout(), "\nended {key}").expect("is read");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut there = HashSet::new();
    let mut added = 0;
    for round in 0..ROUNDS {
        let mut child = child(&[], "add until killed", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut seen = 0;
        // Ended before the caller who added it could say so.
        let mut early = HashSet::new();
        // On to the end: what was said before the kill counts, however late it is read.
        for line in lines {
            let line = line.expect("reads");
            match line.split_once(' ') {
                Some(("added", key)) if early.remove(key) => {}
                Some(("added", key)) => _ = there.insert(key.to_owned()),
                Some(("ended", key)) if there.remove(key) => {}
                Some(("ended", key)) => _ = early.insert(key.to_owned()),
                _ => continue,
            }
            seen += 1;
            if seen == 100 + 37 * round {
                child.kill().expect("is killed");
            }
        }
        let status = child.wait().expect("has ended");
        assert_eq!(status.signal(), Some(9), "by the kill, not by itself");
        added += seen;

        let journal = open(dir.path()).await;
        assert!(!journal.lost());
        let found = removals(&journal).await;
        let missing = there.iter().filter(|key| !found.contains_key(*key));
        // An end may have been taken in and not said any more.
        assert!(missing.count() <= 1, "round {round}");
        let extra = found.keys().filter(|key| !there.contains(*key)).count();
        assert!(extra <= 8, "at most one of each caller: {extra}");
        there = found.into_keys().collect();
        journal.close().await.expect("closes");
    }
    assert!(added > 100 * ROUNDS, "{added}");
}

/// On a disk of 24 MiB: full, no item is half there; with room again it goes on by itself.
async fn fill_the_disk(dir: &Path) {
    let journal = open(dir).await;
    let id = journal.daemon_id();
    journal.add(&remove("first", 1)).await.expect("adds");
    let ballast = dir.join("ballast");
    let mut file = fs::File::create(&ballast).expect("creates");
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);

    let mut there = BTreeMap::from([("first".to_owned(), 1)]);
    let mut refused = 0;
    for at in 0..10_000 {
        let key = format!("{at}-{}", "k".repeat(900));
        match journal.add(&remove(&key, at)).await {
            Ok(()) => _ = there.insert(key, at),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                refused += 1;
            }
        }
        if refused == 50 {
            break;
        }
    }
    assert_eq!(refused, 50, "the disk is full");
    assert_eq!(
        removals(&journal).await,
        there,
        "readable while the disk is full"
    );

    fs::remove_file(&ballast).expect("removes");
    eventually(async || journal.add(&remove("later", 2)).await.ok()).await;
    there.insert("later".into(), 2);
    assert!(!journal.lost());
    // The write that failed first may have come through, whole.
    let found = removals(&journal).await;
    assert!(there.iter().all(|(key, at)| found.get(key) == Some(at)));
    assert!(found.len() <= there.len() + 1);
    journal.close().await.expect("closes");
    let journal = open(dir).await;
    assert_eq!(removals(&journal).await, found);
    assert!(!journal.lost() && journal.daemon_id() == id);
    journal.close().await.expect("closes");
    writeln!(stdout(), "\nplayed, {} items", found.len()).expect("is read");
}

#[test]
fn a_full_disk_refuses_items_and_works_again_with_room() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mount = "mount -t tmpfs -o size=24m tmpfs \"$1\" && shift && exec \"$@\"";
    let ways: [&[&str]; 2] = [
        &["unshare", "--mount", "sh", "-c", mount, "sh"],
        &[
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            mount,
            "sh",
        ],
    ];
    let mut said = String::new();
    let played = ways.iter().any(|way| {
        let output = child(way, "fill the disk", dir.path()).output();
        let output = output.expect("unshare(1) is there");
        let text = String::from_utf8_lossy(&output.stdout);
        said += &text;
        said += &String::from_utf8_lossy(&output.stderr);
        output.status.success() && text.contains("played")
    });
    assert!(played, "needs root or user namespaces: {said}");
    assert!(
        !dir.path().join(DIRECTORY).exists(),
        "it was on a disk of its own"
    );
}
