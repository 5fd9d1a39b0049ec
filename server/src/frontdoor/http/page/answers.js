// The three answers of the first screen.

import { byId, facts, setState, setText, split, strip, trend } from "./draw.js";
import { NONE, bytes, clock, count, counted, duration, rate, share, span } from "./words.js";

/** Above this share of its limit, Redis evicts or soon refuses writes. */
const REDIS_MEMORY_HIGH = 0.8;
/** A push of Redis takes less than a millisecond on a quiet network. */
const DELAY_HIGH = 0.01;
/** Changes of state within ten minutes that are no single outage any more. */
const RESTLESS = 4;

/** Does the cache help? */
export function showBenefit(status, trends) {
  const [minute, reset] = [status.last_minute, status.since_reset];
  const total = minute.total;
  setText(byId("hit-rate"), share(total.hit_ratio));
  setText(byId("benefit"), benefit(minute, reset));
  split(byId("hit-split"),
    [["local", total.hits_local], ["shared", total.hits_shared], ["miss", total.misses]]);
  trend(byId("hit-trend"), trends.hits, 1);
  const tier = (name) => minute.tiers.find((it) => it.tier === name);
  const found = (it) => `${share(it.hit_ratio)} of ${counted(it.lookups, "lookup")}`;
  const [local, shared] = [tier("local"), tier("shared")];
  facts(byId("benefit-facts"), [
    ["Local tier finds", local.lookups > 0 ? found(local) : NONE],
    status.shared && ["Redis finds", shared.lookups > 0 ? found(shared) : NONE],
    ["Since " + since(status), `${share(reset.total.hit_ratio)} of ` +
      counted(reset.total.hits + reset.total.misses, "read")],
    ["Reads, puts", `${rate(total.reads_per_second)}, ${rate(total.puts_per_second)}`],
    total.errors > 0 && ["Errors", count(total.errors), "warn"],
  ]);
}

/** What counting began with, in words. */
export function since(status) {
  const started = status.at - status.uptime * 1000;
  // The two are noted one after the other.
  const begun = status.since_reset.since;
  return begun - started < 2000 ? "the start" : `the reset, ${clock(begun, status.at)}`;
}

function benefit(minute, reset) {
  const total = minute.total;
  const reads = total.hits + total.misses;
  if (reads === 0) {
    const before = reset.total.hits + reset.total.misses;
    return before > 0 ? "Nobody has read in the last minute." : "Nobody has read yet.";
  }
  const before = reset.total.hit_ratio;
  if (reads >= 100 && total.hit_ratio < before / 2) {
    return `Less than before: the hit rate was ${share(before)} in the long run. ` +
      "Emptied, too small, or other keys?";
  }
  if (total.hits === 0) return `None of the last minute's ${counted(reads, "read")} hit.`;
  const stale = total.stale > 0 ? ` ${count(total.stale)} of them marked stale.` : "";
  const from = total.hits_shared === 0 ? "all from this machine"
    : `${share(total.hits_local / total.hits)} of them from this machine`;
  return `${count(total.hits)} of the last minute's ${counted(reads, "read")} were answered, ` +
    `${from}.${stale}`;
}

/** Is Redis healthy? Returns the state for the title and for what is announced. */
export function showRedis(status) {
  const shared = status.shared;
  const [state, words, verdict] = redis(status);
  setState(byId("redis-state"), state, words);
  setText(byId("redis"), verdict);
  const outages = byId("redis-strip");
  outages.toggleAttribute("hidden", !shared);
  if (!shared) {
    facts(byId("redis-facts"), []);
    return { words, verdict, away: false };
  }
  const delay = shared.coherence_delay.last_minute;
  const memory = memoryShare(shared);
  const changes = shared.history;
  const from = changes[0]?.at ?? status.at;
  strip(outages, changes.map((it, index) =>
    [it.at, changes[index + 1]?.at ?? status.at, it.attached ? "here" : "away"]), from, status.at);
  facts(byId("redis-facts"), [
    ["Hears of own changes", delay.count > 0 ? `p99 ${duration(delay.p99)}` : NONE,
      delay.p99 > DELAY_HIGH ? "warn" : "plain"],
    ["Last contact", shared.contact_age === null ? "never" : `${duration(shared.contact_age)} ago`],
    ["Waiting for Redis", counted(shared.outbox_depth, "change"),
      shared.outbox_depth > 0 ? "warn" : "plain"],
    ["Memory of Redis", shared.redis_memory_bytes === null ? NONE
      : bytes(shared.redis_memory_bytes) + (memory === null ? ", no limit" : ` (${share(memory)})`),
      memory > REDIS_MEMORY_HIGH ? "warn" : "plain"],
  ]);
  return { words, verdict, away: !shared.attached };
}

