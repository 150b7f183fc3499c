// One model's view of the picture: map, answers, network, timing.

import * as api from "./api.js";
import * as network from "./network.js";
import { draw, whole } from "./picture.js";

const LEGEND = "std: standard deviation of the stage's responses; active: those above zero.";

function percent(chance) {
  if (chance < 0.00005) return "< 0.01 %";
  if (chance >= 0.99995) return "> 99.99 %";
  return `${(100 * chance).toFixed(2)} %`;
}

export class Panel {
  /** Args: a model of the server; `opacity()` of maps, 0 to 100; `hooks.opacity(value)` and `hooks.explain(panel, index)`. */
  constructor(model, opacity, hooks) {
    Object.assign(this, { model, opacity, hooks, stop: new AbortController() });
    this.root = document.getElementById("panel").content.cloneNode(true).firstElementChild;
    this.parts = Object.fromEntries(["canvas", "blank", "stage", "stage-value", "opacity", "opacity-value", "sliders",
      "caption", "answers", "timing", "drawn", "network", "legend", "panel-name", "panel-facts"]
      .map((name) => [name, this.root.querySelector(name === "canvas" ? name : `.${name}`)]));
    this.describe();
    this.listen();
    this.clear();
  }

  describe() {
    const { model, parts } = this;
    parts["panel-name"].textContent = model.name;
    parts["panel-facts"].textContent = `${model.network}, ${model.layers} layers, ` +
      `${model.parameters.toLocaleString("en")} parameters, ${model.runtime}`;
    parts.stage.max = parts.stage.value = Math.max(model.stages.length - 1, 0);
    parts.stage.setAttribute("aria-label", `Stage of ${model.name}`);
    parts.opacity.setAttribute("aria-label", `Opacity of the map on ${model.name}`);
    parts.sliders.hidden = !model.explains;
    parts.drawn.hidden = !model.stages.length;
    if (model.stages.length) parts.legend.textContent = `${network.blocks(model)} ${model.explains ? LEGEND : ""}`;
    network.show(parts.network, model, (number) => {
      parts.stage.value = number;
      this.render();
    });
  }

  listen() {
    const { parts } = this;
    parts.stage.addEventListener("input", () => this.render());
    parts.opacity.addEventListener("input", () => this.hooks.opacity(Number(parts.opacity.value)));
    parts.answers.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.hooks.explain(this, Number(button.dataset.index));
    });
  }

  /** As before the first picture. */
  clear() {
    this.stop.abort();
    this.answer = this.why = this.picture = null;
    this.parts.answers.replaceChildren();
    this.parts.timing.textContent = "";
    this.root.setAttribute("aria-busy", "false");
    this.render();
  }

  /** Ask about a picture, what it is and then why; what was asked before is dropped. */
  look(picture) {
    return this.working(async (signal) => {
      const answer = await api.predict(this.model.name, picture.file, signal);
      Object.assign(this, { picture, answer, why: null });
      this.list();
      this.render();
      if (this.model.explains) await this.ask(answer.top[0].index, signal);
    });
  }

  /** Ask why, for another class. */
  explain(index) {
    return this.working((signal) => this.ask(index, signal));
  }

  async ask(index, signal) {
    this.why = await api.explain(this.model.name, this.picture.file, signal, index);
    this.mark();
    this.render();
  }

  async working(job) {
    this.stop.abort();
    const { signal } = this.stop = new AbortController();
    this.root.setAttribute("aria-busy", "true");
    try {
      await job(signal);
    } finally {
      if (!signal.aborted) this.root.setAttribute("aria-busy", "false");
    }
  }

  /** Whether the map for what is shown has not come. */
  get lacks() {
    return Boolean(this.picture && this.model.explains && !this.why);
  }

  /** Draw what depends on the sliders. */
  render() {
    const { parts, model, picture, why } = this;
    const number = Number(parts.stage.value);
    const stage = model.stages[number]?.stage ?? "";
    const map = why?.stages[number] ?? null;
    parts["stage-value"].textContent = stage;
    parts.stage.setAttribute("aria-valuetext", stage);
    parts.opacity.value = this.opacity();
    parts["opacity-value"].textContent = `${this.opacity()} %`;
    parts.opacity.setAttribute("aria-valuetext", `${this.opacity()} percent`);
    network.choose(parts.network, number);
    network.respond(parts.network, why?.stages ?? []);
    parts.caption.textContent = this.caption(map);
    parts.canvas.hidden = !picture?.image;
    parts.blank.hidden = Boolean(picture?.image);
    parts.blank.textContent = picture ? "The browser cannot show this format" : "The picture appears here";
    if (!picture?.image) return;
    draw(parts.canvas, picture.image, why?.crop, map, this.opacity() / 100);
    parts.canvas.setAttribute("aria-label",
      `${picture.name}${map ? `, with the map of ${stage} for ${why.class}` : ""}; ${this.says()}`);
  }

  says() {
    const best = this.answer.top[0];
    return `${this.model.name} says ${best.class}, ${percent(best.probability)}`;
  }

  caption(map) {
    if (!this.model.stages.length) return "This network has no stages that could be mapped.";
    if (!this.model.explains) return "There are no maps: the export came without its model.safetensors.";
    if (!map) return "";
    const { crop, class: name } = this.why;
    const size = `${map.height}×${map.width}`;
    const frame = this.picture.image && !whole(crop, this.picture.image)
      ? " The network sees only what is framed." : "";
    if (!map.values.some((value) => value > 0)) return `Nothing in ${map.stage} speaks for “${name}”.${frame}`;
    const method = map.method === "cam"
      ? `Class activation map, ${size}: exactly what each place adds to “${name}”.`
      : `Grad-CAM, ${size}: where the maps of ${map.stage} speak for “${name}”.`;
    return method + frame;
  }

  /** The answers, anew. */
  list() {
    this.parts.answers.replaceChildren(...this.answer.top.map((one) => {
      const row = document.createElement(this.model.explains ? "button" : "div");
      row.className = "answer";
      const parts = ["name", "chance", "gauge"].map((kind) => {
        const part = document.createElement("span");
        part.className = kind;
        return part;
      });
      parts[0].textContent = one.class;
      parts[1].textContent = percent(one.probability);
      const bar = document.createElement("i");
      bar.style.width = `${100 * one.probability}%`;
      parts[2].append(bar);
      row.append(...parts);
      if (this.model.explains) {
        row.type = "button";
        row.title = "Show what speaks for this class";
        row.dataset.index = one.index;
      }
      const item = document.createElement("li");
      item.append(row);
      return item;
    }));
    this.mark();
  }

  /** Which answer is explained, and how long everything took. */
  mark() {
    this.parts.answers.querySelectorAll("button").forEach((button) => {
      button.setAttribute("aria-pressed", String(Number(button.dataset.index) === this.why?.index));
    });
    const { decode, network: computed, total } = this.answer.milliseconds;
    const times = { decoding: decode, network: computed, "in all": total, map: this.why?.milliseconds.explain };
    this.parts.timing.textContent = `Milliseconds: ${Object.entries(times).filter(([, time]) => time !== undefined)
      .map(([name, time]) => `${name} ${time < 10 ? time.toFixed(1) : Math.round(time)}`).join(", ")}`;
  }
}
