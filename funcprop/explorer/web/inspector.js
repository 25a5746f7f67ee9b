// What is chosen, in equations with its numbers: value, error, slope and gradient of one place.

import { both, el, equations, frac, number, raised, row, show, sub, sup, valued } from "./dom.js";
import { ACTIVATIONS, LOSSES } from "./engine.js";
import { summaryOf, wordOf } from "./network.js";
import { BATCH } from "./store.js";

const TERMS = 3; // of a sum that are written out

// ── letters ─────────────────────────────────────────────────────────────────────────────────────

const letter = (a, layer, j) => (layer === 0 ? sub("x", String(j + 1)) : both(a, String(j + 1), String(layer)));
const weight = (layer, i, j) => both("w", `${i + 1},${j + 1}`, String(layer));
const slopeSign = (name) => (name === "identity" ? "1" : `${ACTIVATIONS[name].sign}′`);
const dC = (part) => frac("∂C", row("∂", part));

// Σ of products, the largest terms first where there are many.
function products(pairs) {
  const digits = pairs.length > 2 ? 3 : 4;
  const order = pairs.map((pair, k) => [Math.abs(pair[0] * pair[1]), k]).sort((p, q) => q[0] - p[0]).slice(0, TERMS).map(([, k]) => k).sort((p, q) => p - q);
  const parts = order.flatMap((k, place) => [place ? "+" : "", valued(pairs[k][0], false, digits), "·", valued(pairs[k][1], false, digits)]);
  if (pairs.length > order.length) parts.push("+", "⋯");
  return parts;
}

function activated(name, z, a) {
  const { sign } = ACTIVATIONS[name];
  return name === "identity" ? [z, valued(a, true)] : [row(sign, "(", z, ")"), valued(a, true)];
}

function slopeInNumbers(name, z, a) {
  if (name === "sigmoid") return [row("a(1 − a)"), row(valued(a), "· (1 −", valued(a), ")")];
  if (name === "tanh") return [row("1 −", sup("a", "2")), row("1 −", sup(valued(a), "2"))];
  if (name === "relu") return [row(z > 0 ? "1, as z > 0" : "0, as z ≤ 0")];
  if (name === "identity") return [];
  return [row(slopeSign(name), "(", valued(z, true), ")")];
}

// ── one neuron ──────────────────────────────────────────────────────────────────────────────────

export function inspect(store, names) {
  const { chosen } = store;
  if (!chosen) return [el("p", { class: "hint" }, "Hover, tap or focus a neuron or an edge: its equation appears here, with the numbers of this very pass.")];
  if (chosen.kind === "edge") return inspectEdge(store, names, chosen);
  return chosen.layer === 0 ? inspectInput(store, names, chosen) : inspectNeuron(store, names, chosen);
}

function inspectInput(store, names, { j }) {
  const { x, rows } = store.looked();
  const n = store.data.sizes[0];
  const word = wordOf(store, names, 0, j);
  const first = store.pass().layers[0];
  const parts = [el("h2", {}, `Input ${word}`)];
  if (rows > 1) {
    const v = Array.from({ length: rows }, (_, r) => x[r * n + j]).reduce((s, e) => s + e, 0) / rows;
    return [...parts, el("p", {}, "Mean over the batch ", number(v), ". Look at one example to see what flows through it.")];
  }
  parts.push(equations([[letter("x", 0, j), valued(x[j], true)]]));
  if (store.isKnown("backward", 0)) {
    const { dx } = first;
    const pairs = Array.from({ length: first.m }, (_, k) => [store.params()[0].w[j * first.m + k], first.delta[k]]);
    const sum = row(sub("Σ", "k"), both("w", `${j + 1},k`, "1"), both("δ", "k", "1"));
    parts.push(el("p", { class: "step" }, "How the cost moves with it"), equations([[dC(letter("x", 0, j)), sum, row(...products(pairs)), valued(dx[j], true)]]));
  }
  parts.push(slider(store, `Value of ${word}`, x[j], -2, 2, (own, v) => (own.x[store.example * n + j] = v)));
  return parts;
}

