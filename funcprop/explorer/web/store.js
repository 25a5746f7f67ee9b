// What the page shows: a place in the record, or a network that the reader has changed.

import { slice } from "./decode.js";
import { accuracy, difference, pass, sizeOfDelta, update } from "./engine.js";

export const BATCH = -1;

// The phases of one step, in their order.
export function phasesOf(depth) {
  const layers = Array.from({ length: depth }, (_, l) => l);
  return [
    ...layers.map((layer) => ({ kind: "forward", layer })),
    { kind: "cost" },
    ...layers.toReversed().map((layer) => ({ kind: "backward", layer })),
    { kind: "update" },
  ];
}

export function makeStore(data) {
  const depth = data.activations.length;
  const outputs = data.sizes[depth];
  const rows = data.x.shape[0];
  const phases = phasesOf(depth);
  const listeners = [];
  const store = {
    data,
    depth,
    phases,
    at: data.steps.length > 1 ? 0 : data.steps.length - 1, // which snapshot
    example: liveliest(data),
    phase: phases.length - 1, // everything is known
    view: "values",
    chosen: null, // { kind: "node", layer, j } with layer 0 the inputs, { kind: "edge", layer, i, j }
    own: null, // what the reader has changed: { net, params, x, learningRate, steps, history }
    listen: (f) => listeners.push(f),
    set(changes) {
      Object.assign(store, changes);
      kept = whole = dead = null;
      listeners.forEach((f) => f(store));
    },
  };
  let [kept, whole, dead] = [null, null, null];

  store.net = () => store.own?.net ?? { ...data, slip: null };
  store.learningRate = () => store.own?.learningRate ?? data.learningRate;
  store.params = () => store.own?.params ?? recordedParams(data, store.at);
  store.step = () => (store.own ? store.own.steps : data.steps[store.at]);

  // x, y and the parameters of what is looked at: one example or the batch.
  store.looked = () => {
    const x = store.own?.x ?? data.x.flat;
    const params = oneRow(store.params(), store.example, outputsOf(data));
    if (store.example === BATCH) return { x, y: data.y.flat, rows, params };
    const n = data.sizes[0];
    return {
      params,
      x: x.subarray(store.example * n, (store.example + 1) * n),
      y: data.y.flat.subarray(store.example * outputs, (store.example + 1) * outputs),
      rows: 1,
    };
  };

  // The pass that is looked at: the library's numbers where there are any, else the engine's.
  store.pass = () => {
    if (kept) return kept;
    const { x, y, rows: count, params } = store.looked();
    const net = { ...store.net(), reduction: store.example === BATCH ? data.reduction : "sum" };
    kept = pass(net, params, x, y, count, store.learningRate());
    kept.source = "browser";
    if (!store.own) recordedInto(kept, data, store.at, store.example);
    return kept;
  };

  // The pass over all examples, by which training takes its step.
  store.batch = () => {
    if (store.example === BATCH) return store.pass();
    if (whole) return whole;
    whole = pass(store.net(), store.params(), store.own?.x ?? data.x.flat, data.y.flat, rows, store.learningRate());
    if (!store.own) recordedInto(whole, data, store.at, BATCH);
    return whole;
  };

  // Of every layer's neurons, which have slope 0 in every example of the batch.
  store.dead = () => {
    if (dead) return dead;
    const net = store.net();
    const layers = pass(net, store.params(), store.own?.x ?? data.x.flat, data.y.flat, rows).layers;
    dead = layers.map(({ m, slope }) => Array.from({ length: m }, (_, j) => slope.every((v, k) => k % m !== j || v === 0)));
    return dead;
  };

  // What jax.grad says of a parameter; a difference quotient where the reader has changed something.
  store.witness = (l, name, k) => {
    const { automatic } = store.example === BATCH ? data : data.each;
    const found = automatic[l][name];
    if (!store.own && store.example === BATCH) return { who: "jax.grad", value: slice(found, store.at)[k] };
    const place = data.each.examples.indexOf(store.example);
    if (!store.own && place >= 0) return { who: "jax.grad", value: slice(found, store.at, place)[k] };
    const { x, y, rows: count, params } = store.looked();
    const net = { ...store.net(), reduction: store.example === BATCH ? data.reduction : "sum" };
    return { who: "a difference", value: difference(net, params, x, y, count, l, name, k) };
  };

  // The reader's own network, made of what is shown when it is first needed.
  store.edit = (change) => {
    const own = store.own ?? {
      net: { ...data, slip: null },
      params: recordedParams(data, store.at).map(({ w, b }) => ({ w: w.slice(), b: b && b.slice() })),
      x: data.x.flat.slice(),
      learningRate: data.learningRate,
      steps: data.steps[store.at],
      history: [],
    };
    change(own);
    if (!own.history.length) own.history.push(seenIn(own, data));
    store.set({ own });
  };
  store.restore = () => store.set({ own: null });

  // Steps of gradient descent on the batch, in the browser.
  store.train = (count = 1) =>
    store.edit((own) => {
      if (!own.history.length) own.history.push(seenIn(own, data));
      for (let k = 0; k < count; k++) {
        const { layers } = pass(own.net, own.params, own.x, data.y.flat, rows, own.learningRate);
        own.params = update(own.net, own.params, layers, own.learningRate);
        own.steps += 1;
        if (k === count - 1 || k % Math.ceil(count / 20) === 0) own.history.push(seenIn(own, data));
      }
      if (own.history.length > 400) own.history = own.history.filter((_, k) => k % 2 === 0);
    });

  store.isKnown = (kind, layer) => {
    const reached = phases.findIndex((phase) => phase.kind === kind && (layer === undefined || phase.layer === layer));
    return store.phase >= reached;
  };
  return store;
}

