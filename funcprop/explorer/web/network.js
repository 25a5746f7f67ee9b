// The drawing: neurons that show value, error and slope in the same place, and edges between them.

import { el, set, svg, show, brief, lowered, raised } from "./dom.js";
import { ACTIVATIONS, LOSSES } from "./engine.js";
import { BATCH } from "./store.js";

const LARGEST = 20; // neurons of a column: more are drawn as an image or a stack of cells
const MOST_EDGES = 500;

// ── where things stand ──────────────────────────────────────────────────────────────────────────

export function layoutOf(data) {
  const image = data.image ?? null;
  const columns = data.sizes.map((count, layer) => ({ layer, count, cells: count > LARGEST || (layer === 0 && image !== null) }));
  const widest = Math.max(...columns.filter((c) => !c.cells).map((c) => c.count), 1);
  const radius = widest <= 4 ? 32 : widest <= 6 ? 30 : widest <= 9 ? 17 : widest <= 13 ? 12 : 9.5;
  const pitch = radius * (widest <= 4 ? 2.9 : radius > 20 ? 2.45 : 2.75);
  const height = Math.max(widest * pitch + 62, 300);
  const compact = innerWidth < 560;
  const gap = compact ? Math.max(96, Math.min(130, 300 / (columns.length - 1))) : Math.max(150, Math.min(240, 700 / (columns.length - 1)));
  const below = compact && radius > 20; // names stand below the neurons
  const left = columns[0].cells ? (compact ? 76 : 90) : radius + (below ? 12 : 46);
  const width = left + gap * (columns.length - 1) + radius + (below ? 36 : 106);
  for (const column of columns) {
    column.x = left + gap * column.layer;
    column.y = (j) => 34 + (height - 34) / 2 + (j - (column.count - 1) / 2) * pitch;
  }
  return { columns, radius, width, height, middle: 34 + (height - 34) / 2, numbers: radius > 20, below, image };
}

// ── the drawing, made once, and what it shows ───────────────────────────────────────────────────

export function drawNetwork(store, names) {
  const layout = layoutOf(store.data);
  const { columns, radius, width, height } = layout;
  const root = svg("svg", {
    viewBox: `0 0 ${width} ${height + 8}`, class: "network", role: "group",
    "aria-label": "The network: neurons in columns. Arrow keys move between them, E goes through the edges that enter one.",
    style: `min-width:${Math.min(width, Math.max(340, columns.length * 120))}px;max-width:${width * 1.25}px`,
  });
  const edges = svg("g", { class: "edges" });
  const nodes = svg("g", { class: "nodes" });
  root.append(edges, nodes);
  const drawn = { root, layout, edges: [], nodes: columns.map(() => []), cells: null, headings: [] };

  columns.forEach((column) => {
    const heading = svg("text", { x: column.x, y: 16, class: "heading" });
    drawn.headings.push(heading);
    root.append(heading);
    if (column.cells) return;
    for (let j = 0; j < column.count; j++) drawn.nodes[column.layer].push(drawNode(store, nodes, column, j, layout, names));
  });
  if (columns[0].cells) drawn.cells = drawCells(store, nodes, layout);
  const count = store.data.sizes.slice(1).reduce((s, m, l) => s + m * store.data.sizes[l], 0);
  for (let l = 0; l < store.depth; l++) {
    const [from, to] = [columns[l], columns[l + 1]];
    if (to.cells) continue;
    if (from.cells) bundle(edges, layout, from, to);
    else for (let i = 0; i < from.count; i++) for (let j = 0; j < to.count; j++) drawn.edges.push(drawEdge(store, edges, layout, l, i, j, count <= MOST_EDGES));
  }
  const cost = columns.at(-1);
  drawn.cost = svg("text", { x: cost.x, y: height + 2, class: "costs" });
  root.append(drawn.cost);
  addKeys(store, drawn);
  return drawn;
}

