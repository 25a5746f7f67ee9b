// Forward, backward and update of Dense layers with activations, as the library does them.
// A matrix is a Float64Array in rows; w is [in, out], and an example is a row.

// ── activations: a = f(z), and its slope da/dz ──────────────────────────────────────────────────

const logistic = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
const C = Math.sqrt(2 / Math.PI);
const bend = (z) => Math.tanh(C * (z + 0.044715 * z ** 3));

// Φ(z), the share of a normal distribution below z: a series, and a continued fraction far out.
export function normalShare(z) {
  const x = Math.abs(z);
  const density = Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI);
  if (x > 38) return z > 0 ? 1 : 0;
  if (x < 3) {
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-18 * sum; n++) {
      term *= (x * x) / (2 * n + 1);
      sum += term;
    }
    return z > 0 ? 0.5 + density * sum : 0.5 - density * sum;
  }
  let tail = x;
  for (let n = 90; n > 0; n--) tail = x + n / tail;
  return z > 0 ? 1 - density / tail : density / tail;
}
const normalDensity = (z) => Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);

// f: z -> a; slope: (z, a) -> da/dz; top: the largest slope there is, by which an arc is drawn.
export const ACTIVATIONS = {
  identity: { words: "identity", sign: "", f: (z) => z, slope: () => 1, top: 1 },
  sigmoid: { words: "sigmoid", sign: "σ", f: logistic, slope: (z, a) => a * (1 - a), top: 0.25 },
  tanh: { words: "tanh", sign: "tanh", f: Math.tanh, slope: (z, a) => (1 + a) * (1 - a), top: 1 },
  relu: { words: "ReLU", sign: "ReLU", f: (z) => (z > 0 ? z : 0), slope: (z) => (z > 0 ? 1 : 0), top: 1 },
  "leaky-relu": {
    words: "leaky ReLU", sign: "LReLU", f: (z) => (z > 0 ? z : 0.01 * z), slope: (z) => (z > 0 ? 1 : 0.01), top: 1,
  },
  elu: { words: "ELU", sign: "ELU", f: (z) => (z > 0 ? z : Math.expm1(z)), slope: (z, a) => (z > 0 ? 1 : a + 1), top: 1 },
  silu: {
    words: "SiLU", sign: "SiLU", f: (z) => z * logistic(z), top: 1.1,
    slope: (z) => logistic(z) * (1 + z * (1 - logistic(z))),
  },
  softplus: { words: "softplus", sign: "softplus", f: softplus, slope: logistic, top: 1 },
  gelu: {
    words: "GELU", sign: "GELU", f: (z) => z * normalShare(z), top: 1.13,
    slope: (z) => normalShare(z) + z * normalDensity(z),
  },
  "gelu-tanh": {
    words: "GELU (tanh)", sign: "GELU", f: (z) => 0.5 * z * (1 + bend(z)), top: 1.13,
    slope: (z) => 0.5 * (1 + bend(z)) + 0.5 * z * (1 - bend(z) ** 2) * C * (1 + 3 * 0.044715 * z * z),
  },
};

// ── losses of one example: value(a, y), and its derivative by a ─────────────────────────────────

function softmax(a) {
  const peak = Math.max(...a);
  const e = a.map((v) => Math.exp(v - peak));
  const total = e.reduce((s, v) => s + v, 0);
  return e.map((v) => v / total);
}
const sum = (a, f) => a.reduce((s, v, i) => s + f(v, i), 0);

