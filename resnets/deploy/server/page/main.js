// The page: a picture comes in, one or two panels look at it.

import * as api from "./api.js";
import { Panel } from "./panel.js";
import { decode } from "./picture.js";

const byId = (id) => document.getElementById(id);
const state = { models: [], limits: {}, panels: [], picture: null, stop: new AbortController() };
const strength = () => Number(byId("opacity").value) / 100;

function complain(error) {
  if (error.name === "AbortError") return;
  byId("problem").textContent = error.message;
  byId("problem").hidden = false;
  if (error.status === 401) {
    byId("access").hidden = false;
    byId("token").focus();
  }
}

function restart() {
  state.stop.abort();
  state.stop = new AbortController();
  byId("problem").hidden = true;
  return state.stop.signal;
}

async function look(panels, index = null) {
  const signal = state.stop.signal;
  try {
    await Promise.all(panels.map((panel) => panel.look(state.picture, signal, index)));
  } catch (error) {
    complain(error);
    return;
  }
  const said = panels.map((panel) => {
    const best = panel.answer.top[0];
    return `${panel.model.name} says ${best.class}, ${Math.round(100 * best.probability)} percent`;
  });
  byId("news").textContent = said.join("; ");
}

async function take(file, name = file.name || "picture") {
  const signal = restart();
  if (state.limits.bytes && file.size > state.limits.bytes) {
    complain(new Error(`${name} has ${Math.round(file.size / 1e6)} MB; the server takes ${state.limits.bytes / 1e6}`));
    return;
  }
  const picture = { file, name, bitmap: await decode(file) };
  if (signal.aborted) return;
  state.picture = picture;
  byId("strength").hidden = !state.panels.some((panel) => panel.model.explains);
  await look(state.panels);
}

function choose() {
  const names = [byId("model").value, byId("other").value].filter(Boolean);
  restart();
  const models = names.map((name) => state.models.find((model) => model.name === name));
  state.panels = models.map((model) => {
    const panel = new Panel(model, strength);
    panel.parts.answers.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button && model.explains) {
        const index = Number(button.dataset.index);
        look([panel], index).then(() => panel.parts.answers.querySelector(`[data-index="${index}"]`)?.focus());
      }
    });
    return panel;
  });
  byId("panels").className = state.panels.length > 1 ? "two" : "";
  byId("panels").replaceChildren(...state.panels.map((panel) => panel.root));
  if (state.picture) look(state.panels);
}

function fill(select, names, first = null) {
  const options = names.map((name) => new Option(name, name));
  select.replaceChildren(...(first === null ? [] : [new Option(first, "")]), ...options);
}

async function sampleButtons() {
  const listed = await api.samples();
  byId("samples").replaceChildren(...listed.map(({ name, url }) => {
    const button = document.createElement("button");
    button.type = "button";
    const image = new Image();
    image.src = url;
    image.alt = name;
    image.loading = "lazy";
    button.append(image);
    button.addEventListener("click", async () => {
      try {
        const answer = await fetch(url);
        if (!answer.ok) throw new Error(`${name} cannot be had`);
        await take(await answer.blob(), name);
      } catch (error) {
        complain(error);
      }
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

async function begin() {
  try {
    const found = await api.facts();
    Object.assign(state, { models: found.models, limits: found.limits });
    byId("access").hidden = byId("problem").hidden = true;
    const names = found.models.map((model) => model.name);
    fill(byId("model"), names);
    fill(byId("other"), names, "nothing");
    choose();
    await sampleButtons();
  } catch (error) {
    complain(error);
  }
}

byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  api.setToken(byId("token").value.trim());
  begin();
});
byId("model").addEventListener("change", choose);
byId("other").addEventListener("change", choose);
byId("opacity").addEventListener("input", () => {
  byId("opacity-value").textContent = `${byId("opacity").value} %`;
  state.panels.forEach((panel) => panel.render());
});
byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // the same file may be chosen again
  if (file) take(file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) take(file);
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const [file] = event.dataTransfer.files;
  if (file) take(file);
  else complain(new Error("That was no file; drop an image file"));
});
begin();
