//! Every command of the real binary, against a daemon in this process.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use pannier_client::fake::FakeDaemon;
use serde_json::Value;

fn pannier(address: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pannier"));
    command.env("PANNIER_ADDR", address).stdin(Stdio::null());
    command
}

fn run(address: &str, arguments: &[&str]) -> Output {
    pannier(address)
        .args(arguments)
        .output()
        .expect("the binary")
}

fn run_with_stdin(address: &str, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut command = pannier(address);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary");
    // The binary may refuse and go before it has read everything.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin);
    child.wait_with_output().expect("an end")
}

#[track_caller]
fn assert_exit(output: &Output, code: i32) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "stderr: {stderr}");
}

fn stdout(output: &Output) -> &str {
    str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    str::from_utf8(&output.stderr).expect("text")
}

fn json(output: &Output) -> Value {
    assert_eq!(stdout(output).lines().count(), 1, "one object on one line");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("pannier-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).expect("a directory");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_goes_in_and_comes_out_as_it_was() {
    let daemon = FakeDaemon::start().await;
    let at = daemon.address();

    let miss = run(&at, &["get", "k"]);
    assert_exit(&miss, 1);
    assert_eq!((stdout(&miss), stderr(&miss)), ("", "miss: default/k\n"));

    let put = run(
        &at,
        &[
            "put", "k", "--value", "hello", "--ttl", "10m", "--meta", "a=b",
        ],
    );
    assert_exit(&put, 0);
    assert!(
        stdout(&put).contains("local=applied shared=skipped"),
        "{put:?}"
    );

    let get = run(&at, &["get", "k"]);
    assert_exit(&get, 0);
    assert_eq!((stdout(&get), stderr(&get)), ("hello", ""));

    let get = json(&run(&at, &["get", "k", "--json"]));
    assert_eq!(get["value"], "hello");
    assert_eq!(get["metadata"]["a"], "b");
    assert_eq!(get["provenance"]["tier"], "local");
    assert_eq!(get["version"].as_str().expect("a version").len(), 32);
    let ttl = get["ttl_ms"].as_u64().expect("a number");
    assert!((590_000..=600_000).contains(&ttl), "{ttl}");

    let exists = run(&at, &["exists", "k"]);
    assert_exit(&exists, 0);
    assert!(stdout(&exists).starts_with('9') || stdout(&exists).starts_with("10m"));
    let exists = run(&at, &["exists", "other", "--json"]);
    assert_exit(&exists, 1);
    assert_eq!(json(&exists)["ttl_ms"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_survive_stdin_files_and_json() {
    let daemon = FakeDaemon::start().await;
    let at = daemon.address();
    let value = [0, 255, 10, 13, 128];
    assert_exit(&run_with_stdin(&at, &["put", "k", "-"], &value), 0);
    assert_eq!(run(&at, &["get", "k"]).stdout, value);
    assert_eq!(
        json(&run(&at, &["get", "k", "--json"]))["value_hex"],
        "00ff0a0d80"
    );

    let directory = directory("bytes");
    let file = directory.join("value");
    let name = file.to_str().expect("text");
    assert_exit(&run(&at, &["get", "k", "-o", name]), 0);
    assert_eq!(fs::read(&file).expect("the file"), value);
    let report = json(&run(&at, &["get", "k", "-o", name, "--json"]));
    assert_eq!(
        (&report["file"], &report["value_hex"]),
        (&Value::from(name), &Value::Null)
    );
    assert_exit(&run(&at, &["-n", "other", "put", "k", name]), 0);
    assert_eq!(run(&at, &["-n", "other", "get", "k"]).stdout, value);
    assert_eq!(fs::read_dir(&directory).expect("listed").count(), 1);
    fs::remove_dir_all(&directory).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_that_do_not_hold_exit_with_4() {
    let daemon = FakeDaemon::start().await;
    let at = daemon.address();
    let put = run(&at, &["put", "k", "--value", "1", "--if-absent", "--json"]);
    assert_exit(&put, 0);
    let version = json(&put)["version"]
        .as_str()
        .expect("a version")
        .to_owned();
    assert_exit(&run(&at, &["put", "k", "--value", "2", "--if-absent"]), 4);
    assert_exit(
        &run(&at, &["put", "k", "--value", "2", "--if-version", &version]),
        0,
    );
    let late = run(&at, &["put", "k", "--value", "3", "--if-version", &version]);
    assert_exit(&late, 4);
    assert!(stderr(&late).starts_with("pannier: if_version"), "{late:?}");
    assert_eq!(stdout(&run(&at, &["get", "k"])), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_invalidated_in_exactly_one_way() {
    let daemon = FakeDaemon::start().await;
    let at = daemon.address();
    for key in ["a1", "a2", "b1", "b2", "c1"] {
        assert_exit(
            &run(&at, &["put", key, "--value", "x", "--tag", &key[1..]]),
            0,
        );
    }
    for (arguments, count) in [
        (&["invalidate", "a1", "a2", "none"][..], 2),
        (&["invalidate", "--prefix", "c"], 1),
        (&["invalidate", "--tag", "2"], 1),
        (&["invalidate", "--all"], 1),
        (&["invalidate", "--all"], 0),
    ] {
        let output = run(&at, arguments);
        assert_exit(&output, 0);
        let line = format!("{count} invalidated local=applied shared=skipped\n");
        assert_eq!(stdout(&output), line);
    }
    assert_eq!(json(&run(&at, &["invalidate", "k", "--json"]))["count"], 0);
    assert_exit(&run(&at, &["invalidate"]), 2);
    assert_exit(&run(&at, &["invalidate", "k", "--all"]), 2);
    // The fake daemon serves no patterns.
    assert_exit(&run(&at, &["invalidate", "--pattern", "*"]), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_exit_with_2() {
    let daemon = FakeDaemon::start().await;
    let at = daemon.address();
    let bad = run(&at, &["-n", "N!", "get", "k"]);
    assert_exit(&bad, 2);
    assert!(
        stderr(&bad).starts_with("pannier: namespace: must match"),
        "{bad:?}"
    );
    assert_exit(&run(&at, &["get"]), 2);
    assert_exit(&run(&at, &["put", "k", "/no/such/file"]), 2);
    assert_exit(&run("nonsense", &["get", "k"]), 2);

    let large = run_with_stdin(&at, &["put", "k"], &vec![0; 4_128_769]);
    assert_exit(&large, 2);
    assert!(stderr(&large).contains("4128768"), "{large:?}");
    let directory = directory("large");
    let file = directory.join("value");
    fs::write(&file, vec![0; 5_000_000]).expect("written");
    let large = run(&at, &["put", "k", file.to_str().expect("text")]);
    assert_exit(&large, 2);
    assert!(stderr(&large).contains("5000000 bytes"), "{large:?}");
    assert!(stderr(&large).contains("pannier write"), "{large:?}");
    fs::remove_dir_all(&directory).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_every_command_exits_with_3() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("its address").to_string();
    drop(listener);
    for arguments in [
        &["get", "k"][..],
        &["put", "k", "--value", "v"],
        &["exists", "k"],
        &["invalidate", "k"],
        &["read", "k"],
        &["write", "k", "/proc/self/cmdline"],
        &["watch"],
        &["stats"],
        &["health"],
        &["bench"],
    ] {
        let output = run(&at, arguments);
        assert_exit(&output, 3);
        let line = format!(
            "pannier: no daemon at {at} (start one with `pannierd`, or set PANNIER_ADDR)\n"
        );
        assert_eq!(
            (stdout(&output), stderr(&output)),
            ("", &*line),
            "{arguments:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_daemon_exits_with_3_in_time() {
    use pannier_client::fake::Behaviour;
    let daemon = FakeDaemon::start().await;
    daemon.behave(Behaviour::Hang);
    let output = run(&daemon.address(), &["get", "k", "--timeout", "50ms"]);
    assert_exit(&output, 3);
    assert!(stderr(&output).contains("--timeout"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_are_streamed() {
    let daemon = FakeDaemon::start().await;
    let at = daemon.address();
    let directory = directory("stream");
    let (file, copy) = (directory.join("value"), directory.join("copy"));
    let value: Vec<u8> = (0..10_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    fs::write(&file, &value).expect("written");

    let write = run(&at, &["write", "k", file.to_str().expect("text")]);
    assert_exit(&write, 0);
    assert!(stdout(&write).ends_with("size=10000000\n"), "{write:?}");
    assert_exit(
        &run(&at, &["read", "k", "-o", copy.to_str().expect("text")]),
        0,
    );
    assert!(fs::read(&copy).expect("the copy") == value);
    let part = run(&at, &["read", "k", "--offset", "1000", "--length", "5"]);
    assert_eq!(part.stdout, &value[1000..1005]);

    assert_exit(
        &run_with_stdin(&at, &["write", "piped"], &value[..300_000]),
        0,
    );
    assert!(run(&at, &["read", "piped"]).stdout == value[..300_000]);
    assert_exit(&run(&at, &["read", "none"]), 1);
    assert_exit(&run(&at, &["read", "k", "--json"]), 2);
    fs::remove_dir_all(&directory).expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_not_served_exit_with_4() {
    use pannier_client::fake::Behaviour;
    let daemon = FakeDaemon::start().await;
    daemon.fail_with_unimplemented();
    let at = daemon.address();
    for arguments in [
        &["read", "k"][..],
        &["write", "k", "/proc/self/cmdline"],
        &["watch"],
    ] {
        let output = run(&at, arguments);
        assert_exit(&output, 4);
        assert!(
            stderr(&output).contains("does not serve this"),
            "{output:?}"
        );
    }
    daemon.behave(Behaviour::Serve);
    assert_exit(&run(&at, &["health"]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_an_invalidation() {
    use std::io::{BufRead, BufReader};
    let daemon = FakeDaemon::start().await;
    let at = daemon.address();
    let mut watch = pannier(&at);
    let mut watch = watch
        .args(["watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary");
    daemon.watched().await;
    assert_exit(&run(&at, &["invalidate", "k"]), 0);
    let mut line = String::new();
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe"));
    lines.read_line(&mut line).expect("a line");
    watch.kill().expect("killed");
    watch.wait().expect("an end");
    let event: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&event["event"], &event["keys"][0]),
        (&Value::from("keys"), &Value::from("k"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_shown_and_reset() {
    let daemon = FakeDaemon::start().await;
    let at = daemon.address();
    run(&at, &["put", "k", "--value", "v"]);
    run(&at, &["get", "k"]);
    run(&at, &["get", "none"]);
    let words = run(&at, &["stats"]);
    assert_exit(&words, 0);
    assert!(stdout(&words).contains("50.0%"), "{words:?}");
    let stats = json(&run(&at, &["stats", "--json", "--reset"]));
    assert_eq!(
        (&stats["total"]["hits"], &stats["total"]["hit_rate"]),
        (&1.into(), &0.5.into())
    );
    assert_eq!(json(&run(&at, &["stats", "--json"]))["total"]["hits"], 0);
    let health = json(&run(&at, &["health", "--json"]));
    assert_eq!(
        (&health["serving"], &health["healthy"]),
        (&true.into(), &true.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_command_quietly() {
    let daemon = FakeDaemon::start().await;
    let at = daemon.address();
    assert_exit(
        &run_with_stdin(&at, &["put", "k"], &vec![b'x'; 4_000_000]),
        0,
    );
    let mut command = pannier(&at);
    command
        .args(["get", "k"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("an end");
    assert_exit(&output, 0);
    assert_eq!(stderr(&output), "");
}