export const LOSSES = {
  quadratic: {
    words: "quadratic cost ½‖a − y‖²",
    value: (a, y) => 0.5 * sum(a, (v, i) => (v - y[i]) ** 2),
    error: (a, y) => a.map((v, i) => v - y[i]),
    shown: (a) => a,
  },
  "mean-squared-error": {
    words: "mean squared error",
    value: (a, y) => sum(a, (v, i) => (v - y[i]) ** 2) / a.length,
    error: (a, y) => a.map((v, i) => (2 / a.length) * (v - y[i])),
    shown: (a) => a,
  },
  "cross-entropy": {
    words: "cross-entropy of softmax",
    value(a, y) {
      const peak = Math.max(...a);
      const total = peak + Math.log(sum(a, (v) => Math.exp(v - peak)));
      return sum(y, (t, i) => (t ? t * (total - a[i]) : 0));
    },
    error: (a, y) => softmax(a).map((p, i) => p - y[i]),
    shown: softmax,
  },
  "binary-cross-entropy": {
    words: "cross-entropy of a sigmoid",
    value: (a, y) => sum(a, (v, i) => softplus(v) - y[i] * v),
    error: (a, y) => a.map((v, i) => logistic(v) - y[i]),
    shown: (a) => a.map(logistic),
  },
};

// ── one pass over `rows` examples ───────────────────────────────────────────────────────────────

// net: { sizes, activations, loss, reduction, trainBias, slip }; params: [{ w, b }]; b may be null,
// and under the slip bias-not-summed it has a row for every example.
export function forward(net, params, x, rows) {
  let a = x;
  return params.map(({ w, b }, l) => {
    const [n, m] = [net.sizes[l], net.sizes[l + 1]];
    const { f } = ACTIVATIONS[net.activations[l]];
    const [input, z, out] = [a, new Float64Array(rows * m), new Float64Array(rows * m)];
    const spread = b !== null && b.length > m;
    for (let r = 0; r < rows; r++) {
      for (let j = 0; j < m; j++) z[r * m + j] = b === null ? 0 : b[spread ? (r * m + j) % b.length : j];
      for (let i = 0; i < n; i++) {
        const v = input[r * n + i];
        if (v !== 0) for (let j = 0; j < m; j++) z[r * m + j] += v * w[i * m + j];
      }
      for (let j = 0; j < m; j++) out[r * m + j] = f(z[r * m + j]);
    }
    a = out;
    return { n, m, x: input, z, a: out };
  });
}

const rowOf = (matrix, r, m) => Array.from(matrix.subarray(r * m, (r + 1) * m));

// The cost of every example, and of all of them.
export function costs(net, layers, y, rows) {
  const { a, m } = layers.at(-1);
  const each = Array.from({ length: rows }, (_, r) => LOSSES[net.loss].value(rowOf(a, r, m), rowOf(y, r, m)));
  const total = each.reduce((s, v) => s + v, 0);
  return { each, cost: net.reduction === "mean" ? total / rows : total };
}

// Adds to every layer: da, slope and delta of each example by its own cost; dw and db of the batch.
// learningRate matters to one slip alone: weights that are updated too early.
export function backward(net, params, layers, y, rows, learningRate = 0) {
  const share = net.reduction === "mean" ? 1 / rows : 1;
  const last = layers.at(-1);
  let da = new Float64Array(rows * last.m);
  const factor = net.slip === "wrong-factor" ? 2 / last.m : 1;
  for (let r = 0; r < rows; r++) {
    LOSSES[net.loss].error(rowOf(last.a, r, last.m), rowOf(y, r, last.m)).forEach((e, j) => (da[r * last.m + j] = factor * e));
  }
  for (let l = layers.length - 1; l >= 0; l--) {
    const layer = layers[l];
    const { n, m, x, z, a } = layer;
    const { f, slope } = ACTIVATIONS[net.activations[l]];
    layer.da = da;
    layer.slope = new Float64Array(rows * m);
    layer.delta = new Float64Array(rows * m);
    for (let k = 0; k < rows * m; k++) {
      const at = net.slip === "slope-of-the-activation" ? a[k] : z[k];
      layer.slope[k] = net.slip === "slope-of-the-activation" ? slope(at, f(at)) : slope(z[k], a[k]);
      layer.delta[k] = da[k] * layer.slope[k];
    }
    gradients(net, layer, params[l], rows, share);
    da = sentBack(net, layer, params[l], rows, learningRate);
  }
  return layers;
}