function bundle(edges, layout, from, to) {
  const right = from.x + 66;
  for (let j = 0; j < to.count; j++) {
    edges.append(svg("path", { d: `M${right} ${layout.middle}L${to.x - layout.radius} ${to.y(j)}`, class: "bundle" }));
  }
}

function choose(store, chosen) {
  const same = JSON.stringify(store.chosen) === JSON.stringify(chosen);
  if (!same) store.set({ chosen });
}

function drawNode(store, parent, column, j, layout, names) {
  const { radius: r, numbers } = layout;
  const chosen = { kind: "node", layer: column.layer, j };
  const input = column.layer === 0;
  const many = store.data.sizes.at(-1) > 5; // outputs: their shares stand beside them
  const half = (side) => `M0 ${-r}A${r} ${r} 0 0 ${side} 0 ${r}Z`;
  const words = svg("g", { transform: `translate(${column.x} ${column.y(j)})`, class: "words", "aria-hidden": "true" });
  const parts = {
    value: input ? svg("circle", { r, class: "value" }) : svg("path", { d: half(0), class: "value" }),
    error: input ? null : svg("path", { d: half(1), class: "error" }),
    slope: input ? null : svg("path", { class: "slope" }),
    rim: svg("circle", { r, class: "rim" }),
    mark: svg("circle", { r: r + 7, class: "mark" }),
  };
  // what is written stands beside the button, whose name says it in words
  const texts = {
    valueText: numbers ? svg("text", { x: input ? 0 : -r * 0.47, y: 4, class: "inside" }) : null,
    errorText: numbers && !input ? svg("text", { x: r * 0.47, y: 4, class: "inside" }) : null,
    name: svg("text", { x: nameOffset(column, layout)[0], y: nameOffset(column, layout)[1], class: "name", "text-anchor": layout.below ? "middle" : column.layer === 0 ? "end" : "start" }),
    target: svg("text", { x: nameOffset(column, layout)[0] + (many ? 19 : 0), y: nameOffset(column, layout)[1] + (many ? 0 : 17), class: many ? "name soft" : "name", "text-anchor": layout.below && !many ? "middle" : "start" }),
  };
  const group = svg("g", {
    transform: `translate(${column.x} ${column.y(j)})`, class: "node", role: "button", tabindex: "-1",
    "data-node": `${column.layer}.${j}`,
    onmouseenter: () => choose(store, chosen), onfocus: () => choose(store, chosen), onclick: () => choose(store, chosen),
  }, ...Object.values(parts).filter(Boolean));
  words.append(...Object.values(texts).filter(Boolean));
  parent.append(group, words);
  return { group, parts: { ...parts, ...texts }, chosen, word: wordOf(store, names, column.layer, j) };
}

function nameOffset({ layer }, { radius, columns, below }) {
  if (below) return [0, radius + 18];
  if (layer === 0) return [-radius - 10, 4];
  return layer === columns.length - 1 ? [radius + 12, 4] : [0, 0];
}

export function wordOf(store, names, layer, j) {
  if (layer === 0) return names.inputs?.[j] ?? `x${lowered(j + 1)}`;
  if (layer === store.depth && names.outputs?.[j] !== undefined) return names.outputs[j];
  return `a${raised(layer)}${lowered(j + 1)}`;
}

function drawEdge(store, parent, layout, l, i, j, felt) {
  const [from, to] = [layout.columns[l], layout.columns[l + 1]];
  const chosen = { kind: "edge", layer: l, i, j };
  const d = `M${from.x + layout.radius} ${from.y(i)}L${to.x - layout.radius - 4} ${to.y(j)}`;
  const line = svg("path", { d, class: "line" });
  const pick = () => choose(store, chosen);
  const group = svg("g", { class: "edge", role: "button", tabindex: "-1", "data-edge": `${l}.${i}.${j}`, onfocus: pick, onclick: pick }, line);
  if (felt) {
    const hit = svg("path", { d, class: "hit", onmouseenter: pick });
    group.prepend(hit);
  }
  parent.append(group);
  return { group, line, chosen };
}

