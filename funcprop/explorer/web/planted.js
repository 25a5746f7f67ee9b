// Formulas under a planted slip: what is printed is what was computed, right or wrong.

import { both, frac, row, sub, sup, valued } from "./dom.js";
import { ACTIVATIONS, pass } from "./engine.js";
import { recordedParams } from "./store.js";

// The sum by which layer l sends its error to place j below: its letters, and its products.
export function sentSum(store, l, j) {
  const { slip } = store.net();
  const { n, m, dw, delta } = store.pass().layers[l];
  const { w } = store.params()[l];
  const turned = slip === "not-transposed" && n === m;
  const early = slip === "updated-too-early" ? store.learningRate() : 0;
  const name = () => both("w", turned ? `k,${j + 1}` : `${j + 1},k`, String(l + 1));
  const used = early ? row("(", name(), "−", "η", frac("∂C", row("∂", name())), ")") : name();
  const pairs = Array.from({ length: m }, (_, k) => {
    const at = turned ? k * m + j : j * m + k;
    return [w[at] - early * (early ? dw[at] : 0), delta[k]];
  });
  return { letters: row(sub("Σ", "k"), used, both("δ", "k", String(l + 1))), pairs };
}

// ∂C/∂w is what enters × δ: the values that are taken for what enters, and the sign.
export function entering({ slip }, { n, m, x, z }) {
  const own = slip === "own-output" && n === m;
  const minus = slip === "ascent";
  return { own, minus, values: own ? z : x, sign: minus ? -1 : 1, words: `${minus ? "−" : ""}${own ? "its own output z" : "input"} × δ` };
}

// Where the slope is taken, and its formula: at z, or by a slip at a.
export function slopeLine({ slip }, name, zs, as, z, a) {
  const { sign, f } = ACTIVATIONS[name];
  const late = slip === "slope-of-the-activation";
  const [at, out] = late ? [a, f(a)] : [z, a];
  const left = row(`${sign}′`, "(", late ? as : zs, ")");
  const outcome = () => (late ? row(sign, "(a)") : "a");
  if (name === "sigmoid") return [left, row(outcome(), "(1 −", outcome(), ")"), row(valued(out), "· (1 −", valued(out), ")")];
  if (name === "tanh") return [left, row("1 −", sup(outcome(), "2")), row("1 −", sup(valued(out), "2"))];
  if (name === "relu") return [left, row(at > 0 ? "1" : "0", late ? ", as a" : ", as z", at > 0 ? "> 0" : "≤ 0")];
  return [left, row(`${sign}′`, "(", valued(at, true), ")")];
}

// ── which gradients a slip makes wrong ──────────────────────────────────────────────────────────

// { layer, j, apart } of the neuron whose gradients over the batch a slip changes most.
export function hardestHit(net, params, x, y, rows, learningRate) {
  const [wrong, right] = [net.slip, null].map((slip) => pass({ ...net, slip }, params, x, y, rows, learningRate).layers);
  let worst = { layer: 0, j: 0, apart: 0 };
  right.forEach(({ m, dw, db }, l) => {
    for (const [key, of] of [["dw", dw], ["db", net.trainBias ? db : null]]) {
      if (of === null) continue;
      const top = Math.max(...Array.from(of, Math.abs), 1e-300);
      const other = wrong[l][key];
      const unlike = other.length !== of.length;
      of.forEach((v, k) => {
        const apart = unlike ? 1 : Math.abs(v - other[k]) / top;
        if (apart > worst.apart) worst = { layer: l + 1, j: k % m, apart };
      });
    }
  });
  return worst;
}

// The slips that make a gradient of this network wrong: 2/n is no slip where n = 2.
export function plantable(data) {
  const rows = data.x.shape[0];
  const fits = { "": true, quadratic: data.loss === "quadratic", biases: data.trainBias && data.params[0].b !== null && rows > 1, square: data.sizes.some((n, l) => l > 0 && n > 0 && n === data.sizes[l - 1]) };
  const start = recordedParams(data, 0);
  return data.slips.filter(({ name, needs }) => fits[needs] && hardestHit({ ...data, slip: name }, start, data.x.flat, data.y.flat, rows, data.learningRate).apart > 1e-6);
}

// What the numbers of a slip are in the network that is shown.
export function slipHere(store, name) {
  const n = store.data.sizes.at(-1);
  if (name === "wrong-factor") return `Here n = ${n}: every error is ${Number((2 / n).toPrecision(4))} times what it should be.`;
  if (name === "updated-too-early") return `Here η = ${store.learningRate()}.`;
  return "";
}