function memoryShare(shared) {
  const [used, limit] = [shared.redis_memory_bytes, shared.redis_memory_limit_bytes];
  return used === null || limit === null ? null : used / limit;
}

function redis(status) {
  const shared = status.shared;
  if (!shared) {
    return ["none", "Not used", "No Redis is configured: the local tier works alone."];
  }
  const lasts = span((status.at - shared.since) / 1000);
  if (!shared.attached) {
    return ["bad", "Away", `Since ${clock(shared.since, status.at)}, ${lasts}: ${shared.message}. ` +
      "Requests go on from the local tier, marked stale."];
  }
  const changes = shared.history.filter((it) => status.at - it.at < 600_000).length;
  const delay = shared.coherence_delay.last_minute.p99;
  if (changes >= RESTLESS) {
    return ["warn", "Attached", `Restless: its state changed ${changes} times in ten minutes.`];
  }
  if (memoryShare(shared) > REDIS_MEMORY_HIGH) {
    return ["warn", "Attached", "Its memory is nearly full: it evicts, or refuses writes."];
  }
  if (delay > DELAY_HIGH) {
    return ["warn", "Attached", "Slow: its word of changes takes long. Network, or a busy Redis?"];
  }
  return ["good", "Attached", `For ${lasts}. Every change in Redis is heard of.`];
}

/** Why was a request slow? */
export function showSlow(status, trends) {
  const minute = status.last_minute;
  const busiest = busiestCall(minute);
  setText(byId("slow-figure"), duration(busiest?.p99));
  setText(byId("slow-unit"), busiest ? `p99 of ${busiest.method}` : "nobody calls");
  trend(byId("slow-trend"), trends.p99, 0);
  const worst = status.slowest[0];
  setText(byId("slow"), worst
    ? `The slowest lately: ${duration(worst.took)}, ${worst.method} in ${worst.namespace || "?"}. ` +
      cause(worst)
    : "No request in the last ten minutes.");
  const parts = whereTimeGoes(minute);
  split(byId("time-split"), parts.map(([name, , spent]) => [name, spent]));
  const all = parts.reduce((sum, [, , spent]) => sum + spent, 0);
  facts(byId("slow-facts"), [
    ["Half of them within", duration(busiest?.p50)],
    ...parts.filter(([name]) => status.shared || name !== "shared")
      .map(([, words, spent]) => [words, all > 0 ? share(spent / all) : NONE]),
  ]);
}

/** The calls that most of the last minute was. */
export function busiestCall(minute) {
  const called = minute.calls.filter((it) => it.count > 0);
  return called.sort((one, other) => other.count - one.count)[0];
}

/** The time of all calls of a window, by where it was spent. */
function whereTimeGoes(window) {
  const spent = (test) => window.operations.filter(test).reduce((sum, it) => sum + it.sum, 0);
  const waited = spent((it) => it.operation === "wait");
  // What is deferred is noted on this machine's disk.
  const isShared = (it) => it.tier === "shared" && it.outcome !== "deferred";
  const leased = spent((it) => it.operation === "lease");
  const inTier = (it) => it.operation !== "wait" && it.operation !== "lease";
  const local = spent((it) => !isShared(it) && inTier(it));
  const shared = spent((it) => isShared(it) && inTier(it));
  const calls = window.calls.reduce((sum, it) => sum + it.sum, 0);
  // The two tiers of a write may work at the same time.
  const rest = Math.max(calls - waited - leased - local - shared, 0);
  return [
    ["local", "Time in the local tier", local],
    ["shared", "Time in Redis", shared + waited],
    ...leased > 0 ? [["leased", "Time waiting for a value to be computed", leased]] : [],
    ["rest", "Time outside the tiers", rest],
  ];
}

const DOING = {
  lookup: "looking it up", verify: "verifying a copy", wait: "waiting for another's question",
  lease: "waiting for another to compute it",
  store: "storing it", fill: "keeping a copy", remove: "removing",
};

/** What took most of a slow request, in words. */
export function cause(slow) {
  const steps = [...slow.steps].sort((one, other) => other.took - one.took);
  const longest = steps[0];
  const inTiers = slow.steps.reduce((sum, it) => sum + it.took, 0);
  const outside = slow.took - inTiers;
  if (!longest || outside > longest.took) {
    return slow.steps.length === 0
      ? "No tier was asked."
      : `${duration(Math.max(outside, 0))} of it outside the tiers: a busy worker, or encoding.`;
  }
  if (longest.outcome === "deferred") {
    return `${duration(longest.took)} of it in the journal, noting it for Redis's return.`;
  }
  const place = longest.tier === "local" ? "in the local tier" : "in Redis";
  return `${duration(longest.took)} of it ${place}, ${DOING[longest.what] ?? longest.what} ` +
    `(${longest.outcome}).`;
}
