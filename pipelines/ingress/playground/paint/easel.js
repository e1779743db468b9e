// The easel: the picture as it is painted, beside the one that it was painted over. Knows no server.

import { $ } from "../dom.js";

let shown = null; // { file, original }: the finished picture

export function finishedFile() {
  return shown;
}

// Makes room for a new one. `original`: the picture that is painted over, or null.
export function clearEasel(original) {
  shown = null;
  $("caption").textContent = $("step").textContent = "";
  $("progress").value = 0;
  $("caption-actions").hidden = true;
  URL.revokeObjectURL($("original").src);
  $("before").hidden = !original;
  $("after-name").hidden = !original;
  if (original) $("original").src = URL.createObjectURL(original);
}

export function showStep(step, total) {
  $("progress").max = total;
  $("progress").value = step;
  $("step").textContent = `${step} of ${total}`;
}

export function hangPreview(source, sentence) {
  hang(source, `Preview of: ${sentence}`, true);
}

// `file`: the picture; `told`: what is known of it, in words.
export function hangFinished(file, sentence, told) {
  shown = file;
  hang(URL.createObjectURL(file), `Painted: ${sentence}`, false);
  $("caption").textContent = told;
  $("save").href = $("painting").src;
  $("save").download = file.name;
  $("caption-actions").hidden = false;
}

function hang(source, alt, isPreview) {
  const painting = $("painting");
  URL.revokeObjectURL(painting.src);
  painting.src = source;
  painting.alt = alt;
  painting.classList.toggle("preview", isPreview);
  painting.hidden = false;
  $("easel-hint").hidden = true;
}

export function sized(size) {
  return size.replace("x", " × ");
}
