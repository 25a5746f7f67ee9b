"""The page's engine, in Node: activations, losses, training and slips, as the library has them."""

import json
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.explorer.arrays import unpacked
from funcprop.explorer.chain import ACTIVATIONS, LOSSES, Chain, of
from funcprop.explorer.lessons import lesson
from funcprop.explorer.page import asset
from funcprop.explorer.slips import SLIPPED
from funcprop.layers import Affine

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(
    NODE is None, reason="node is not installed: nothing runs engine.js"
)

PROGRAM = """
import { readFileSync } from "node:fs";
import * as engine from "./engine.js";

const NAMES = ["z", "a", "da", "slope", "delta", "dw", "db", "dx"];
const matrix = (rows) => Float64Array.from(rows.flat());
const array = (b) => b && Array.from(b);
const plain = (layer) => Object.fromEntries(NAMES.map((k) => [k, array(layer[k])]));
const whole = ({ w, b }) => ({ w: matrix(w), b: b === null ? null : Float64Array.from(b) });

function run({ net, layers, x, y, learningRate, steps }) {
  const [inputs, targets, rows] = [matrix(x), matrix(y), x.length];
  let params = layers.map(whole);
  let found = engine.pass(net, params, inputs, targets, rows, learningRate);
  for (let k = 0; k < steps; k++) {
    params = engine.update(net, params, found.layers, learningRate);
    found = engine.pass(net, params, inputs, targets, rows, learningRate);
  }
  return {
    cost: found.cost,
    layers: found.layers.map(plain),
    quotient: engine.difference(net, params, inputs, targets, rows, 0, "w", 0),
    params: params.map(({ w, b }) => ({ w: array(w), b: array(b) })),
  };
}
process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(run)));
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """cases -> what engine.js makes of them."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "engine.js").write_text(asset("engine.js"), "utf-8")
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    (folder / "program.js").write_text(PROGRAM, "utf-8")

    def run(cases):
        done = subprocess.run(
            [NODE, "program.js"], cwd=folder, input=json.dumps(cases), text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def case(found, loss, x, y, reduction="mean", rate=0.5, steps=0, slip=None):
    layers = [
        {"w": np.asarray(p.w).tolist(), "b": None if p.b is None else np.asarray(p.b).tolist()}
        for p in found.params
    ]
    net = {
        "sizes": found.sizes, "activations": found.activations, "loss": loss,
        "reduction": reduction, "trainBias": True, "slip": slip,
    }  # fmt: skip
    return {
        "net": net, "layers": layers, "x": np.asarray(x).tolist(), "y": np.asarray(y).tolist(),
        "learningRate": rate, "steps": steps,
    }  # fmt: skip


RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((5, 4))
Y = np.eye(3)[[0, 2, 1, 1, 0]]
PARAMS = (
    Affine(RANDOM.standard_normal((4, 6)), RANDOM.standard_normal(6)),
    Affine(RANDOM.standard_normal((6, 3)), RANDOM.standard_normal(3)),
)


def close(found, wanted):
    wanted = np.ravel(np.asarray(wanted))
    return np.abs(np.asarray(found) - wanted).max() <= 1e-6 * max(np.abs(wanted).max(), 1e-12)


@needs_node
def test_forward_and_backward_of_every_activation_and_loss(engine):
    pairs = [(name, "quadratic") for name in ACTIVATIONS] + [("tanh", loss) for loss in LOSSES]
    nets = [Chain((), (name, "identity"), PARAMS) for name, _ in pairs]
    found = engine([case(net, loss, X, Y) for net, (_, loss) in zip(nets, pairs, strict=True)])
    with jax.enable_x64(True):
        for (name, loss), told in zip(pairs, found, strict=True):
            middle, last, cost = ACTIVATIONS[name], fp.Dense(3), LOSSES[loss]()
            p1, p2 = jax.tree.map(jnp.asarray, PARAMS)
            z1, kept1 = fp.Dense(6).forward(p1, jnp.asarray(X))
            a1, kept = middle.forward((), z1)
            z2, kept2 = last.forward(p2, a1)
            value, kept_loss = cost.forward((), (z2, jnp.asarray(Y)))
            (dz2, _), _ = cost.backward((), kept_loss, jnp.ones(()))
            da1, d2 = last.backward(p2, kept2, dz2)
            dz1, _ = middle.backward((), kept, da1)
            _, d1 = fp.Dense(6).backward(p1, kept1, dz1)
            one, two = told["layers"]
            assert told["cost"] == pytest.approx(float(value), rel=1e-9), (name, loss)
            assert close(one["z"], z1) and close(one["a"], a1) and close(two["z"], z2)
            assert close(np.array(two["delta"]) / 5, dz2) and close(np.array(one["da"]) / 5, da1)
            assert close(np.array(one["delta"]) / 5, dz1), (name, loss)
            assert close(one["dw"], d1.w) and close(one["db"], d1.b)
            assert close(two["dw"], d2.w) and close(two["db"], d2.b)
            assert told["quotient"] == pytest.approx(one["dw"][0], rel=1e-5, abs=1e-8)


@needs_node
def test_training_in_the_browser_follows_the_librarys(engine):
    data = lesson("nand", steps=120).data
    start = tuple(
        Affine(unpacked(layer["w"])[0], unpacked(layer["b"])[0]) for layer in data["params"]
    )
    found = Chain((), tuple(data["activations"]), start)
    x, y = unpacked(data["x"]), unpacked(data["y"])
    rate = data["learningRate"]
    (told,) = engine([case(found, "quadratic", x, y, rate=rate, steps=120)])
    assert told["cost"] == pytest.approx(unpacked(data["cost"])[-1], rel=1e-6)
    for layer, own in zip(data["params"], told["params"], strict=True):
        assert close(own["w"], unpacked(layer["w"])[-1])


NAND = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[1.0], [1], [1], [0]])


