// Asks for status.json every two seconds while somebody looks, and shows it.

import { busiestCall, showBenefit, showRedis, showSlow, since } from "./answers.js";
import { byId, setAttribute, setState, setText } from "./draw.js";
import { Namespaces, Slowest, showHistory, showLatency, showRest, showRoom } from "./tables.js";
import { clock, share, span } from "./words.js";

const EVERY = 2000;
/** A daemon that takes longer is one that does not answer. */
const PATIENCE = 5000;
/** Points of a trend: five minutes. */
const POINTS = 150;

const namespaces = new Namespaces();
const slowest = new Slowest();
const trends = { hits: [], p99: [] };
/** The last status, when it came by this machine's clock, and the one before. */
let last = null;
let heard = 0;
let lost = false;
let paused = false;
let timer = 0;
let asking = null;
let known = null;

async function poll() {
  clearTimeout(timer);
  asking?.abort();
  asking = new AbortController();
  const mine = asking;
  const patience = setTimeout(() => mine.abort(), PATIENCE);
  try {
    const answer = await fetch("status.json", { cache: "no-store", signal: mine.signal });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const status = await answer.json();
    if (mine === asking) take(status);
  } catch {
    // A poll that another took the place of says nothing of the daemon.
    if (mine === asking) lose();
  } finally {
    clearTimeout(patience);
    if (mine === asking && !paused && !document.hidden) timer = setTimeout(poll, EVERY);
  }
}

function take(status) {
  const restarted = last && status.uptime + 1 < last.uptime;
  if (restarted) for (const trend of Object.values(trends)) trend.length = 0;
  follow(status, restarted ? null : last);
  [last, heard] = [status, Date.now()];
  const back = lost;
  lost = false;
  byId("lost").hidden = true;
  document.body.classList.remove("old");
  show();
  announce(status, restarted ? "The daemon was restarted." : back ? "The daemon answers again." : "");
}

/** Adds a point to each trend. */
function follow(status, before) {
  const total = status.since_reset.total;
  const hits = total.hits - (before?.since_reset.total.hits ?? 0);
  const reads = hits + total.misses - (before?.since_reset.total.misses ?? 0);
  // Less than before: counting began anew.
  const usable = before && hits >= 0 && reads > 0;
  trends.hits.push(usable ? Math.min(hits / reads, 1) : null);
  trends.p99.push(busiestCall(status.last_minute)?.p99 ?? null);
  for (const trend of Object.values(trends)) if (trend.length > POINTS) trend.shift();
}

function show() {
  const window = last[document.querySelector("input[name=window]:checked").value];
  setText(byId("daemon"), `${location.host}, version ${last.version}, up ${span(last.uptime)}`);
  setText(byId("since"), since(last));
  showBenefit(last, trends);
  const redis = showRedis(last);
  showSlow(last, trends);
  namespaces.update(last, window);
  slowest.update(last);
  showLatency(window);
  showRoom(last);
  showHistory(last);
  showRest(last);
  const ratio = last.last_minute.total.hit_ratio;
  document.title = redis.away ? "Redis away – Pannier" : `${share(ratio)} – Pannier`;
  setAttribute(byId("figures"), "aria-busy", "false");
  pulse();
}

/** Says aloud what changed, and nothing that merely moves. */
function announce(status, first) {
  const now = {
    redis: status.shared ? (status.shared.attached ? "Redis is attached." :
      `Redis is away: ${status.shared.message}.`) : "",
    local: status.local.serving ? "The local tier serves." :
      `The local tier does not serve: ${status.local.message}.`,
  };
  const changed = known ? Object.keys(now).filter((it) => now[it] !== known[it]) : [];
  known = now;
  const words = [first, ...changed.map((it) => now[it])].filter((it) => it).join(" ");
  if (words) setText(byId("announce"), words);
}

function lose() {
  if (!lost) {
    lost = true;
    const banner = byId("lost");
    setText(banner, last
      ? `The daemon does not answer. These figures are from ${clock(heard, Date.now())}; ` +
        "the page goes on asking."
      : "The daemon does not answer; the page goes on asking.");
    banner.hidden = false;
    document.body.classList.add("old");
    document.title = "No answer – Pannier";
  }
  pulse();
}

function pulse() {
  const [state, words] = lost ? ["bad", "no answer"] : paused ? ["none", "paused"]
    : ["good", "live"];
  setState(byId("pulse"), state, words);
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  setAttribute(byId("pause"), "aria-pressed", paused);
  setText(byId("pause"), paused ? "Go on" : "Pause");
  clearTimeout(timer);
  if (!paused) poll();
  pulse();
});
for (const choice of document.querySelectorAll("input[name=window]")) {
  choice.addEventListener("change", () => last && show());
}
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden && !paused) poll();
});
poll();
