// The right panel: a sentence (and an image, where one is given) becomes an image, step by step.

import { stream } from "./api.js";
import { drawReceipt, time } from "./receipt.js";
import { takeImage } from "./see.js";

const $ = (id) => document.getElementById(id);
let running = null; // AbortController

export function startPaint() {
  $("paint-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) paint();
  });
  $("sentence").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("paint-form").requestSubmit();
    }
  });
  $("paint-stop").addEventListener("click", () => running?.abort());
  $("show").addEventListener("click", () => {
    takeImage($("painting").src);
    $("question").focus();
  });
}

// Fills in what the chosen model allows.
export function allow(bounds) {
  $("steps").placeholder = bounds.default_steps ?? "auto";
  if (bounds.max_steps) $("steps").max = bounds.max_steps;
  $("guidance").placeholder = bounds.default_guidance_scale ?? "auto";
  $("size-field").replaceChildren(sizeControl(bounds));
  $("sampler").replaceChildren(new Option("the model’s own", ""), ...bounds.samplers.map((name) => new Option(name, name)));
  $("sampler-field").hidden = !bounds.samplers.length;
  const edits = bounds.default_strength !== null;
  for (const field of document.querySelectorAll(".edit")) field.hidden = !edits;
  $("strength").placeholder = bounds.default_strength ?? "";
  if (!edits) $("start").value = "";
}

function sizeControl(bounds) {
  if (bounds.sizes.length) {
    const select = document.createElement("select");
    select.id = "size";
    select.append(...bounds.sizes.map((size) => new Option(size.replace("x", " × "), size)));
    return select;
  }
  const input = document.createElement("input");
  input.id = "size";
  input.type = "text";
  input.placeholder = "auto";
  input.pattern = "[0-9]+x[0-9]+";
  input.title = `WIDTHxHEIGHT, multiples of ${bounds.size_multiple}`;
  return input;
}

async function paint() {
  const sentence = $("sentence").value.trim() || $("sentence").placeholder;
  $("sentence").value = sentence;
  busy(new AbortController());
  const began = performance.now();
  const start = $("start").files[0];
  const path = start ? "v1/images/edits" : "v1/images/generations";
  const asked = start ? { ...body(sentence), strength: number("strength") } : body(sentence);
  try {
    for await (const event of stream(path, asked, running.signal, start)) take(event, sentence, began);
  } catch (error) {
    if (error.name === "AbortError") $("paint-note").textContent = "Stopped.";
    else showError(error.message);
  } finally {
    busy(null);
  }
}

function body(sentence) {
  return {
    model: $("paint-model").value,
    prompt: sentence,
    size: $("size")?.value.trim() || undefined,
    partial_images: number("previews"),
    triptych: {
      progress: true,
      num_inference_steps: number("steps"),
      guidance_scale: number("guidance"),
      seed: number("seed"),
      negative_prompt: $("negative").value.trim() || undefined,
      scheduler: $("sampler").value || undefined,
    },
  };
}

function number(id) {
  return $(id).value === "" ? undefined : Number($(id).value);
}

function take(event, sentence, began) {
  if (event.type === "triptych.progress") {
    $("progress").max = event.total;
    $("progress").value = event.step;
    $("step").textContent = `${event.step} of ${event.total}`;
    return;
  }
  const done = event.type.endsWith(".completed");
  hang(`data:image/${event.output_format};base64,${event.b64_json}`, sentence, done);
  if (!done) return;
  $("caption").textContent = `${event.size.replace("x", " × ")} · seed ${event.triptych.seed}`;
  $("paint-note").textContent = `Painted in ${time((performance.now() - began) / 1000)}.`;
  $("save").href = $("painting").src;
  $("save").hidden = $("show").hidden = false;
  if (event.triptych.receipt) drawReceipt($("paint-receipt"), event.triptych.receipt);
}

function hang(source, sentence, done) {
  $("painting").src = source;
  $("painting").alt = done ? `Painted: ${sentence}` : `Preview of: ${sentence}`;
  $("painting").classList.toggle("preview", !done);
  $("painting").hidden = false;
  $("easel-hint").hidden = true;
}

function busy(controller) {
  running = controller;
  $("easel").setAttribute("aria-busy", String(Boolean(controller)));
  $("paint").disabled = Boolean(controller);
  $("paint-stop").hidden = !controller;
  if (!controller) return;
  $("paint-error").hidden = true;
  $("paint-note").textContent = "";
  $("caption").textContent = "";
  $("step").textContent = "";
  $("progress").value = 0;
  $("save").hidden = $("show").hidden = true;
  $("paint-receipt").replaceChildren();
}

function showError(message) {
  $("paint-error").textContent = message;
  $("paint-error").hidden = false;
}
