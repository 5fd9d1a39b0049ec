//! A disk of a daemon's own, in a mount namespace that ends with it.
//!
//! `unshare` mounts a small tmpfs that only the daemon sees and then becomes the daemon. The test
//! reaches into it through `/proc/PID/root` and, to mount, with `nsenter`. Needs root or user
//! namespaces; where there are neither the test fails and says so.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// How to get a mount namespace here.
fn unshare() -> &'static [&'static str] {
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let works = |way: &&&[&str]| {
        let mut attempt = Command::new("unshare");
        attempt
            .args(**way)
            .args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
        attempt.stdout(Stdio::null()).stderr(Stdio::null());
        attempt.status().is_ok_and(|status| status.success())
    };
    ways.iter().find(works).unwrap_or_else(|| {
        panic!(
            "this test mounts a small disk, which needs root (CAP_SYS_ADMIN) or user namespaces \
             (sysctl kernel.unprivileged_userns_clone=1), and unshare(1)"
        )
    })
}

/// What to start a daemon [behind](crate::Builder::behind) so that `directory` is a disk of
/// `mebibytes` MiB.
pub fn small_disk(directory: &Path, mebibytes: u32) -> Vec<OsString> {
    std::fs::create_dir_all(directory).expect("a place to mount on");
    let script =
        format!("mount -t tmpfs -o size={mebibytes}m tmpfs \"$1\" && shift && exec \"$@\"");
    let mut prefix = vec![OsString::from("unshare")];
    prefix.extend(unshare().iter().map(OsString::from));
    prefix.extend(["sh", "-c", &script, "sh"].map(OsString::from));
    prefix.push(directory.into());
    prefix
}

/// A path as the process sees it.
pub fn seen_by(process: u32, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{process}/root"));
    root.join(path.strip_prefix("/").expect("an absolute path"))
}

/// Runs a shell command among the mounts of a process.
///
/// # Panics
/// With what it said when it fails.
pub fn run_beside(process: u32, script: &str, arguments: &[&Path]) -> Output {
    let mut command = Command::new("nsenter");
    command.args(["--target", &process.to_string(), "--mount"]);
    if unshare().contains(&"--user") {
        command.args(["--user", "--preserve-credentials"]);
    }
    command.args(["sh", "-c", script, "sh"]).args(arguments);
    let output = command.output().expect("nsenter(1) is there");
    assert!(output.status.success(), "{script}: {output:?}");
    output
}
