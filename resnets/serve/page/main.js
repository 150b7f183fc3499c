// The page: the user gives a picture, and one or two panels show what models predict for it.

import * as api from "./api.js";
import { DetectorPanel } from "./detector_panel.js";
import { Panel } from "./panel.js";
import { decode } from "./picture.js";

const byId = (id) => document.getElementById(id);
// `picture` is shown by the panels, `requested` is the latest one they were given.
const state = { models: [], limits: {}, panels: [], picture: null, requested: null, opacity: 60, score: 50, stop: new AbortController() };
const hooks = {
  opacity(value) {
    state.opacity = value;
    redraw();
  },
  score(value) {
    state.score = value;
    redraw();
  },
  explain(panel, index) {
    hideProblem();
    panel.explain(index).then(
      () => announce(`Map for ${panel.explanation.class} on ${panel.model.name}`),
      (error) => showProblem(error, () => hooks.explain(panel, index)),
    );
  },
};

const redraw = () => state.panels.forEach((panel) => panel.render());
const announce = (words) => { byId("news").textContent = words; };
const hideProblem = () => { byId("problem-box").hidden = true; };

/** Show an error. `again` repeats what failed, offered if that may succeed. `subject` is the model or file concerned. */
function showProblem(error, again = null, subject = "") {
  if (error.name === "AbortError") return; // a newer request has replaced it
  byId("problem-box").hidden = false;
  byId("problem").textContent = subject ? `${subject}: ${error.message}` : error.message;
  byId("problem-box").scrollIntoView({ block: "nearest" });
  byId("again").hidden = !(again && error.temporary);
  byId("again").onclick = () => {
    byId("file").focus(); // the button disappears
    hideProblem();
    again();
  };
  if (error.status === 401) {
    byId("access").hidden = false;
    byId("token").focus();
  }
}

/** Wait for a promise, and announce it if it takes more than a second. */
async function announceIfSlow(work) {
  const slow = setTimeout(() => announce("Working on it"), 1000);
  try {
    return await work;
  } finally {
    clearTimeout(slow);
  }
}

/** Show a picture and its predictions in panels. If all panels fail, nothing changes. */
async function show(panels, picture) {
  state.requested = picture;
  const results = await announceIfSlow(Promise.allSettled(panels.map((panel) => panel.show(picture))));
  if (state.requested !== picture) return;
  const answered = state.panels.filter((panel) => panel.picture === picture);
  if (answered.length) {
    state.picture = picture;
    panels.filter((panel) => panel.picture !== picture).forEach((panel) => panel.clear());
    announce(answered.map((panel) => panel.summary()).join("; "));
  } else {
    state.requested = state.picture;
    // Explanations that this interrupted are requested once more.
    panels.filter((panel) => panel.lacksMap).forEach((panel) => hooks.explain(panel, panel.prediction.top[0].index));
  }
  const failed = panels.filter((_, i) => results[i].status === "rejected" && results[i].reason.name !== "AbortError");
  if (failed.length) {
    const { reason } = results[panels.indexOf(failed[0])];
    const alone = failed.length < state.panels.length ? failed[0].model.name : "";
    showProblem(reason, () => show(failed, picture), reason.concernsFile ? picture.name : alone);
  }
}

/** Load and show a picture; `source(signal)` returns its content. */
async function load(source, name) {
  state.stop.abort();
  const { signal } = state.stop = new AbortController();
  hideProblem();
  try {
    const file = await announceIfSlow(source(signal));
    const image = await decode(file);
    if (!signal.aborted) await show(state.panels, { file, name, image });
  } catch (error) {
    if (!signal.aborted) showProblem(error, () => load(source, name));
  }
}

