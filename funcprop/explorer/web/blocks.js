// Larger models: a block a layer, with what it saw, sent, kept and cost; and runs side by side.

import { bytes, el, number, set, show } from "./dom.js";
import { bars, lines, raster } from "./charts.js";
import { slice } from "./decode.js";
import { flowGraph } from "./flow.js";

export function makeBlocks(data, main) {
  const state = { run: 0, at: data.runs[0].steps.length - 1, block: null, phase: 2 * data.runs[0].layers.length };
  const cards = el("div", { class: "blocks", role: "group", "aria-label": "Layers, in the order of the forward pass" });
  const inspector = el("section", { class: "inspector", id: "inspector", "aria-label": "The layer that is chosen" });
  const said = el("p", { class: "said", id: "said", "aria-live": "polite" });
  const run = () => data.runs[state.run];
  const most = Math.max(...data.runs.map((r) => r.steps.length));
  const slider = el("input", { type: "range", id: "training", min: 0, max: most - 1, step: 1, oninput: (e) => change({ at: Number(e.target.value) }) });
  const words = el("output", { id: "training-words", for: "training" });
  // One layer after the other forward, then one before the other backward; a step is a layer.
  const last = () => 2 * run().layers.length;
  const step = (by) => {
    const [phase, n] = [Math.max(0, Math.min(last(), state.phase + by)), run().layers.length];
    const block = phase === 0 ? 0 : phase <= n ? phase - 1 : 2 * n - phase;
    change({ phase, block });
  };
  let timer = null;
  const start = (more, pace) => {
    if (timer) {
      clearInterval(timer);
      timer = null;
      return;
    }
    timer = setInterval(() => {
      if (more()) return;
      clearInterval(timer);
      timer = null;
    }, pace);
  };
  const play = () => {
    if (!timer && state.at >= run().steps.length - 1) change({ at: 0 });
    start(() => state.at < run().steps.length - 1 && (change({ at: state.at + 1 }), true), 180);
  };
  const playPass = () => {
    if (!timer && state.phase >= last()) change({ phase: 0 });
    start(() => state.phase < last() && (step(1), true), 450);
  };
  const flow = data.flow && flowGraph(data.flow, run().layers, (block) => change({ block }));
  const below = [costPanel(data.costs), leavesPanel(data)].filter(Boolean);
  const button = (id, label, text, onclick) => el("button", { id, type: "button", "aria-label": label, title: label, onclick }, text);
  const runs = data.runs.length > 1 && el("div", { class: "switch", role: "group", "aria-label": "Which network" }, data.runs.map((r, k) => el("button", { type: "button", "data-run": k, onclick: () => change({ run: k }) }, r.name)));
  main.append(
    el("section", { class: "stepper", "aria-label": "Steps" },
      el("div", { class: "row" }, runs, el("div", { class: "buttons" }, button("previous", "Previous step of the pass (P)", "◀", () => step(-1)), button("play", "Play the pass (space)", "▶ pass", playPass), button("next", "Next step of the pass (N)", "▶", () => step(1))), most > 1 && [el("div", { class: "buttons" },
        button("back", "Earlier in training ([)", "◀", () => change({ at: state.at - 1 })), button("play-training", "Play the training (T)", "▶ training", play), button("ahead", "Later in training (])", "▶", () => change({ at: state.at + 1 }))),
      el("label", { for: "training", class: "hidden" }, "Training step"), slider, words]), said),
    ...(flow ? [el("div", { class: "panels" }, flow.root)] : []),
    ...norms(data, () => state.at),
    el("div", { class: "stage" }, el("section", { class: "drawing", "aria-label": "The layers" }, el("h2", {}, data.heading ?? "Layer by layer: forward ↓, backward ↑"), cards), inspector),
    ...(below.length ? [el("div", { class: "panels" }, ...below)] : []));
  addEventListener("keydown", (event) => {
    if (event.target.closest?.("input, select, summary") || (event.key === " " && event.target.closest?.("button"))) return;
    const action = { n: () => step(1), p: () => step(-1), " ": playPass, "[": () => change({ at: state.at - 1 }), "]": () => change({ at: state.at + 1 }), t: play }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  function change(changes) {
    Object.assign(state, changes);
    state.at = Math.max(0, Math.min(run().steps.length - 1, state.at));
    paint();
  }

  let shownRun = null;
  function paint() {
    const { layers, steps, cost } = run();
    slider.value = state.at;
    words.textContent = `step ${show(steps[state.at])} of ${show(steps.at(-1))}`;
    said.textContent = sentence(layers, cost);
    runs && runs.querySelectorAll("button").forEach((b, k) => set(b, { "aria-pressed": k === state.run ? "true" : "false" }));
    const tops = ["y", "dy"].map((key) => Math.max(...layers.map((l) => slice(l.norms[key], state.at)[0]).filter(Number.isFinite), 1e-300));
    if (shownRun !== state.run) {
      cards.replaceChildren(...layers.flatMap((layer, k) => [layer.group && layer.group !== layers[k - 1]?.group ? el("p", { class: "group" }, layer.group) : null, card(layer, k)]).filter(Boolean));
      shownRun = state.run;
      if (state.block === null || state.block >= layers.length) state.block = layers.findIndex((l) => l.maps) >= 0 ? layers.findIndex((l) => l.maps) : 0;
    }
    layers.forEach((layer, k) => {
      const element = cards.querySelector(`[data-block="${k}"]`);
      ["y", "dy"].forEach((key, c) => {
        const v = slice(layer.norms[key], state.at)[0];
        element.querySelector(`.${key} i`).style.width = `${Math.max(0, 100 * (1 + Math.log10(Math.max(v, 1e-300) / tops[c]) / 5)).toFixed(1)}%`;
        element.querySelector(`.${key} data`).replaceWith(number(v, 3));
      });
      set(element, { "aria-pressed": k === state.block ? "true" : "false", "data-known": state.phase > k, "data-back": state.phase > 2 * layers.length - 1 - k });
    });
    flow?.paint(state.at, state.block);
    inspector.replaceChildren(...inspectBlock(layers[state.block], state.at));
    document.querySelectorAll(".cost-lines").forEach((figure) => figure.replaceChildren(lines([{ name: "C", xs: steps, ys: Array.from(cost.flat) }], { label: "Cost over training steps", marked: steps[state.at] })));
    document.querySelectorAll(".norms").forEach((figure, k) => figure.replaceChildren(...normLines(data.runs[k], state.at)));
  }

  function sentence(layers, cost) {
    const n = layers.length;
    if (state.phase === 2 * n) return cost ? `At step ${show(run().steps[state.at])} the cost is ${show(slice(cost, state.at)[0])}.` : "";
    if (state.phase === 0) return "Before the pass.";
    const layer = layers[state.block];
    const v = (key) => show(slice(layer.norms[key], state.at)[0], 3);
    if (state.phase <= n) return `Forward, ${state.block + 1} ${layer.name}: ‖y‖ = ${v("y")}`;
    return `Backward, ${state.block + 1} ${layer.name}: it receives ‖δ‖ = ${v("dy")}${layer.norms.dx ? ` and sends ${v("dx")} on` : ""}`;
  }

  function card(layer, k) {
    const bar = (key, label) => el("span", { class: `meter ${key}` }, el("span", { class: "what" }, label), el("span", { class: "track" }, el("i")), el("data"));
    return el("button", { type: "button", class: "block", "data-block": k, style: `--depth:${layer.depth ?? 0}`, onclick: () => change({ block: k }) },
      el("b", {}, el("span", { class: "index" }, `${k + 1} `), layer.name), el("span", { class: "shape" }, layer.shape), bar("y", layer.output ?? "‖a‖"), bar("dy", "‖δ‖"));
  }
  globalThis.explorer = { state, change, data, repaint: paint };
  change({});
}

// ── ‖δ‖ of every layer over training ────────────────────────────────────────────────────────────

function norms(data) {
  if (data.runs[0].steps.length < 2) return [];
  const cost = data.runs.length === 1 && el("section", { class: "panel" }, el("h2", {}, "Cost over training"), el("div", { class: "cost-lines" }));
  return [el("div", { class: "panels" }, cost, data.runs.map((run) => el("section", { class: "panel" }, el("h2", {}, data.runs.length > 1 ? `‖δ‖ of each layer: ${run.name}` : "‖δ‖ over training"), el("div", { class: "norms" }), run.note && el("p", { class: "note" }, run.note))))];
}

function normLines(run, at) {
  const chosen = run.layers.filter((l) => l.line);
  const series = (chosen.length ? chosen : run.layers).slice(0, 10).map((l) => ({ name: l.line ?? l.name, xs: run.steps, ys: run.steps.map((_, k) => slice(l.norms.dy, k)[0]) }));
  return [lines(series, { label: "Norm of delta of every layer over training steps", log: true, marked: run.steps[at] })];
}

// ── one block ───────────────────────────────────────────────────────────────────────────────────

function inspectBlock(layer, at) {
  const fact = (name, value) => [el("dt", {}, name), el("dd", {}, value)];
  const norm = (key) => layer.norms[key] && number(slice(layer.norms[key], at)[0]);
  const facts = [
    fact("layer", el("code", {}, layer.repr)),
    layer.path && fact("place", el("code", {}, layer.path)),
    fact("output", layer.shape),
    fact("parameters", show(layer.parameters)),
    layer.kept !== undefined && fact("kept for backward", el("data", { value: layer.kept }, bytes(layer.kept))),
    ...[["‖x‖", "x"], ["‖y‖", "y"], ["‖δ‖ received", "dy"], ["‖δ‖ sent on", "dx"], ["‖w‖", "params"], ["‖∂C/∂w‖", "dparams"]].map(([words, key]) => (layer.norms[key] && slice(layer.norms[key], at)[0] !== 0 ? fact(words, norm(key)) : null)),
    layer.dead && slice(layer.dead, at)[0] > 0 && fact("dead features", `${show(100 * slice(layer.dead, at)[0], 3)} %`),
    layer.saturated && slice(layer.saturated, at)[0] > 0 && fact("saturated", `${show(100 * slice(layer.saturated, at)[0], 3)} %`),
  ];
  const parts = [el("h2", {}, layer.name), el("dl", { class: "facts" }, facts.filter(Boolean))];
  for (const [key, words, kind] of [["y", "Values", "value"], ["dy", "δ received", "error"]]) {
    const found = layer.histograms?.[key];
    if (found) parts.push(el("p", { class: "step" }, words), bars({ counts: Array.from(slice(found.counts, at)), top: slice(found.tops, at)[0] }, words, kind));
  }
  if (layer.maps) parts.push(...layer.maps.map(mapsOf));
  return parts;
}

// Attention, or feature maps: a picture for each head or channel, its error below it.
function mapsOf({ title, note, pairs }) {
  const pictures = pairs.map(({ name, value, error }) => {
    const [high, wide] = value.shape;
    return el("figure", {}, raster(value.flat, high, wide, { label: `${title}, ${name}: value` }), raster(error.flat, high, wide, { label: `${title}, ${name}: error`, kind: "error" }), el("figcaption", {}, name));
  });
  return el("div", {}, el("p", { class: "step" }, title), el("p", { class: "note" }, note), el("div", { class: "maps" }, pictures));
}

// ── what it costs, and whether it is right ──────────────────────────────────────────────────────

function costPanel(costs) {
  if (!costs) return null;
  const head = ["way", "time", "memory", "temporaries", "kept"];
  const rows = costs.ways.map((way) => el("tr", {}, el("th", { scope: "row" }, way.name), el("td", {}, `${show(1000 * way.seconds, 3)} ms`), el("td", {}, bytes(way.bytes)), el("td", {}, bytes(way.temporary)), el("td", {}, way.kept === null ? "–" : bytes(way.kept))));
  return el("section", { class: "panel wide" }, el("h2", {}, "By hand and automatic"), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "costs" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((t) => el("th", { scope: "col" }, t)))), el("tbody", {}, rows))), el("p", { class: "note" }, `One forward and one backward pass on ${costs.machine}. Kept: what the forward pass hands to the backward pass.`));
}

function leavesPanel({ leaves }) {
  if (!leaves?.length) return null;
  const head = ["parameter", "shape", "‖∂C/∂w‖ by hand", "jax.grad", "apart by"];
  const rows = leaves.map((l) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, l.path)), el("td", {}, l.shape), el("td", {}, number(l.manual)), el("td", {}, number(l.automatic)), el("td", {}, number(l.apart, 2))));
  return el("section", { class: "panel wide" }, el("h2", {}, "Every gradient, beside jax.grad"), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "gradients" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((t) => el("th", { scope: "col" }, t)))), el("tbody", {}, rows))));
}