// The inputs as an image, or as a stack of cells.
function drawCells(store, parent, layout) {
  const { columns: [column], middle, image } = layout;
  const [high, wide] = image ?? [column.count, 1];
  const side = Math.min(132 / wide, (layout.height - 60) / high);
  const [left, top] = [column.x - (wide * side) / 2, middle - (high * side) / 2];
  const cells = [];
  const group = svg("g", { class: "image" });
  for (let k = 0; k < column.count; k++) {
    const pick = () => choose(store, { kind: "node", layer: 0, j: k });
    const cell = svg("rect", {
      x: left + (k % wide) * side, y: top + Math.floor(k / wide) * side, width: side, height: side, class: "cell",
      role: "button", tabindex: "-1", "data-node": `0.${k}`, onmouseenter: pick, onfocus: pick, onclick: pick,
    });
    cells.push(cell);
    group.append(cell);
  }
  group.append(svg("rect", { x: left, y: top, width: wide * side, height: high * side, class: "frame" }));
  parent.append(group);
  return cells;
}

// ── what is shown now ───────────────────────────────────────────────────────────────────────────

// One number a neuron: of the example, or over the batch the mean of a and the root mean square of δ.
export function summaryOf(layer, rows, m, j) {
  let [a, delta, da, slope] = [0, 0, 0, 0];
  for (let r = 0; r < rows; r++) {
    const k = r * m + j;
    a += layer.a[k] / rows;
    delta += rows === 1 ? layer.delta[k] : layer.delta[k] ** 2 / rows;
    da += layer.da[k] / rows;
    slope += layer.slope[k] / rows;
  }
  return { a, da, slope, delta: rows === 1 ? delta : Math.sqrt(delta) };
}

const most = (values) => Math.max(1e-300, values.reduce((s, v) => Math.max(s, Math.abs(v)), 0));
const strength = (v, top) => Math.min(1, Math.sqrt(Math.abs(v) / top)).toFixed(3);
const arc = (r, share) => {
  const turn = Math.min(0.9999, Math.max(0, share)) * 2 * Math.PI;
  return `M0 ${-r}A${r} ${r} 0 ${turn > Math.PI ? 1 : 0} 1 ${(r * Math.sin(turn)).toFixed(2)} ${(-r * Math.cos(turn)).toFixed(2)}`;
};

export function showNetwork(store, drawn) {
  const { layout } = drawn;
  const pass = store.pass();
  const { rows } = pass;
  const phase = store.phases[store.phase];
  const topError = most(pass.layers.flatMap((layer) => Array.from(layer.delta)));
  drawn.headings.forEach((heading, layer) => {
    const { activations } = store.net();
    const kind = activations[layer - 1] === "identity" && layer === store.depth ? "logits" : ACTIVATIONS[activations[layer - 1]]?.words;
    heading.textContent = layer === 0 ? "input" : `${layer === store.depth ? "output" : `layer ${layer}`} · ${kind}`;
  });
  drawn.nodes.forEach((nodes, layer) => nodes.forEach((node, j) => showNode(store, node, layer, j, pass, layout, topError)));
  if (drawn.cells) showCells(store, drawn.cells, pass);
  const picked = store.chosen;
  set(drawn.root, { class: `network${drawn.edges.length > 60 ? " dense" : ""}${picked ? " picked" : ""}` });
  const tops = pass.layers.map((layer, l) => [most(Array.from(store.params()[l].w)), most(Array.from(layer.dw))]);
  for (const edge of drawn.edges) {
    const { layer, i, j } = edge.chosen;
    const k = i * store.data.sizes[layer + 1] + j;
    const errors = store.view === "errors" && store.isKnown("backward", layer);
    const v = errors ? pass.layers[layer].dw[k] : store.params()[layer].w[k];
    const share = strength(v, tops[layer][errors ? 1 : 0]);
    const here = picked?.kind === "edge" && picked.layer === layer && picked.i === i && picked.j === j;
    const near = picked?.kind === "node" && ((picked.layer === layer + 1 && picked.j === j) || (picked.layer === layer && picked.j === i));
    const active = (phase.kind === "forward" || phase.kind === "backward") && phase.layer === layer;
    set(edge.group, {
      class: `edge ${errors ? "error" : "value"} ${v < 0 ? "below" : "above"}${here ? " chosen" : ""}${near ? " near" : ""}${active ? " active" : ""}`,
      "aria-label": `Weight from ${i + 1} to ${j + 1} of layer ${layer + 1}: ${show(store.params()[layer].w[k])}`,
    });
    edge.line.style.setProperty("--share", share);
  }
  drawn.cost.textContent = store.isKnown("cost") ? `C = ${show(pass.cost)}` : "";
}

