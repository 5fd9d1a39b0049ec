// The tables and lists below the answers.

import { byId, facts, head, keyed, make, meters, rows, setAttribute, setText } from "./draw.js";
import { cause } from "./answers.js";
import { NONE, bytes, clock, count, duration, rate, share, span } from "./words.js";

/** Rows that are shown before somebody asks for more. */
const ROWS_FIRST = 25;
const SLOWEST_FIRST = 8;

const NAMESPACES = [
  { name: "Namespace", of: (it) => it.namespace, text: (it) => it.namespace, words: true },
  { name: "Hit rate", of: (it) => it.hit_ratio ?? -1, text: (it) => share(it.hit_ratio),
    bar: (it) => it.hit_ratio },
  // As it is shown: rates that look the same keep their places.
  { name: "Reads", of: (it) => Number(it.reads_per_second.toPrecision(2)), text: (it) => rate(it.reads_per_second) },
  { name: "Local", of: (it) => it.hits_local, text: (it) => count(it.hits_local) },
  { name: "Redis", of: (it) => it.hits_shared, text: (it) => count(it.hits_shared),
    shared: true },
  { name: "Misses", of: (it) => it.misses, text: (it) => count(it.misses) },
  { name: "Stale", of: (it) => it.stale, text: (it) => count(it.stale), shared: true,
    state: (it) => (it.stale > 0 ? "warn" : "plain") },
  { name: "Puts", of: (it) => it.puts, text: (it) => count(it.puts) },
  { name: "Removed", of: (it) => it.invalidations, text: (it) => count(it.invalidations) },
  { name: "Errors", of: (it) => it.errors, text: (it) => count(it.errors),
    state: (it) => (it.errors > 0 ? "bad" : "plain") },
  { name: "Refused", of: (it) => it.refusals, text: (it) => count(it.refusals),
    state: (it) => (it.refusals > 0 ? "warn" : "plain") },
];

/** The namespaces, sorted as the reader wishes. */
export class Namespaces {
  constructor() {
    this.table = byId("namespace-table");
    this.sorted = { name: "Reads", down: true };
    this.most = ROWS_FIRST;
    this.filter = byId("filter");
    this.filter.addEventListener("input", () => this.show());
    byId("namespaces-more").addEventListener("click", () => {
      this.most = Infinity;
      this.show();
      this.table.tHead.querySelector("button").focus();
    });
  }

  update(status, window) {
    [this.all, this.window] = [window.namespaces, window];
    const columns = NAMESPACES.filter((it) => status.shared || !it.shared);
    if (columns.length !== this.columns?.length) {
      this.columns = columns;
      this.makeHead();
      this.table.tBodies[0].replaceChildren();
    }
    this.show();
  }

  makeHead() {
    const sort = (column) => {
      const button = make("button", { type: "button" }, column.name);
      button.addEventListener("click", () => {
        const same = this.sorted.name === column.name;
        this.sorted = { name: column.name, down: same ? !this.sorted.down : !column.words };
        this.show();
      });
      const kind = column.words ? "words" : "";
      return make("th", { scope: "col", role: "columnheader", class: kind }, button);
    };
    this.table.tHead.replaceChildren(make("tr", { role: "row" }, ...this.columns.map(sort)));
  }

