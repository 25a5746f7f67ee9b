// A graph of a few numbers: the value above, the slope of the end below, on every node.

import { el, equations, frac, row, set, show, svg, valued } from "./dom.js";

// Each operation: its value, and what it passes back to each of what enters it, times the error.
const OPERATIONS = {
  add: { f: ([a, b]) => a + b, slopes: () => [1, 1], words: "+" },
  "add-one": { f: ([a]) => a + 1, slopes: () => [1], words: "+ 1" },
  multiply: { f: ([a, b]) => a * b, slopes: ([a, b]) => [b, a], words: "×" },
};

// nodes: [{ name, operation, from: [names] }] in order; inputs: { name: value }.
export function graphPass(nodes, inputs) {
  const value = { ...inputs };
  for (const { name, operation, from } of nodes) value[name] = OPERATIONS[operation].f(from.map((f) => value[f]));
  const error = Object.fromEntries(Object.keys(value).map((name) => [name, 0]));
  error[nodes.at(-1).name] = 1;
  const paths = [];
  for (const { name, operation, from } of nodes.toReversed()) {
    OPERATIONS[operation].slopes(from.map((f) => value[f])).forEach((slope, k) => {
      error[from[k]] += error[name] * slope;
      paths.push({ from: from[k], to: name, slope, sent: error[name] * slope });
    });
  }
  return { value, error, paths };
}

const CHOSEN = "chosen";