function showNode(store, { group, parts, chosen, word }, layer, j, pass, layout, topError) {
  const input = layer === 0;
  const { rows } = pass;
  const picked = JSON.stringify(store.chosen) === JSON.stringify(chosen);
  const phase = store.phases[store.phase];
  const known = input || store.isKnown("forward", layer - 1);
  const reached = !input && store.isKnown("backward", layer - 1);
  const found = input ? null : summaryOf(pass.layers[layer - 1], rows, store.data.sizes[layer], j);
  const a = input ? mean(pass.layers[0].x, rows, store.data.sizes[0], j) : found.a;
  const top = input ? 1 : most(Array.from(pass.layers[layer - 1].a));
  parts.value.style.setProperty("--share", known ? strength(a, Math.max(top, 1)) : 0);
  let said = known ? `value ${show(a)}` : "not computed yet";
  let state = "";
  if (!input) {
    const { slope, delta } = found;
    const dead = store.dead()[layer - 1][j];
    const largest = ACTIVATIONS[store.net().activations[layer - 1]].top;
    parts.error.style.setProperty("--share", reached ? strength(delta, topError) : 0);
    parts.slope.setAttribute("d", known ? arc(layout.radius + 3.5, slope / largest) : "");
    if (known && dead) state = " dead";
    else if (known && slope !== 0 && slope < 0.05 * largest) state = " saturated";
    said += known ? `, slope ${show(slope)}` : "";
    said += reached ? `, error δ ${show(delta)}` : "";
    said += state ? `, ${state.trim()}` : "";
    if (parts.errorText) fit(parts.errorText, reached ? brief(delta) : "");
    set(parts.error, { class: `error ${delta < 0 ? "below" : "above"}` });
  }
  if (parts.valueText) fit(parts.valueText, known ? brief(a) : "");
  set(parts.value, { class: `value ${a < 0 ? "below" : "above"}` });
  const active = (phase.kind === "forward" || phase.kind === "backward") && phase.layer === layer - 1;
  const outer = layer === 0 || layer === store.depth;
  const [beside, under] = layer === store.depth ? outcomeOf(store, pass, j, known) : ["", ""];
  parts.name.textContent = outer ? word + beside : "";
  parts.target.textContent = under;
  set(group, { class: `node${picked ? " chosen" : ""}${active ? " active" : ""}${state}`, "aria-label": `${word}, ${input ? "input" : `neuron ${j + 1} of layer ${layer}`}: ${said}`, "aria-pressed": picked ? "true" : "false" });
}

// Five letters in half a circle are smaller than three.
function fit(text, words) {
  text.textContent = words;
  text.style.fontSize = words.length > 4 ? "9.5px" : words.length > 3 ? "10.8px" : "";
}

const mean = (x, rows, n, j) => Array.from({ length: rows }, (_, r) => x[r * n + j]).reduce((s, v) => s + v, 0) / rows;