function inspectNeuron(store, names, { layer, j }) {
  const { rows } = store.looked();
  const l = layer - 1;
  const found = store.pass().layers[l];
  const word = layer === store.depth && names.outputs?.[j] !== undefined ? `Output ${names.outputs[j]}` : `Neuron ${j + 1} of layer ${layer}`;
  const title = el("h2", {}, word);
  if (rows > 1) return [title, ...neuronOfBatch(store, found, l, j)];
  const { n, m, x } = found;
  const { w, b } = store.params()[l];
  const name = store.net().activations[l];
  const [z, a, da, slope, delta] = ["z", "a", "da", "slope", "delta"].map((key) => found[key][j]);
  const parts = [title];
  if (!store.isKnown("forward", l)) return [title, el("p", { class: "hint" }, "Not computed yet: the forward pass has not reached this layer.")];
  const incoming = Array.from({ length: n }, (_, i) => [w[i * m + j], x[i]]);
  const [zs, as, ds] = [letter("z", layer, j), letter("a", layer, j), letter("δ", layer, j)];
  const below = layer === 1 ? sub("x", "i") : both("a", "i", String(layer - 1));
  const bias = b === null ? [] : ["+", valued(b[j])];
  parts.push(el("p", { class: "step" }, "Forward: value"), equations([
    [zs, row(sub("Σ", "i"), both("w", `i,${j + 1}`, String(layer)), below, b === null ? "" : row("+", both("b", String(j + 1), String(layer)))), row(...products(incoming), ...bias), valued(z, true)],
    [as.cloneNode(true), ...activated(name, letter("z", layer, j), a)],
  ], "value of the neuron"));
  if (!store.isKnown("backward", l)) return parts;
  const lastLayer = layer === store.depth;
  const above = lastLayer ? null : store.pass().layers[layer];
  const error = lastLayer
    ? [dC(letter("a", layer, j)), row(lossSlope(store, j)), valued(da, true)]
    : [dC(letter("a", layer, j)), row(sub("Σ", "k"), both("w", `${j + 1},k`, String(layer + 1)), both("δ", "k", String(layer + 1))), row(...products(Array.from({ length: above.m }, (_, k) => [store.params()[layer].w[j * above.m + k], above.delta[k]]))), valued(da, true)];
  parts.push(el("p", { class: "step" }, "Backward: error × slope"), equations([
    error,
    name === "identity" ? null : [row(slopeSign(name), "(", letter("z", layer, j), ")"), ...slopeInNumbers(name, z, a), valued(slope, true)],
    [ds, row("error × slope"), row(valued(da), "·", valued(slope)), valued(delta, true)],
  ], "error of the neuron"));
  parts.push(el("p", { class: "step" }, "Gradient of its weights: input × δ"), gradientTable(store, names, l, j));
  return parts;
}

function lossSlope(store, j) {
  const { layers } = store.pass();
  const { y } = store.looked();
  const { a } = layers.at(-1);
  const kind = store.data.loss;
  const shown = LOSSES[kind].shown(Array.from(a))[j];
  if (kind === "quadratic") return row(valued(shown), "−", valued(y[j]));
  if (kind === "mean-squared-error") return row("2/", String(a.length), "· (", valued(shown), "−", valued(y[j]), ")");
  return row(kind === "cross-entropy" ? "softmax" : "σ", "−", "y", "=", valued(shown), "−", valued(y[j]));
}

