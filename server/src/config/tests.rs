use std::fs;

use clap::Parser;

use super::*;

fn load(file: &str, flags: &[&str], env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("pannier.toml");
    fs::write(&path, file).expect("writes");
    let flags: Vec<_> = ["pannierd"].iter().chain(flags).copied().collect();
    let mut flags = Args::parse_from(flags).overrides;
    flags.config = Some(path);
    let env = |name: &str| {
        let found = env
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| *value);
        found
            .or((name == "HOME").then_some("/home/ann"))
            .map(ToOwned::to_owned)
    };
    Config::load(&flags, &env)
}

fn fault(file: &str, flags: &[&str], env: &[(&str, &str)]) -> String {
    load(file, flags, env).expect_err("is refused").to_string()
}

#[test]
fn nothing_written_gives_the_embedded_default() {
    let config = load("", &[], &[]).expect("defaults are good");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:7466");
    assert_eq!(config.server.http_listen.to_string(), "127.0.0.1:7467");
    assert_eq!(
        config.local.data_dir,
        PathBuf::from("/home/ann/.cache/pannier/7466")
    );
    assert!(config.shared.url.is_none());
}

#[test]
fn flags_win_over_environment_and_environment_over_file() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\n[local]\ndisk_budget = \"1GiB\"";
    let env = [
        ("PANNIER_LISTEN", "127.0.0.1:2"),
        ("PANNIER_DISK_BUDGET", "2GiB"),
    ];
    let config = load(file, &["--listen", "127.0.0.1:3"], &env).expect("good");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:3");
    assert_eq!(config.local.disk_budget, Size(2 << 30));
    assert_eq!(
        config.local.data_dir,
        PathBuf::from("/home/ann/.cache/pannier/3")
    );
    assert_eq!(
        load(file, &[], &[])
            .expect("good")
            .server
            .listen
            .to_string(),
        "127.0.0.1:1"
    );
}

#[test]
fn redis_url_is_taken_from_its_own_variable_first() {
    let env = [
        ("REDIS_URL", "redis://b"),
        ("PANNIER_REDIS_URL", "redis://a"),
    ];
    assert_eq!(
        load("", &[], &env).expect("good").shared.url.as_deref(),
        Some("redis://a")
    );
    let config = load("", &[], &env[..1]).expect("good");
    assert_eq!(config.shared.url.as_deref(), Some("redis://b"));
}

#[test]
fn a_namespace_inherits_what_it_does_not_say() {
    let file = "[defaults]\nttl = \"1h\"\ncompression = \"zstd\"\n\
                [namespaces.short]\nmax_ttl = \"10m\"\n[namespaces.ci]\nimmutable = true";
    let config = load(file, &[], &[]).expect("good");
    let short = &config.namespaces["short"];
    assert_eq!(short.ttl, Span(Duration::from_secs(600)));
    assert_eq!(short.compression, Compression::Zstd);
    assert!(config.namespaces["ci"].immutable);
    assert!(!config.defaults.immutable);
    assert_eq!(
        config.longest_lifetime(),
        Duration::from_secs(30 * 24 * 3600)
    );
}

/// File, flags, environment, and what the fault must say.
type Case = (
    &'static str,
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
    &'static [&'static str],
);

#[test]
fn faults_name_place_and_expectation() {
    let table: [Case; 14] = [
        (
            "[sever]",
            &[],
            &[],
            &["pannier.toml", "unknown field `sever`", "`server`"],
        ),
        (
            "[local]\nsize = 1",
            &[],
            &[],
            &["line 2", "unknown field `size`", "`disk_budget`"],
        ),
        (
            "[defaults]\nttl = 10",
            &[],
            &[],
            &["line 2", "ttl = 10", "expected a string"],
        ),
        (
            "[defaults]\nttl = \"ten\"",
            &[],
            &[],
            &["line 2", "not a duration", "\"10m\""],
        ),
        (
            "[defaults]\nttl = \"60d\"",
            &[],
            &[],
            &["defaults.ttl", "max_ttl (30d)"],
        ),
        (
            "[local]\ndisk_budget = \"1MiB\"",
            &[],
            &[],
            &["local.disk_budget", "least is 64MiB"],
        ),
        (
            "[namespaces.Bad]",
            &[],
            &[],
            &["namespaces.Bad", "[a-z0-9]"],
        ),
        (
            "[namespaces.a]\nttl_jitter = 0.9",
            &[],
            &[],
            &["namespaces.a.ttl_jitter", "0.5"],
        ),
        (
            "[namespaces.a]\ntiers = []",
            &[],
            &[],
            &["namespaces.a.tiers", "\"local\""],
        ),
        (
            "[defaults]\nmax_value_size = \"8MiB\"",
            &[],
            &[],
            &["max_value_size", "4032KiB"],
        ),
        (
            "",
            &["--listen", "7466"],
            &[],
            &["--listen", "\"7466\"", "IP:PORT"],
        ),
        (
            "",
            &["--listen", "0.0.0.0:1"],
            &[],
            &["--listen", "allow_plaintext"],
        ),
        (
            "",
            &[],
            &[("PANNIER_MEMORY_BUDGET", "lots")],
            &["PANNIER_MEMORY_BUDGET", "512MiB"],
        ),
        (
            "",
            &["--listen", "unix:here"],
            &[],
            &["--listen", "absolute path"],
        ),
    ];
    for (file, flags, env, parts) in table {
        let text = fault(file, flags, env);
        for part in parts {
            assert!(
                text.contains(part),
                "{file:?} {flags:?}: {part:?} is not in\n{text}"
            );
        }
    }
}

#[test]
fn what_is_printed_reads_back_and_hides_secrets() {
    let file =
        "[shared]\nurl = \"rediss://ann:s3cret@redis:6379/1\"\n[namespaces.a]\nttl = \"90s\"";
    let config = load(file, &["--listen", "unix:/run/p.sock"], &[]).expect("good");
    let printed = config.to_toml();
    assert!(!printed.contains("s3cret"), "{printed}");
    assert!(printed.contains("rediss://***@redis:6379/1"), "{printed}");
    let again = load(&printed, &[], &[]).expect("reads back");
    assert_eq!(again.server.listen, config.server.listen);
    assert_eq!(again.namespaces, config.namespaces);
    assert_eq!(again.local.disk_budget, config.local.disk_budget);
}

#[test]
fn passwords_with_odd_characters_stay_hidden() {
    for url in [
        "redis://u:p/w@h:1",
        "redis://:p@w@h",
        "redis://u:p?w#@h/0",
        "p@ss",
    ] {
        let masked = mask_url(url);
        assert!(
            !masked.contains('p') || masked.starts_with("redis"),
            "{masked}"
        );
        assert!(!masked.contains('w'), "{url} -> {masked}");
    }
    assert_eq!(mask_url("redis://h:1/2"), "redis://h:1/2");
}
