// Lines over training steps, images of numbers, and the plane that a network divides.

import { el, show, svg } from "./dom.js";
import { LOSSES, forward } from "./engine.js";

const [W, H, LEFT, RIGHT, TOP, BOTTOM] = [380, 212, 52, 66, 12, 34];

// series: [{ name, xs, ys }]; marked: where on the x axis a line stands.
export function lines(series, { label, log = false, marked = null, wide = W, unit = "step" } = {}) {
  const ys = series.flatMap((s) => s.ys).filter((v) => Number.isFinite(v) && (!log || v > 0));
  const xs = series.flatMap((s) => s.xs);
  const f = log ? Math.log10 : (v) => v;
  let [low, high] = [Math.min(...ys.map(f)), Math.max(...ys.map(f))];
  if (!log) low = Math.min(low, 0);
  if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
  const [first, last] = [Math.min(...xs), Math.max(...xs, Math.min(...xs) + 1)];
  const x = (v) => LEFT + ((v - first) / (last - first)) * (wide - LEFT - RIGHT);
  const y = (v) => TOP + (1 - (f(v) - low) / (high - low)) * (H - TOP - BOTTOM);
  const ticks = log ? decades(low, high) : steps(low, high);
  const parts = ticks.map((t) => {
    const at = y(log ? 10 ** t : t);
    return [svg("line", { x1: LEFT, x2: wide - RIGHT, y1: at, y2: at, class: "grid" }), svg("text", { x: LEFT - 6, y: at + 4, class: "tick end" }, show(log ? 10 ** t : t, 3))];
  });
  const along = [...new Set([first, Math.round((first + last) / 2), last])].map((t) => svg("text", { x: x(t), y: H - 14, class: "tick middle" }, show(t)));
  const ends = apart(series.map((s) => Math.min(H - BOTTOM, Math.max(TOP + 4, lastOf(s, y)))), 13);
  const drawn = series.map((s, k) => [
    svg("path", { d: path(s, x, y, log), class: `line s${k % 8}` }),
    svg("text", { x: wide - RIGHT + 5, y: ends[k] + 4, class: `tick label s${k % 8}` }, s.name),
  ]);
  const mark = marked === null ? null : svg("line", { x1: x(marked), x2: x(marked), y1: TOP, y2: H - BOTTOM, class: "marked" });
  const words = `${label}. ${series.map((s) => `${s.name}: from ${show(s.ys[0], 3)} to ${show(s.ys.at(-1), 3)}`).join("; ")}`;
  return svg("svg", { viewBox: `0 0 ${wide} ${H}`, class: "chart", role: "img", "aria-label": words }, parts, along, svg("text", { x: (LEFT + wide - RIGHT) / 2, y: H - 1, class: "tick middle" }, unit), mark, drawn);
}

function path({ xs, ys }, x, y, log) {
  let d = "";
  xs.forEach((v, k) => {
    if (!Number.isFinite(ys[k]) || (log && ys[k] <= 0)) return;
    d += `${d ? "L" : "M"}${x(v).toFixed(1)} ${y(ys[k]).toFixed(1)}`;
  });
  return d;
}
const lastOf = ({ ys }, y) => (ys.at(-1) > 0 || Number.isFinite(y(ys.at(-1))) ? y(ys.at(-1)) : H - BOTTOM);

// Places for labels, none nearer to another than `least`.
function apart(places, least) {
  const order = places.map((v, k) => [v, k]).sort((p, q) => p[0] - q[0]);
  for (let k = 1; k < order.length; k++) order[k][0] = Math.max(order[k][0], order[k - 1][0] + least);
  const over = Math.max(0, (order.at(-1)?.[0] ?? 0) - (H - BOTTOM));
  const found = [];
  order.forEach(([v, k]) => (found[k] = v - over));
  return found;
}
function decades(low, high) {
  if (high - low < 1.6) {
    const fine = [];
    for (let p = Math.floor(low); p <= high; p++) for (const k of [1, 2, 5]) fine.push(p + Math.log10(k));
    return fine.filter((t) => t >= low && t <= high);
  }
  const every = Math.ceil((high - low) / 5) || 1;
  const found = [];
  for (let t = Math.ceil(low); t <= high; t += every) found.push(t);
  return found.length ? found : [low, high];
}
function steps(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((k) => k * power >= rough);
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-12; t += step) found.push(Math.abs(t) < 1e-12 ? 0 : t);
  return found;
}

