// The brush over a picture: a mouse, a finger, a pen or the keys move it, and a `Mask` is what it leaves. Knows no request.

import { $ } from "../dom.js";
import { Mask } from "./mask.js";

const STEP = 0.02; // of the longer side, that an arrow key moves the brush
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

let mask = null; // of the picture that is shown
let at = { x: 0, y: 0 };
let isDown = false;

export function startBrush() {
  const canvas = $("mask");
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", move);
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, lift);
  canvas.addEventListener("pointerleave", () => showRing(document.activeElement === canvas));
  canvas.addEventListener("focus", () => showRing(canvas.matches(":focus-visible")));
  canvas.addEventListener("blur", lift);
  canvas.addEventListener("keydown", pressKey);
  canvas.addEventListener("keyup", (event) => event.key === " " && lift());
  $("brush-size").addEventListener("input", () => showRing(true));
  $("mask-undo").addEventListener("click", undo);
  $("mask-clear").addEventListener("click", clear);
}

// `picture`: an image that is loaded; null: none is shown.
export function brushOver(picture) {
  const canvas = $("mask");
  canvas.width = picture?.naturalWidth ?? 1;
  canvas.height = picture?.naturalHeight ?? 1;
  $("sheet").style.setProperty("--ratio", canvas.width / canvas.height);
  mask = picture && new Mask(canvas);
  at = { x: canvas.width / 2, y: canvas.height / 2 };
  showRing(false);
  tell();
}

// What was marked, as a file; null: nothing.
export async function markedFile() {
  return mask ? mask.file() : null;
}

function press(event) {
  if (!event.isPrimary || event.button > 0) return;
  event.preventDefault();
  $("mask").focus({ preventScroll: true });
  $("mask").setPointerCapture(event.pointerId);
  at = placeOf(event);
  begin();
}

function move(event) {
  if (!event.isPrimary) return;
  at = placeOf(event);
  showRing(true);
  if (!isDown) return;
  const moves = event.getCoalescedEvents?.() ?? [];
  for (const one of moves.length ? moves : [event]) mask.extend(placeOf(one));
}

function lift() {
  isDown = false;
  tell();
}

function begin() {
  isDown = true;
  mask.begin(at, width(), $("erase").checked);
}

function pressKey(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "z") undo();
  else if (event.key === " ") !event.repeat && begin();
  else if (MOVES[event.key]) moveBy(...MOVES[event.key]);
  else return;
  event.preventDefault();
  showRing(true);
}

function moveBy(right, down) {
  const { width: widest, height: highest } = $("mask");
  const step = Math.max(1, STEP * Math.max(widest, highest));
  at = { x: clamped(at.x + right * step, widest), y: clamped(at.y + down * step, highest) };
  if (isDown) mask.extend(at);
}

function clamped(place, most) {
  return Math.min(most, Math.max(0, place));
}

function undo() {
  mask.undo();
  tell();
}

function clear() {
  mask.clear();
  tell();
}

// In the picture's pixels; the slider is percent of its longer side.
function width() {
  return (Number($("brush-size").value) / 100) * Math.max($("mask").width, $("mask").height);
}

function placeOf(event) {
  const [box, canvas] = [$("mask").getBoundingClientRect(), $("mask")];
  return { x: ((event.clientX - box.left) * canvas.width) / box.width, y: ((event.clientY - box.top) * canvas.height) / box.height };
}

function showRing(isShown) {
  const [ring, canvas] = [$("ring"), $("mask")];
  ring.hidden = !isShown || !mask;
  ring.style.left = `${(100 * at.x) / canvas.width}%`;
  ring.style.top = `${(100 * at.y) / canvas.height}%`;
  ring.style.width = `${(100 * width()) / canvas.width}%`;
}

function tell() {
  const count = mask?.strokes.length ?? 0;
  $("mask-undo").disabled = $("mask-clear").disabled = !count;
  $("mask-note").textContent = count ? "Only what is marked is painted over." : "Mark what is to be painted over; with nothing marked, all of it is.";
}