// dw = xᵀ δ, db = Σ δ, times the share that an example has of the cost.
function gradients(net, layer, { b }, rows, share) {
  const { n, m, x, z, delta } = layer;
  const sign = net.slip === "ascent" ? -share : share;
  const own = net.slip === "own-output" && n === m;
  layer.dw = new Float64Array(n * m);
  for (let r = 0; r < rows; r++) {
    for (let i = 0; i < n; i++) {
      const v = sign * (own ? z[r * m + i] : x[r * n + i]);
      if (v !== 0) for (let j = 0; j < m; j++) layer.dw[i * m + j] += v * delta[r * m + j];
    }
  }
  layer.db = null;
  if (b === null) return;
  if (net.slip === "bias-not-summed") {
    layer.db = delta.map((d) => share * d);
    return;
  }
  layer.db = new Float64Array(m);
  for (let k = 0; k < rows * m; k++) layer.db[k % m] += sign * delta[k];
}

// dx = δ wᵀ: the error of the layer below.
function sentBack(net, layer, { w }, rows, learningRate) {
  const { n, m, delta, dw } = layer;
  const dx = new Float64Array(rows * n);
  const turned = net.slip === "not-transposed" && n === m;
  const early = net.slip === "updated-too-early" ? learningRate : 0;
  for (let r = 0; r < rows; r++) {
    for (let i = 0; i < n; i++) {
      let s = 0;
      for (let j = 0; j < m; j++) {
        const k = turned ? j * m + i : i * m + j;
        s += delta[r * m + j] * (w[k] - early * dw[k]);
      }
      dx[r * n + i] = s;
    }
  }
  layer.dx = dx;
  return dx;
}

export function pass(net, params, x, y, rows, learningRate = 0) {
  const layers = forward(net, params, x, rows);
  const { each, cost } = costs(net, layers, y, rows);
  backward(net, params, layers, y, rows, learningRate);
  return { rows, layers, each, cost };
}

// p − η ∂C/∂p. A b with more rows than one (the slip) takes the gradient as it broadcasts.
export function update(net, params, layers, learningRate) {
  return params.map(({ w, b }, l) => {
    const { dw, db } = layers[l];
    const next = w.map((v, k) => v - learningRate * dw[k]);
    if (b === null || !net.trainBias) return { w: next, b };
    const length = Math.max(b.length, db.length);
    const bias = Float64Array.from({ length }, (_, k) => b[k % b.length] - learningRate * db[k % db.length]);
    return { w: next, b: bias };
  });
}

// (C(p + h) − C(p − h)) / 2h by one parameter: a witness that knows no chain rule.
export function difference(net, params, x, y, rows, l, name, k) {
  const h = 1e-5 * Math.max(1, Math.abs(params[l][name][k]));
  const at = (step) => {
    const moved = params.map((p, i) => (i === l ? { ...p, [name]: p[name].map((v, e) => (e === k ? v + step : v)) } : p));
    return costs(net, forward(net, moved, x, rows), y, rows).cost;
  };
  return (at(h) - at(-h)) / (2 * h);
}

// ‖δ‖ of a layer: the root of the mean of its square over the examples.
export function sizeOfDelta({ delta }, rows) {
  return Math.sqrt(delta.reduce((s, v) => s + v * v, 0) / rows);
}

// The share of examples whose largest output is that of the target, or lies on its side of a half.
export function accuracy(net, layers, y, rows) {
  const { a, m } = layers.at(-1);
  const largest = (row) => row.indexOf(Math.max(...row));
  let right = 0;
  for (let r = 0; r < rows; r++) {
    const [given, wanted] = [LOSSES[net.loss].shown(rowOf(a, r, m)), rowOf(y, r, m)];
    right += m > 1 ? largest(given) === largest(wanted) : given[0] > 0.5 === wanted[0] > 0.5;
  }
  return right / rows;
}
