// Starts the page: asks what is served, fills the choices, says how things stand.

import { get, useKey } from "./api.js";
import { allow, startPaint } from "./paint.js";
import { startSee } from "./see.js";

const $ = (id) => document.getElementById(id);

startSee();
startPaint();
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  $("ask-stop").click();
  $("paint-stop").click();
});
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

function offer(models) {
  const chat = models.filter((model) => model.triptych.pipeline === "image_text");
  const painters = models.filter((model) => model.triptych.pipeline === "text_to_image");
  fill("see", chat);
  fill("paint", painters);
  $("ask").disabled = !chat.length;
  $("paint").disabled = !painters.length;
  const show = () => {
    const model = painters.find((painter) => painter.id === $("paint-model").value);
    if (model) allow(model.triptych.paint);
  };
  $("paint-model").onchange = show;
  show();
}

function fill(side, models) {
  $(`${side}-model`).replaceChildren(...models.map((model) => new Option(model.id, model.id)));
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
