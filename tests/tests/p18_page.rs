//! P18: the status page, in a real browser.
//!
//! Proven: what the page shows is what was done: hits by tier, misses, puts, removals, the state of
//! Redis with its reasons, the slowest request and what it waited for. It follows an outage of
//! Redis, says when the daemon itself does not answer, and goes on by itself. It sorts and filters,
//! by mouse and by keyboard; details stay open from poll to poll; it can be paused. Text of callers
//! stays text. Nothing is written to the browser's console, and the policy is obeyed. Nothing
//! scrolls sideways at 360 pixels, and text has contrast, in dark and light.
//!
//! Pictures of it are left in the directory that `PANNIER_SCREENSHOTS` names.
//! Not proven here: what a screen reader makes of it, other browsers.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test plays the environment and may fail by panic"
)]

use std::{collections::BTreeMap, env, fs, path::PathBuf, time::Duration};

use pannier_proto::v1::Tier;
use pannier_tests::{Browser, Caller, Daemon, Data, Redis, browser::keys, caller, shared, wire};
use rand::RngExt;
use serde_json::json;
use tokio::task::JoinSet;

const WIDTH: u32 = 1280;
const HEIGHT: u32 = 900;

/// A browser that shows a daemon's page, once it shows figures.
fn open(daemon: &Daemon) -> Browser {
    let browser = Browser::start(WIDTH, HEIGHT);
    show(&browser, daemon);
    browser
}

fn show(browser: &Browser, daemon: &Daemon) {
    browser.open(&format!("http://{}/", daemon.http()));
    browser.waits_for("the page shows figures", |it| {
        it.text("#pulse").ends_with("live")
    });
}

/// A row of a table whose first cell says this: each figure under the name of its column.
fn row(browser: &Browser, table: &str, first: &str) -> BTreeMap<String, String> {
    let script = "
        const table = document.querySelector(arguments[0]);
        const names = [...table.tHead.rows[0].cells].map(it => it.textContent);
        const row = [...table.tBodies[0].rows].find(it => it.cells[0].innerText === arguments[1]);
        return row ? [...row.cells].map((it, index) => [names[index], it.textContent]) : []";
    let cells = browser.run(script, json!([table, first]));
    serde_json::from_value(cells)
        .map(|it: Vec<(String, String)>| it.into_iter().collect())
        .unwrap()
}

/// Waits until a row of a table shows these figures, all at once.
fn shows(browser: &Browser, table: &str, first: &str, expected: &[(&str, &str)]) {
    browser.waits_for(&format!("{first} shows {expected:?}"), |it| {
        let shown = row(it, table, first);
        expected
            .iter()
            .all(|(column, figure)| shown.get(*column).is_some_and(|it| it == figure))
    });
}

/// The figures of a list of facts, by their terms.
fn facts(browser: &Browser, list: &str) -> BTreeMap<String, String> {
    let terms = browser.texts(&format!("{list} dt"));
    terms
        .into_iter()
        .zip(browser.texts(&format!("{list} dd")))
        .collect()
}

