//! P25, the embedded default: with no configuration and no Redis, `pannierd` runs on the local tier
//! alone, and the main job is done through the real command line.
//!
//! Proven: the data goes where the defaults say; a file of 2 MB comes back byte for byte, before
//! and after SIGKILL; it exists with its remaining lifetime; once invalidated it is a miss with
//! exit code 1, also after another SIGKILL.
//! Not proven here: the default ports, which another daemon may hold; port 0 stands for them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{fs, path::Path};

use pannier_tests::{Builder, Daemon, load::noise, pannier, stderr, stdout};
use serde_json::Value;

/// A daemon that is told its ports and nothing else.
fn embedded() -> Builder {
    Daemon::builder().data_dir(None)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain letters")
}

#[test]
fn a_file_survives_sigkill_and_is_gone_once_invalidated() {
    let how = embedded();
    let cache = how.home().join("cache");
    let how = how.environment("XDG_CACHE_HOME", &cache);
    let (original, copy) = (how.home().join("archive.tar"), how.home().join("copy.tar"));
    let archive = noise(25, 2_000_000);
    fs::write(&original, &archive).unwrap();

    let daemon = how.start();
    let at = daemon.grpc().to_owned();
    assert!(
        cache.join("pannier/0/entries/CURRENT").is_file(),
        "the data is not where it should"
    );
    let put = pannier(
        &at,
        &["put", "archive.tar", text(&original), "--ttl", "10m"],
    );
    assert_eq!(put.status.code(), Some(0), "{}", stderr(&put));
    let get = pannier(&at, &["get", "archive.tar", "-o", text(&copy)]);
    assert_eq!(get.status.code(), Some(0), "{}", stderr(&get));
    assert!(fs::read(&copy).unwrap() == archive, "the copy differs");

    let daemon = daemon.restart();
    let at = daemon.grpc().to_owned();
    let get = pannier(&at, &["get", "archive.tar"]);
    assert_eq!(get.status.code(), Some(0), "{}", stderr(&get));
    assert!(
        get.stdout == archive,
        "what came to stdout after SIGKILL differs"
    );
    let exists = pannier(&at, &["exists", "archive.tar", "--json"]);
    assert_eq!(exists.status.code(), Some(0), "{}", stderr(&exists));
    let exists: Value = serde_json::from_slice(&exists.stdout).unwrap();
    let ttl = exists["ttl_ms"].as_u64().expect("a remaining lifetime");
    assert!((500_000..600_000).contains(&ttl), "{exists}");
    assert_eq!(exists["provenance"]["tier"], "local");
    assert_eq!(exists["provenance"]["shared_state"], "disabled");

    let invalidate = pannier(&at, &["invalidate", "archive.tar"]);
    assert_eq!(invalidate.status.code(), Some(0), "{}", stderr(&invalidate));
    assert_eq!(
        stdout(&invalidate),
        "1 invalidated local=applied shared=skipped\n"
    );
    let daemon = daemon.restart();
    for command in ["get", "exists"] {
        let miss = pannier(daemon.grpc(), &[command, "archive.tar"]);
        assert_eq!(miss.status.code(), Some(1), "{command}: {}", stderr(&miss));
        assert_eq!(stdout(&miss), "");
    }
}

#[test]
fn without_xdg_cache_home_the_data_goes_below_home() {
    let daemon = embedded().start();
    let data = daemon.how().home().join(".cache/pannier/0/entries/CURRENT");
    assert!(data.is_file(), "{} is missing", data.display());
}

#[test]
fn without_any_home_it_says_what_to_do() {
    let ended = embedded().environment("HOME", "").run();
    assert_eq!(ended.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("--data-dir"), "{}", ended.stderr);
}

#[test]
fn what_is_put_without_a_lifetime_lives_a_day() {
    let daemon = embedded().start();
    let put = pannier(daemon.grpc(), &["put", "k", "--value", "v"]);
    assert_eq!(put.status.code(), Some(0), "{}", stderr(&put));
    let exists = pannier(daemon.grpc(), &["exists", "k", "--json"]);
    let exists: Value = serde_json::from_slice(&exists.stdout).unwrap();
    let day = 24 * 60 * 60 * 1000;
    let ttl = exists["ttl_ms"].as_u64().expect("a remaining lifetime");
    assert!((day - 60_000..=day).contains(&ttl), "{exists}");
}
