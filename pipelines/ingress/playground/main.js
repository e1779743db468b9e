// Starts the page: asks what is served, fills the choices, says how things stand.

import { get, useKey } from "./api.js";
import { $ } from "./dom.js";
import { allow } from "./paint/asked.js";
import { lookAtJobs } from "./paint/jobs.js";
import { startPaint, stopPaint } from "./paint/paint.js";
import { allowCalls } from "./see/asked.js";
import { startChat, stopChat } from "./see/chat.js";

let offered = "";

startChat();
startPaint();
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("code-window").open) return;
  stopChat();
  stopPaint();
});
$("code-close").addEventListener("click", () => $("code-window").close());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value.trim());
  load();
});
load();

async function load() {
  try {
    const { data } = await get("v1/models");
    $("key-form").hidden = true;
    offer(data);
    tell(data);
  } catch (error) {
    $("key-form").hidden = error.status !== 401;
    say(error.status === 401 ? "An API key is needed." : `The server does not answer: ${error.message}`, "down");
  }
}

// Once, unless they change: what is chosen stays.
function offer(models) {
  const found = JSON.stringify(models.map(({ id, triptych }) => [id, triptych.paint, triptych.tool_choices]));
  if (found === offered) return;
  offered = found;
  const chat = models.filter((model) => model.triptych.pipeline === "image_text");
  const painters = models.filter(paints);
  fill("see", chat);
  fill("paint", painters);
  $("ask").disabled = !chat.length;
  if (painters.length) lookAtJobs();
  $("paint").disabled = $("paint-job").disabled = !painters.length;
  follow("see", chat, (model) => allowCalls(model.triptych.tool_choices));
  follow("paint", painters, (model) => allow(model.triptych.paint));
}

// Tells of the chosen model, now and whenever it is another.
function follow(side, models, tell) {
  const chosen = () => {
    const model = models.find(({ id }) => id === $(`${side}-model`).value);
    if (model) tell(model);
  };
  $(`${side}-model`).onchange = chosen;
  chosen();
}

function paints(model) {
  return model.triptych.pipeline === "text_to_image";
}

function fill(side, models) {
  const before = $(`${side}-model`).value;
  $(`${side}-model`).replaceChildren(...models.map((model) => new Option(model.id, model.id)));
  if (models.some(({ id }) => id === before)) $(`${side}-model`).value = before;
  $(`${side}-model-field`).hidden = models.length < 2;
}

function tell(models) {
  const pools = models.flatMap((model) => model.triptych.stages); // one entry a pool
  const able = new Set(pools.filter((pool) => pool.ready || pool.scaled_to_zero).map((pool) => pool.name));
  const stages = new Set(pools.map((pool) => pool.name));
  const waiting = [...stages].filter((stage) => !able.has(stage));
  const names = models.map((model) => model.id).join(", ");
  if (waiting.length) {
    say(`Starting: ${waiting.join(", ")}`, "");
    setTimeout(load, 2000);
  } else {
    say(`${names} · ${stages.size} stages ready`, "ready");
  }
}

function say(words, state) {
  $("status").textContent = words;
  $("status").className = `status ${state}`;
}
