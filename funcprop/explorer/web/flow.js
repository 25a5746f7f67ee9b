// A function that was lifted: its parameters as a graph, each beside those whose outputs it reads.

import { el, set, show, svg } from "./dom.js";
import { slice } from "./decode.js";

const [ACROSS, DOWN, R] = [150, 62, 13];

// How many uses lie between the data and this one; what reads itself in a loop is not counted on.
function depths(flow) {
  const n = flow.length - 1;
  const depth = Array(n).fill(0);
  for (let round = 0; round < n; round += 1) {
    flow.slice(0, n).forEach((from, k) => from.forEach((f) => {
      const later = f >= 0 && f !== k && !flow[f].includes(k);
      if (later && depth[f] + 1 > depth[k] && depth[f] + 1 <= n) depth[k] = depth[f] + 1;
    }));
  }
  return depth;
}

export function flowGraph(flow, layers, pick) {
  const depth = depths(flow);
  const end = flow.length - 1;
  const columns = new Map();
  depth.forEach((d, k) => columns.set(d, [...(columns.get(d) ?? []), k]));
  const deepest = Math.max(...depth);
  const tallest = Math.max(...[...columns.values()].map((c) => c.length), 1);
  const [wide, high] = [ACROSS * (deepest + 3), DOWN * tallest + 30];
  const place = (k) => {
    if (k === -1) return [50, high / 2];
    if (k === end) return [wide - 50, high / 2];
    const column = columns.get(depth[k]);
    return [50 + ACROSS * (depth[k] + 1), high / 2 + DOWN * (column.indexOf(k) - (column.length - 1) / 2)];
  };
  const label = (k) => (k === -1 ? "data" : k === end ? "result" : `${k + 1} ${layers[k].name}`);
  const root = svg("svg", { viewBox: `0 0 ${wide} ${high}`, width: wide, class: "network flow", role: "group", "aria-label": "Which parameter reads what another one gave: values go right, errors come back" });
  flow.forEach((from, k) => from.forEach((f) => {
    const [[x1, y1], [x2, y2]] = [place(f), place(k)];
    const bow = f === k ? `M${x1 - 8} ${y1 - R}C${x1 - 34} ${y1 - 46} ${x1 + 34} ${y1 - 46} ${x1 + 8} ${y1 - R}` : `M${x1} ${y1}C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`;
    const far = y1 === y2 && x2 - x1 > 1.5 * ACROSS; // over those between
    const over = `M${x1} ${y1}C${x1 + 60} ${y1 - 52} ${x2 - 60} ${y2 - 52} ${x2} ${y2}`;
    root.append(svg("path", { d: far ? over : bow, class: "bundle strong", "data-from": f, "data-to": k }));
  }));
  const drawn = new Map();
  for (const k of [-1, ...layers.keys(), end]) {
    const [x, y] = place(k);
    const own = k >= 0 && k < end;
    const circles = [svg("circle", { r: R, class: "error" }), svg("circle", { r: R, class: "rim" }), svg("circle", { r: R + 5, class: "mark" })];
    const group = svg("g", { transform: `translate(${x} ${y})`, class: "node", ...(own ? { role: "button", tabindex: "0", "data-use": k, onclick: () => pick(k) } : {}) }, circles);
    const words = svg("text", { x, y: y + R + 15, class: "name", "text-anchor": "middle", "aria-hidden": "true" }, label(k));
    root.append(group, words);
    drawn.set(k, group);
  }

  // The tone of a circle is ‖δ‖ on a logarithmic scale, over the largest.
  function paint(at, chosen) {
    const sizes = layers.map((layer) => slice(layer.norms.dy, at)[0]);
    const top = Math.max(...sizes.filter(Number.isFinite), 1e-300);
    layers.forEach((layer, k) => {
      const share = Math.max(0, 1 + Math.log10(Math.max(sizes[k], 1e-300) / top) / 5);
      const group = drawn.get(k);
      const reads = flow[k].filter((f) => f !== k).map(label).join(" and ") || "nothing";
      set(group, { class: `node${k === chosen ? " chosen" : ""}`, "aria-label": `${label(k)} reads ${reads}, and receives an error of norm ${show(sizes[k], 3)}` });
      group.querySelector(".error").style.setProperty("--share", share.toFixed(3));
      group.querySelector(".error").style.setProperty("--tone", "var(--error-above)");
    });
  }
  const note = "Left the data, right the result: each parameter stands behind those whose outputs it reads, and a loop is one that reads itself. The stronger the tone, the larger the error that comes back.";
  return { root: el("section", { class: "panel wide", "aria-label": "The graph of its uses" }, el("h2", {}, "The graph of its uses"), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "the graph" }, root), el("p", { class: "note" }, note)), paint };
}
