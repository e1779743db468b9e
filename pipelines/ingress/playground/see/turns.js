// How the turns of a conversation look. Knows no server: it draws an `Answer` as far as it has come.

import { copyButtons } from "../copying/copy.js";
import { $, element } from "../dom.js";
import { Calls } from "./calls.js";
import { indented, parsed } from "./json_text.js";
import { check } from "./schema_check.js";

export function addQuestion(text, picture) {
  const turn = element("li", { class: "turn user" });
  if (picture) turn.append(element("img", { src: picture, alt: "Image shown to the model" }));
  turn.append(text);
  return added(turn);
}

function added(turn) {
  $("turns").append(turn);
  $("turns").scrollTop = $("turns").scrollHeight;
  return turn;
}

export class AnswerTurn {
  // `format`: the request's response_format; `give`: what is to be done once calls have their results.
  constructor(format, give) {
    this.format = format;
    this.thoughts = element("div", { class: "thought" });
    this.summary = element("summary", {}, "Thinking…");
    this.folded = element("details", { class: "thoughts" }, this.summary, this.thoughts);
    this.said = element(format ? "pre" : "div", { class: "said" });
    this.calls = new Calls(give);
    this.folded.hidden = true;
    this.place = added(element("li", { class: "turn assistant writing" }, this.folded, this.said, this.calls.place));
  }

  draw(answer) {
    const turns = $("turns");
    const atEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 60;
    this.folded.hidden = !answer.thoughts;
    this.thoughts.textContent = answer.thoughts;
    this.said.textContent = this.format ? indented(answer.text) : answer.text;
    if (answer.thoughts && (answer.text || answer.calls.length)) this.summary.textContent = "Thoughts";
    this.calls.draw(answer.calls);
    if (atEnd) turns.scrollTop = turns.scrollHeight;
  }

  // `request`: what it is an answer to. Calls are whole by now.
  end(answer, request) {
    this.place.classList.remove("writing");
    if (answer.thoughts) this.summary.textContent = "Thoughts";
    if (this.format && answer.text) this.said.after(verdict(answer, this.format));
    if (answer.calls.length) this.calls.ask();
    this.place.append(element("p", { class: "turn-actions" }, ...copyButtons(() => request)));
    $("turns").scrollTop = $("turns").scrollHeight;
  }

  remove() {
    this.place.remove();
  }
}

function verdict(answer, format) {
  const value = parsed(answer.text);
  if (value === undefined) return told(answer.finish === "length" ? "No whole JSON: cut at the longest answer." : "No whole JSON.", false);
  if (format.type !== "json_schema") return told("JSON.", true);
  const { faults, unseen } = check(value, format.json_schema.schema);
  if (faults.length) return told(`JSON, not of the schema: ${faults.join("; ")}.`, false);
  return told(unseen.length ? `JSON of the schema (not looked at here: ${unseen.join(", ")}).` : "JSON of the schema.", true);
}

function told(words, isGood) {
  return element("p", { class: `verdict ${isGood ? "good" : "bad"}` }, words);
}