/// Nothing went wrong in the page, as far as the browser knows.
#[track_caller]
fn assert_quiet(browser: &Browser) {
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// A picture, beside the test's other files and where somebody wants to have it.
fn picture(browser: &Browser, daemon: &Daemon, name: &str) {
    let path = daemon.how().home().join(name);
    browser.screenshot(&path);
    let bytes = fs::read(&path).unwrap();
    assert!(
        bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000,
        "{name} is empty"
    );
    if let Some(wanted) = env::var_os("PANNIER_SCREENSHOTS") {
        fs::create_dir_all(&wanted).unwrap();
        fs::copy(path, PathBuf::from(wanted).join(name)).unwrap();
    }
}

/// What callers were told, to compare with what the page says.
#[derive(Default)]
struct Tally {
    local: u64,
    shared: u64,
    misses: u64,
}

impl Tally {
    async fn get(&mut self, caller: &Caller, key: &str) {
        let reply = caller.get(key).await;
        match caller::tier(&reply) {
            Tier::Local => self.local += 1,
            Tier::Shared => self.shared += 1,
            Tier::None | Tier::Unspecified => self.misses += 1,
        }
    }

    /// Waits until a namespace shows it, and that it was given this many puts and so on.
    fn is_shown(&self, browser: &Browser, namespace: &str, more: &[(&str, &str)]) {
        let reads = [self.local, self.shared, self.misses].map(|it| it.to_string());
        let rate = self.hit_rate();
        let reads = [
            ("Local", &*reads[0]),
            ("Redis", &*reads[1]),
            ("Misses", &*reads[2]),
            ("Hit rate", &*rate),
        ];
        shows(
            browser,
            "#namespace-table",
            namespace,
            &[&reads, more].concat(),
        );
    }

    fn hit_rate(&self) -> String {
        let hits = self.local + self.shared;
        format!("{:.1} %", 100.0 * hits as f64 / (hits + self.misses) as f64)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_was_done() {
    let redis = Redis::builder().memory("64mb", "allkeys-lru").start();
    let daemon = shared::start(&redis.url(), "").await;
    let other = shared::start(&redis.url(), "").await;
    let browser = open(&daemon);
    assert_eq!(
        browser.text("#namespaces-none"),
        "Nobody has named one yet."
    );
    assert_eq!(browser.text("#benefit"), "Nobody has read yet.");

    let (sessions, there) = (
        Caller::new(&daemon, "sessions"),
        Caller::new(&other, "sessions"),
    );
    let mut tally = Tally::default();
    for key in ["a", "b", "c", "d"] {
        there.put(key, "elsewhere").await;
        tally.get(&sessions, key).await;
        tally.get(&sessions, key).await;
    }
    tally.get(&sessions, "none").await;
    for _ in 0..3 {
        sessions.put("own", "v").await;
    }
    sessions.invalidate("own").await;
    assert!(
        tally.shared >= 4 && tally.misses == 1,
        "the other daemon's entries come from Redis"
    );
    let builds = Caller::new(&daemon, "builds");
    builds.put("k", "v").await;
    builds.try_get("", None).await.unwrap_err();

    let writes = [("Puts", "3"), ("Removed", "1"), ("Errors", "0")];
    tally.is_shown(&browser, "sessions", &writes);
    let written = [("Puts", "1"), ("Errors", "1"), ("Hit rate", "–")];
    shows(&browser, "#namespace-table", "builds", &written);
    // The first answer counts all namespaces: one was read from.
    assert_eq!(browser.text("#hit-rate"), tally.hit_rate());

    assert_eq!(browser.text("#redis-state"), "Attached");
    shows(
        &browser,
        "#operations-table",
        "Redis store",
        &[("Outcome", "applied"), ("Count", "4")],
    );
    let reads = (tally.local + tally.shared + tally.misses).to_string();
    shows(
        &browser,
        "#calls-table",
        "Get",
        &[("Status", "OK"), ("Count", &reads)],
    );
    let gets = row(&browser, "#calls-table", "Get");
    assert!(
        gets["p99"].ends_with("µs") || gets["p99"].ends_with("ms"),
        "{gets:?}"
    );
    browser.waits_for("Redis has been asked for its memory", |it| {
        facts(it, "#redis-facts")["Memory of Redis"].contains("MiB")
    });
    let meters = browser.texts("#meters .name");
    assert!(meters.contains(&"Disk".into()) && meters.contains(&"Memory of Redis".into()));
    assert!(browser.text("#export").starts_with("Nothing is exported"));

    // Both windows, and back.
    browser.click("input[value=since_reset]");
    tally.is_shown(&browser, "sessions", &writes);
    browser.click("#config-details > summary");
    let config = browser.text("#config");
    assert!(
        config.contains("[shared]") && config.contains("disk_budget"),
        "{config}"
    );
    assert_quiet(&browser);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_redis_is_told_with_its_reason() {
    let mut redis = Redis::builder().password("very-secret").start();
    let daemon = shared::start(&redis.url(), "").await;
    let caller = Caller::new(&daemon, "n");
    caller.put("k", "v").await;
    caller.has_local("k", b"v").await;
    let browser = open(&daemon);
    assert_eq!(browser.text("#redis-state"), "Attached");
    // What merely moves is not said aloud.
    assert_eq!(browser.text("#announce"), "");

    redis.kill();
    shared::detached(&daemon).await;
    caller.get("k").await;
    caller.put("later", "v").await;
    browser.waits_for("the outage is shown", |it| {
        it.text("#redis-state") == "Away"
    });
    let told = browser.text("#redis");
    assert!(told.contains(&redis.address().to_string()), "{told}");
    assert!(browser.text("#announce").starts_with("Redis is away: "));
    browser.waits_for("what waits for Redis is shown", |it| {
        facts(it, "#redis-facts")["Waiting for Redis"] == "1 change"
            && row(it, "#namespace-table", "n")["Stale"] != "0"
    });
    let title = browser.run("return document.title", json!([]));
    assert_eq!(title, "Redis away – Pannier");
    picture(&browser, &daemon, "away.png");

    redis.restart(Data::Lost);
    shared::attached(&daemon).await;
    browser.waits_for("the return is shown", |it| {
        it.text("#redis-state") == "Attached" && it.text("#announce") == "Redis is attached."
    });
    let states = browser.texts("#history-table tbody td:nth-child(2)");
    assert_eq!(states, ["attached", "away", "attached"]);
    let history = daemon.stats().await.shared.unwrap().history;
    let reasons = history.iter().rev().map(|it| &it.message);
    let shown = browser.texts("#history-table tbody td:nth-child(4)");
    assert!(
        shown.iter().eq(reasons) && !shown[1].is_empty(),
        "{shown:?}, {history:?}"
    );
    let page = browser.run("return document.documentElement.outerHTML", json!([]));
    assert!(!page.to_string().contains("very-secret"));
    assert_quiet(&browser);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_does_not_answer_is_told_and_forgiven() {
    let mut daemon = Daemon::start();
    let caller = Caller::new(&daemon, "n");
    let browser = open(&daemon);
    assert!(browser.text("#redis").starts_with("No Redis is configured"));
    let banner = |it: &Browser| it.text("#lost").contains("does not answer");
    assert!(!banner(&browser));

    daemon.freeze();
    browser.waits_for("a hanging daemon is noticed", banner);
    assert_eq!(browser.text("#pulse"), "no answer");
    daemon.thaw();
    caller.put("k", "v").await;
    browser.waits_for("it answers again", |it| {
        !banner(it)
            && row(it, "#namespace-table", "n")
                .get("Puts")
                .is_some_and(|it| it == "1")
    });
    assert_eq!(browser.text("#announce"), "The daemon answers again.");
    assert_quiet(&browser);

    daemon.kill();
    browser.waits_for("a daemon that has gone is noticed", banner);
    assert!(browser.text("#lost").contains("These figures are from"));
    assert_eq!(
        row(&browser, "#namespace-table", "n")["Puts"],
        "1",
        "the last figures stay"
    );
    // The browser itself notes each request that nobody answered.
    let unexpected = browser
        .console()
        .into_iter()
        .filter(|it| !it.contains("/status.json"));
    assert_eq!(unexpected.collect::<Vec<_>>(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_request_is_explained_and_stays_open() {
    let redis = Redis::start();
    let daemon = shared::start(&redis.url(), "command_timeout = \"300ms\"").await;
    let caller = Caller::new(&daemon, "thumbnails");
    caller.put("fast", "v").await;
    redis.freeze();
    caller.put("a secret name", "v").await;
    redis.thaw();
    shared::attached(&daemon).await;
    // What is no namespace at all is kept as it was asked for.
    let markup = "<img src=x onerror=alert(1)>";
    Caller::new(&daemon, markup)
        .try_get("k", None)
        .await
        .unwrap_err();

    let browser = open(&daemon);
    let worst = browser.text("#slow");
    assert!(worst.contains("Put in thumbnails"), "{worst}");
    assert!(worst.contains("in Redis, storing it (failed)"), "{worst}");
    let requests = browser.texts("#slowest .method");
    assert!(requests[0] == "Put" && requests.len() == 3, "{requests:?}");
    assert!(
        browser
            .texts("#slowest .place")
            .contains(&markup.to_owned())
    );
    assert_eq!(browser.run("return document.images.length", json!([])), 0);
    let fault = browser.text("#slowest .fault");
    assert_eq!(fault, "INVALID_ARGUMENT");

    // By keyboard: the summary has the focus, Return opens it.
    let open = "#slowest li:first-child details[open]";
    browser.focus("#slowest li:first-child summary");
    browser.press(&[keys::ENTER]);
    browser.waits_for("details open by keyboard", |it| !it.text(open).is_empty());
    let steps = browser.texts(&format!("{open} .steps li > :first-child"));
    assert_eq!(steps[0], "Redis store, failed");
    assert!(steps.contains(&"Local store, applied".into()), "{steps:?}");
    // Another slow one comes first; this one stays open and keeps the focus.
    redis.freeze();
    caller.put("another", "v").await;
    redis.thaw();
    browser.waits_for("a further request is listed", |it| {
        it.texts("#slowest .method").len() > requests.len()
    });
    assert_eq!(browser.texts("#slowest details[open]").len(), 1);
    let focused = "return document.activeElement.closest('details')?.open === true";
    assert_eq!(browser.run(focused, json!([])), true);
    assert!(!browser.text("body").contains("a secret name"));
    assert_quiet(&browser);
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_sorted_and_filtered_by_mouse_and_keyboard() {
    let daemon = Daemon::start();
    for index in 0..30 {
        let caller = Caller::new(&daemon, &format!("n{index:02}"));
        for _ in 0..=index {
            caller.put("k", "v").await;
        }
        caller.get(if index % 2 == 0 { "k" } else { "none" }).await;
    }
    let browser = open(&daemon);
    let names = |it: &Browser| it.texts("#namespace-table tbody th");
    let button = |column: u32| format!("#namespace-table thead th:nth-child({column}) button");
    let sorted = |column: u32| {
        browser.attribute(
            &format!("#namespace-table thead th:nth-child({column})"),
            "aria-sort",
        )
    };
    assert_eq!(names(&browser).len(), 25, "the rest is one click away");
    assert_eq!(browser.text("#namespaces-more"), "Show all 30");
    browser.click("#namespaces-more");
    assert_eq!(names(&browser).len(), 30);

    browser.click(&button(1));
    assert_eq!(
        (sorted(1).as_deref(), names(&browser)[0].as_str()),
        (Some("ascending"), "n00")
    );
    // Without Redis its columns are not there: Namespace, Hit rate, Reads, Local, Misses, Puts.
    browser.click(&button(6));
    assert_eq!(
        (sorted(6).as_deref(), names(&browser)[0].as_str()),
        (Some("descending"), "n29")
    );
    assert_eq!(sorted(1), None);
    browser.press(&[keys::ENTER]);
    browser.waits_for("sorting by keyboard", |it| names(it)[0] == "n00");
    browser.press(&[keys::SHIFT, keys::TAB]);
    browser.press(&[keys::ENTER]);
    browser.waits_for("the column before", |_| {
        sorted(5).as_deref() == Some("descending")
    });
    assert_eq!(names(&browser)[0], "n01", "of equal figures by name");

    browser.focus("#filter");
    browser.type_text("N1");
    browser.waits_for("a filter", |it| names(it).len() == 10);
    browser.type_text("<b>");
    browser.waits_for("none", |it| {
        it.text("#namespaces-none") == "None of 30 has “n1<b>” in its name."
    });
    assert_quiet(&browser);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_rests_while_it_is_paused_or_hidden() {
    let daemon = Daemon::start();
    let caller = Caller::new(&daemon, "n");
    let browser = open(&daemon);
    let puts = |it: &Browser| row(it, "#namespace-table", "n").get("Puts").cloned();
    let asked = |it: &Browser| {
        let script = "return performance.getEntriesByType('resource')
            .filter(it => it.name.endsWith('/status.json')).length";
        it.run(script, json!([])).as_u64().unwrap()
    };
    // Polls of another window are the measure of time; the first is hidden behind it meanwhile.
    let beside = |browser: &Browser| {
        let before = asked(browser);
        let first = browser.second_window();
        show(browser, &daemon);
        browser.waits_for("three polls of the second window", |it| asked(it) >= 3);
        browser.back_to(&first);
        before
    };
    caller.put("k", "v").await;
    browser.waits_for("a put", |it| puts(it).as_deref() == Some("1"));
    browser.click("#pause");
    assert_eq!(browser.text("#pulse"), "paused");
    assert_eq!(
        browser.attribute("#pause", "aria-pressed").as_deref(),
        Some("true")
    );
    caller.put("k", "v").await;
    let before = beside(&browser);
    assert_eq!(
        (asked(&browser), puts(&browser).as_deref()),
        (before, Some("1"))
    );
    browser.click("#pause");
    browser.waits_for("it goes on", |it| puts(it).as_deref() == Some("2"));
    // Three polls passed in front; hidden, it asked at most once: when it came back.
    let before = beside(&browser);
    assert!(asked(&browser) <= before + 2, "it polls while it is hidden");
    assert_quiet(&browser);
}

/// Callers of two daemons, for as long as what is returned lives.
fn busy(daemon: &Daemon, other: &Daemon) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for (name, keys) in [
        ("sessions", 150),
        ("thumbnails", 600),
        ("feature.flags", 20),
    ] {
        let (here, there) = (Caller::new(daemon, name), Caller::new(other, name));
        let mut pace = tokio::time::interval(Duration::from_millis(15));
        callers.spawn(async move {
            loop {
                pace.tick().await;
                // The first keys more often than the last.
                let random = || rand::rng().random_range(0..keys);
                let key = format!("key {}", random().min(random()));
                if here.value(&key).await.is_none() {
                    let writer = if random() % 3 == 0 { &there } else { &here };
                    writer.put(&key, vec![b'v'; 2000]).await;
                }
            }
        });
    }
    callers
}

/// Elements that reach beyond the right edge, and how wide the page is.
const WIDE: &str = "
    const wide = [...document.querySelectorAll('body *')].filter(it =>
        it.getBoundingClientRect().right > innerWidth + 0.5);
    return [document.documentElement.scrollWidth, ...wide.map(it => it.outerHTML.slice(0, 80))]";

/// Texts whose contrast with what is behind them is below 4.5, by WCAG 2.2's formula (1.4.3).
const FAINT: &str = "
    const channels = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (text) => channels(text).slice(0, 3).map(it => it / 255)
        .map(it => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4)
        .reduce((sum, it, index) => sum + it * [0.2126, 0.7152, 0.0722][index], 0);
    const ground = (element) => {
        for (let it = element; it; it = it.parentElement) {
            const color = getComputedStyle(it).backgroundColor;
            if (channels(color)[3] !== 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    return [...document.querySelectorAll('body *')].filter(it =>
        it.checkVisibility() && [...it.childNodes].some(node => node.nodeType === 3
            && node.data.trim())).map(it => {
        const [one, other] = [light(getComputedStyle(it).color), light(ground(it))];
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        return [ratio, it.textContent];
    }).filter(([ratio]) => ratio < 4.5)";

#[tokio::test(flavor = "multi_thread")]
async fn it_fits_a_phone_and_can_be_read_in_dark_and_light() {
    let mut redis = Redis::builder().memory("64mb", "allkeys-lru").start();
    let daemon = shared::start(&redis.url(), "command_timeout = \"300ms\"").await;
    let other = shared::start(&redis.url(), "").await;
    let _busy = busy(&daemon, &other);
    let browser = open(&daemon);
    browser.prefer("light");
    redis.freeze();
    Caller::new(&daemon, "thumbnails").put("slow", "v").await;
    redis.thaw();
    shared::attached(&daemon).await;
    browser.waits_for("the trends, and the memory of Redis", |it| {
        let points = it.attribute("#hit-trend .line", "d").unwrap_or_default();
        points.matches('L').count() >= 4
            && facts(it, "#redis-facts")["Memory of Redis"].contains("MiB")
    });
    picture(&browser, &daemon, "light.png");
    browser.click("#slowest li:first-child summary");
    browser.prefer("dark");
    picture(&browser, &daemon, "dark.png");
    browser.prefer("light");
    browser.size(360, 740);
    browser.run("scrollTo(0, 0)", json!([]));
    picture(&browser, &daemon, "phone.png");

    // With names as long as they can be, and all that opens open.
    let long = "a-namespace.whose-name-is-as-long-as-the-limit-for-names-permits";
    Caller::new(&daemon, &long[..63]).put("k", "v").await;
    let invalid = Caller::new(&daemon, &"no-namespace".repeat(10));
    invalid.try_get("k", None).await.unwrap_err();
    browser.waits_for("they are shown", |it| {
        !row(it, "#namespace-table", &long[..63]).is_empty()
    });
    browser.click("#config-details > summary");
    assert_eq!(browser.run(WIDE, json!([])), json!([360]));
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        assert_eq!(browser.run(FAINT, json!([])), json!([]), "{scheme}");
    }

    // The same while Redis and then the daemon are away.
    redis.kill();
    shared::detached(&daemon).await;
    browser.waits_for("the outage is shown", |it| {
        it.text("#redis-state") == "Away"
    });
    daemon.freeze();
    browser.waits_for("the daemon is missed", |it| {
        it.text("#pulse") == "no answer"
    });
    assert_eq!(browser.run(WIDE, json!([])), json!([360]));
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        assert_eq!(
            browser.run(FAINT, json!([])),
            json!([]),
            "{scheme}, while it is away"
        );
    }
    // A check that finds nothing must be able to.
    let spoil = "document.querySelector('#benefit').style.cssText =
        'color: #888; background: #999; width: 500px'";
    browser.run(spoil, json!([]));
    assert!(!browser.run(FAINT, json!([])).as_array().unwrap().is_empty());
    assert_ne!(browser.run(WIDE, json!([])), json!([360]));
    assert_quiet(&browser);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_landmarks_headings_and_tables_that_say_what_they_are() {
    let redis = Redis::start();
    let daemon = shared::start(&redis.url(), "").await;
    Caller::new(&daemon, "n").put("k", "v").await;
    let browser = open(&daemon);
    browser.waits_for("a row", |it| !row(it, "#namespace-table", "n").is_empty());
    let count = |selector: &str| browser.texts(selector).len();
    for landmark in [
        "main",
        "header",
        "footer",
        "h1",
        "html[lang]",
        "nav[aria-label]",
    ] {
        assert_eq!(count(landmark), 1, "{landmark}");
    }
    let untitled = "return [...document.querySelectorAll('section')].filter(it =>
        !document.getElementById(it.getAttribute('aria-labelledby'))?.textContent).length";
    assert_eq!(browser.run(untitled, json!([])), 0);
    assert_eq!(count("table"), count("table > caption"));
    assert_eq!(count("th:not([scope])"), 0);
    assert_eq!(
        count("[role=meter]"),
        count("[role=meter][aria-valuetext][aria-label]")
    );
    assert_eq!(count("svg:not([aria-hidden]), .bar:not([aria-hidden])"), 0);
    // Tabbing meets what can be used, in the order of the page, and shows where it is.
    let focused = "
        const it = document.activeElement, style = getComputedStyle(it);
        return [it.textContent.trim() || it.value, style.outlineStyle !== 'none']";
    browser.run("document.activeElement.blur()", json!([]));
    let mut met = Vec::new();
    for _ in 0..5 {
        browser.press(&[keys::TAB]);
        let seen = browser.run(focused, json!([]));
        assert_eq!(seen[1], true, "{seen} has the focus and does not show it");
        met.push(seen[0].as_str().unwrap().to_owned());
    }
    let expected = [
        "Skip to the namespaces",
        "Pause",
        "last_minute",
        "Namespace",
        "Hit rate",
    ];
    assert_eq!(met, expected);
    assert_quiet(&browser);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_forbids_what_the_page_does_not_need() {
    let daemon = Daemon::start();
    let elsewhere = Daemon::start();
    let browser = open(&daemon);
    assert_quiet(&browser);
    let attack = "
        const add = (tag, how) => document.body.append(Object.assign(
            document.createElement(tag), how));
        add('script', { textContent: 'window.inline = true' });
        add('script', { src: `http://${arguments[0]}/page/page.js` });
        add('img', { src: `http://${arguments[0]}/x.png` });
        add('style', { textContent: 'body { visibility: hidden }' });
        return [window.inline ?? null, getComputedStyle(document.body).visibility]";
    let done = browser.run(attack, json!([elsewhere.http()]));
    assert_eq!(done, json!([null, "visible"]));
    let mut refusals = Vec::new();
    browser.waits_for("four refusals", |it| {
        refusals.extend(
            it.console()
                .into_iter()
                .filter(|it| it.contains("Content Security")),
        );
        refusals.len() >= 4
    });
    let reply = wire::http(daemon.http(), "GET", "/", "").await.unwrap();
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"),
        ("content-type", "text/html; charset=utf-8"),
    ] {
        assert_eq!(reply.header(name), Some(value));
    }
    let policy = reply.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"),
        "{policy}"
    );
    // What the browser has is not sent again.
    let tag = reply.header("etag").unwrap();
    let again = wire::http(
        daemon.http(),
        "GET",
        "/",
        &format!("If-None-Match: {tag}\r\n"),
    )
    .await;
    let again = again.unwrap();
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    let head = wire::http(daemon.http(), "HEAD", "/", "").await.unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}
