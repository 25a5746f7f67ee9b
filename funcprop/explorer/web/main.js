// The page: its parts put together, and painted again when something changes.

import { byId, el } from "./dom.js";
import { unpacked } from "./decode.js";
import { makeStore } from "./store.js";
import { drawNetwork, legend, showNetwork } from "./network.js";
import { inspect } from "./inspector.js";
import { makeStepper } from "./stepper.js";
import { imagesOf, makeChoices, makeCurves, makeEdits } from "./panels.js";
import { makeBlocks } from "./blocks.js";
import { makeGraph } from "./graph.js";

const KEYS = [["space", "play or pause the pass"], ["N, P", "next, previous step of the pass"], ["[ , ]", "earlier, later in training"], ["T", "play or pause the training"], ["V", "weights or gradients on the edges"], ["arrows", "from neuron to neuron"], ["E", "through the edges that enter a neuron"]];

function help(keys) {
  return el("details", { class: "help" }, el("summary", {}, "Keys"), el("dl", {}, keys.map(([key, words]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, words)])));
}

function makeNetwork(data, main) {
  const store = makeStore(data);
  const names = data.names ?? {};
  const drawn = drawNetwork(store, names);
  const inspector = el("section", { class: "inspector", "aria-label": "What is chosen", id: "inspector" });
  main.append(
    makeStepper(store),
    el("div", { class: "stage" },
      el("div", { class: "drawing" }, el("section", { "aria-label": "The network" }, makeChoices(store), el("div", { class: "scroll" }, drawn.root), legend(store)), makeEdits(store)),
      inspector),
    el("div", { class: "panels" }, ...makeCurves(store).filter(Boolean)),
    help(KEYS));
  let shown = null;
  store.listen(() => {
    showNetwork(store, drawn);
    // what is being dragged stays in the hand
    const held = document.activeElement;
    const same = shown === JSON.stringify(store.chosen);
    shown = JSON.stringify(store.chosen);
    if (same && held?.id === "changed" && inspector.contains(held)) return refresh(inspector, inspect(store, names));
    const places = placeOf(held, inspector);
    inspector.replaceChildren(...[...inspect(store, names), imagesOf(store)].filter(Boolean));
    if (places !== null) inspector.querySelectorAll("button, input")[places]?.focus();
    return undefined;
  });
  store.set({ chosen: { kind: "node", layer: 1, j: 0 } });
  globalThis.explorer = Object.assign(store, { repaint: () => store.set({}) });
}

const placeOf = (held, inside) => (held && inside.contains(held) ? [...inside.querySelectorAll("button, input")].indexOf(held) : null);

// Everything but the control that is being dragged.
function refresh(inspector, parts) {
  const control = inspector.querySelector(".change");
  [...inspector.children].forEach((child) => child !== control && child.remove());
  const fresh = parts.find((part) => part.classList.contains("change"));
  const typed = fresh?.querySelector('[type="number"]').value;
  if (typed !== undefined) control.querySelector('[type="number"]').value = typed;
  control.before(...parts.filter((part) => part !== fresh));
}

function themeSwitch() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const button = byId("theme");
  const paint = () => (button.textContent = dark() ? "Light" : "Dark");
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    paint();
    globalThis.explorer?.repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    paint();
    globalThis.explorer?.repaint();
  });
  paint();
}

themeSwitch();
const data = unpacked(JSON.parse(byId("data").textContent));
({ network: makeNetwork, blocks: makeBlocks, graph: makeGraph })[data.kind](data, byId("main"));
document.documentElement.dataset.ready = Math.round(performance.now());
