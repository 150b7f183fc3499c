// A drawing of the network's stages: blocks, shortcuts, and how strongly each responds.

const SVG = "http://www.w3.org/2000/svg";
const KINDS = {
  A: "identity shortcuts, zeros for new channels",
  B: "identity shortcuts, projections where the size changes",
  C: "projection shortcuts",
  highway: "gated shortcuts",
  none: "no shortcuts",
};
const MAX_BLOCKS = 12; // more blocks than this are abbreviated

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Draw blocks as boxes on a line, with an arc for each shortcut; dots stand for omitted blocks. */
function drawing(stage) {
  const blocks = Math.max(stage.blocks, 1);
  const shown = blocks > MAX_BLOCKS ? MAX_BLOCKS - 2 : blocks;
  const step = 120 / Math.max(blocks > MAX_BLOCKS ? MAX_BLOCKS : blocks, 3);
  const gap = step * 0.34;
  const svg = element("svg", { viewBox: "0 0 120 30", preserveAspectRatio: "xMinYMid", "aria-hidden": "true" });
  const end = step * shown;
  svg.append(element("path", { d: `M0 22H${end}`, class: "line" }));
  for (let i = 0; i < shown; i++) {
    const left = i * step, right = left + step;
    if (stage.shortcut !== "none") {
      const from = left + gap / 4, to = right - gap / 4;
      svg.append(element("path", { d: `M${from} 22C${from} 3 ${to} 3 ${to} 22`, class: "arc" }));
    }
    svg.append(element("rect", { x: left + gap / 2, y: 15, width: step - gap, height: 14, rx: 2, class: "block" }));
  }
  if (shown < blocks) svg.append(element("path", { d: `M${end + 4} 22H120`, class: "line dots" }));
  return svg;
}

function text(name, words, kind = "") {
  const made = document.createElement(name);
  made.textContent = words;
  made.className = kind;
  return made;
}

/** Describe the blocks and shortcuts of a model. */
export function blocks(model) {
  const { block, shortcut } = model.stages.at(-1);
  return `${block[0].toUpperCase()}${block.slice(1)} blocks, ${KINDS[shortcut] ?? shortcut}.`;
}

/** List the stages, as buttons if they have maps; `choose` is called with the number of the clicked stage. */
export function show(list, model, choose) {
  list.replaceChildren(...model.stages.map((stage, number) => {
    const card = document.createElement(model.explains ? "button" : "div");
    card.className = "card";
    const kind = stage.blocks ? `${stage.blocks} block${stage.blocks > 1 ? "s" : ""}` : "convolution";
    const gauge = text("span", "", "gauge");
    gauge.append(document.createElement("i"));
    card.append(text("strong", stage.stage), drawing(stage), text("span", kind),
      text("span", `${stage.channels}×${stage.height}×${stage.width}`), gauge,
      text("span", "", "response"), text("span", "", "active"));
    if (model.explains) {
      card.type = "button";
      card.addEventListener("click", () => choose(number));
    }
    const item = document.createElement("li");
    item.append(card);
    return item;
  }));
}

/** Show how strongly each stage responds; without explanations, clear that. */
export function respond(list, stages) {
  const strongest = Math.max(...stages.map((stage) => stage.deviation), 1e-9);
  list.querySelectorAll(".card").forEach((card, i) => {
    const stage = stages[i];
    card.querySelector("i").style.width = stage ? `${(100 * stage.deviation) / strongest}%` : "0";
    card.querySelector(".response").textContent = stage ? `std ${stage.deviation.toFixed(2)}` : "";
    card.querySelector(".active").textContent = stage ? `${Math.round(100 * stage.active)} % active` : "";
  });
}

export function choose(list, number) {
  list.querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-pressed", String(i === number)));
}
