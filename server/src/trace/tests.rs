use super::*;
use crate::config::{Config, Overrides};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0";

fn tracer(vars: &[(&str, &str)]) -> (Tracer, Option<Waiting>) {
    let env = |name: &str| {
        let all = vars.iter().copied();
        let all = all.chain([("HOME", "/home/ann"), ("OTEL_TRACES_EXPORTER", "otlp")]);
        let mut found = all.filter(|(key, _)| *key == name);
        found.next().map(|(_, value)| value.to_owned())
    };
    let config = Config::load(&Overrides::default(), &env).expect("good");
    Tracer::new(&config.telemetry.otlp)
}

fn of_caller<'h>(flags: &'h str) -> impl Fn(&str) -> Option<&'h str> {
    move |name| (name == TRACEPARENT).then_some(flags)
}

#[test]
fn each_sampler_decides_as_it_is_named() {
    let (sampled, unsampled) = (format!("{PARENT}1"), format!("{PARENT}0"));
    // Without a caller, and with one who does or does not trace. Of the ratio 0 and 1 are certain.
    let table = [
        ("always_on", "0", [true, true, true]),
        ("always_off", "1", [false, false, false]),
        ("traceidratio", "0", [false, false, false]),
        ("traceidratio", "1", [true, true, true]),
        ("parentbased_always_on", "0", [true, true, false]),
        ("parentbased_always_off", "1", [false, true, false]),
        ("parentbased_traceidratio", "0", [false, true, false]),
        ("parentbased_traceidratio", "1", [true, true, false]),
    ];
    for (sampler, ratio, expected) in table {
        let vars = [
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", ratio),
        ];
        let (tracer, _waiting) = tracer(&vars);
        let found = [
            tracer.begin("a", |_| None),
            tracer.begin("a", of_caller(&sampled)),
            tracer.begin("a", of_caller(&unsampled)),
        ];
        let found = found.map(|span| span.is_some());
        assert_eq!(found, expected, "{sampler} {ratio}");
    }
}

#[test]
fn a_ratio_keeps_that_share_of_the_traces() {
    let (tracer, _waiting) = tracer(&[("OTEL_TRACES_SAMPLER_ARG", "0.25")]);
    let kept = (0..20_000)
        .filter(|_| tracer.begin("a", |_| None).is_some())
        .count();
    // Four standard deviations are 245.
    assert!((4_700..5_300).contains(&kept), "{kept}");
}

#[test]
fn a_span_belongs_to_the_trace_of_its_caller() {
    let (tracer, _waiting) = tracer(&[]);
    let header = format!("{PARENT}1");
    let headers = |name: &str| match name {
        TRACEPARENT => Some(header.as_str()),
        TRACESTATE => Some("vendor=1"),
        _ => None,
    };
    let span = tracer.begin("a", headers).expect("sampled");
    assert_eq!(span.trace_id[..2], [0x4b, 0xf9]);
    assert_eq!(span.parent.expect("there is one")[..2], [0, 0xf0]);
    assert_eq!(span.state, "vendor=1");
    assert_ne!(Some(span.span_id), span.parent);

    let own = tracer
        .begin("a", |name| (name == TRACESTATE).then_some("vendor=1"))
        .expect("sampled");
    assert_eq!((own.parent, own.state.as_str()), (None, ""));
    assert!(own.trace_id != [0; 16] && own.span_id != [0; 8]);
}

#[test]
fn what_finds_no_room_is_dropped_and_counted() {
    let vars = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "3"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
    ];
    let (tracer, waiting) = tracer(&vars);
    let mut waiting = waiting.expect("traces go somewhere");
    let begin = || tracer.begin("a", |_| None).expect("sampled");
    for _ in 0..5 {
        tracer.end(begin());
    }
    assert_eq!(tracer.dropped(), 2);
    assert_eq!(
        [
            waiting.take(2).len(),
            waiting.take(2).len(),
            waiting.take(2).len()
        ],
        [2, 1, 0]
    );
    tracer.end(begin());
    assert_eq!(tracer.dropped(), 2, "there was room again");
    waiting.close();
    assert_eq!(tracer.dropped(), 3);
    tracer.end(begin());
    assert_eq!(tracer.dropped(), 4);
}

#[tokio::test]
async fn the_exporter_is_woken_for_a_batch() {
    let (tracer, waiting) = tracer(&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")]);
    let waiting = waiting.expect("traces go somewhere");
    tracer.end(tracer.begin("a", |_| None).expect("sampled"));
    let mut woken = Box::pin(waiting.batch());
    assert!(futures_util::poll!(&mut woken).is_pending());
    tracer.end(tracer.begin("a", |_| None).expect("sampled"));
    woken.await;
}
