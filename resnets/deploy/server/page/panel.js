// One model's view of the picture: map, answers, network, timing.

import * as api from "./api.js";
import * as network from "./network.js";
import { blank, draw } from "./picture.js";

const METHODS = {
  cam: "class activation map: exactly what each place adds to the class",
  "grad-cam": "Grad-CAM: where this stage's maps speak for the class",
};

export class Panel {
  constructor(model, strength) {
    this.model = model;
    this.strength = strength;
    this.answer = this.why = this.picture = null;
    this.index = null;
    const root = document.getElementById("panel").content.cloneNode(true).firstElementChild;
    this.root = root;
    const part = (name) => root.querySelector(name);
    this.canvas = part("canvas");
    this.slider = part(".stage");
    this.parts = { value: part(".stage-value"), caption: part(".caption"), answers: part(".answers"),
      timing: part(".timing"), network: part(".network") };
    part(".panel-name").textContent = model.name;
    part(".panel-facts").textContent = `${model.network}, ${model.layers} layers, ` +
      `${model.parameters.toLocaleString("en")} parameters, ${model.runtime}`;
    this.slider.max = Math.max(model.stages.length - 1, 0);
    this.slider.value = this.slider.max;
    this.slider.setAttribute("aria-label", `Stage of ${model.name}`);
    this.slider.addEventListener("input", () => this.render());
    network.show(this.parts.network, model, (number) => {
      this.slider.value = number;
      this.render();
    });
    blank(this.canvas, "Your picture appears here");
    this.render();
  }

  /** Ask about a picture: the answers first, then the maps. */
  async look(picture, signal, index = null) {
    this.root.setAttribute("aria-busy", "true");
    try {
      if (index === null) {
        const answer = await api.predict(this.model.name, picture.file, signal);
        Object.assign(this, { picture, answer, why: null, index: answer.top[0]?.index ?? null });
        this.render();
      }
      if (this.model.explains) {
        this.why = await api.explain(this.model.name, picture.file, signal, index ?? this.index);
        this.index = this.why.index;
        this.render();
      }
    } finally {
      if (!signal.aborted) this.root.setAttribute("aria-busy", "false");
    }
  }

  render() {
    const number = Number(this.slider.value);
    const stage = this.model.stages[number]?.stage ?? "none";
    const map = this.why?.stages[number] ?? null;
    this.parts.value.textContent = stage;
    this.slider.setAttribute("aria-valuetext", stage);
    network.choose(this.parts.network, number);
    network.respond(this.parts.network, this.why?.stages ?? []);
    this.parts.caption.textContent = this.caption(map);
    if (!this.answer) return;
    if (this.picture.bitmap) draw(this.canvas, this.picture.bitmap, this.why?.crop, map, this.strength());
    else blank(this.canvas, "The browser cannot show this format");
    const best = this.answer.top[0];
    this.canvas.setAttribute("aria-label",
      `The picture${map ? `, with the map of ${stage} for ${this.why.class}` : ""}; the model says ${best.class}`);
    this.list();
    this.times();
  }

  caption(map) {
    if (!this.answer) return "";
    if (!this.model.explains) return "This model has no weights beside it that could explain.";
    if (!map) return "";
    const size = `${map.height} × ${map.width}`;
    return `${METHODS[map.method]}, ${size}, for “${this.why.class}”. The frame is what the network saw.`;
  }

  list() {
    this.parts.answers.replaceChildren(...this.answer.top.map((one) => {
      const button = document.createElement("button");
      button.type = "button";
      const name = document.createElement("span");
      name.textContent = one.class;
      const chance = document.createElement("span");
      chance.className = "chance";
      chance.textContent = `${(100 * one.probability).toFixed(2)} %`;
      button.append(name, chance);
      button.style.setProperty("--share", `${100 * one.probability}%`);
      button.setAttribute("aria-pressed", String(Boolean(this.why) && one.index === this.index));
      if (this.model.explains) button.title = `Show the map for ${one.class}`;
      button.dataset.index = one.index;
      const item = document.createElement("li");
      item.append(button);
      return item;
    }));
  }

  times() {
    const times = this.answer.milliseconds;
    const why = this.why ? `, map ${Math.round(this.why.milliseconds.explain)} ms` : "";
    this.parts.timing.textContent = `decode ${times.decode.toFixed(1)} ms, ` +
      `network ${times.network.toFixed(1)} ms, in all ${times.total.toFixed(1)} ms${why}`;
  }
}
