mod otlp;

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
    assert!(config.shared.url.is_none() && config.shared.topology.is_none());
    assert_eq!(config.shared.key_prefix, "pannier:");
    assert_eq!(config.shared.lease, Span(Duration::from_secs(1)));
    assert_eq!(config.shared.heartbeat, Span(Duration::from_millis(150)));
    assert_eq!(config.defaults.on_shared_down, OnSharedDown::Stale);
    assert_eq!(config.tracked_prefixes(), ["pannier:"]);
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
    let host = |env: &[_]| match load("", &[], env).expect("good").shared.topology {
        Some(Topology::Standalone(address)) => address.to_string(),
        other => panic!("one server, not {other:?}"),
    };
    assert_eq!(host(&env), "a:6379");
    assert_eq!(host(&env[..1]), "b:6379");
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
    let table: [Case; 15] = [
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
            "[defaults]\nmax_stream_size = \"4GiB\"",
            &[],
            &[],
            &["max_stream_size", "4095MiB"],
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
    let file = "[shared]\nurl = \"rediss://ann:s3cret@redis:6379/1\"\n\
                [namespaces.a]\nttl = \"90s\"\n\
                [namespaces.r]\nraw = true\nraw_prefix = \"app:\"\nshared_value_max = \"1MB\"\n\
                on_shared_down = \"miss\"";
    let config = load(file, &["--listen", "unix:/run/p.sock"], &[]).expect("good");
    let printed = config.to_toml();
    assert!(!printed.contains("s3cret"), "{printed}");
    assert!(printed.contains("rediss://***@redis:6379/1"), "{printed}");
    let refused = fault(&printed, &[], &[]);
    assert!(refused.contains("fill them in"), "{refused}");
    let filled = printed.replace("***", "ann:s3cret");
    let again = load(&filled, &[], &[]).expect("reads back");
    assert_eq!(again.shared.topology, config.shared.topology);
    assert_eq!(again.shared.credentials, config.shared.credentials);
    assert_eq!(again.shared.lease, config.shared.lease);
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

fn shared(file: &str, env: &[(&str, &str)]) -> SharedConfig {
    load(&format!("[shared]\n{file}"), &[], env)
        .expect(file)
        .shared
}

/// User and password that reach Redis.
fn who(shared: &SharedConfig) -> (Option<&str>, Option<&str>) {
    let Credentials { username, password } = &shared.credentials;
    (username.as_deref(), password.as_ref().map(Secret::expose))
}

#[test]
fn the_password_has_one_place_and_the_environment_wins() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("password");
    fs::write(&path, "from file\n").expect("writes");
    let path = path.to_str().expect("UTF-8");
    let by_file = format!("url = \"redis://ann:url@h\"\npassword_file = \"{path}\"");
    let written = "url = \"redis://ann:url@h\"\npassword = \"written\"\nusername = \"bob\"";

    assert_eq!(
        who(&shared("url = \"redis://ann:url@h\"", &[])),
        (Some("ann"), Some("url"))
    );
    assert_eq!(
        who(&shared(&by_file, &[])),
        (Some("ann"), Some("from file"))
    );
    assert_eq!(who(&shared(written, &[])), (Some("bob"), Some("written")));
    let env = [("PANNIER_REDIS_PASSWORD", "env")];
    assert_eq!(who(&shared(&by_file, &env)), (Some("ann"), Some("env")));
    let env = [("PANNIER_REDIS_PASSWORD_FILE", path)];
    assert_eq!(
        who(&shared(written, &env)),
        (Some("bob"), Some("from file"))
    );
    let env = [("PANNIER_REDIS_SENTINEL_PASSWORD", "s")];
    let sentinel = shared("sentinel_username = \"x\"", &env).sentinel_credentials;
    assert_eq!(sentinel.username.as_deref(), Some("x"));
    assert_eq!(sentinel.password, Some(Secret::new("s")));

    let both = format!("[shared]\npassword = \"a\"\npassword_file = \"{path}\"");
    let text = fault(&both, &[], &[]);
    assert!(text.contains("shared.password_file: set this or"), "{text}");
    fs::write(path, "\n").expect("writes");
    let text = fault("", &[], &[("PANNIER_REDIS_PASSWORD_FILE", path)]);
    assert!(
        text.contains("PANNIER_REDIS_PASSWORD_FILE") && text.contains("empty"),
        "{text}"
    );
    let text = fault("[shared]\npassword_file = \"/nonexistent\"", &[], &[]);
    assert!(
        text.contains("shared.password_file: /nonexistent cannot be read"),
        "{text}"
    );
}

