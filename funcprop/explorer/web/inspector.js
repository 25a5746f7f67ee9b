// What is chosen, in equations with its numbers: value, error, slope and gradient of one place.

import { both, el, equations, frac, number, raised, row, show, sub, sup, valued } from "./dom.js";
import { ACTIVATIONS, LOSSES } from "./engine.js";
import { summaryOf, wordOf } from "./network.js";
import { entering, sentSum, slopeLine } from "./planted.js";
import { BATCH } from "./store.js";

const TERMS = 3; // of a sum that are written out

// ── letters ─────────────────────────────────────────────────────────────────────────────────────

const letter = (a, layer, j) => (layer === 0 ? sub("x", String(j + 1)) : both(a, String(j + 1), String(layer)));
const weight = (layer, i, j) => both("w", `${i + 1},${j + 1}`, String(layer));
const slopeSign = (name) => (name === "identity" ? "1" : `${ACTIVATIONS[name].sign}′`);
const dC = (part) => frac("∂C", row("∂", part));

// Of a sum of products the places of the largest, which are written out.
function largest(pairs) {
  return pairs.map((pair, k) => [Math.abs(pair[0] * pair[1]), k]).sort((p, q) => q[0] - p[0]).slice(0, TERMS).map(([, k]) => k).sort((p, q) => p - q);
}

function products(pairs) {
  const digits = pairs.length > 2 ? 3 : 4;
  const order = largest(pairs);
  const parts = order.flatMap((k, place) => [place ? "+" : "", valued(pairs[k][0], false, digits), "·", valued(pairs[k][1], false, digits)]);
  if (pairs.length > order.length) parts.push("+", "⋯");
  return parts;
}

function activated(name, z, a) {
  const { sign } = ACTIVATIONS[name];
  return name === "identity" ? [z, valued(a, true)] : [row(sign, "(", z, ")"), valued(a, true)];
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
    const { letters, pairs } = sentSum(store, 0, j);
    parts.push(el("p", { class: "step" }, "How the cost moves with it"), equations([[dC(letter("x", 0, j)), letters, row(...products(pairs)), valued(dx[j], true)]]));
  }
  parts.push(slider(store, `Value of ${word}`, x[j], -2, 2, (own, v) => (own.x[store.example * n + j] = v)));
  return parts;
}

function inspectNeuron(store, names, { layer, j }) {
  const { rows } = store.looked();
  const l = layer - 1;
  const found = store.pass().layers[l];
  const word = layer === store.depth && names.outputs?.[j] !== undefined ? `Output ${names.outputs[j]}: neuron ${j + 1} of layer ${layer}` : `Neuron ${j + 1} of layer ${layer}`;
  const title = el("h2", {}, word);
  if (rows > 1) return [title, ...neuronOfBatch(store, found, l, j)];
  const { n, m, x } = found;
  const { w, b } = store.looked().params[l];
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
  if (incoming.length > TERMS) parts.push(el("p", { class: "note" }, `Written out are the ${TERMS} largest of ${n} products, those of ${writtenOut(store, names, l, incoming)}.`));
  if (!store.isKnown("backward", l)) return parts;
  const lastLayer = layer === store.depth;
  const above = lastLayer ? null : sentSum(store, layer, j);
  const error = lastLayer
    ? [dC(letter("a", layer, j)), ...lossSlope(store, j), valued(da, true)]
    : [dC(letter("a", layer, j)), above.letters, row(...products(above.pairs)), valued(da, true)];
  parts.push(el("p", { class: "step" }, "Backward: ∂C/∂a × slope"), equations([
    error,
    name === "identity" ? null : [...slopeLine(store.net(), name, letter("z", layer, j), letter("a", layer, j), z, a), valued(slope, true)],
    [ds, row(dC("a"), "× slope"), row(valued(da), "·", valued(slope)), valued(delta, true)],
  ], "error of the neuron"));
  parts.push(el("p", { class: "step" }, `Gradient of its weights: ${entering(store.net(), found).words}`), gradientTable(store, names, l, j));
  return parts;
}

