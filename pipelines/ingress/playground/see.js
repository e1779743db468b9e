// The left panel: a conversation with images. Keeps the whole conversation here; the server keeps none.

import { stream } from "./api.js";
import { drawReceipt, time } from "./receipt.js";

const $ = (id) => document.getElementById(id);
const conversation = []; // OpenAI's messages
let image = null; // data URL
let running = null; // AbortController

export function startSee() {
  $("see-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) ask();
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("see-form").requestSubmit();
    }
  });
  $("ask-stop").addEventListener("click", () => running?.abort());
  $("forget").addEventListener("click", forget);
  $("remove").addEventListener("click", () => takeImage(null));
  $("image").addEventListener("change", () => takeFile($("image").files[0]));
  for (const kind of ["dragenter", "dragover"]) $("drop").addEventListener(kind, (event) => hover(event, true));
  $("drop").addEventListener("dragleave", (event) => hover(event, false));
  $("drop").addEventListener("drop", (event) => {
    hover(event, false);
    takeFile(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((found) => found.type.startsWith("image/"));
    if (file) takeFile(file);
  });
}

export function takeImage(dataUrl) {
  image = dataUrl;
  $("thumb").hidden = $("remove").hidden = !dataUrl;
  document.querySelector(".drop-text").hidden = Boolean(dataUrl);
  if (dataUrl) $("thumb").src = dataUrl;
  else $("image").value = "";
}

function takeFile(file) {
  if (!file) return;
  const reader = new FileReader();
  reader.addEventListener("load", () => takeImage(reader.result));
  reader.addEventListener("error", () => showError("This file could not be read."));
  reader.readAsDataURL(file);
}

function hover(event, over) {
  event.preventDefault();
  $("drop").classList.toggle("over", over);
}

async function ask() {
  const question = $("question").value.trim() || (image ? $("question").placeholder : "");
  if (!question) return;
  const shown = image;
  const content = shown ? [{ type: "image_url", image_url: { url: shown } }, { type: "text", text: question }] : question;
  conversation.push({ role: "user", content });
  addTurn("user", question, shown);
  const turn = addTurn("assistant", "");
  $("question").value = "";
  takeImage(null);
  busy(new AbortController());
  const began = performance.now();
  const answer = { text: "", firstMs: null };
  try {
    for await (const chunk of stream("v1/chat/completions", body(), running.signal)) take(chunk, answer, turn, began);
    conversation.push({ role: "assistant", content: answer.text });
  } catch (error) {
    undo(error, question, shown, answer, turn);
  } finally {
    turn.classList.remove("writing");
    busy(null);
  }
}

function body() {
  return {
    model: $("see-model").value,
    messages: conversation,
    temperature: Number($("temperature").value || 0),
    max_tokens: Number($("max-tokens").value) || undefined,
    stream_options: { include_usage: true },
  };
}

function take(chunk, answer, turn, began) {
  const text = chunk.choices[0]?.delta.content;
  if (text) {
    answer.firstMs ??= performance.now() - began;
    answer.text += text;
    turn.textContent = answer.text;
    $("turns").scrollTop = $("turns").scrollHeight;
  }
  if (chunk.usage) note(chunk.usage, answer.firstMs, performance.now() - began);
  if (chunk.triptych) drawReceipt($("see-receipt"), chunk.triptych);
}

function note(usage, firstMs, totalMs) {
  const parts = [`${usage.prompt_tokens} tokens in, ${usage.prompt_tokens_details.cached_tokens} of them remembered`, `${usage.completion_tokens} out`];
  if (firstMs !== null) parts.push(`first word after ${time(firstMs / 1000)}`);
  if (firstMs !== null && usage.completion_tokens > 1 && totalMs > firstMs) {
    parts.push(`${Math.round((usage.completion_tokens - 1) / ((totalMs - firstMs) / 1000))} tokens/s`);
  }
  $("see-note").textContent = parts.join(" · ");
}

// A stopped answer stays, as far as it came; a failed question goes back to where it was written.
function undo(error, question, shown, answer, turn) {
  if (answer.text) {
    conversation.push({ role: "assistant", content: answer.text });
  } else {
    conversation.pop();
    turn.previousElementSibling?.remove();
    turn.remove();
    $("question").value = question;
    if (shown) takeImage(shown);
  }
  if (error.name === "AbortError") $("see-note").textContent = "Stopped.";
  else showError(error.message);
}

function addTurn(role, text, image) {
  const turn = document.createElement("li");
  turn.className = `turn ${role}`;
  if (role === "assistant") turn.classList.add("writing");
  if (image) {
    const shown = new Image();
    shown.src = image;
    shown.alt = "Image shown to the model";
    turn.append(shown);
  }
  turn.append(text);
  $("turns").append(turn);
  $("turns").scrollTop = $("turns").scrollHeight;
  return turn;
}

function forget() {
  running?.abort();
  conversation.length = 0;
  $("turns").replaceChildren();
  $("see-receipt").replaceChildren();
  $("see-note").textContent = "";
  $("see-error").hidden = true;
  $("question").focus();
}

function busy(controller) {
  running = controller;
  $("turns").setAttribute("aria-busy", String(Boolean(controller)));
  $("ask").disabled = Boolean(controller);
  $("ask-stop").hidden = !controller;
  if (controller) {
    $("see-error").hidden = true;
    $("see-note").textContent = "";
    $("see-receipt").replaceChildren();
  }
}

function showError(message) {
  $("see-error").textContent = message;
  $("see-error").hidden = false;
}
