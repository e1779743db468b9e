// How one job looks: its picture or how far it is, and what may be done with it. Knows no server.

import { copyButtons } from "../copying/copy.js";
import { button, element } from "../dom.js";
import { time } from "../receipt.js";
import { sized } from "./easel.js";

const WORDS = { queued: "Waiting", in_progress: "Painting", completed: "Done", failed: "Failed", cancelled: "Cancelled" };

export class JobRow {
  // `request`: what was asked for, where that is known; `acts`: { cancel, remove, image, see }.
  constructor(request, acts) {
    this.request = request;
    this.acts = acts;
    this.status = null;
    this.file = null;
    this.thumb = element("img", { alt: "" });
    this.thumb.hidden = true;
    this.title = element("span", { class: "job-title" });
    this.state = element("span", { class: "job-state" });
    this.progress = element("progress", { max: "100", "aria-label": "Painted, percent" });
    this.buttons = element("span", { class: "job-buttons" });
    this.place = element("li", { class: "job" }, this.thumb, element("div", { class: "job-words" }, this.title, this.state, this.progress, this.buttons));
  }

  draw(job) {
    this.title.textContent = this.sentence(job);
    this.state.textContent = told(job);
    this.state.classList.toggle("bad", job.status === "failed");
    this.progress.value = job.progress;
    const isOver = !["queued", "in_progress"].includes(job.status);
    this.progress.hidden = isOver;
    if (isOver === this.isOver) return;
    this.isOver = isOver;
    this.buttons.replaceChildren(...(isOver ? this.#over(job) : this.#underWay(job)));
    if (job.status === "completed" && !this.file) this.#fetch(job);
  }

  sentence(job) {
    return this.request?.body.prompt ?? `${job.kind === "edit" ? "An edit" : "A painting"} by ${job.model}`;
  }

  #underWay(job) {
    return [this.#named(button("Cancel", () => this.acts.cancel(job)), job), ...this.#copies()];
  }

  #over(job) {
    const seen = job.status === "completed" ? [this.#named(button("Show", () => this.#see(job)), job)] : [];
    return [...seen, this.#named(button("Delete", () => this.acts.remove(job)), job), ...this.#copies()];
  }

  #named(made, job) {
    made.setAttribute("aria-label", `${made.textContent}: ${this.sentence(job)}`);
    return made;
  }

  #copies() {
    return this.request ? copyButtons(() => this.request) : [];
  }

  async #fetch(job) {
    try {
      this.file = await this.acts.image(job);
    } catch (error) {
      this.state.textContent = error.message;
      return;
    }
    this.thumb.alt = `Painted: ${this.sentence(job)}`;
    this.thumb.src = URL.createObjectURL(this.file);
    this.thumb.hidden = false;
  }

  #see(job) {
    if (this.file) this.acts.see(this.file, this.sentence(job), `${sized(job.images[0].size)} · seed ${job.images[0].seed}`, job);
  }
}

function told(job) {
  if (job.status === "failed") return `Failed: ${job.error?.message ?? "no reason is known"}`;
  const parts = [WORDS[job.status]];
  if (job.status === "in_progress") parts.push(`${job.progress} %`);
  if (job.eta_s !== null && job.eta_s !== undefined) parts.push(job.eta_s > 0 ? `about ${time(job.eta_s)} left` : "any moment now");
  if (job.status === "completed" && job.started_at) parts.push(new Date(job.completed_at * 1000).toLocaleTimeString());
  return parts.join(" · ");
}