function lossSlope(store, j) {
  const { layers } = store.pass();
  const { y } = store.looked();
  const { a } = layers.at(-1);
  const kind = store.data.loss;
  const shown = LOSSES[kind].shown(Array.from(a))[j];
  const [a_, y_, numbers] = [letter("a", layers.length, j), sub("y", String(j + 1)), row(valued(shown), "−", valued(y[j]))];
  const doubled = kind === "mean-squared-error" || store.net().slip === "wrong-factor";
  if (kind === "quadratic" && !doubled) return [row(a_, "−", y_), numbers];
  if (doubled) return [row(frac("2", String(a.length)), "(", a_, "−", y_, ")"), row(frac("2", String(a.length)), "(", numbers, ")")];
  return [row(kind === "cross-entropy" ? row("softmax", sub("(a)", String(j + 1))) : row("σ(", a_, ")"), "−", y_), numbers];
}

// The names of what the products that are written out begin with; of a pixel where it lies.
function writtenOut(store, names, l, pairs) {
  const wide = l === 0 && store.data.image?.[1];
  const place = (i) => (wide ? ` (row ${Math.floor(i / wide) + 1}, column ${(i % wide) + 1})` : "");
  const words = largest(pairs).map((i) => wordOf(store, names, l, i) + place(i));
  return `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

function neuronOfBatch(store, found, l, j) {
  const { rows } = store.looked();
  const { a, delta, slope } = summaryOf(found, rows, found.m, j);
  const strip = Array.from({ length: rows }, (_, r) => found.a[r * found.m + j]);
  const parts = [el("dl", { class: "facts" }, el("dt", {}, "mean a"), el("dd", {}, number(a)), el("dt", {}, "mean slope"), el("dd", {}, number(slope)), el("dt", {}, "‖δ‖, r.m.s."), el("dd", {}, number(delta)), el("dt", {}, "a of the examples"), el("dd", {}, `${show(Math.min(...strip), 3)} … ${show(Math.max(...strip), 3)}`))];
  if (store.dead()[l][j]) parts.push(el("p", { class: "warning" }, "Dead: its slope is 0 in every example, so no error passes and no weight of it moves."));
  if (store.isKnown("backward", l)) parts.push(el("p", { class: "step" }, `Gradient of its weights: ${store.data.reduction} of ${entering(store.net(), found).words} over ${rows} examples`), gradientTable(store, {}, l, j));
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
  const { w, b } = store.looked().params[l];
  const one = store.looked().rows === 1;
  const top = Math.max(...Array.from(dw, Math.abs));
  let rows = Array.from({ length: n }, (_, i) => ({ name: "w", k: i * m + j, i, v: w[i * m + j], g: dw[i * m + j], x: layer.x[i] }));
  const many = rows.length > 8;
  if (many) rows = rows.toSorted((p, q) => Math.abs(q.g) - Math.abs(p.g)).slice(0, 6);
  if (b !== null && db.length === m) rows.push({ name: "b", k: j, v: b[j], g: db[j], x: 1 });
  const who = store.witness(l, "b" in store.params()[l] && b !== null ? "b" : "w", j).who;
  const spread = b !== null && db.length !== m;
  const body = rows.map(({ name, k, i, v, g, x }) => {
    const { value } = store.witness(l, name, k);
    const same = agree(g, value, top);
    const pick = name === "w" ? el("button", { class: "link", onclick: () => store.set({ chosen: { kind: "edge", layer: l, i, j } }) }, `w from ${wordOf(store, names, l, i)}`) : "b";
    return el("tr", { class: same ? null : "wrong" }, el("th", { scope: "row" }, pick), el("td", {}, number(v)), one && el("td", { class: "enters" }, number(x)), el("td", { class: "hand" }, number(g)), el("td", { class: "witness" }, number(value)), el("td", {}, same ? "✓" : "✗ differs"));
  });
  if (spread) body.push(el("tr", { class: "wrong" }, el("th", { scope: "row" }, "b"), el("td", {}, number(b[j])), el("td", { class: "hand" }, `${db.length / m} numbers`), el("td", { class: "witness" }, number(store.witness(l, "b", j).value)), el("td", {}, "✗ differs")));
  const heads = ["parameter", "value", ...(one ? [l === 0 ? "x" : `a${raised(l)}`] : []), "∂C/∂ by hand", who];
  return el("div", {}, el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "gradients" }, el("table", {}, el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col" }, text)), el("th", { scope: "col" }, el("span", { class: "hidden" }, "the same?")))), el("tbody", {}, body))),
    many && el("p", { class: "note" }, `Those six of ${n} weights whose gradients are largest.`),
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
    el("h2", {}, `Weight from ${wordOf(store, names, l, i)} to ${layer === store.depth && names.outputs ? "output " : ""}${wordOf(store, names, layer, j)}`),
    equations([[weight(layer, i, j), valued(w, true)]]),
  ];
  if (store.isKnown("backward", l)) {
    const { who, value } = store.witness(l, "w", k);
    const top = Math.max(...Array.from(dw, Math.abs));
    const same = agree(dw[k], value, top);
    const { own, minus, sign, values } = entering(store.net(), found);
    const factors = row(minus ? "−" : "", own ? letter("z", layer, i) : letter(l === 0 ? "x" : "a", l, i), letter("δ", layer, j));
    const products = rows === 1
      ? [factors, row(minus ? "−" : "", valued(values[i]), "·", valued(delta[j]))]
      : [row(store.data.reduction === "mean" ? "mean" : "sum", "of", factors, "over", String(rows), "examples")];
    parts.push(el("p", { class: "step" }, store.net().slip ? "Its gradient, with the slip" : "Its gradient: what enters × δ of what it enters"), equations([[dC(weight(layer, i, j)), ...products, valued(dw[k], true)]]));
    parts.push(el("p", { class: same ? "agrees" : "agrees wrong" }, `${who} says `, number(value, 6), same ? ", the same." : ": the gradient by hand is wrong."));
    if (rows > 1 && rows <= 8) parts.push(el("p", { class: "note" }, "Of each example: ", Array.from({ length: rows }, (_, r) => [r ? ", " : "", number(sign * values[r * n + i] * delta[r * m + j], 3)])));
    if (store.phases[store.phase].kind === "update") parts.push(...updateOf(store, l, i, j, dw[k]));
  }
  parts.push(slider(store, "Change this weight", w, -4, 4, (own, v) => (own.params[l].w[k] = v)));
  return parts;
}

// w − η ∂C/∂w of the whole batch, as training takes it; of one example, what it alone would do.
function updateOf(store, l, i, j, gradient) {
  const { params, batch, data } = store;
  const [count, name, k, rate] = [data.x.shape[0], weight(l + 1, i, j), i * data.sizes[l + 1] + j, store.learningRate()];
  const [w, dw] = [params()[l].w[k], batch().layers[l].dw[k]];
  const alone = store.example !== BATCH && count > 1;
  const over = alone ? [[dC(name.cloneNode(true)), row(data.reduction, "over all", String(count), "examples"), valued(dw, true)]] : [];
  return [
    el("p", { class: "step" }, alone ? `The update: training takes the ${data.reduction} of all ${count} examples` : "The update"),
    equations([...over, [row("new", name.cloneNode(true)), row(name.cloneNode(true), "−", "η", dC(name)), row(valued(w), "−", valued(rate), "·", valued(dw)), valued(w - rate * dw, true)]], "update of the weight"),
    alone && el("p", { class: "note", id: "alone" }, "By this example alone it would be ", number(w - rate * gradient), "."),
  ].filter(Boolean);
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
  return `The update: w ← w − η ∂C/∂w with η = ${show(store.learningRate())}${store.data.trainBias ? ", biases likewise" : "; the biases stay"}${one && pass.rows < store.data.x.shape[0] ? `; C is the ${store.data.reduction} of all ${store.data.x.shape[0]} examples` : ""}`;
}
