// Draws the receipt of one request: a lane for every visit to a stage, on the request's own clock, in the colour of the pool that ran it.

import { element } from "./dom.js";

const COLOURS = 6; // that style.css has; a seventh pool gets the first one's

export function drawReceipt(place, receipt) {
  const stages = [...receipt.stages].sort((a, b) => begun(a) - begun(b));
  const total = Math.max(receipt.total_s, ...stages.map((stage) => stage.ended_s), 1e-6);
  const showsCache = stages.some((stage) => stage.cache);
  const pools = poolsOf(stages);
  place.replaceChildren(
    element("h3", {}, "What this request did"),
    element("p", { class: "sum" }, `${time(receipt.total_s)} in all, ${time(receipt.device_s)} of it a device’s · request ${receipt.request_id.slice(0, 8)}`),
    element("table", {}, head(showsCache, pools), element("tbody", {}, ...stages.map((stage) => row(stage, total, showsCache, pools)))),
    legend(showsCache, pools),
    ...why(stages),
  );
}

// Pool -> what the legend says of it and its place among the colours; empty where nobody is told of pools.
function poolsOf(stages) {
  const pools = new Map();
  for (const { pool, device } of stages) {
    if (pool && !pools.has(pool)) pools.set(pool, { colour: `pool-${pools.size % COLOURS}`, words: `ran in ${pool}, on ${device}` });
  }
  return pools;
}

export function time(seconds) {
  if (seconds >= 120) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds >= 10) return `${seconds.toFixed(1)} s`;
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  if (seconds >= 0.01) return `${Math.round(seconds * 1000)} ms`;
  return `${(seconds * 1000).toFixed(1)} ms`;
}

function begun(stage) {
  return Math.max(0, stage.ended_s - stage.queue_s - stage.run_s);
}

function head(showsCache, pools) {
  const names = [["Stage", ""], ["Waited and ran", "lane"], ["Time", "num"], ["Steps", "num optional"], ["Batch", "num optional"]];
  if (!pools.size) names.push(["Device", "optional"]); // else the legend tells
  if (showsCache) names.push(["Cache", ""]);
  return element("thead", {}, element("tr", {}, ...names.map(([name, kind]) => element("th", { scope: "col", class: kind }, name))));
}

function row(stage, total, showsCache, pools) {
  const kept = ["slots", "memory", "redis", "joined"].includes(stage.cache);
  const name = stage.stage.split(".").pop().replaceAll("_", " ");
  const cells = [
    element("th", { scope: "row", title: stage.replica ? `${stage.stage} on ${stage.replica}` : stage.stage }, name),
    element("td", { class: "lane" }, lane(stage, total, kept, pools)),
    element("td", { class: "num" }, time(stage.queue_s + stage.run_s)),
    element("td", { class: "num optional" }, stage.steps ? String(stage.steps) : "–"),
    element("td", { class: "num optional" }, stage.batch_size ? trimmed(stage.batch_size) : "–"),
  ];
  if (!pools.size) cells.push(element("td", { class: "optional" }, stage.device));
  if (showsCache) cells.push(element("td", {}, badge(stage, kept)));
  return element("tr", {}, ...cells);
}

function lane(stage, total, kept, pools) {
  const start = begun(stage);
  const where = stage.pool ? ` in ${stage.pool}` : "";
  const words = `waited ${time(stage.queue_s)}, ran ${time(stage.run_s)}${where}`;
  const track = element("div", { class: "track", role: "img", "aria-label": words, title: words });
  if (kept && stage.run_s === 0) {
    track.append(bar("hit", Math.min(start, total * 0.985), 0, total));
    return track;
  }
  if (stage.queue_s > 0) track.append(bar("wait", start, stage.queue_s, total));
  track.append(bar(`run ${pools.get(stage.pool)?.colour ?? ""}`, start + stage.queue_s, stage.run_s, total));
  return track;
}

function bar(kind, start, length, total) {
  const span = element("span", { class: kind });
  span.style.left = `${(100 * start) / total}%`;
  span.style.width = `${(100 * length) / total}%`;
  return span;
}

function badge(stage, kept) {
  const words = { off: "not kept", miss: "computed", memory: "remembered", redis: "remembered (Redis)", joined: "shared" };
  const moved = stage.bytes_moved ? `${Math.ceil(stage.bytes_moved / 1024)} KiB moved` : "";
  const begins = stage.run_s > 0 ? { slots: "begun from a slot", memory: "begun from memory", redis: "begun from Redis" } : {};
  return element("span", { class: kept ? "badge kept" : "badge", title: moved }, begins[stage.cache] ?? words[stage.cache] ?? stage.cache);
}

function legend(showsCache, pools) {
  const ran = [...pools.values()].map(({ colour, words }) => [`run ${colour}`, words]);
  const entries = [["wait", "waited"], ...(ran.length ? ran : [["run", "ran, in a batch with others"]])];
  if (showsCache) entries.push(["hit", "remembered"]);
  return element("p", { class: "legend" }, ...entries.map(([kind, words]) => element("span", {}, element("i", { class: kind }), words)));
}

// Why each stage ran where it ran, as far as anybody chose.
function why(stages) {
  const chosen = stages.filter((stage) => stage.pool && stage.expected_s != null);
  if (!chosen.length) return [];
  return [element("details", { class: "why" }, element("summary", {}, "Why there"), element("ul", {}, ...chosen.map(reason)))];
}

function reason(stage) {
  const words = [`${stage.stage}: ${stage.pool}, expected in ${time(stage.expected_s)}, took ${time(stage.queue_s + stage.run_s)}`];
  if (stage.runner_up_s != null) {
    const next = stage.runner_up_pool && stage.runner_up_pool !== stage.pool ? stage.runner_up_pool : "another replica of it";
    words.push(`next best: ${next}, in ${time(stage.runner_up_s)}`);
  }
  if (stage.remembered?.length) words.push(`remembered there: ${stage.remembered.join(", ")}`);
  words.push(...(stage.reasons ?? []));
  return element("li", {}, words.join("; "));
}

function trimmed(number) {
  return String(Math.round(number * 10) / 10);
}