  show() {
    if (!this.all) return;
    const { name, down } = this.sorted;
    const column = this.columns.find((it) => it.name === name) ?? this.columns[0];
    [...this.table.tHead.rows[0].cells].forEach((cell, index) => {
      const sorted = this.columns[index] === column;
      if (sorted) setAttribute(cell, "aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    const wanted = this.filter.value.trim().toLowerCase();
    const met = this.all.filter((it) => it.namespace.toLowerCase().includes(wanted));
    const sign = down ? -1 : 1;
    const compare = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
    met.sort((one, other) => sign * compare(column.of(one), column.of(other))
      || compare(one.namespace, other.namespace));
    rows(this.table, this.columns, met.slice(0, this.most), (it) => it.namespace);
    this.table.hidden = met.length === 0;
    byId("filter-label").hidden = this.all.length <= 8;
    const none = byId("namespaces-none");
    none.hidden = met.length > 0;
    setText(none, this.all.length === 0 ? "Nobody has named one yet."
      : `None of ${count(this.all.length)} has “${wanted}” in its name.`);
    const more = byId("namespaces-more");
    more.hidden = met.length <= this.most;
    setText(more, `Show all ${count(met.length)}`);
  }
}

const SPREAD = { name: "1 µs to 10 s", text: () => "", range: (it) => [it.p50, it.p99] };
const QUANTILES = [
  { name: "p50", text: (it) => duration(it.p50) },
  { name: "p90", text: (it) => duration(it.p90) },
  { name: "p99", text: (it) => duration(it.p99) },
  SPREAD,
];
const CALLS = [
  { name: "Method", text: (it) => it.method, words: true },
  { name: "Status", text: (it) => it.status, words: true,
    state: (it) => (it.status === "OK" ? "plain" : "warn") },
  { name: "Rate", text: (it) => rate(it.per_second) },
  { name: "Count", text: (it) => count(it.count) },
  ...QUANTILES,
];
const TIERS = { local: "Local", shared: "Redis" };
const OPERATIONS = [
  { name: "Tier", text: (it) => `${TIERS[it.tier] ?? it.tier} ${it.operation}`, words: true },
  { name: "Outcome", text: (it) => it.outcome, words: true,
    state: (it) => (["error", "failed"].includes(it.outcome) ? "bad"
      : ["stale", "deferred"].includes(it.outcome) ? "warn" : "plain") },
  { name: "Count", text: (it) => count(it.count) },
  ...QUANTILES,
];

/** Calls and what they did in the tiers. */
export function showLatency(window) {
  const called = window.calls.filter((it) => it.count > 0);
  const done = window.operations.filter((it) => it.count > 0);
  table("calls-table", CALLS, called, (it) => `${it.method} ${it.status}`);
  table("operations-table", OPERATIONS, done, (it) => `${it.tier} ${it.operation} ${it.outcome}`);
  byId("latency-none").hidden = called.length + done.length > 0;
}

function table(id, columns, items, keyOf) {
  const element = byId(id);
  if (!element.tHead.rows.length) head(element, columns);
  rows(element, columns, items, keyOf);
  element.hidden = items.length === 0;
}

/** Disk, memory and places against their limits. */
export function showRoom(status) {
  const [local, door, shared] = [status.local, status.front_door, status.shared];
  const places = (name, used, limit) => ({ name, used, limit, words: count, warn: 0.8 });
  const entries = [
    // Near its budget is where the disk belongs; a tenth above it is a fault.
    { name: "Disk", used: local.disk_bytes, limit: local.disk_budget_bytes, words: bytes, warn: 1.1 },
    { name: "Memory", used: local.memory_bytes, limit: local.memory_budget_bytes, words: bytes,
      warn: 1.1 },
    places("Requests in flight", door.in_flight, door.in_flight_limit),
    places("Connections", door.connections, door.connections_limit),
    places("Watchers", door.watchers, door.watchers_limit),
  ];
  if (shared) {
    entries.splice(2, 0, { ...places("Changes waiting for Redis", shared.outbox_depth,
      shared.outbox_limit), warn: 0.5 });
    if (shared.redis_memory_limit_bytes) {
      entries.splice(2, 0, { name: "Memory of Redis", used: shared.redis_memory_bytes,
        limit: shared.redis_memory_limit_bytes, words: bytes, warn: 0.8 });
    }
  }
  meters(byId("meters"), entries);
  const bad = (name, number) => number > 0 && [name, count(number), "warn"];
  facts(byId("room-facts"), [
    !local.serving && ["Local tier", `does not serve: ${local.message}`, "bad"],
    ["Keys, about", count(local.keys_estimate)],
    ["Expired, dropped", count(local.expired_records)],
    bad("Damaged records", local.corrupt_records),
    bad("Store reopened", local.reopens),
    bad("Store set aside", local.set_asides),
    bad("Requests refused, too many", door.overloaded),
    bad("Connections refused", door.connections_refused + door.http_connections_refused),
    bad("Watchers dropped", door.watchers_dropped),
  ]);
}

const HISTORY = [
  { name: "At", text: (it) => it.when, words: true, whole: true },
  { name: "State", text: (it) => (it.attached ? "attached" : "away"), words: true, whole: true,
    state: (it) => (it.attached ? "good" : "bad") },
  { name: "For", text: (it) => it.lasted, whole: true },
  { name: "Reason", text: (it) => it.reason || "", words: true },
];

/** Changes of the state of Redis. */
export function showHistory(status) {
  const shared = status.shared;
  byId("history-none").hidden = Boolean(shared);
  const changes = (shared?.history ?? []).map((it, index, all) => ({
    ...it,
    when: clock(it.at, status.at),
    lasted: span(((all[index + 1]?.at ?? status.at) - it.at) / 1000),
    // Two changes may share a millisecond; what is dropped at the front shifts the index.
    key: `${it.at} ${it.attached} ${it.reason}`,
  }));
  table("history-table", HISTORY, changes.reverse(), (it) => it.key);
  if (!shared) {
    facts(byId("coherence-facts"), []);
    return;
  }
  const [stale, delay] = [shared.staleness.last_minute, shared.coherence_delay.since_reset];
  facts(byId("coherence-facts"), [
    ["Times attached", count(shared.attachments)],
    ["Changes heard of", count(shared.pushes)],
    ["Own changes heard of after", delay.count > 0
      ? `p50 ${duration(delay.p50)}, p99 ${duration(delay.p99)}` : NONE],
    ["Redis emptied", count(shared.flushes)],
    ["Copies verified, refuted", `${count(shared.verified_copies)}, ${count(shared.refuted_copies)}`],
    shared.scans_running > 0 && ["Scans of Redis",
      `${count(shared.scans_running)} running, ${count(shared.scanned_keys)} keys looked at`],
    stale.count > 0 && ["Stale answers were right", `p50 ${duration(stale.p50)}, ` +
      `p99 ${duration(stale.p99)} ago`, "warn"],
  ]);
}

/** The slowest requests; each opens to what it did, when. */
export class Slowest {
  constructor() {
    this.most = SLOWEST_FIRST;
    byId("slowest-more").addEventListener("click", () => {
      this.most = Infinity;
      this.update(this.status);
      byId("slowest").children[SLOWEST_FIRST]?.querySelector("summary").focus();
    });
  }

  update(status) {
    this.status = status;
    const all = status.slowest;
    byId("slowest-none").hidden = all.length > 0;
    const keyOf = (it) => `${it.at} ${it.method} ${it.namespace} ${it.key_hash} ${it.took}`;
    keyed(byId("slowest"), all.slice(0, this.most), keyOf, slowItem, (item, it) => {
      setText(item.querySelector(".when"), `${span((status.at - it.at) / 1000)} ago`);
    });
    const more = byId("slowest-more");
    more.hidden = all.length <= this.most;
    setText(more, `Show all ${count(all.length)}`);
  }
}

function slowItem(slow) {
  const cell = (name, text) => make("span", { class: name }, text);
  const summary = make("summary", {},
    cell("took", duration(slow.took)), cell("method", slow.method),
    cell("place", slow.namespace || NONE), cell("cause", cause(slow)), cell("when", ""));
  if (slow.status !== "OK") summary.children[1].append(" ", cell("fault", slow.status));
  const steps = make("ol", { class: "steps" }, ...slow.steps.map((it) => step(it, slow)));
  const about = make("p", { class: "muted" },
    `Ended ${clock(slow.at, slow.at)}, ${slow.status}. `,
    slow.key_hash ? "Hash of the key: " : "Not one key.",
    ...(slow.key_hash ? [make("code", {}, slow.key_hash)] : []));
  return make("li", {}, make("details", {}, summary, steps, about));
}

function step(it, slow) {
  const items = it.items > 1 ? `, ${count(it.items)} items` : "";
  const bar = make("span", { class: "lane", "aria-hidden": "true" }, make("i", { class: it.tier }));
  const whole = Math.max(slow.took, 1e-9);
  const from = Math.min(it.after / whole, 1);
  bar.firstChild.style.marginLeft = `${(from * 100).toFixed(2)}%`;
  bar.firstChild.style.width = `${(Math.min(it.took / whole, 1 - from) * 100).toFixed(2)}%`;
  return make("li", {},
    make("span", {}, `${TIERS[it.tier] ?? it.tier} ${it.what}, ${it.outcome}${items}`),
    make("span", { class: "figure" }, `${duration(it.took)}, after ${duration(it.after)}`),
    bar);
}

/** Traces and metrics that leave, and the process itself. */
export function showRest(status) {
  const exported = status.export;
  const failed = exported && (exported.spans_failed + exported.metrics_failed);
  setText(byId("export"), !exported ? "Nothing is exported by OTLP. Prometheus may ask /metrics."
    : exported.trouble ? `The last export failed: ${exported.trouble}`
      : "The last export succeeded.");
  setAttribute(byId("export"), "data-state", exported?.trouble ? "warn" : "plain");
  facts(byId("export-facts"), exported ? [
    ["Traces to", exported.traces_to ?? "nowhere"],
    ["Metrics to", exported.metrics_to ?? "nowhere"],
    ["Spans sent", count(exported.spans_sent)],
    ["Spans dropped", count(exported.spans_dropped), exported.spans_dropped > 0 ? "warn" : "plain"],
    ["Spans failed", count(exported.spans_failed), failed > 0 ? "warn" : "plain"],
    ["Exports of metrics", `${count(exported.metrics_sent)} sent, ` +
      `${count(exported.metrics_failed)} failed`],
  ] : []);
  const process = status.process;
  facts(byId("process-facts"), [
    ["Memory, resident", bytes(process.resident_bytes)],
    ["Processor time", `${span(process.cpu)}, ${share(process.cpu / status.uptime)} of one core`],
    ["Open files", `${count(process.open_files)} of ${count(process.open_files_max)}`],
    ["HTTP connections", count(status.front_door.http_connections)],
  ]);
  setText(byId("config"), status.config);
}
