// What the painter's form asks for, as a request; and what a model allows in it. Knows no answers.

import { $ } from "../dom.js";
import { PictureField } from "../picture_field.js";
import { brushOver, markedFile, startBrush } from "./brush.js";

let start = null; // PictureField

export function startAsked() {
  startBrush();
  start = new PictureField($("start-field"), showSheet);
  $("start-thumb").addEventListener("load", () => brushOver($("start-thumb")));
}

export function paintOver(file) {
  start.take(file);
  $("sentence").focus();
}

export function startFile() {
  return start.file;
}

function showSheet(file) {
  $("mask-tools").hidden = $("strength-field").hidden = !file;
  $("start-field").querySelector(".drop").hidden = Boolean(file);
  if (!file) brushOver(null);
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
  if (!edits && start.file) start.take(null);
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

// A painting's request, or an edit's where there is a picture to start from; without how it is to be told.
export async function asked() {
  const body = {
    model: $("paint-model").value,
    prompt: sentence(),
    size: $("size")?.value.trim() || undefined,
    triptych: {
      num_inference_steps: number("steps"),
      guidance_scale: number("guidance"),
      seed: number("seed"),
      negative_prompt: $("negative").value.trim() || undefined,
      scheduler: $("sampler").value || undefined,
    },
  };
  if (!start.file) return { path: "v1/images/generations", body };
  const mask = await markedFile();
  const files = mask ? { image: start.file, mask } : { image: start.file };
  return { path: "v1/images/edits", body: { ...body, strength: number("strength") }, files };
}

// An empty field asks for the example in it.
function sentence() {
  $("sentence").value ||= $("sentence").placeholder;
  return $("sentence").value.trim() || $("sentence").placeholder;
}

function number(id) {
  return $(id).value === "" ? undefined : Number($(id).value);
}

export function previews() {
  return number("previews");
}