function neuronOfBatch(store, found, l, j) {
  const { rows } = store.looked();
  const { a, delta, slope } = summaryOf(found, rows, found.m, j);
  const strip = Array.from({ length: rows }, (_, r) => found.a[r * found.m + j]);
  const parts = [el("dl", { class: "facts" }, el("dt", {}, "mean a"), el("dd", {}, number(a)), el("dt", {}, "mean slope"), el("dd", {}, number(slope)), el("dt", {}, "‖δ‖, r.m.s."), el("dd", {}, number(delta)), el("dt", {}, "a of the examples"), el("dd", {}, `${show(Math.min(...strip), 3)} … ${show(Math.max(...strip), 3)}`))];
  if (store.dead()[l][j]) parts.push(el("p", { class: "warning" }, "Dead: its slope is 0 in every example, so no error passes and no weight of it moves."));
  if (store.isKnown("backward", l)) parts.push(el("p", { class: "step" }, `Gradient of its weights: ${store.data.reduction} of input × δ over ${rows} examples`), gradientTable(store, {}, l, j));
  return parts;
}

// ── gradients, by hand and by a witness ─────────────────────────────────────────────────────────

// Whether two numbers are one, but for rounding: over the largest gradient of the layer.
export function agree(v, other, top) {
  return Math.abs(v - other) <= 2e-6 * Math.max(top, Math.abs(v), Math.abs(other)) + 1e-12;
}

function gradientTable(store, names, l, j) {
  const layer = store.pass().layers[l];
  const { n, m, dw, db } = layer;
  const { w, b } = store.params()[l];
  const top = Math.max(...Array.from(dw, Math.abs));
  let rows = Array.from({ length: n }, (_, i) => ({ name: "w", k: i * m + j, i, v: w[i * m + j], g: dw[i * m + j] }));
  const many = rows.length > 8;
  if (many) rows = rows.toSorted((p, q) => Math.abs(q.g) - Math.abs(p.g)).slice(0, 6);
  if (b !== null && db.length === m) rows.push({ name: "b", k: j, v: b[j], g: db[j] });
  const who = store.witness(l, "b" in store.params()[l] && b !== null ? "b" : "w", j).who;
  const spread = b !== null && db.length !== m;
  const body = rows.map(({ name, k, i, v, g }) => {
    const { value } = store.witness(l, name, k);
    const same = agree(g, value, top);
    const pick = name === "w" ? el("button", { class: "link", onclick: () => store.set({ chosen: { kind: "edge", layer: l, i, j } }) }, `w from ${wordOf(store, names, l, i)}`) : "b";
    return el("tr", { class: same ? null : "wrong" }, el("th", { scope: "row" }, pick), el("td", {}, number(v)), el("td", { class: "hand" }, number(g)), el("td", { class: "witness" }, number(value)), el("td", {}, same ? "✓" : "✗ differs"));
  });
  return el("div", {}, el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "gradients" }, el("table", {}, el("thead", {}, el("tr", {}, ["parameter", "value", "∂C/∂ by hand", who].map((text) => el("th", { scope: "col" }, text)), el("th", { scope: "col" }, el("span", { class: "hidden" }, "the same?")))), el("tbody", {}, body))),
    many && el("p", { class: "note" }, `The six largest of ${n} weights.`),
    spread && el("p", { class: "warning" }, `∂C/∂b has ${db.length / m} rows, and b one: it was not summed over the examples.`));
}

// ── one edge ────────────────────────────────────────────────────────────────────────────────────

