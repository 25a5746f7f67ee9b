// Beside the drawing: which example, which view, what may be changed, which slip is planted.

import { byId, el, set, show } from "./dom.js";
import { lines, plane, raster } from "./charts.js";
import { ACTIVATIONS } from "./engine.js";
import { slice } from "./decode.js";
import { hardestHit, plantable, slipHere } from "./planted.js";
import { BATCH } from "./store.js";

const option = (value, text, chosen) => el("option", { value, selected: chosen }, text);
const field = (id, label, control) => el("div", { class: "field" }, el("label", { for: id }, label), control);

// ── what is looked at ───────────────────────────────────────────────────────────────────────────

export function makeChoices(store) {
  const { data } = store;
  const rows = data.x.shape[0];
  const shownRows = Math.min(rows, 200);
  const name = (r) => {
    if (data.image) return `${r + 1}: a “${data.y.flat.subarray(r * data.y.shape[1], (r + 1) * data.y.shape[1]).indexOf(1)}”`;
    const x = Array.from(data.x.flat.subarray(r * data.sizes[0], (r + 1) * data.sizes[0]), (v) => show(v, 3));
    return `${r + 1}: (${x.slice(0, 4).join(", ")}${x.length > 4 ? ", …" : ""})`;
  };
  const select = el("select", { id: "example", onchange: (e) => store.set({ example: Number(e.target.value) }) },
    option(BATCH, `all ${rows} examples`), Array.from({ length: shownRows }, (_, r) => option(r, name(r))));
  const view = el("div", { class: "switch", role: "group", "aria-label": "What the edges show" },
    ["values", "errors"].map((kind) => el("button", { type: "button", "data-view": kind, title: "V", onclick: () => store.set({ view: kind }) }, kind === "values" ? "weights" : "gradients")));
  store.listen(() => {
    select.value = store.example;
    view.querySelectorAll("button").forEach((b) => set(b, { "aria-pressed": b.dataset.view === store.view ? "true" : "false" }));
  });
  return el("div", { class: "choices" }, field("example", "Example", rows > 1 ? select : el("output", { id: "example" }, "the only one")), el("div", { class: "field" }, el("span", {}, "Edges"), view));
}

// ── what may be changed ─────────────────────────────────────────────────────────────────────────

export function makeEdits(store) {
  const { data } = store;
  const rate = el("input", { id: "rate", type: "number", min: 0, step: "any", onchange: (e) => e.target.value !== "" && store.edit((own) => (own.learningRate = Number(e.target.value))) });
  const hidden = store.depth > 1;
  const activation = el("select", { id: "activation", onchange: (e) => store.edit((own) => (own.net = { ...own.net, activations: own.net.activations.map((old, l) => (l < store.depth - 1 || !hidden ? e.target.value : old)) })) },
    Object.entries(ACTIVATIONS).map(([key, { words }]) => option(key, words)));
  const slips = plantable(data);
  const slip = el("select", { id: "slip", onchange: (e) => plant(store, e.target.value || null) }, option("", "none: the backward pass is right"), slips.map(({ name, title }) => option(name, title)));
  const words = el("div", { id: "slip-words", "aria-live": "polite" });
  const state = el("p", { class: "note", id: "whose" });
  const root = el("section", { class: "panel", "aria-labelledby": "edit-title" }, el("h2", { id: "edit-title" }, "Change it and see"),
    el("div", { class: "fields" }, field("rate", "Learning rate η", rate), field("activation", hidden ? "Hidden activation" : "Activation", activation), field("slip", "Planted slip", slip)),
    words,
    el("div", { class: "buttons" },
      el("button", { id: "train-one", type: "button", onclick: () => store.train(1) }, "Train 1 step"),
      el("button", { id: "train-many", type: "button", onclick: () => store.train(100) }, "Train 100"),
      el("button", { id: "from-start", type: "button", onclick: () => fromStart(store) }, "From the start"),
      el("button", { id: "restore", type: "button", onclick: () => store.restore() }, "Back to the record")),
    state);
  store.listen(() => {
    rate.value = store.learningRate();
    activation.value = store.net().activations[0];
    slip.value = store.net().slip ?? "";
    byId("restore").disabled = !store.own;
    state.textContent = store.own
      ? "Yours: everything is computed anew in your browser; a difference quotient stands in for jax.grad."
      : store.pass().source === "record" ? `The library's own numbers: hand-written backward passes, beside jax.grad (jax ${data.jax}, float64).` : "Computed in your browser from the recorded weights: this example is not in the record.";
    const planted = data.slips.find(({ name }) => name === store.net().slip);
    const told = planted ? planted.name + store.learningRate() : "";
    if (words.dataset.slip !== told) {
      words.dataset.slip = told;
      words.replaceChildren(...(planted ? slipWords(store, planted) : []));
    }
  });
  return root;
}