export function makeGraph(data, main) {
  const { nodes, places, automatic } = data;
  const state = { inputs: { ...data.inputs }, phase: 2 * nodes.length, chosen: "b" };
  const end = nodes.at(-1).name;
  const names = [...Object.keys(data.inputs), ...nodes.map((n) => n.name)];
  const at = (name) => [90 + 210 * places[name][0], 70 + 110 * places[name][1]];
  const root = svg("svg", { viewBox: "0 0 640 360", class: "network graph", role: "group", "aria-label": "The graph: values go right, slopes come back" });
  const edges = new Map();
  const drawn = {};
  for (const { name, from } of nodes) for (const f of from) {
    const [[x1, y1], [x2, y2]] = [at(f), at(name)];
    const text = svg("text", { x: (x1 + x2) / 2, y: (y1 + y2) / 2 - 9, class: "slope-text" });
    edges.set(`${f} ${name}`, text);
    root.append(svg("path", { d: `M${x1} ${y1}L${x2} ${y2}`, class: "bundle strong" }), text);
  }
  for (const name of names) {
    const [x, y] = at(name);
    const pick = () => state.chosen !== name && change({ chosen: name });
    const parts = { value: svg("text", { y: -4, class: "inside" }), error: svg("text", { y: 15, class: "inside delta" }) };
    const group = svg("g", { transform: `translate(${x} ${y})`, class: "node", role: "button", tabindex: "0", "data-node": name, onclick: pick, onfocus: pick, onmouseenter: pick },
      svg("circle", { r: 38, class: "value plain" }), svg("circle", { r: 38, class: "rim" }), svg("circle", { r: 44, class: "mark" }));
    // what is written stands beside the button, whose name says it in words
    const words = svg("g", { transform: `translate(${x} ${y})`, class: "words", "aria-hidden": "true" }, parts.value, parts.error, svg("text", { y: -52, class: "name big", "text-anchor": "middle" }, title(name)));
    drawn[name] = { group, ...parts };
    root.append(group, words);
  }
  const said = el("p", { class: "said", id: "said", "aria-live": "polite" });
  const inspector = el("section", { class: "inspector", id: "inspector", "aria-label": "What is chosen" });
  const last = 2 * nodes.length;
  const step = (by) => change({ phase: Math.max(0, Math.min(last, state.phase + by)) });
  const button = (id, label, text, f) => el("button", { type: "button", id, "aria-label": label, title: label, onclick: f }, text);
  let timer = null;
  const play = () => {
    clearInterval(timer);
    change({ phase: 0 });
    timer = setInterval(() => (state.phase >= last ? clearInterval(timer) : step(1)), 1100);
  };
  const input = (name) => el("div", { class: "change" }, el("label", { for: `in-${name}` }, `${name} =`), el("input", { type: "number", id: `in-${name}`, step: "0.5", value: state.inputs[name], oninput: (e) => e.target.value !== "" && change({ inputs: { ...state.inputs, [name]: Number(e.target.value) } }) }));
  main.append(
    el("section", { class: "stepper", "aria-label": "Steps" }, el("div", { class: "row" }, el("div", { class: "buttons" }, button("previous", "Previous step (P)", "◀", () => step(-1)), button("play", "Play the pass (space)", "▶ pass", play), button("next", "Next step (N)", "▶", () => step(1))), Object.keys(data.inputs).map(input)), said),
    el("div", { class: "stage" }, el("section", { class: "drawing", "aria-label": "The graph" }, el("div", { class: "scroll" }, root), el("p", { class: "note" }, "In each circle the value, and below it how the end moves when this moves: ∂e/∂. On the edges the slope of one step. Along a path slopes multiply; where paths meet they add.")), inspector));
  addEventListener("keydown", (event) => {
    if (event.target.closest?.("input, button")) return;
    const action = { n: () => step(1), p: () => step(-1), " ": play }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  function title(name) {
    const node = nodes.find((n) => n.name === name);
    if (!node) return name;
    const [p, q] = node.from;
    return `${name} = ${node.operation === "add-one" ? `${p} + 1` : `${p} ${OPERATIONS[node.operation].words} ${q}`}`;
  }

  function change(changes) {
    Object.assign(state, changes);
    paint();
  }

  function paint() {
    const { value, error, paths } = graphPass(nodes, state.inputs);
    const forward = (name) => !nodes.some((n) => n.name === name) || state.phase > nodes.findIndex((n) => n.name === name);
    const sentBy = (name) => state.phase > nodes.length + nodes.toReversed().findIndex((n) => n.name === name);
    const backward = (name) => (name === end ? state.phase >= nodes.length : paths.filter((p) => p.from === name).every((p) => sentBy(p.to)));
    for (const name of names) {
      const parts = drawn[name];
      parts.value.textContent = forward(name) ? show(value[name]) : "";
      parts.error.textContent = backward(name) ? `∂ ${show(error[name])}` : "";
      set(parts.group, { class: `node${name === state.chosen ? ` ${CHOSEN}` : ""}`, "aria-label": `${title(name)}: ${forward(name) ? `value ${show(value[name])}` : "not computed yet"}${backward(name) ? `, slope of ${end} ${show(error[name])}` : ""}` });
    }
    for (const { from, to, slope } of paths) edges.get(`${from} ${to}`).textContent = sentBy(to) ? show(slope) : "";
    said.textContent = sentence(value, error);
    inspector.replaceChildren(...inspectNode(state.chosen, value, error, paths, backward));
  }

  function sentence(value, error) {
    const { phase } = state;
    if (phase === 0) return `Start: ${Object.entries(state.inputs).map(([n, v]) => `${n} = ${show(v)}`).join(", ")}`;
    if (phase <= nodes.length) return `Forward: ${title(nodes[phase - 1].name)} = ${show(value[nodes[phase - 1].name])}`;
    const node = nodes.toReversed()[phase - nodes.length - 1];
    return `Backward through ${title(node.name)}: it passes ${show(error[node.name])} on, times its slopes, to ${node.from.join(" and ")}`;
  }

  function inspectNode(name, value, error, paths, backward) {
    const parts = [el("h2", {}, title(name)), equations([[name, valued(value[name], true)]])];
    if (!backward(name)) return [...parts, el("p", { class: "hint" }, "The backward pass has not reached it.")];
    const ways = paths.filter((p) => p.from === name);
    const d = (a, b) => frac(`∂${a}`, `∂${b}`);
    if (ways.length) {
      const letters = ways.flatMap((p, k) => [k ? "+" : "", d(end, p.to), "·", d(p.to, name)]);
      const numbers = ways.flatMap((p, k) => [k ? "+" : "", valued(error[p.to]), "·", valued(p.slope)]);
      parts.push(el("p", { class: "step" }, ways.length > 1 ? `${ways.length} paths lead to ${end}: they add` : "Error × slope"), equations([[d(end, name), row(...letters), row(...numbers), valued(error[name], true)]]));
    } else parts.push(el("p", {}, "The end moves with itself: 1."));
    const same = Object.entries(data.inputs).every(([n, v]) => state.inputs[n] === v);
    if (same && name in automatic) parts.push(el("p", { class: "agrees" }, "jax.grad says ", el("data", { value: automatic[name] }, show(automatic[name])), ", the same."));
    return parts;
  }
  globalThis.explorer = { state, change, repaint: paint };
  paint();
}