function inspectEdge(store, names, { layer: l, i, j }) {
  const { rows } = store.looked();
  const found = store.pass().layers[l];
  const { m, n, x, delta, dw } = found;
  const k = i * m + j;
  const w = store.params()[l].w[k];
  const layer = l + 1;
  const rate = store.learningRate();
  const parts = [
    el("h2", {}, `Weight from ${wordOf(store, names, l, i)} to ${wordOf(store, names, layer, j)}`),
    equations([[weight(layer, i, j), valued(w, true)]]),
  ];
  if (store.isKnown("backward", l)) {
    const { who, value } = store.witness(l, "w", k);
    const top = Math.max(...Array.from(dw, Math.abs));
    const same = agree(dw[k], value, top);
    const products = rows === 1
      ? [row(letter("a", l, i), letter("δ", layer, j)), row(valued(x[i]), "·", valued(delta[j]))]
      : [row(store.data.reduction === "mean" ? "mean" : "sum", "of", letter("a", l, i), letter("δ", layer, j), "over", String(rows), "examples")];
    parts.push(el("p", { class: "step" }, "Its gradient: what enters × δ of what it enters"), equations([[dC(weight(layer, i, j)), ...products, valued(dw[k], true)]]));
    parts.push(el("p", { class: same ? "agrees" : "agrees wrong" }, `${who} says `, number(value, 6), same ? ", the same." : ": the gradient by hand is wrong."));
    if (rows > 1 && rows <= 8) parts.push(el("p", { class: "note" }, "Of each example: ", Array.from({ length: rows }, (_, r) => [r ? ", " : "", number(x[r * n + i] * delta[r * m + j], 3)])));
    if (store.phases[store.phase].kind === "update") parts.push(el("p", { class: "step" }, "The update"), equations([[row(weight(layer, i, j), "−", "η", dC(weight(layer, i, j))), row(valued(w), "−", valued(rate), "·", valued(dw[k])), valued(w - rate * dw[k], true)]]));
  }
  parts.push(slider(store, "Change this weight", w, -4, 4, (own, v) => (own.params[l].w[k] = v)));
  return parts;
}

// A number to be changed: by dragging, or by typing.
function slider(store, label, value, low, high, put) {
  const change = (event) => {
    const v = Number(event.target.value);
    if (event.target.value !== "" && Number.isFinite(v)) store.edit((own) => put(own, v));
  };
  const [a, b] = [Math.min(low, Math.floor(value)), Math.max(high, Math.ceil(value))];
  return el("div", { class: "change" }, el("label", { for: "changed" }, label),
    el("input", { type: "range", id: "changed", min: a, max: b, step: 0.01, value, oninput: change }),
    el("input", { type: "number", "aria-label": `${label}, typed`, step: 0.01, value: Number(value.toPrecision(6)), onchange: change }));
}

// ── what was just computed, in one sentence ─────────────────────────────────────────────────────

export function sentence(store) {
  const { kind, layer } = store.phases[store.phase];
  const pass = store.pass();
  const number = (layer ?? 0) + 1;
  const list = (values) => (values.length > 6 ? `${Array.from(values.slice(0, 4), (v) => show(v, 3)).join(", ")} …` : Array.from(values, (v) => show(v, 3)).join(", "));
  const one = store.example !== BATCH;
  const below = number === 1 ? "x" : `a${raised(number - 1)}`;
  if (kind === "forward") {
    const { sign } = ACTIVATIONS[store.net().activations[layer]];
    const a = sign ? `a${raised(number)} = ${sign}(z${raised(number)})` : `a${raised(number)} = z${raised(number)}`;
    return `Forward, layer ${number}: z${raised(number)} = ${below} w${raised(number)} + b${raised(number)}, ${a}${one ? `: ${list(pass.layers[layer].a)}` : ""}`;
  }
  if (kind === "cost") return `The cost of ${one ? "this example" : `the batch, a ${store.data.reduction}`}: C = ${show(pass.cost)}, ${LOSSES[store.data.loss].words}`;
  if (kind === "backward") {
    const from = layer === store.depth - 1 ? "∂C/∂a" : `δ${raised(number + 1)} w${raised(number + 1)}ᵀ`;
    const sign = slopeSign(store.net().activations[layer]);
    return `Backward, layer ${number}: δ${raised(number)} = ${from}${sign === "1" ? "" : ` ⊙ ${sign}(z${raised(number)})`}, ∂C/∂w${raised(number)} = ${below}ᵀ δ${raised(number)}${one ? `: δ = ${list(pass.layers[layer].delta)}` : ""}`;
  }
  return `The update: w ← w − η ∂C/∂w with η = ${show(store.learningRate())}${store.data.trainBias ? ", biases likewise" : "; the biases stay"}`;
}