def slipped(slip):
    """The layers of a network with one of the slips, as docs/slips.md trains it."""
    dense, sigmoid, cost = fp.Dense, fp.Sigmoid(), fp.QuadraticCost(reduction="sum")
    kind = SLIPPED[slip]
    if isinstance(kind, fp.Dense):
        dense = type(kind)
    elif isinstance(kind, fp.Sigmoid):
        sigmoid = kind
    else:
        cost = type(kind)(reduction="sum")
    outer = fp.Dense if slip in ("not-transposed", "own-output") else dense  # only square layers
    return fp.Serial(outer(3), sigmoid, dense(3), sigmoid, outer(1), sigmoid), cost


@needs_node
@pytest.mark.parametrize("slip", [s for s in SLIPPED if s != "bias-not-summed"])
def test_a_planted_slip_is_the_librarys(engine, slip):
    """bias-not-summed has no step in the library: Dense refuses parameters of such a shape."""
    model, cost = slipped(slip)
    x, y = NAND
    with jax.enable_x64(True):
        start = model.init(jax.random.key(1), jnp.asarray(x))
        wide = jax.tree.map(lambda leaf: leaf + 0.3, start)

        def step(_, p):
            return jax.tree.map(lambda leaf, d: leaf - 0.5 * d, p, gradient(p, batch)[1])

        gradient, batch = fp.backprop(model, cost), (jnp.asarray(x), jnp.asarray(y))
        end = jax.jit(lambda p: jax.lax.fori_loop(0, 7, step, p))(wide)
    layers = tuple(p for p in wide if isinstance(p, Affine))
    found = Chain((), ("sigmoid",) * 3, layers)
    assert of(layers[0]) == fp.Dense(3)
    (told,) = engine([case(found, "quadratic", x, y, "sum", steps=7, slip=slip)])
    for own, p in zip(told["params"], (p for p in end if isinstance(p, Affine)), strict=True):
        assert close(own["w"], p.w) and close(own["b"], p.b), slip


@needs_node
def test_what_slips_make_of_training_is_what_the_page_on_slips_says(engine):
    """docs/slips.md: 1/12 by the slope of the activation, 3/8 by ascent; rows of bias memorize."""
    x, y = NAND
    model = fp.Serial(fp.Dense(3), fp.Sigmoid(), fp.Dense(1), fp.Sigmoid())
    params = model.init(jax.random.key(0), jnp.asarray(x, jnp.float32))
    found = Chain((), ("sigmoid", "sigmoid"), tuple(p for p in params if isinstance(p, Affine)))
    slips = [None, "slope-of-the-activation", "ascent", "bias-not-summed"]
    told = engine([case(found, "quadratic", x, y, "sum", 1.0, 2000, slip) for slip in slips])
    ends = [one["cost"] / 4 for one in told]
    assert [round(v, 3) for v in ends[:3]] == [0.0, 0.083, 0.375]
    assert ends[3] < 0.001 and len(told[3]["params"][0]["b"]) == 12
