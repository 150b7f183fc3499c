// A panel of a detector: boxes over the picture, and the list of the objects.

import * as api from "./api.js";
import { categoryColour, drawObjects } from "./picture.js";

const MANY = 5; // categories named in a summary

export class DetectorPanel {
  /** Args: a detector of `/v1/models`; `score()` returns the minimum score, 0 to 100; `hooks`: a function `score(value)`. */
  constructor(model, score, hooks) {
    Object.assign(this, { model, score, hooks, stop: new AbortController(), lacksMap: false });
    this.root = document.getElementById("detector-panel").content.cloneNode(true).firstElementChild;
    this.parts = Object.fromEntries(["canvas", "blank", "score", "score-value", "caption", "answers", "timing", "panel-name", "panel-facts"]
      .map((name) => [name, this.root.querySelector(name === "canvas" ? name : `.${name}`)]));
    const { parts } = this;
    parts["panel-name"].textContent = model.name;
    const count = model.classes.length;
    parts["panel-facts"].textContent = `Detector on ${model.network}, ${count} ${count === 1 ? "category" : "categories"}, ${model.runtime}`;
    parts.score.setAttribute("aria-label", `Minimum score of objects on ${model.name}`);
    parts.score.addEventListener("input", () => hooks.score(Number(parts.score.value)));
    parts.answers.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.choose(this.objects[Number(button.dataset.number)]);
    });
    this.clear();
  }

  /** Return to the state before the first picture. */
  clear() {
    this.stop.abort();
    this.answer = this.picture = this.chosen = null;
    this.parts.timing.textContent = "";
    this.root.setAttribute("aria-busy", "false");
    this.render();
  }

  /** Request the objects in a picture; an earlier request is cancelled. */
  async show(picture) {
    this.stop.abort();
    const { signal } = this.stop = new AbortController();
    this.root.setAttribute("aria-busy", "true");
    try {
      const answer = await api.detect(this.model.name, picture.file, signal);
      Object.assign(this, { picture, answer, chosen: null });
      const { decode, network, total } = answer.milliseconds;
      this.parts.timing.textContent = `Milliseconds: ${Object.entries({ decoding: decode, network, total })
        .map(([name, time]) => `${name} ${time < 10 ? time.toFixed(1) : Math.round(time)}`).join(", ")}`;
      this.render();
    } finally {
      if (!signal.aborted) this.root.setAttribute("aria-busy", "false");
    }
  }

  /** The objects of at least the chosen score, best first. */
  get objects() {
    return (this.answer?.objects ?? []).filter((one) => one.score >= this.score() / 100);
  }

  /** Emphasize one object's box, or no longer. */
  choose(object) {
    this.chosen = this.chosen === object ? null : object;
    this.draw();
  }

  /** Draw everything that depends on the slider. */
  render() {
    const { parts, picture, objects } = this;
    parts.score.value = this.score();
    parts["score-value"].textContent = (this.score() / 100).toFixed(2);
    parts.score.setAttribute("aria-valuetext", `${this.score()} percent`);
    if (!objects.includes(this.chosen)) this.chosen = null;
    parts.answers.replaceChildren(...objects.map((one, number) => this.row(one, number)));
    const hidden = (this.answer?.objects.length ?? 0) - objects.length;
    parts.caption.textContent = !this.answer ? "" : [
      objects.length ? "" : "No objects of this score.", hidden ? `${hidden} more with a lower score.` : "",
    ].filter(Boolean).join(" ");
    parts.canvas.hidden = !picture?.image;
    parts.blank.hidden = Boolean(picture?.image);
    parts.blank.textContent = picture ? "The browser cannot show this format" : "The picture appears here";
    this.draw();
  }

  draw() {
    const { parts, picture, objects, chosen } = this;
    parts.answers.querySelectorAll("button").forEach((button, number) => {
      button.setAttribute("aria-pressed", String(objects[number] === chosen));
    });
    if (!picture?.image) return;
    drawObjects(parts.canvas, picture.image, objects, chosen);
    parts.canvas.setAttribute("aria-label", `${picture.name}; ${this.summary()}`);
  }

  summary() {
    const counts = new Map();
    this.objects.forEach((one) => counts.set(one.category, (counts.get(one.category) ?? 0) + 1));
    const named = [...counts].slice(0, MANY).map(([name, count]) => `${count} ${name}`).join(", ");
    return `${this.model.name} finds ${named || "nothing"}${counts.size > MANY ? " and more" : ""}`;
  }

  row(one, number) {
    const row = document.createElement("button");
    row.className = "answer";
    row.type = "button";
    row.title = "Show only this box";
    row.dataset.number = number;
    const parts = ["name", "chance", "gauge"].map((kind) => {
      const part = document.createElement("span");
      part.className = kind;
      return part;
    });
    parts[0].textContent = one.category;
    parts[1].textContent = one.score.toFixed(2);
    const bar = document.createElement("i");
    bar.style.width = `${100 * one.score}%`;
    bar.style.background = `rgb(${categoryColour(one.index)})`;
    parts[2].append(bar);
    row.append(...parts);
    const item = document.createElement("li");
    item.append(row);
    return item;
  }
}
