use super::*;

type Vars<'a> = &'a [(&'a str, &'a str)];

fn otlp(file: &str, env: Vars<'_>) -> OtlpConfig {
    load(file, &[], env).expect(file).telemetry.otlp
}

fn endpoints(otlp: &OtlpConfig) -> [Option<String>; 2] {
    [&otlp.traces, &otlp.metrics].map(|it| it.as_ref().map(|it| it.endpoint.to_string()))
}

#[test]
fn nothing_is_exported_unless_somebody_says_where_to() {
    let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
    let table: [(&str, Vars<'_>, [Option<&str>; 2]); 9] = [
        ("", &[], [None, None]),
        ("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], [None, None]),
        (
            "",
            &[on],
            [
                Some("http://c:4318/v1/traces"),
                Some("http://c:4318/v1/metrics"),
            ],
        ),
        (
            "",
            &[on, ("OTEL_METRICS_EXPORTER", "none")],
            [Some("http://c:4318/v1/traces"), None],
        ),
        ("", &[on, ("OTEL_SDK_DISABLED", "true")], [None, None]),
        (
            "",
            &[("OTEL_TRACES_EXPORTER", "otlp")],
            [Some("http://localhost:4318/v1/traces"), None],
        ),
        (
            "",
            &[
                ("OTEL_METRICS_EXPORTER", "otlp,prometheus"),
                ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
            ],
            [None, Some("http://localhost:4317/")],
        ),
        (
            "[telemetry.otlp]\nendpoint = \"https://c/x/\"\nsignals = [\"metrics\"]",
            &[],
            [None, Some("https://c/x/v1/metrics")],
        ),
        (
            "[telemetry.otlp]\nendpoint = \"http://file:1\"\nprotocol = \"grpc\"",
            &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:2")],
            [Some("http://own:2/"), Some("http://file:1/")],
        ),
    ];
    for (file, env, expected) in table {
        let found = endpoints(&otlp(file, env));
        assert_eq!(
            found.each_ref().map(Option::as_deref),
            expected,
            "{file} {env:?}"
        );
    }
}

#[test]
fn variables_win_over_the_file_and_those_of_a_signal_over_those_of_both() {
    let file = "[telemetry.otlp]\nendpoint = \"http://c:1\"\ntimeout = \"3s\"\n\
                sampler_ratio = 0.5\nservice_name = \"file\"\nheaders = { a = \"file\" }\n\
                queue_max = 10\n[telemetry.otlp.metrics]\ntimeout = \"4s\"";
    let plain = otlp(file, &[]);
    assert_eq!(
        (plain.sampler, plain.sampler_ratio),
        (Sampler::ParentRatio, 0.5)
    );
    assert_eq!((plain.service_name.as_str(), plain.queue_max), ("file", 10));
    assert_eq!(plain.batch_max, 10, "not more than the queue holds");
    let (traces, metrics) = (plain.traces.expect("on"), plain.metrics.expect("on"));
    assert_eq!(traces.timeout, Span(Duration::from_secs(3)));
    assert_eq!(metrics.timeout, Span(Duration::from_secs(4)));
    assert_eq!(traces.headers["a"].expose(), "file");

    let env = [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "5000"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "6000"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "B=x%20y , c=z"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "service.name=attribute,team=a%2Cb",
        ),
        ("OTEL_SERVICE_NAME", "variable"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "20"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "250"),
    ];
    let set = otlp(file, &env);
    assert_eq!(set.sampler, Sampler::AlwaysOff);
    assert_eq!((set.service_name.as_str(), set.queue_max), ("variable", 20));
    assert_eq!(set.resource["team"], "a,b");
    assert_eq!(set.metrics_interval, Span(Duration::from_millis(250)));
    let (traces, metrics) = (set.traces.expect("on"), set.metrics.expect("on"));
    assert_eq!(traces.timeout, Span(Duration::from_secs(6)));
    assert_eq!(metrics.timeout, Span(Duration::from_secs(5)));
    assert_eq!(traces.compression, ExportCompression::Gzip);
    let names: Vec<_> = traces.headers.keys().collect();
    assert_eq!(names, ["b", "c"], "those of the file are replaced");
    assert_eq!(traces.headers["b"].expose(), "x y");
}

#[test]
fn faults_name_the_variable_and_what_is_allowed() {
    let on = ("OTEL_TRACES_EXPORTER", "otlp");
    let table: [(&str, &str, &[&str]); 15] = [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4317",
            &["http://localhost:4318"],
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://u:s3cret@c",
            &["user or password"],
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/json",
            &["http/protobuf", "grpc"],
        ),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", &["none", "gzip"]),
        (
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "10s",
            &["\"10s\"", "milliseconds"],
        ),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", &["0s is not 1ms to 1h"]),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "s3cret",
            &["entry 1", "name=value"],
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "content-type=s3cret",
            &["\"content-type\""],
        ),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "a=s3cret%0a",
            &["a:", "ASCII"],
        ),
        (
            "OTEL_TRACES_SAMPLER",
            "xray",
            &["unknown variant `xray`", "traceidratio"],
        ),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5", &["1.5 is not 0 to 1"]),
        (
            "OTEL_TRACES_EXPORTER",
            "zipkin",
            &["\"zipkin\"", "otlp or none"],
        ),
        (
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "many",
            &["\"many\"", "1 to 1048576"],
        ),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", &["4096", "2048"]),
        ("OTEL_SDK_DISABLED", "yes", &["\"yes\"", "true nor false"]),
    ];
    for (name, value, parts) in table {
        let text = fault("", &[], &[(name, value), on]);
        assert!(text.contains(name) && !text.contains("s3cret"), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}

#[test]
fn what_is_printed_of_the_export_reads_back_and_hides_headers() {
    let file = "[telemetry.otlp]\nendpoint = \"https://c:1/x\"\n[telemetry.otlp.headers]\n\
                api-key = \"s3cret\"\n[telemetry.otlp.resource]\nteam = \"a\"";
    let config = load(file, &[], &[]).expect("good");
    for shown in [config.to_toml(), format!("{config:?}")] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    let printed = config.to_toml();
    let refused = fault(&printed, &[], &[]);
    assert!(
        refused.contains("api-key") && refused.contains("--print-config"),
        "{refused}"
    );
    let again = load(&printed.replace("***", "s3cret"), &[], &[]).expect("reads back");
    assert_eq!(again.to_toml(), printed);
    let again = again.telemetry.otlp;
    assert_eq!(endpoints(&again), endpoints(&config.telemetry.otlp));
    assert_eq!(
        again.traces.expect("on").headers["api-key"].expose(),
        "s3cret"
    );
}

#[test]
fn a_faulty_line_with_a_header_is_not_shown() {
    for file in [
        "[telemetry.otlp]\nheaders = \"s3cret\"",
        "[telemetry.otlp.headers]\nauthorization = [\"s3cret\"]",
        "[telemetry]\notlp = { headers = \"s3cret\" }",
        "[telemetry.otlp]\nendpoint = 1 # s3cret",
    ] {
        let text = fault(file, &[], &[]);
        assert!(
            text.contains("line 2") && !text.contains("s3cret"),
            "{text}"
        );
    }
}
