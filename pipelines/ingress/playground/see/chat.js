// The left panel: a conversation with images and calls. Keeps the whole conversation here; the server keeps none.

import { stream } from "../api.js";
import { $, sendOnEnter, showError } from "../dom.js";
import { PictureField, dataUrl, pastedPicture } from "../picture_field.js";
import { drawReceipt, time } from "../receipt.js";
import { Answer } from "./answer.js";
import { FieldFault, asked, startAsked } from "./asked.js";
import { AnswerTurn, addQuestion } from "./turns.js";

let conversation = []; // OpenAI's messages
let picture = null; // PictureField
let waiting = null; // { calls, turn }: the last answer's, whose results are not given yet
let running = null; // AbortController

export function startChat() {
  picture = new PictureField($("drop"), () => {});
  startAsked();
  $("see-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) askQuestion();
  });
  sendOnEnter($("question"), $("see-form"));
  $("ask-stop").addEventListener("click", stopChat);
  $("forget").addEventListener("click", forget);
  document.addEventListener("paste", (event) => {
    const file = pastedPicture(event);
    if (file) picture.take(file);
  });
}

export function stopChat() {
  running?.abort();
}

export function askAbout(file) {
  picture.take(file);
  $("question").focus();
}

async function askQuestion() {
  const question = $("question").value.trim() || (picture.file ? $("question").placeholder : "");
  if (!question) return waiting ? giveResults() : undefined;
  const fields = askedFields(false);
  if (!fields) return;
  const file = picture.file;
  busy(new AbortController());
  const url = file ? await dataUrl(file).catch(failed) : null;
  if (url === undefined) return busy(null);
  const content = url ? [{ type: "image_url", image_url: { url } }, { type: "text", text: question }] : question;
  const undoResults = takeResults();
  conversation.push({ role: "user", content });
  const turn = addQuestion(question, url);
  $("question").value = "";
  picture.take(null);
  await answer(fields, () => {
    conversation.pop();
    turn.remove();
    $("question").value = question;
    picture.take(file);
    undoResults();
  });
}

// Goes on with what the functions returned.
async function giveResults() {
  const fields = askedFields(true);
  if (!fields || running) return;
  busy(new AbortController());
  await answer(fields, takeResults());
}

// Puts the results that are waited for into the conversation. Returns what undoes it.
function takeResults() {
  if (!waiting) return () => {};
  const { calls, turn } = waiting;
  const results = turn.calls.taken();
  conversation.push(...calls.map(({ id }, at) => ({ role: "tool", tool_call_id: id, content: results[at] })));
  waiting = null;
  return () => {
    conversation.splice(-calls.length);
    turn.calls.askAgain(results);
    waiting = { calls, turn };
  };
}

function askedFields(isGoingOn) {
  $("see-error").hidden = true;
  try {
    return asked(isGoingOn);
  } catch (error) {
    if (!(error instanceof FieldFault)) throw error;
    $("see-settings").open = true;
    error.field.focus();
    return failed(error);
  }
}

function failed(error) {
  showError($("see-error"), error.message);
  return undefined;
}

// A stopped answer stays, as far as it came; where nothing came, `undo` puts back what was asked.
async function answer(fields, undo) {
  const body = { model: $("see-model").value, messages: [...conversation], ...fields, stream_options: { include_usage: true } };
  const request = { path: "v1/chat/completions", body };
  const [turn, said, began] = [new AnswerTurn(fields.response_format, giveResults), new Answer(), performance.now()];
  const mine = conversation;
  let firstMs = null;
  try {
    for await (const chunk of stream(request, running.signal)) {
      if (!said.take(chunk)) continue;
      firstMs ??= performance.now() - began;
      turn.draw(said);
    }
    note(said, firstMs, performance.now() - began);
  } catch (error) {
    if (mine !== conversation) return;
    if (error.name === "AbortError") $("see-note").textContent = "Stopped.";
    else failed(error);
    if (said.isEmpty) {
      turn.remove();
      undo();
      return;
    }
  } finally {
    if (mine === conversation) busy(null);
  }
  said.keepWholeCalls();
  conversation.push(said.message());
  turn.end(said, request);
  if (said.calls.length) waiting = { calls: said.calls, turn };
}

function note(said, firstMs, totalMs) {
  if (said.receipt) drawReceipt($("see-receipt"), said.receipt);
  const { usage } = said;
  if (!usage) return;
  const parts = [`${usage.prompt_tokens} tokens in, ${usage.prompt_tokens_details.cached_tokens} of them remembered`, `${usage.completion_tokens} out`];
  const thought = usage.completion_tokens_details?.reasoning_tokens;
  if (thought) parts.push(`${thought} of them thought`);
  if (firstMs !== null) parts.push(`first word after ${time(firstMs / 1000)}`);
  if (firstMs !== null && usage.completion_tokens > 1 && totalMs > firstMs) {
    parts.push(`${Math.round((usage.completion_tokens - 1) / ((totalMs - firstMs) / 1000))} tokens/s`);
  }
  $("see-note").textContent = parts.join(" · ");
}

function forget() {
  running?.abort();
  busy(null);
  conversation = [];
  waiting = null;
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
  if (!controller) return;
  $("see-note").textContent = "";
  $("see-receipt").replaceChildren();
}
