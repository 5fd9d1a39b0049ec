//! The command line, one run at a time.

use std::{
    io::{BufRead, BufReader, Write},
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

/// Runs it until it has written so many lines to stdout, and kills it.
///
/// # Panics
/// When it ends before.
pub fn pannier_lines(address: &str, arguments: &[&str], lines: usize) -> Vec<String> {
    let mut child = Command::new(program("pannier"))
        .env_clear()
        .args(["--addr", address, "--timeout", "30s"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("pannier can be started");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let read: Vec<_> = output.lines().take(lines).map_while(Result::ok).collect();
    // One that has ended by itself has written too little.
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(read.len(), lines, "it ended before");
    read
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
