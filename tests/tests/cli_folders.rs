//! Folders as values: `pannier write --tar` and `pannier read --untar`.
//!
//! Proven: a tree comes back as it was, with permissions, times and links, also a large one and an
//! empty one; the same tree is not sent again with `--if-changed`, a changed one is; a folder
//! appears whole or not at all: not for a miss, not for what is no archive, and never outside of
//! itself; one that holds something already is left alone.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use pannier_tests::{Daemon, load::noise, pannier, request, stderr, stdout};

/// What distinguishes one tree from another.
fn listing(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    list(folder, Path::new(""), &mut all);
    all
}

fn list(folder: &Path, below: &Path, all: &mut Vec<String>) {
    let mut names: Vec<_> = fs::read_dir(folder.join(below))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    for name in names {
        let inside = below.join(name);
        let path = folder.join(&inside);
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = match metadata.file_type() {
            kind if kind.is_symlink() => format!("-> {}", fs::read_link(&path).unwrap().display()),
            kind if kind.is_file() => {
                let bytes = fs::read(&path).unwrap();
                format!(
                    "{:?} {} bytes, mode {:o}, of {}",
                    bytes.first(),
                    bytes.len(),
                    metadata.mode() & 0o777,
                    metadata.mtime()
                )
            }
            _ => format!("mode {:o}", metadata.mode() & 0o777),
        };
        all.push(format!("{} {content}", inside.display()));
        if metadata.is_dir() {
            list(folder, &inside, all);
        }
    }
}

/// A tree with everything that a build leaves.
fn grow(folder: &Path) {
    fs::create_dir_all(folder.join("deep/er/empty")).unwrap();
    fs::write(folder.join("small"), "1").unwrap();
    fs::write(folder.join("deep/nothing"), "").unwrap();
    fs::write(folder.join("deep/er/large"), noise(7, 5_000_000)).unwrap();
    fs::write(folder.join("tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(folder.join("tool"), Permissions::from_mode(0o755)).unwrap();
    symlink("deep/er/large", folder.join("link")).unwrap();
    symlink("/nowhere", folder.join("deep/dangling")).unwrap();
    // A path longer than the 100 bytes of a plain header.
    let long = format!("deep/{}", "long-".repeat(30));
    fs::write(folder.join(long), "far down").unwrap();
    let locked = folder.join("read-only");
    fs::create_dir(&locked).unwrap();
    fs::write(locked.join("inside"), "x").unwrap();
    fs::set_permissions(&locked, Permissions::from_mode(0o555)).unwrap();
}

fn run(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = pannier(daemon.grpc(), arguments);
    (output.status.code(), stdout(&output), stderr(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_comes_back_as_it_was() {
    let daemon = Daemon::start();
    let home = daemon.how().home();
    let (tree, again) = (home.join("tree"), home.join("again"));
    grow(&tree);
    let [tree_name, again_name] = [&tree, &again].map(|path| path.to_str().unwrap());
    let (code, stdout, stderr) = run(&daemon, &["write", "t", "--tar", tree_name, "--if-changed"]);
    assert_eq!(code, Some(0), "{stderr}");
    let version = |stdout: &str| stdout.split_whitespace().next().unwrap().to_owned();
    let first = version(&stdout);
    let (code, _, stderr) = run(&daemon, &["read", "t", "--untar", again_name]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(listing(&again), listing(&tree));
    // An ordinary tar reads it.
    let (code, _, stderr) = run(
        &daemon,
        &["read", "t", "-o", home.join("t.tar").to_str().unwrap()],
    );
    assert_eq!(code, Some(0), "{stderr}");
    let listed = Command::new("tar")
        .arg("-tf")
        .arg(home.join("t.tar"))
        .output()
        .unwrap();
    assert!(listed.status.success());
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout).lines().count(),
        listing(&tree).len()
    );
    // The same bytes, whenever the folders were made: only the record is new, nothing is sent.
    let touched = Command::new("touch")
        .args(["-d", "2001-01-01"])
        .arg(again.join("deep"))
        .status();
    assert!(touched.unwrap().success());
    let received = daemon.stats().await.local.unwrap().disk_bytes;
    let (code, stdout, stderr) = run(
        &daemon,
        &["write", "t", "--tar", again_name, "--if-changed"],
    );
    assert_eq!(code, Some(0), "{stderr}");
    assert_ne!(version(&stdout), first);
    let now = daemon.stats().await.local.unwrap().disk_bytes;
    assert!(now < received + 1_000_000, "{received}, then {now}");
    fs::write(again.join("small"), "2").unwrap();
    let (code, ..) = run(
        &daemon,
        &["write", "t", "--tar", again_name, "--if-changed"],
    );
    assert_eq!(code, Some(0));
    let third = home.join("third");
    run(&daemon, &["read", "t", "--untar", third.to_str().unwrap()]);
    assert_eq!(fs::read(third.join("small")).unwrap(), b"2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_is_a_value_too() {
    let daemon = Daemon::start();
    let (empty, there) = (
        daemon.how().home().join("empty"),
        daemon.how().home().join("there"),
    );
    fs::create_dir(&empty).unwrap();
    // Into one that is there, and empty.
    fs::create_dir(&there).unwrap();
    let (code, _, stderr) = run(&daemon, &["write", "e", "--tar", empty.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, _, stderr) = run(&daemon, &["read", "e", "--untar", there.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(listing(&there).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_appears_whole_or_not_at_all() {
    let daemon = Daemon::start();
    let home = daemon.how().home().join("work");
    fs::create_dir(&home).unwrap();
    let into = home.join("into");
    let name = into.to_str().unwrap();
    let (code, ..) = run(&daemon, &["read", "missing", "--untar", name]);
    assert_eq!(code, Some(1), "a miss");
    let mut stub = daemon.stub();
    stub.put(request::put(
        "default",
        "text",
        "no archive, but long enough\n".repeat(100),
    ))
    .await
    .unwrap();
    stub.put(request::put("default", "evil", escaping("../escaped")))
        .await
        .unwrap();
    for key in ["text", "evil"] {
        let (code, _, stderr) = run(&daemon, &["-n", "default", "read", key, "--untar", name]);
        assert_eq!(code, Some(4), "{key}: {stderr}");
    }
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "nothing is left");
    fs::create_dir(&into).unwrap();
    fs::write(into.join("mine"), "x").unwrap();
    let (code, _, stderr) = run(&daemon, &["-n", "default", "read", "text", "--untar", name]);
    assert_eq!(code, Some(2), "{stderr}");
    assert_eq!(fs::read(into.join("mine")).unwrap(), b"x");
    let (code, ..) = run(&daemon, &["write", "k", "--tar", "/nowhere/at/all"]);
    assert_eq!(code, Some(2));
}

/// An archive with one file of this name, as the `tar` crate itself would not make it.
fn escaping(name: &str) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(b"00000000001\0");
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut content = vec![0; 512];
    content[0] = b'x';
    header.extend(content);
    header.extend(vec![0; 1024]);
    header
}