#[test]
fn no_secret_is_shown() {
    let file = "url = \"redis-sentinel://ann:s3cret1@h/main\"\npassword = \"s3cret2\"\n\
                sentinel_password = \"s3cret3\"";
    let config = load(&format!("[shared]\n{file}"), &[], &[]).expect("good");
    for shown in [config.to_toml(), format!("{config:?}")] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    let text = fault("[shared]\npassword = \"***\"", &[], &[]);
    assert!(
        text.contains("shared.password") && text.contains("--print-config"),
        "{text}"
    );
}

#[test]
fn a_faulty_line_near_a_secret_is_not_shown() {
    for file in [
        "[shared]\npassword = 345678",
        "[shared]\npasword = \"345678\"",
        "[shared]\npassword = \"345678",
        "[shared]\nurl = [\"redis://:345678@h\"]",
        "[shared]\nkey_prefix = 1\npassword = \"345678\"",
        "shared = { password = 345678 }",
        "shared.password = 345678",
        "[shared]\nsentinel_password = \"\"\"345678\n345678",
    ] {
        let text = fault(file, &[], &[]);
        assert!(!text.contains("345678"), "{text}");
        assert!(text.contains("pannier.toml: line "), "{text}");
    }
    let text = fault("[shared]\nlease = \"ten\"", &[], &[]);
    assert!(
        text.contains("line 2") && text.contains("not a duration"),
        "{text}"
    );
    let text = fault("[shared]\npasword = \"hush\"", &[], &[]);
    assert!(
        text.contains("unknown field `pasword`") && !text.contains("hush"),
        "{text}"
    );
    let text = fault("[shared]\nleese = \"1s\"", &[], &[]);
    assert!(
        text.contains("unknown field `leese`") && text.contains("`lease`"),
        "{text}"
    );
}