/** Load the first picture of a user's files; `missing` is the message if there are none. */
function loadFiles(files, missing) {
  const file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
  if (!file) {
    showProblem(new Error(missing));
    return;
  }
  load(async () => {
    const { bytes } = state.limits;
    if (bytes && file.size > bytes) {
      const sizes = [file.size, bytes].map((size) => (size / 1e6).toFixed(1));
      throw new Error(`${file.name} has ${sizes[0]} MB; the server accepts up to ${sizes[1]} MB`);
    }
    try {
      return new Blob([await file.arrayBuffer()]); // the file may change, or be a folder
    } catch {
      throw new Error(`${file.name} cannot be read; is it a file?`);
    }
  }, file.name || "The picture");
}

/** Make panels for the selected models; panels of models that stay selected are kept. */
function selectModels() {
  const [first, other] = [byId("model"), byId("other")];
  const second = other.value;
  fill(other, state.models.map((model) => model.name).filter((name) => name !== first.value), "nothing");
  other.value = second === first.value ? "" : second;
  const names = [first.value, other.value].filter(Boolean);
  const before = state.panels;
  state.panels = names.map((name) => before.find((panel) => panel.model.name === name) ??
    makePanel(state.models.find((model) => model.name === name)));
  before.filter((panel) => !state.panels.includes(panel)).forEach((panel) => panel.clear());
  hideProblem();
  byId("panels").className = names.length > 1 ? "two" : "";
  byId("panels").replaceChildren(...state.panels.map((panel) => panel.root));
  const suited = state.samples.filter(({ task }) =>
    !task || state.panels.some((panel) => panel.model.task === task));
  byId("try").hidden = !suited.length;
  byId("samples").replaceChildren(...suited.map(sampleButton));
  redraw();
  const added = state.panels.filter((panel) => !before.includes(panel));
  if (state.requested && added.length) show(added, state.requested);
}

function makePanel(model) {
  return model.task === "detection"
    ? new DetectorPanel(model, () => state.score, hooks)
    : new Panel(model, () => state.opacity, hooks);
}

function fill(select, names, first = null) {
  const options = names.map((name) => new Option(name, name));
  select.replaceChildren(...(first === null ? [] : [new Option(first, "")]), ...options);
}

function sampleButton({ name, url }) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = name;
  const image = new Image(52, 52);
  image.src = url;
  image.alt = name;
  button.append(image);
  button.addEventListener("click", () => load((signal) => api.sample(url, signal), name));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

async function begin() {
  hideProblem();
  try {
    const [found, samples] = await Promise.all([api.facts(), api.samples()]);
    Object.assign(state, { models: found.models, limits: found.limits, samples, panels: [] });
    byId("access").hidden = true;
    byId("choices").hidden = byId("intake").hidden = false;
    byId("compare").hidden = found.models.length < 2;
    fill(byId("model"), found.models.map((model) => model.name));
    selectModels();
  } catch (error) {
    showProblem(error, begin);
  }
}

byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  const word = byId("token").value.trim();
  if (/^[!-~]+$/.test(word)) {
    api.setToken(word);
    begin();
  } else {
    showProblem(new Error("A token consists of letters, digits and signs, without spaces"));
  }
});
byId("model").addEventListener("change", selectModels);
byId("other").addEventListener("change", selectModels);
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) loadFiles([...event.target.files]);
  event.target.value = ""; // the same file may be chosen again
});
window.addEventListener("resize", redraw);

// Once the page is ready, files may be dropped and pasted anywhere except into the token's field.
const acceptsFiles = (event) => !event.target.closest?.("input[type=password]") && !byId("intake").hidden;
document.addEventListener("paste", (event) => {
  if (acceptsFiles(event)) loadFiles(event.clipboardData.files, "The pasted content is not a picture");
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    if (!acceptsFiles(event)) return;
    event.preventDefault();
    document.body.classList.toggle("dragging", event.dataTransfer.types.includes("Files"));
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!acceptsFiles(event)) return;
  event.preventDefault();
  loadFiles(event.dataTransfer.files, "The dropped content is not a file; drop an image file");
});
begin();