// Bars of a histogram over [−top, top].
export function bars({ counts, top }, label, kind) {
  const most = Math.max(...counts, 1);
  const wide = 240 / counts.length;
  const rects = counts.map((c, k) => svg("rect", { x: 10 + k * wide, width: wide * 0.86, y: 60 - (52 * c) / most, height: (52 * c) / most, class: `bar ${kind}` }));
  return svg("svg", { viewBox: "0 0 260 76", class: "chart small", role: "img", "aria-label": `${label}: from ${show(-top, 3)} to ${show(top, 3)}` }, rects,
    svg("line", { x1: 10, x2: 250, y1: 60, y2: 60, class: "grid" }), svg("text", { x: 10, y: 73, class: "tick" }, show(-top, 2)), svg("text", { x: 130, y: 73, class: "tick middle" }, "0"), svg("text", { x: 250, y: 73, class: "tick end" }, show(top, 2)));
}

// A picture of numbers [high, wide]: positive in one color, negative in another.
export function raster(values, high, wide, { label, kind = "value", picked = null, onpick = null } = {}) {
  const canvas = el("canvas", { width: wide, height: high, class: `raster ${kind}`, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(wide, high);
  const top = values.reduce((s, v) => Math.max(s, Math.abs(v)), 0) || 1;
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim().match(/\w\w/g).map((c) => parseInt(c, 16));
  const [above, below, paper] = [color(`--${kind}-above`), color(`--${kind}-below`), color("--paper")];
  values.forEach((v, k) => {
    const [share, tone] = [Math.min(1, Math.abs(v) / top), v < 0 ? below : above];
    for (let c = 0; c < 3; c++) pixels.data[4 * k + c] = paper[c] + share * (tone[c] - paper[c]);
    pixels.data[4 * k + 3] = 255;
  });
  context.putImageData(pixels, 0, 0);
  canvas.dataset.picked = picked ?? "";
  if (onpick) canvas.addEventListener("click", (event) => onpick(Math.floor((event.offsetY / canvas.clientHeight) * high) * wide + Math.floor((event.offsetX / canvas.clientWidth) * wide)));
  return canvas;
}

// The plane of two inputs: what the network says of every point, and the examples on it.
export function plane(store, params) {
  const { data } = store;
  const size = 60;
  const x = store.own?.x ?? data.x.flat;
  const n = data.x.shape[0];
  const range = (axis) => {
    const values = Array.from({ length: n }, (_, r) => x[2 * r + axis]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = 0.18 * (high - low || 1);
    return [low - margin, high + margin];
  };
  const [[x0, x1], [y0, y1]] = [range(0), range(1)];
  const grid = new Float64Array(2 * size * size);
  for (let r = 0; r < size; r++) for (let c = 0; c < size; c++) {
    grid[2 * (r * size + c)] = x0 + ((c + 0.5) / size) * (x1 - x0);
    grid[2 * (r * size + c) + 1] = y1 - ((r + 0.5) / size) * (y1 - y0);
  }
  const single = params.map(({ w, b }, l) => ({ w, b: b && b.length > data.sizes[l + 1] ? b.subarray(0, data.sizes[l + 1]) : b }));
  const { a, m } = forward(store.net(), single, grid, size * size).at(-1);
  const say = LOSSES[data.loss].shown;
  const values = Float64Array.from({ length: size * size }, (_, k) => say(Array.from(a.subarray(k * m, (k + 1) * m)))[m - 1] - 0.5);
  const canvas = raster(values, size, size, { label: "What the network says of every point of the plane" });
  const place = (v, low, high) => (100 * (v - low)) / (high - low);
  const points = Array.from({ length: n }, (_, r) => {
    const positive = data.y.flat[r * data.y.shape[1] + data.y.shape[1] - 1] > 0.5;
    const chosen = r === store.example;
    return svg("circle", { cx: place(x[2 * r], x0, x1), cy: 100 - place(x[2 * r + 1], y0, y1), r: n > 20 ? 1.7 : 3, class: `point ${positive ? "above" : "below"}${chosen ? " chosen" : ""}`, onclick: () => store.set({ example: r }) });
  });
  return el("div", { class: "plane" }, canvas, svg("svg", { viewBox: "0 0 100 100", "aria-hidden": "true" }, points));
}
