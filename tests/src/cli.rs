//! The command line, one run at a time.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use crate::daemon::program;

/// Runs `pannier` against the daemon at `address`, with an environment of its own.
pub fn pannier(address: &str, arguments: &[&str]) -> Output {
    pannier_with_stdin(address, arguments, b"")
}

/// As [`pannier`], with something on standard input.
pub fn pannier_with_stdin(address: &str, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(program("pannier"))
        .env_clear()
        .args(["--addr", address, "--timeout", "30s"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pannier can be started");
    // It may refuse and go before it has read everything.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    child.wait_with_output().expect("pannier ends")
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
