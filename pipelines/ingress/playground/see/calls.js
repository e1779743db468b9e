// The calls of one answer: each a name, its arguments as they come, and a field for what the function returned. Knows no conversation.

import { element } from "../dom.js";
import { indented } from "./json_text.js";

export class Calls {
  // `give`: what is to be done with the results, once they are given.
  constructor(give) {
    this.place = element("div", { class: "calls" });
    this.drawn = [];
    this.give = give;
    this.form = null;
  }

  draw(calls) {
    calls.forEach((call, at) => {
      const { name, text } = (this.drawn[at] ??= this.#added());
      name.textContent = call.name;
      text.textContent = indented(call.arguments);
    });
  }

  #added() {
    const [name, text] = [element("strong", {}), element("pre", { tabindex: "0" })];
    const section = element("section", { class: "call" }, element("p", {}, "Calls ", name), text);
    this.place.append(section);
    return { section, name, text };
  }

  // Asks for the result of every call.
  ask() {
    this.drawn.forEach((call) => {
      call.section.setAttribute("aria-label", `Call of ${call.name.textContent}`);
      call.result = element("textarea", { rows: "2", placeholder: "what the function returned", spellcheck: "false" });
      call.section.append(element("label", {}, `Result of ${call.name.textContent} `, call.result));
    });
    this.form = element("form", { class: "results" }, element("button", { type: "submit", class: "primary" }, "Give the result"));
    if (this.drawn.length > 1) this.form.firstChild.textContent = "Give the results";
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.give();
    });
    this.place.append(this.form);
    this.drawn[0]?.result.focus();
  }

  // The results as they stand, in the order of the calls; from now on they are shown and not asked for.
  taken() {
    this.form.remove();
    return this.drawn.map(({ section, result }) => {
      const label = result.parentElement;
      section.append(element("p", { class: "quiet-words" }, "Returned"), element("pre", { class: "returned" }, result.value || "nothing"));
      label.remove();
      return result.value;
    });
  }

  // They were not taken after all: asks again, with what was given.
  askAgain(results) {
    for (const { section } of this.drawn) for (const one of section.querySelectorAll(".quiet-words, .returned")) one.remove();
    this.ask();
    this.drawn.forEach(({ result }, at) => (result.value = results[at]));
  }
}
