// The buttons that copy a request as code: onto the clipboard, or where the browser allows that to no page (http of another machine), into a
// window to copy it from.

import { $, button } from "../dom.js";
import { askedAgain } from "./asked_again.js";
import { asCurl } from "./curl.js";
import { asPython } from "./python.js";

const SHOWN_MS = 1500;

// `request`: a function that gives it, when it is wanted.
export function copyButtons(request) {
  return [
    copying("Copy as curl", () => asCurl(askedAgain(request()), document.baseURI)),
    copying("Copy as Python", () => asPython(askedAgain(request()), document.baseURI)),
  ];
}

function copying(words, code) {
  const made = button(words, async () => {
    const text = code();
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      show(text);
      return;
    }
    $("copied").textContent = `${words}: copied`;
    made.textContent = "Copied";
    setTimeout(() => (made.textContent = words), SHOWN_MS);
  });
  return made;
}

function show(text) {
  $("code").value = text;
  $("code-window").showModal();
  $("code").select();
}