#[test]
fn faults_of_the_shared_tier_name_place_and_expectation() {
    let tls = "[shared]\nurl = \"rediss://h\"\n";
    let table = [
        (
            "[shared]\nurl = \"h:1\"",
            &["shared.url", "redis://host:6379"][..],
        ),
        (
            "[shared]\nurl = \"redis://u:pw@h:0\"",
            &["shared.url", "***@h:0", "1 to 65535"],
        ),
        (
            "[shared]\nurl = \"redis://ann:@h\"",
            &["shared.url", "a user needs a password"],
        ),
        (
            "[shared]\nusername = \"ann\"",
            &["shared.username", "PANNIER_REDIS_PASSWORD"],
        ),
        (
            "[shared]\nsentinel_username = \"a\"",
            &["shared.sentinel_username", "beside it"],
        ),
        ("[shared]\npassword = \"\"", &["shared.password", "empty"]),
        (
            "[shared]\nlease = \"10ms\"",
            &["shared.lease", "100ms to 1m"],
        ),
        (
            "[shared]\nheartbeat = \"500ms\"",
            &["shared.heartbeat", "third of shared.lease (1s)"],
        ),
        (
            "[shared]\nconnect_timeout = \"1ms\"",
            &["shared.connect_timeout", "10ms to 1m"],
        ),
        (
            "[shared]\ncommand_timeout = \"0s\"",
            &["shared.command_timeout", "1ms to 1m"],
        ),
        (
            "[shared]\nreconnect_max = \"1h\"",
            &["shared.reconnect_max", "50ms to 1m"],
        ),
        (
            "[shared]\nmax_in_flight = 0",
            &["shared.max_in_flight", "1 to 1048576"],
        ),
        (
            "[shared]\njournal_max = 0",
            &["shared.journal_max", "1 to 10000000"],
        ),
        (
            "[shared]\nkey_prefix = \"\"",
            &["shared.key_prefix", "1 to 128"],
        ),
        (
            "[shared]\nkey_prefix = \"{a}:\"",
            &["shared.key_prefix", "Cluster"],
        ),
        (
            "[shared]\nkey_prefix = \"a\\n\"",
            &["shared.key_prefix", "control"],
        ),
        (
            "[shared]\nurl = \"redis://h\"\nca_file = \"/etc/hosts\"",
            &["shared.ca_file", "rediss"],
        ),
        (
            "[namespaces.a]\nraw = true\nimmutable = true",
            &["a.raw", "cannot be immutable"],
        ),
        (
            "[namespaces.a]\nraw = true\ncompression = \"lz4\"",
            &["a.compression", "none"],
        ),
        (
            "[namespaces.a]\nraw = true\ntiers = [\"local\"]",
            &["a.tiers", "\"shared\""],
        ),
        (
            "[namespaces.a]\nraw_prefix = \"x:\"",
            &["a.raw_prefix", "raw = true"],
        ),
        (
            "[namespaces.a]\nraw = true\nraw_prefix = \"pannier:x\"",
            &["a.raw_prefix", "shared.key_prefix"],
        ),
        (
            "[namespaces.a]\nshared_value_max = \"0B\"",
            &["a.shared_value_max", "4095MiB"],
        ),
        (
            "[namespaces.a]\non_shared_down = \"fail\"",
            &["line 2", "`stale`", "`miss`"],
        ),
    ];
    let files = [
        (
            format!("{tls}ca_file = \"/nonexistent\""),
            ["shared.ca_file", "cannot be read"],
        ),
        (
            format!("{tls}cert_file = \"/etc/hosts\""),
            ["shared.cert_file", "shared.key_file"],
        ),
        (
            format!("{tls}key_file = \"/etc/hosts\""),
            ["shared.key_file", "shared.cert_file"],
        ),
    ];
    let table = table.map(|(file, parts)| (file.to_owned(), parts));
    let files = files.iter().map(|(file, parts)| (file.clone(), &parts[..]));
    for (file, parts) in table.into_iter().chain(files) {
        let text = fault(&file, &[], &[]);
        for part in parts {
            assert!(text.contains(part), "{file:?}: {part:?} is not in\n{text}");
        }
    }
    let text = fault("", &["--redis-url", "redis://"], &[]);
    assert!(
        text.contains("--redis-url") && text.contains("no host"),
        "{text}"
    );
}

#[test]
fn a_raw_namespace_gives_up_what_it_inherits_but_cannot_do() {
    let file = "[defaults]\ncompression = \"zstd\"\nshared_value_max = \"1MB\"\n\
                [namespaces.a]\nraw = true";
    let config = load(file, &[], &[]).expect("good");
    assert_eq!(config.namespaces["a"].compression, Compression::None);
    assert_eq!(
        config.namespaces["a"].shared_value_max,
        Some(Size(1_000_000))
    );
    let file = "[defaults]\nraw = true\nraw_prefix = \"x:\"\n[namespaces.b]\nraw = false";
    let config = load(file, &[], &[]).expect("good");
    assert_eq!(config.namespaces["b"].raw_prefix, "");
    assert_eq!(config.defaults.raw_prefix, "x:");
}

#[test]
fn tracked_prefixes_do_not_overlap() {
    let tracked = |prefixes: &[&str]| {
        let spaces = prefixes.iter().enumerate().map(|(index, prefix)| {
            format!("[namespaces.n{index}]\nraw = true\nraw_prefix = \"{prefix}\"\n")
        });
        let file: String = spaces.collect();
        load(&file, &[], &[]).expect("good").tracked_prefixes()
    };
    assert_eq!(
        tracked(&["app:x:", "app:", "app:", "b"]),
        ["app:", "b", "pannier:"]
    );
    assert_eq!(tracked(&["p", "q"]), ["p", "q"]);
    assert_eq!(tracked(&["", "q"]), [""]);
}