// Of the recorded examples the one with the most inputs that are not 0: where x is 0, no weight moves.
function liveliest(data) {
  const n = data.sizes[0];
  const size = (r) => data.x.flat.subarray(r * n, (r + 1) * n).filter((v) => v !== 0).length;
  return data.each.examples.reduce((best, r) => (size(r) > size(best) ? r : best), data.each.examples[0]);
}

const outputsOf = (data) => data.sizes.slice(1);

// Under the slip bias-not-summed an example has a bias of its own.
function oneRow(params, example, sizes) {
  if (example === BATCH) return params;
  return params.map(({ w, b }, l) => {
    const m = sizes[l];
    return { w, b: b !== null && b.length > m ? b.subarray(example * m, (example + 1) * m) : b };
  });
}

export function recordedParams(data, at) {
  return data.params.map(({ w, b }) => ({ w: slice(w, at), b: b === null ? null : slice(b, at) }));
}

function recordedInto(found, data, at, example) {
  found.source = "record";
  if (example === BATCH) {
    found.cost = slice(data.cost, at)[0];
    found.layers.forEach((layer, l) => {
      layer.dw = slice(data.manual[l].w, at);
      if (layer.db) layer.db = slice(data.manual[l].b, at);
    });
    return;
  }
  const place = data.each.examples.indexOf(example);
  if (place < 0) {
    found.source = "browser";
    return;
  }
  found.cost = slice(data.each.costs, at)[place];
  found.layers.forEach((layer, l) => {
    for (const name of ["z", "a", "da", "delta"]) layer[name] = slice(data.each[name][l], at, place);
  });
}

// A point of the reader's own curves.
function seenIn(own, data) {
  const rows = data.x.shape[0];
  const { layers, cost } = pass(own.net, own.params, own.x, data.y.flat, rows, own.learningRate);
  return {
    step: own.steps,
    cost,
    norms: layers.map((layer) => sizeOfDelta(layer, rows)),
    accuracy: accuracy(data, layers, data.y.flat, rows),
  };
}