// The slip, and what it makes wrong: over all examples the neuron that is hit most.
function plant(store, slip) {
  const { data } = store;
  const rows = data.x.shape[0];
  store.edit((own) => {
    own.net = { ...own.net, slip };
    own.params = own.params.map(({ w, b }, l) => ({ w, b: b && b.slice(0, data.sizes[l + 1]) }));
    own.history = [];
  });
  if (!slip) return;
  const { net, params, x, learningRate } = store.own;
  const { layer, j, apart } = hardestHit(net, params, x, data.y.flat, rows, learningRate);
  const chosen = apart ? { kind: "node", layer, j } : store.chosen;
  store.set({ example: rows > 1 ? BATCH : store.example, phase: store.phases.length - 1, chosen });
}

function slipWords(store, { name, what, says }) {
  return [
    el("p", {}, `${what} ${slipHere(store, name)}`),
    el("p", { class: "compare" }, el("b", {}, "compare says "), "of a layer of three units with this slip, not of the network above: ", el("code", {}, says)),
    el("p", { class: "note" }, "Train on, and watch the cost. Over all examples the tables mark each gradient that is wrong; of one example the equations are those of the slip."),
  ];
}

// The parameters of step 0, with everything else that was changed.
function fromStart(store) {
  store.edit((own) => {
    own.params = store.data.params.map(({ w, b }) => ({ w: slice(w, 0).slice(), b: b === null ? null : slice(b, 0).slice() }));
    own.steps = 0;
    own.history = [];
  });
}

// ── curves ──────────────────────────────────────────────────────────────────────────────────────

export function makeCurves(store) {
  const { data, depth } = store;
  const titles = { cost: data.steps.length > 1 ? "Cost over training" : "Cost", norms: "‖δ‖ of each layer" };
  const [cost, norms, accuracy] = [el("div"), el("div"), el("p", { class: "note", id: "accuracy" })];
  const figure = (title, body, note) => el("section", { class: "panel" }, el("h2", {}, title), body, note);
  const classes = data.y.flat.every((v) => v === 0 || v === 1); // else nothing is right or wrong
  const extra = data.sizes[0] === 2 && data.x.shape[0] > 1 ? el("div", { id: "plane" }) : null;
  store.listen(() => {
    const { xs, seen } = course(store);
    const at = store.step();
    if (xs.length < 2) {
      [cost, norms].forEach((figure) => figure.replaceChildren(el("p", { class: "hint" }, "Train, and the curve is drawn here.")));
    } else {
      cost.replaceChildren(lines([{ name: "C", xs, ys: seen.map((s) => s.cost) }], { label: "Cost over training steps", marked: at }));
      norms.replaceChildren(lines(Array.from({ length: depth }, (_, l) => ({ name: l + 1 === depth ? "output" : `layer ${l + 1}`, xs, ys: seen.map((s) => s.norms[l]) })), { label: "Norm of delta of every layer over training steps", log: true, marked: at }));
    }
    const now = store.own ? seen.at(-1) : seen[xs.indexOf(data.steps[store.at])];
    const held = data.heldOut && !store.own ? `, ${show(100 * slice(data.heldOut, store.at)[0], 3)} % of held-out examples` : "";
    accuracy.textContent = !classes || data.x.shape[0] === 1 ? "" : `Right at this step: ${show(100 * now.accuracy, 3)} % of the batch${held}`;
    extra?.replaceChildren(plane(store, store.params()));
  });
  return [
    extra && el("section", { class: "panel" }, el("h2", {}, "What it says of every point"), extra, el("p", { class: "note" }, "Tap a point to look at it.")),
    figure(titles.cost, cost, accuracy),
    figure(titles.norms, norms, el("p", { class: "note" }, "Root mean square over the examples, on a logarithmic scale: where the first layer's is far below the last's, the gradient has vanished.")),
  ];
}

// What is known of the training: the record, or the reader's own.
function course(store) {
  const { data, own } = store;
  if (own) return { xs: own.history.map((s) => s.step), seen: own.history };
  const { steps, cost, norms, accuracy } = data.curve;
  return { xs: steps, seen: steps.map((_, k) => ({ cost: cost.flat[k], norms: Array.from(slice(norms, k)), accuracy: accuracy.flat[k] })) };
}

// ── a neuron that sees an image: the image, its weights, and their gradient ─────────────────────

export function imagesOf(store) {
  const { chosen, data } = store;
  if (!data.image || !chosen || (chosen.kind === "node" ? chosen.layer !== 1 : chosen.layer !== 0)) return null;
  const { j } = chosen;
  const [high, wide] = data.image;
  const pass = store.pass();
  const [n, m] = [data.sizes[0], data.sizes[1]];
  const column = (matrix) => Float64Array.from({ length: n }, (_, i) => matrix[i * m + j]);
  const pick = (i) => store.set({ chosen: { kind: "edge", layer: 0, i, j } });
  const of = (values, label, kind) => el("figure", {}, raster(values, high, wide, { label, kind, onpick: pick }), el("figcaption", {}, label));
  return el("div", { class: "images" }, of(column(store.params()[0].w), "its weights", "value"), store.isKnown("backward", 0) && of(column(pass.layers[0].dw), "∂C/∂w", "error"));
}
