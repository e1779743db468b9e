// The right panel: a sentence (and a picture, where one is given) becomes a picture, while one watches or as a job.

import { stream } from "../api.js";
import { copyButtons } from "../copying/copy.js";
import { $, sendOnEnter, showError } from "../dom.js";
import { drawReceipt, time } from "../receipt.js";
import { askAbout } from "../see/chat.js";
import { asked, paintOver, previews, startAsked, startFile } from "./asked.js";
import { clearEasel, finishedFile, hangFinished, hangPreview, showStep, sized } from "./easel.js";
import { startJobs, submitJob } from "./jobs.js";

let running = null; // AbortController

export function startPaint() {
  startAsked();
  startJobs(showJob);
  $("paint-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) paint();
  });
  sendOnEnter($("sentence"), $("paint-form"));
  $("paint-stop").addEventListener("click", stopPaint);
  $("paint-job").addEventListener("click", submit);
  $("show").addEventListener("click", () => askAbout(finishedFile()));
  $("edit").addEventListener("click", () => paintOver(finishedFile()));
}

export function stopPaint() {
  running?.abort();
}

async function paint() {
  busy(new AbortController());
  const began = performance.now();
  const original = startFile();
  clearEasel(original);
  try {
    const request = await asked();
    request.body = { ...request.body, partial_images: previews(), triptych: { ...request.body.triptych, progress: true } };
    for await (const event of stream(request, running.signal)) take(event, request, began);
  } catch (error) {
    if (error.name === "AbortError") $("paint-note").textContent = "Stopped.";
    else showError($("paint-error"), error.message);
  } finally {
    busy(null);
  }
}

function take(event, request, began) {
  if (event.type === "triptych.progress") return showStep(event.step, event.total);
  const [type, sentence] = [`image/${event.output_format}`, request.body.prompt];
  if (!event.type.endsWith(".completed")) return hangPreview(`data:${type};base64,${event.b64_json}`, sentence);
  const bytes = Uint8Array.from(atob(event.b64_json), (letter) => letter.charCodeAt(0));
  const file = new File([bytes], `triptych.${event.output_format}`, { type });
  hangFinished(file, sentence, `${sized(event.size)} · seed ${event.triptych.seed}`);
  $("paint-copy").replaceChildren(...copyButtons(() => request));
  $("paint-note").textContent = `Painted in ${time((performance.now() - began) / 1000)}.`;
  if (event.triptych.receipt) drawReceipt($("paint-receipt"), event.triptych.receipt);
}

async function submit() {
  $("paint-error").hidden = true;
  $("paint-job").disabled = true;
  try {
    await submitJob(await asked(), startFile());
  } catch (error) {
    showError($("paint-error"), error.message);
  } finally {
    $("paint-job").disabled = false;
  }
}

// A job's picture; `original`: what it was painted over, where that is known here.
function showJob(file, sentence, told, original) {
  if (running) {
    $("paint-note").textContent = "Another picture is being painted there; stop it, or wait for it.";
    return;
  }
  clear();
  clearEasel(original);
  hangFinished(file, sentence, told);
  $("easel").scrollIntoView({ block: "nearest" });
}

function busy(controller) {
  running = controller;
  $("easel").setAttribute("aria-busy", String(Boolean(controller)));
  $("paint").disabled = Boolean(controller);
  $("paint-stop").hidden = !controller;
  if (controller) clear();
}

function clear() {
  $("paint-error").hidden = true;
  $("paint-note").textContent = "";
  $("paint-copy").replaceChildren();
  $("paint-receipt").replaceChildren();
}
