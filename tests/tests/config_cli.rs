//! The two command lines and the configuration, as an operator meets them.
//!
//! Proven: a fault in the configuration is found before anything is started, with exit code 2 and a
//! line that names the place and what was expected; flags win over the environment, that over the
//! file; secrets are masked; other machines are let in only on an explicit word; the exit codes of
//! `pannierd` and `pannier` are the documented ones.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::fs;

use pannier_tests::{
    Builder, Daemon, Ended, load::noise, pannier, pannier_with_stdin, stderr, stdout,
};

/// Runs `pannierd` with a configuration file of this text and these arguments.
fn with_config(text: &str, arguments: &[&str]) -> (Ended, String) {
    let how = Daemon::builder();
    fs::write(how.config_path(), text).unwrap();
    let path = how.config_path().display().to_string();
    let arguments = [arguments, &["--config", &path]].concat();
    (how.run_with(&arguments), path)
}

fn printed(how: &Builder, arguments: &[&str]) -> String {
    let ended = how.run_with(&[arguments, &["--print-config"]].concat());
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    ended.stdout
}

#[test]
fn a_good_configuration_is_said_to_be_good() {
    let text = "
        [server]
        listen = \"127.0.0.1:1\"
        drain_timeout = \"1m 30s\"
        [local]
        disk_budget = \"64MiB\"
        [defaults]
        ttl_jitter = 0.1
        [namespaces.builds]
        immutable = true
        compression = \"zstd\"
    ";
    let (ended, _) = with_config(text, &["check-config"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.stdout, "configuration is good\n");
}

#[test]
fn a_fault_names_file_key_and_what_was_expected() {
    let table: [(&str, &[&str]); 22] = [
        (
            "[server]\nlisten = \"nowhere\"",
            &["server.listen", "IP:PORT", "unix:/path"],
        ),
        (
            "[server]\nlisten = \"unix:relative\"",
            &["server.listen", "absolute path"],
        ),
        (
            "[server]\nlisten = \"0.0.0.0:1\"",
            &["server.listen", "allow_plaintext"],
        ),
        ("[server]\nlistne = \"127.0.0.1:1\"", &["listne", "listen"]),
        ("[server]\nworkers = 0", &["server.workers", "1 to 256"]),
        (
            "[server]\nmax_in_flight = 0",
            &["server.max_in_flight", "1 to"],
        ),
        (
            "[server]\nmax_watchers = 0",
            &["server.max_watchers", "1 to 65536"],
        ),
        ("[server]\nmax_in_flight = -1", &["max_in_flight", "line 2"]),
        ("[server]\ndrain_timeout = 10", &["drain_timeout", "line 2"]),
        (
            "[server]\ndrain_timeout = \"soon\"",
            &["drain_timeout", "soon", "10m"],
        ),
        (
            "[local]\ndisk_budget = \"lots\"",
            &["disk_budget", "lots", "512MiB"],
        ),
        (
            "[local]\ndisk_budget = \"63MiB\"",
            &["local.disk_budget", "64MiB"],
        ),
        (
            "[local]\nmemory_budget = \"1MiB\"",
            &["local.memory_budget", "16MiB"],
        ),
        ("[defaults]\nttl = \"0s\"", &["defaults.ttl", "1ms"]),
        (
            "[defaults]\nmax_ttl = \"1s\"\nttl = \"2s\"",
            &["defaults.ttl", "max_ttl"],
        ),
        (
            "[namespaces.n]\nmax_ttl = \"1m\"\nnegative_ttl = \"2m\"",
            &["namespaces.n.negative_ttl", "max_ttl (1m)"],
        ),
        (
            "[namespaces.n]\nttl_jitter = 0.6",
            &["namespaces.n.ttl_jitter", "0.5"],
        ),
        (
            "[namespaces.n]\nmax_value_size = \"4MiB\"",
            &["namespaces.n.max_value_size", "4032KiB"],
        ),
        (
            "[namespaces.n]\ntiers = []",
            &["namespaces.n.tiers", "local"],
        ),
        (
            "[namespaces.n]\ncompression = \"gzip\"",
            &["compression", "gzip", "zstd"],
        ),
        (
            "[namespaces.\"Bad!\"]",
            &["namespaces.Bad!", "[a-z0-9][a-z0-9._-]{0,62}"],
        ),
        (
            "[telemetry]\nlog = \"loud=very\"",
            &["telemetry.log", "loud=very"],
        ),
    ];
    for (text, expected) in table {
        let (ended, path) = with_config(text, &["check-config"]);
        assert_eq!(ended.code(), Some(2), "{text}: {}", ended.stderr);
        for part in expected.iter().chain(&[path.as_str()]) {
            assert!(
                ended.stderr.contains(part),
                "{text}: no {part:?} in {}",
                ended.stderr
            );
        }
        // The daemon itself finds the same fault and starts nothing.
        let (started, _) = with_config(text, &["--data-dir", "data"]);
        assert_eq!(started.code(), Some(2), "{text}");
        assert_eq!(started.stdout, "", "{text}");
    }
}

#[test]
fn a_file_that_is_not_there_is_a_fault() {
    let how = Daemon::builder();
    let ended = how.run_with(&["check-config", "--config", "/no/such/file.toml"]);
    assert_eq!(ended.code(), Some(2));
    assert!(
        ended.stderr.contains("/no/such/file.toml"),
        "{}",
        ended.stderr
    );
    let ended = how
        .environment("PANNIER_CONFIG", "/no/such/other")
        .run_with(&["check-config"]);
    assert_eq!(ended.code(), Some(2));
    assert!(ended.stderr.contains("/no/such/other"), "{}", ended.stderr);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let how = Daemon::builder();
    fs::write(how.config_path(), "[local]\ndisk_budget = \"100MiB\"\n").unwrap();
    let path = how.config_path().display().to_string();
    let from_file = printed(&how, &["--config", &path]);
    assert!(
        from_file.contains("disk_budget = \"100MiB\""),
        "{from_file}"
    );
    let how = how
        .environment("PANNIER_DISK_BUDGET", "200MiB")
        .environment("PANNIER_CONFIG", path);
    let from_environment = printed(&how, &[]);
    assert!(
        from_environment.contains("disk_budget = \"200MiB\""),
        "{from_environment}"
    );
    let from_flag = printed(&how, &["--disk-budget", "300MiB"]);
    assert!(
        from_flag.contains("disk_budget = \"300MiB\""),
        "{from_flag}"
    );
    let how = how.environment("PANNIER_DISK_BUDGET", "few");
    let ended = how.run_with(&["check-config"]);
    assert_eq!(ended.code(), Some(2));
    assert!(
        ended.stderr.contains("PANNIER_DISK_BUDGET"),
        "{}",
        ended.stderr
    );
}

#[test]
fn the_printed_configuration_is_complete_masked_and_can_be_read_again() {
    let how = Daemon::builder()
        .environment("REDIS_URL", "redis://:p%40ss@elsewhere:6379")
        .environment(
            "PANNIER_REDIS_URL",
            "rediss://svc:hunter2@cache.invalid:6380/1",
        );
    let text = printed(&how, &["--listen", "127.0.0.1:4711"]);
    assert!(
        !text.contains("hunter2") && !text.contains("p%40ss"),
        "{text}"
    );
    assert!(text.contains("rediss://***@cache.invalid:6380/1"), "{text}");
    for key in [
        "listen",
        "drain_timeout",
        "data_dir",
        "memory_budget",
        "max_stale",
        "log",
    ] {
        assert!(text.contains(&format!("\n{key} = ")), "no {key} in {text}");
    }
    assert!(
        text.contains("pannier/4711"),
        "the default directory is of the port: {text}"
    );
    let (masked, _) = with_config(&text, &["check-config"]);
    assert_eq!(masked.code(), Some(2));
    assert!(masked.stderr.contains("fill them in"), "{}", masked.stderr);
    let filled = text.replace("***", "svc:hunter2");
    let (again, _) = with_config(&filled, &["--print-config"]);
    assert_eq!(again.stdout, text, "{}", again.stderr);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let names = [
        "CONFIG",
        "LISTEN",
        "HTTP_LISTEN",
        "REDIS_URL",
        "DATA_DIR",
        "DISK_BUDGET",
        "LOG",
    ];
    let mut how = Daemon::builder();
    let plain = printed(&how, &[]);
    for name in names {
        how = how.environment(&format!("PANNIER_{name}"), "");
    }
    assert_eq!(printed(&how, &[]), plain);
}

#[test]
fn other_machines_are_let_in_only_on_an_explicit_word() {
    let how = Daemon::builder();
    for flag in ["--listen", "--http-listen"] {
        let ended = how.run_with(&[flag, "0.0.0.0:0", "--data-dir", "data"]);
        assert_eq!(ended.code(), Some(2), "{}", ended.stderr);
        for part in [flag, "0.0.0.0:0", "--allow-plaintext", "unix socket"] {
            assert!(
                ended.stderr.contains(part),
                "no {part:?} in {}",
                ended.stderr
            );
        }
    }
    let mut daemon = how
        .listen("0.0.0.0:0")
        .arguments(["--allow-plaintext"])
        .start();
    assert!(daemon.grpc().starts_with("0.0.0.0:"), "{}", daemon.grpc());
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn pannierd_explains_itself() {
    let how = Daemon::builder();
    let help = how.run_with(&["--help"]);
    assert_eq!(help.code(), Some(0));
    for part in [
        "Exit codes: 0",
        "1 could not start",
        "2 bad flags",
        "3 the data directory",
        "4 ",
    ] {
        assert!(help.stdout.contains(part), "no {part:?} in {}", help.stdout);
    }
    for part in [
        "PANNIER_CONFIG",
        "PANNIER_REDIS_URL",
        "SIGTERM",
        "check-config",
        "7466",
    ] {
        assert!(help.stdout.contains(part), "no {part:?} in {}", help.stdout);
    }
    let version = how.run_with(&["--version"]);
    assert_eq!(version.code(), Some(0));
    assert!(
        version.stdout.starts_with("pannierd 0."),
        "{}",
        version.stdout
    );
    for bad in [&["--no-such-flag"][..], &["no-such-command"], &["--listen"]] {
        assert_eq!(how.run_with(bad).code(), Some(2), "{bad:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let daemon = Daemon::start();
    let second = Daemon::builder().listen(daemon.grpc()).run();
    assert_eq!(second.code(), Some(1), "{}", second.stderr);
    for part in ["server.listen", daemon.grpc()] {
        assert!(
            second.stderr.contains(part),
            "no {part:?} in {}",
            second.stderr
        );
    }
}

#[test]
fn logs_are_json_where_there_is_no_terminal_and_hold_neither_key_nor_value() {
    let mut daemon = Daemon::builder().arguments(["--log", "trace"]).start();
    let (key, value) = (
        format!("{}-secret-tail", "k".repeat(40)),
        "secret-value-4711",
    );
    for arguments in [
        &["put", &key, "--value", value][..],
        &["get", &key],
        &["get", "--require-shared", &key],
        &["-n", "secret-ns!", "get", &key],
        &["invalidate", &key],
    ] {
        pannier(daemon.grpc(), arguments);
    }
    let ended = daemon.terminate();
    assert!(!ended.stderr.is_empty(), "trace says something");
    for line in ended.stderr.lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "not JSON: {line}"
        );
    }
    for secret in ["secret-tail", value] {
        assert!(
            !ended.stderr.contains(secret),
            "{secret} was logged:\n{}",
            ended.stderr
        );
    }
    assert_eq!(
        ended.stdout.lines().count(),
        1,
        "one line on stdout: {}",
        ended.stdout
    );
}

#[test]
fn the_exit_codes_of_the_command_line_are_the_documented_ones() {
    let mut daemon = Daemon::builder()
        .config("[namespaces.once]\nimmutable = true\n")
        .start();
    let at = daemon.grpc().to_owned();
    let table: [(i32, &[&str]); 22] = [
        (0, &["put", "k", "--value", "v"]),
        (0, &["get", "k"]),
        (0, &["exists", "k"]),
        (0, &["stats"]),
        (0, &["health"]),
        (0, &["health", "--strict"]),
        (0, &["invalidate", "none"]),
        (1, &["get", "none"]),
        (1, &["exists", "none"]),
        (2, &["get"]),
        (2, &["no-such-command"]),
        (2, &["get", ""]),
        (2, &["-n", "Bad!", "get", "k"]),
        (2, &["invalidate", "--pattern", "[open"]),
        (2, &["put", "k", "--value", "v", "--ttl", "0s"]),
        (4, &["put", "k", "--value", "v", "--if-absent"]),
        (4, &["get", "k", "--require-shared"]),
        (4, &["put", "k", "--value", "v", "--mode", "shared"]),
        (0, &["invalidate", "--tag", "t"]),
        (2, &["invalidate", "--tag", ""]),
        (0, &["read", "k"]),
        (1, &["read", "none"]),
    ];
    for (code, arguments) in table {
        let output = pannier(&at, arguments);
        let what = format!("{arguments:?}: {}", stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{what}");
        let complains = stderr(&output).lines().count() > 0;
        assert_eq!(complains, code != 0, "{what}");
    }
    assert_eq!(
        pannier(&at, &["-n", "once", "put", "k", "--value", "v"])
            .status
            .code(),
        Some(0)
    );
    assert_eq!(
        pannier(&at, &["-n", "once", "put", "k", "--value", "v"])
            .status
            .code(),
        Some(0)
    );
    assert_eq!(
        pannier(&at, &["-n", "once", "put", "k", "--value", "w"])
            .status
            .code(),
        Some(4)
    );
    let large = noise(1, (3 << 20) + 1);
    let refused = pannier_with_stdin(&at, &["put", "large"], &large);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("max_value_size"),
        "{}",
        stderr(&refused)
    );

    daemon.kill();
    let gone = pannier(&at, &["get", "k"]);
    assert_eq!(gone.status.code(), Some(3));
    assert!(
        stderr(&gone).contains(&at) && stderr(&gone).contains("pannierd"),
        "{gone:?}"
    );
    assert_eq!(stdout(&gone), "");
}
