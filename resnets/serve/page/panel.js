// A panel shows a model's results for the picture: map, predictions, network, times.

import * as api from "./api.js";
import * as network from "./network.js";
import { draw, coversImage } from "./picture.js";

const LEGEND = "std: standard deviation of the stage's output; active: share of it above zero.";

function percent(chance) {
  if (chance < 0.00005) return "< 0.01 %";
  if (chance >= 0.99995) return "> 99.99 %";
  return `${(100 * chance).toFixed(2)} %`;
}

export class Panel {
  /** Args: a model of `/v1/models`; `opacity()` returns that of maps, 0 to 100; `hooks`: functions `opacity(value)` and `explain(panel, index)`. */
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

  /** Return to the state before the first picture. */
  clear() {
    this.stop.abort();
    this.prediction = this.explanation = this.picture = null;
    this.parts.answers.replaceChildren();
    this.parts.timing.textContent = "";
    this.root.setAttribute("aria-busy", "false");
    this.render();
  }

  /** Request a prediction for a picture, then its explanation; earlier requests are cancelled. */
  show(picture) {
    return this.working(async (signal) => {
      const prediction = await api.predict(this.model.name, picture.file, signal);
      Object.assign(this, { picture, prediction, explanation: null });
      this.list();
      this.render();
      if (this.model.explains) await this.requestExplanation(prediction.top[0].index, signal);
    });
  }

  /** Request the explanation for a class. */
  explain(index) {
    return this.working((signal) => this.requestExplanation(index, signal));
  }

  async requestExplanation(index, signal) {
    this.explanation = await api.explain(this.model.name, this.picture.file, signal, index);
    this.showState();
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

  /** Whether the explanation of the shown picture is missing. */
  get lacksMap() {
    return Boolean(this.picture && this.model.explains && !this.explanation);
  }

  /** Draw everything that depends on the sliders. */
  render() {
    const { parts, model, picture, explanation } = this;
    const number = Number(parts.stage.value);
    const stage = model.stages[number]?.stage ?? "";
    const map = explanation?.stages[number] ?? null;
    parts["stage-value"].textContent = stage;
    parts.stage.setAttribute("aria-valuetext", stage);
    parts.opacity.value = this.opacity();
    parts["opacity-value"].textContent = `${this.opacity()} %`;
    parts.opacity.setAttribute("aria-valuetext", `${this.opacity()} percent`);
    network.choose(parts.network, number);
    network.respond(parts.network, explanation?.stages ?? []);
    parts.caption.textContent = this.caption(map);
    parts.canvas.hidden = !picture?.image;
    parts.blank.hidden = Boolean(picture?.image);
    parts.blank.textContent = picture ? "The browser cannot show this format" : "The picture appears here";
    if (!picture?.image) return;
    draw(parts.canvas, picture.image, explanation?.crop, map, this.opacity() / 100);
    parts.canvas.setAttribute("aria-label",
      `${picture.name}${map ? `, with the map of ${stage} for ${explanation.class}` : ""}; ${this.summary()}`);
  }

  summary() {
    const best = this.prediction.top[0];
    return `${this.model.name} says ${best.class}, ${percent(best.probability)}`;
  }

  caption(map) {
    if (!this.model.stages.length) return "This network has no stages, so there are no maps.";
    if (!this.model.explains) return "There are no maps: the export has no model.safetensors.";
    if (!map) return "";
    const { crop, class: name } = this.explanation;
    const size = `${map.height}×${map.width}`;
    const frame = this.picture.image && !coversImage(crop, this.picture.image)
      ? " The network sees only what is framed." : "";
    if (!map.values.some((value) => value > 0)) return `No evidence in ${map.stage} for “${name}”.${frame}`;
    const method = map.method === "cam"
      ? `Class activation map, ${size}: what each location adds to the score of “${name}”, exactly.`
      : `Grad-CAM, ${size}: where ${map.stage} has evidence for “${name}”.`;
    return method + frame;
  }

  /** List the predicted classes. */
  list() {
    this.parts.answers.replaceChildren(...this.prediction.top.map((one) => {
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
        row.title = "Show the evidence for this class";
        row.dataset.index = one.index;
      }
      const item = document.createElement("li");
      item.append(row);
      return item;
    }));
    this.showState();
  }

  /** Mark the explained class, and show the times. */
  showState() {
    this.parts.answers.querySelectorAll("button").forEach((button) => {
      button.setAttribute("aria-pressed", String(Number(button.dataset.index) === this.explanation?.index));
    });
    const { decode, network: computed, total } = this.prediction.milliseconds;
    const times = { decoding: decode, network: computed, total, map: this.explanation?.milliseconds.explain };
    this.parts.timing.textContent = `Milliseconds: ${Object.entries(times).filter(([, time]) => time !== undefined)
      .map(([name, time]) => `${name} ${time < 10 ? time.toFixed(1) : Math.round(time)}`).join(", ")}`;
  }
}