// Beside an output: its share in percent where the loss makes shares of it, and the target.
function outcomeOf(store, pass, j, known) {
  if (store.example === BATCH) return ["", ""];
  const { y } = store.looked();
  const { loss, sizes } = store.data;
  const shares = known && loss.endsWith("cross-entropy");
  const share = shares ? ` ${Math.round(100 * LOSSES[loss].shown(Array.from(pass.layers.at(-1).a))[j])} %` : "";
  if (sizes.at(-1) > 5) return ["", share + (y[j] === 1 ? " ◂" : "")];
  return [share ? `:${share}` : "", `target ${show(y[j], 3)}`];
}

function showCells(store, cells, pass) {
  const n = store.data.sizes[0];
  const x = pass.layers[0].x;
  cells.forEach((cell, k) => {
    const v = mean(x, pass.rows, n, k);
    cell.style.setProperty("--share", Math.min(1, Math.abs(v)).toFixed(3));
    const picked = store.chosen?.kind === "node" && store.chosen.layer === 0 && store.chosen.j === k;
    set(cell, { class: `cell${picked ? " chosen" : ""}`, "aria-label": `input ${k + 1}: ${show(v)}` });
  });
}

// ── keys ────────────────────────────────────────────────────────────────────────────────────────

function addKeys(store, drawn) {
  const { root } = drawn;
  const target = (layer, j) => root.querySelector(`[data-node="${layer}.${j}"]`);
  target(store.depth, 0).setAttribute("tabindex", "0");
  root.addEventListener("focusin", ({ target: focused }) => {
    root.querySelectorAll('[tabindex="0"]').forEach((other) => other.setAttribute("tabindex", "-1"));
    focused.setAttribute("tabindex", "0");
  });
  root.addEventListener("keydown", (event) => {
    const { chosen } = store;
    if (!chosen || event.ctrlKey || event.metaKey || event.altKey) return;
    let [layer, j] = chosen.kind === "node" ? [chosen.layer, chosen.j] : [chosen.layer + 1, chosen.j];
    if (event.key === "e" || event.key === "E") {
      if (layer === 0) return;
      const n = store.data.sizes[layer - 1];
      const i = chosen.kind === "edge" ? (chosen.i + 1) % n : 0;
      root.querySelector(`[data-edge="${layer - 1}.${i}.${j}"]`)?.focus();
      event.preventDefault();
      return;
    }
    if (event.key === "ArrowLeft") layer -= 1;
    else if (event.key === "ArrowRight") layer += chosen.kind === "edge" ? 0 : 1;
    else if (event.key === "ArrowUp") j -= 1;
    else if (event.key === "ArrowDown") j += 1;
    else return;
    layer = Math.max(0, Math.min(store.depth, layer));
    j = Math.max(0, Math.min(store.data.sizes[layer] - 1, j));
    target(layer, j)?.focus();
    event.preventDefault();
  });
}

// What the halves, the arc and the rings mean.
export function legend(store) {
  const sample = svg("svg", { viewBox: "-24 -24 48 48", width: 44, height: 44, "aria-hidden": "true", class: "network sample" },
    svg("g", { class: "node" },
      svg("path", { d: "M0 -18A18 18 0 0 0 0 18Z", class: "value above", style: "--share:.8" }),
      svg("path", { d: "M0 -18A18 18 0 0 1 0 18Z", class: "error above", style: "--share:.8" }),
      svg("path", { d: arc(21.5, 0.6), class: "slope" }), svg("circle", { r: 18, class: "rim" })));
  const key = (kind, words) => el("span", { class: "key" }, el("i", { class: kind, "aria-hidden": "true" }), words);
  return el("div", { class: "legend" }, sample,
    el("p", {}, el("b", {}, "left"), " value a, ", el("b", {}, "right"), " error δ, ", el("b", {}, "arc"), " slope of the activation. δ = ∂C/∂a × slope."),
    el("p", { class: "keys" }, key("value above", "positive"), key("value below", "negative"), key("error above", "δ > 0"), key("error below", "δ < 0"), key("saturated", "saturated"), key("dead", "dead"), store.data.sizes.at(-1) > 5 && el("span", {}, "◂ target")));
}
