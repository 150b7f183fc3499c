// The page: a picture comes in, one or two panels look at it.

import * as api from "./api.js";
import { Panel } from "./panel.js";
import { decode } from "./picture.js";

const byId = (id) => document.getElementById(id);
// `picture` is what the panels show, `asked` what they were asked about last.
const state = { models: [], limits: {}, panels: [], picture: null, asked: null, opacity: 60, stop: new AbortController() };
const hooks = {
  opacity(value) {
    state.opacity = value;
    redraw();
  },
  explain(panel, index) {
    hush();
    panel.explain(index).then(
      () => announce(`Map for ${panel.why.class} on ${panel.model.name}`),
      (error) => complain(error, () => hooks.explain(panel, index)),
    );
  },
};

const redraw = () => state.panels.forEach((panel) => panel.render());
const announce = (words) => { byId("news").textContent = words; };
const hush = () => { byId("problem-box").hidden = true; };

/** Show an error; `again` does the same once more, offered if that may help; `whose` it is, in a word. */
function complain(error, again = null, whose = "") {
  if (error.name === "AbortError") return; // something newer is under way
  byId("problem-box").hidden = false;
  byId("problem").textContent = whose ? `${whose}: ${error.message}` : error.message;
  byId("problem-box").scrollIntoView({ block: "nearest" });
  byId("again").hidden = !(again && error.passing);
  byId("again").onclick = () => {
    byId("file").focus(); // the button goes
    hush();
    again();
  };
  if (error.status === 401) {
    byId("access").hidden = false;
    byId("token").focus();
  }
}

/** Wait for work, and say so if it takes long. */
async function patiently(work) {
  const slow = setTimeout(() => announce("Working on it"), 1000);
  try {
    return await work;
  } finally {
    clearTimeout(slow);
  }
}

/** Let panels look at a picture. If none can, all stays as it was. */
async function show(panels, picture) {
  state.asked = picture;
  const results = await patiently(Promise.allSettled(panels.map((panel) => panel.look(picture))));
  if (state.asked !== picture) return;
  const answered = state.panels.filter((panel) => panel.picture === picture);
  if (answered.length) {
    state.picture = picture;
    panels.filter((panel) => panel.picture !== picture).forEach((panel) => panel.clear());
    announce(answered.map((panel) => panel.says()).join("; "));
  } else {
    state.asked = state.picture;
    // What they were at is gone on with.
    panels.filter((panel) => panel.lacks).forEach((panel) => hooks.explain(panel, panel.answer.top[0].index));
  }
  const failed = panels.filter((_, i) => results[i].status === "rejected" && results[i].reason.name !== "AbortError");
  if (failed.length) {
    const { reason } = results[panels.indexOf(failed[0])];
    const alone = failed.length < state.panels.length ? failed[0].model.name : "";
    complain(reason, () => show(failed, picture), reason.concernsFile ? picture.name : alone);
  }
}

/** Take a picture in: `source(signal)` gives its content. */
async function take(source, name) {
  state.stop.abort();
  const { signal } = state.stop = new AbortController();
  hush();
  try {
    const file = await patiently(source(signal));
    const image = await decode(file);
    if (!signal.aborted) await show(state.panels, { file, name, image });
  } catch (error) {
    if (!signal.aborted) complain(error, () => take(source, name));
  }
}

/** Take the first picture of a user's files in. */
function takeFiles(files, otherwise) {
  const file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
  if (!file) {
    complain(new Error(otherwise));
    return;
  }
  take(async () => {
    const { bytes } = state.limits;
    if (bytes && file.size > bytes) {
      const sizes = [file.size, bytes].map((size) => (size / 1e6).toFixed(1));
      throw new Error(`${file.name} has ${sizes[0]} MB; the server takes up to ${sizes[1]} MB`);
    }
    try {
      return new Blob([await file.arrayBuffer()]); // the file may change, or be a folder
    } catch {
      throw new Error(`${file.name} cannot be read; is it a file?`);
    }
  }, file.name || "The picture");
}

/** Make panels for the chosen models; those that stay keep what they show. */
function choose() {
  const [first, other] = [byId("model"), byId("other")];
  const second = other.value;
  fill(other, state.models.map((model) => model.name).filter((name) => name !== first.value), "nothing");
  other.value = second === first.value ? "" : second;
  const names = [first.value, other.value].filter(Boolean);
  const before = state.panels;
  state.panels = names.map((name) => before.find((panel) => panel.model.name === name) ??
    new Panel(state.models.find((model) => model.name === name), () => state.opacity, hooks));
  before.filter((panel) => !state.panels.includes(panel)).forEach((panel) => panel.clear());
  hush();
  byId("panels").className = names.length > 1 ? "two" : "";
  byId("panels").replaceChildren(...state.panels.map((panel) => panel.root));
  redraw();
  const added = state.panels.filter((panel) => !before.includes(panel));
  if (state.asked && added.length) show(added, state.asked);
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
  button.addEventListener("click", () => take((signal) => api.sample(url, signal), name));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

async function begin() {
  hush();
  try {
    const [found, samples] = await Promise.all([api.facts(), api.samples()]);
    Object.assign(state, { models: found.models, limits: found.limits, panels: [] });
    byId("access").hidden = true;
    byId("choices").hidden = byId("intake").hidden = false;
    byId("compare").hidden = found.models.length < 2;
    fill(byId("model"), found.models.map((model) => model.name));
    byId("try").hidden = !samples.length;
    byId("samples").replaceChildren(...samples.map(sampleButton));
    choose();
  } catch (error) {
    complain(error, begin);
  }
}

byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  const word = byId("token").value.trim();
  if (/^[!-~]+$/.test(word)) {
    api.setToken(word);
    begin();
  } else {
    complain(new Error("A token is one word of letters, digits and signs"));
  }
});
byId("model").addEventListener("change", choose);
byId("other").addEventListener("change", choose);
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) takeFiles([...event.target.files]);
  event.target.value = ""; // the same file may be chosen again
});
window.addEventListener("resize", redraw);

// Files may be dropped and pasted anywhere once the page is ready, words only into the token's field.
const elsewhere = (event) => !event.target.closest?.("input[type=password]") && !byId("intake").hidden;
document.addEventListener("paste", (event) => {
  if (elsewhere(event)) takeFiles(event.clipboardData.files, "What was pasted is no picture");
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    if (!elsewhere(event)) return;
    event.preventDefault();
    document.body.classList.toggle("dragging", event.dataTransfer.types.includes("Files"));
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!elsewhere(event)) return;
  event.preventDefault();
  takeFiles(event.dataTransfer.files, "What was dropped is no file; drop an image file");
});
begin();
