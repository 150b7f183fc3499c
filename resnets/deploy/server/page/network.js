// The network as its stages: blocks, shortcuts, and what each answers.

const SVG = "http://www.w3.org/2000/svg";
const KINDS = {
  A: "shortcuts: identity, zeros for new channels", B: "shortcuts: identity, projections where the size changes",
  C: "shortcuts: projections", highway: "gated shortcuts", none: "no shortcuts",
};

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Blocks as boxes in a row, with an arc over each that has a shortcut. */
function drawing(stage) {
  const shown = Math.min(Math.max(stage.blocks, 1), 12);
  const step = 96 / Math.max(shown, 3);
  const svg = element("svg", { viewBox: "0 0 100 34", "aria-hidden": "true", preserveAspectRatio: "xMinYMid meet" });
  for (let i = 0; i < shown; i++) {
    const x = 2 + i * step, width = Math.max(step - 5, 2.5);
    svg.append(element("rect", { x, y: 17, width, height: 13, rx: 2, class: "block" }));
    if (stage.shortcut !== "none") {
      const from = x - 1.5, to = x + width + 1.5;
      svg.append(element("path", { d: `M${from} 23 C${from} 4 ${to} 4 ${to} 23`, class: "arc" }));
    }
  }
  return svg;
}

function text(name, words) {
  const made = document.createElement(name);
  made.textContent = words;
  return made;
}

/** Fill a list with one button for each stage; `choose` is called with the stage's number. */
export function show(list, model, choose) {
  list.replaceChildren(...model.stages.map((stage, number) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = KINDS[stage.shortcut] || "";
    const kind = stage.blocks ? `${stage.blocks} ${stage.block} blocks` : "convolution";
    const gauge = document.createElement("div");
    gauge.className = "gauge";
    gauge.append(document.createElement("i"));
    button.append(text("strong", stage.stage), drawing(stage), text("span", kind),
      text("span", `${stage.channels}×${stage.height}×${stage.width}`), gauge, text("span", ""));
    button.addEventListener("click", () => choose(number));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

/** Show what each stage answered; without maps, that nothing is known. */
export function respond(list, stages) {
  const strongest = Math.max(...stages.map((stage) => stage.deviation), 1e-9);
  list.querySelectorAll("button").forEach((button, i) => {
    const stage = stages[i];
    button.querySelector("i").style.width = stage ? `${(100 * stage.deviation) / strongest}%` : "0";
    button.lastChild.textContent = stage
      ? `response ${stage.deviation.toFixed(2)}, ${Math.round(100 * stage.active)} % active` : "";
  });
}

export function choose(list, number) {
  list.querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-pressed", String(i === number)));
}
