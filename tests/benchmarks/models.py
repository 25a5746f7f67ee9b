"""Whole training steps of four models, five ways, in one process.

A step is a forward pass, a backward pass and an update by SGD with momentum: of a perceptron, a
convolutional network with batch normalization, an LSTM that takes small steps, and a language
model. The sides:

    by hand      funcprop: `fp.backprop` in `fp.train_step`
    jax.grad     the model as one writes it in jax.numpy
    Flax NNX     the model of library layers; split, and merged in the jitted step
    Equinox      the model of library layers; partitioned, and combined in the jitted step
    PyTorch      eager, as many threads as this process has processors

Every side starts from the same parameters. Before anything is timed the sides are compared: their
losses agree, and so does what one step changes, parameter by parameter. A comparison between
different models ends there. The steps of the JAX sides are compiled ahead of time with their state
donated, and run in turns; PyTorch has turns of its own, since its threads spin on for a while.

    python tests/benchmarks/models.py [--models mlp,gpt] [--repeats 5] [--seconds 2] [--json FILE]
    python tests/benchmarks/models.py --models gpt --texts 1 --length 512

Memory is that of the compiled step: arguments, outputs and temporaries, less what outputs share
with arguments. Flops are those that `cost_of` of funcprop.comparison.profile tells.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import funcprop as fp
from funcprop.costs.cost import machine
from funcprop.costs.measuring import cost_of, timed
from funcprop.models import gpt, gpt_objective, lstm_classifier, mlp

RATE, MOMENTUM = 0.05, 0.9
KEPT = 0.9  # the share of the old value in batch normalization's running averages
EPS = 1e-5
CLASSES = 10
LOSS_TOLERANCE = 1e-4  # relative
STEP_TOLERANCE = 2e-3  # relative norm of each parameter's change in one step, float32

Params = Any  # of a side; those that all start from are dictionaries of arrays
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


class Side(NamedTuple):
    """A model in one of the JAX libraries. `rest` is what a model carries beside its parameters."""

    put: Callable[[Any], tuple[Params, Any]]  # the common parameters -> params, rest
    loss: Callable[..., Any]  # (params, rest, x, y) -> loss, rest
    model: Callable[[Params], Any] | None = None  # params -> a module of one example, if it is one


class TorchSide(NamedTuple):
    """The same in PyTorch."""

    put: Callable[[Any], Any]  # the common parameters -> a module whose parameters they are
    loss: Callable[..., Any]  # (module, x, y) -> loss


class ByHand(NamedTuple):
    """The same in funcprop: the objective, and where the common parameters stand in it."""

    put: Callable[[Any], Params]
    gradient: Callable[..., Any]  # (params, batch, context) -> value and grads
    model: fp.Layer  # whose parameters they are
    whole: bool  # the model takes the batch, and its output is the loss


class Workload(NamedTuple):
    """A model and its batch."""

    start: Callable[[np.random.Generator], Any]  # the common parameters
    batch: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]
    sides: dict[
        str, Callable[[], Side | TorchSide | ByHand]
    ]  # name -> Side, TorchSide or ByHand, made when wanted


def normal(rng: np.random.Generator, *shape: int, scale: float | None = None) -> np.ndarray:
    """Weights, [..., in, out], of variance 1/fan-in unless a scale is given."""
    scale = 1 / math.sqrt(math.prod(shape[:-1])) if scale is None else scale
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def near(rng: np.random.Generator, value: float, *shape: int) -> np.ndarray:
    """Gains and biases off their usual start, so that none is masked by zeros or ones."""
    return (value + 0.1 * rng.standard_normal(shape)).astype(np.float32)


def labels(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, CLASSES, count).astype(np.int32)


def nnx_side(make: Callable[[Any], Any], assign: Callable[[Any, Any], None], loss: Any) -> Side:
    """A module of Flax NNX: its parameters are split off, and merged in the step."""
    from flax import nnx

    def put(start: Any) -> tuple[Params, Any]:
        model = make(nnx.Rngs(0))
        assign(model, start)
        _, params, rest = nnx.split(model, nnx.Param, ...)
        return params, rest

    graph = nnx.graphdef(make(nnx.Rngs(0)))

    def split_loss(params: Params, rest: Any, x: Any, y: Any) -> Any:
        model = nnx.merge(graph, params, rest, copy=True)  # variables of this trace
        value = loss(model, x, y)
        return value, nnx.split(model, nnx.Param, ...)[2]

    return Side(put, split_loss)


def assigned(variables: list[Any], values: list[np.ndarray]) -> None:
    """Values become those of NNX variables, which keep their shapes."""
    for variable, value in zip(variables, values, strict=True):
        assert variable.shape == value.shape, (variable.shape, value.shape)
        variable.set_value(jnp.asarray(value))


def equinox_side(
    make: Callable[[Any], Any], place: Callable[[Any, Any], tuple[list[Any], list[Any]]], loss: Any
) -> Side:
    """A module of Equinox, perhaps with a state: its arrays are partitioned off.

    place  (model, start) -> the leaves to replace, and what by
    """
    import equinox as eqx

    model, state = eqx.nn.make_with_state(make)(jax.random.key(0))
    static = eqx.partition(model, eqx.is_inexact_array)[1]

    def put(start: Any) -> tuple[Params, Any]:
        leaves, values = place(model, start)
        for leaf, value in zip(leaves, values, strict=True):
            assert leaf.shape == value.shape, (leaf.shape, value.shape)
        placed = eqx.tree_at(lambda m: place(m, start)[0], model, list(map(jnp.asarray, values)))
        return eqx.partition(placed, eqx.is_inexact_array)[0], state

    def whole(params: Params, state: Any, x: Any, y: Any) -> Any:
        return loss(eqx.combine(params, static), state, x, y)

    return Side(put, whole, lambda params: eqx.combine(params, static))


def torch_put(
    make: Callable[[], Any], place: Callable[[Any, Any], list[tuple[Any, np.ndarray]]]
) -> Callable[[Any], Any]:
    """A PyTorch module whose tensors are replaced. place: (model, start) -> (tensor, value), ..."""
    import torch

    def put(start: Any) -> Any:
        model = make()
        for tensor, value in place(model, start):
            assert tuple(tensor.shape) == value.shape, (tensor.shape, value.shape)
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(np.array(value)))
        return model

    return put


# --- mlp: 784-128-10, ReLU ------------------------------------------------------------------------

PIXELS, HIDDEN, IMAGES = 784, 128, 128


def mlp_start(rng: np.random.Generator) -> Any:
    return {
        "w1": normal(rng, PIXELS, HIDDEN), "b1": near(rng, 0, HIDDEN),
        "w2": normal(rng, HIDDEN, CLASSES), "b2": near(rng, 0, CLASSES),
    }  # fmt: skip


def mlp_batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.random((IMAGES, PIXELS), np.float32), labels(rng, IMAGES)


def mlp_by_hand() -> ByHand:
    def put(p: Any) -> Params:
        return ((), (), fp.layers.Affine(p["w1"], p["b1"]), (), fp.layers.Affine(p["w2"], p["b2"]))

    return supervised(put, mlp((HIDDEN,), CLASSES, activation=fp.ReLU(), axes=1))


def supervised(put: Callable[[Any], Params], model: fp.Layer) -> ByHand:
    loss = fp.SoftmaxCrossEntropy()
    return ByHand(put, fp.backprop(model, loss, has_aux=True), model, whole=False)


def plain(loss: Callable[..., Any]) -> Callable[[], Side]:
    """The common parameters themselves, and a loss that carries nothing: (params, x, y) -> loss."""
    return lambda: Side(lambda start: (start, ()), lambda p, rest, x, y: (loss(p, x, y), rest))


def mlp_plain(p: Any, x: Any, y: Any) -> Any:
    a = jax.nn.relu(x @ p["w1"] + p["b1"])
    return cross_entropy(a @ p["w2"] + p["b2"], y).mean()


def mlp_nnx() -> Side:
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.hidden = nnx.Linear(PIXELS, HIDDEN, rngs=rngs)
            self.out = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.out(nnx.relu(self.hidden(x)))

    def assign(m: Any, p: Any) -> None:
        variables = [m.hidden.kernel, m.hidden.bias, m.out.kernel, m.out.bias]
        assigned(variables, [p["w1"], p["b1"], p["w2"], p["b2"]])

    return nnx_side(Model, assign, lambda m, x, y: cross_entropy(m(x), y).mean())


def mlp_equinox() -> Side:
    import equinox as eqx

    def make(key: Any) -> Any:
        return eqx.nn.MLP(PIXELS, CLASSES, HIDDEN, 1, jax.nn.relu, key=key)

    def place(m: Any, p: Any) -> Any:
        leaves = [leaf for layer in m.layers for leaf in (layer.weight, layer.bias)]
        return leaves, [p["w1"].T, p["b1"], p["w2"].T, p["b2"]]

    def loss(model: Any, state: Any, x: Any, y: Any) -> Any:
        return cross_entropy(jax.vmap(model)(x), y).mean(), state

    return equinox_side(make, place, loss)


def mlp_torch() -> TorchSide:
    from torch import nn

    def make() -> Any:
        return nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def place(m: Any, p: Any) -> Any:
        return [
            (m[0].weight, p["w1"].T), (m[0].bias, p["b1"]),
            (m[2].weight, p["w2"].T), (m[2].bias, p["b2"]),
        ]  # fmt: skip

    return TorchSide(
        torch_put(make, place), lambda m, x, y: nn.functional.cross_entropy(m(x), y.long())
    )


# --- convnet: conv, batch norm, ReLU, max-pool, twice, then Dense ---------------------------------

SIDE, CHANNELS = 28, (1, 32, 64)
FLAT = (SIDE // 4) ** 2 * CHANNELS[2]


def convnet_start(rng: np.random.Generator) -> Any:
    blocks = [
        {
            "w": normal(rng, 3, 3, before, after),
            "scale": near(rng, 1, after),
            "bias": near(rng, 0, after),
        }
        for before, after in itertools.pairwise(CHANNELS)
    ]
    return {"blocks": blocks, "w": normal(rng, FLAT, CLASSES), "b": near(rng, 0, CLASSES)}


def convnet_batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.random((IMAGES, SIDE, SIDE, CHANNELS[0]), np.float32), labels(rng, IMAGES)


def channels_first(w: np.ndarray) -> np.ndarray:
    """The rows of the last weights, from (height, width, channel) to (channel, height, width)."""
    size = SIDE // 4
    return w.reshape(size, size, CHANNELS[2], -1).transpose(2, 0, 1, 3).reshape(w.shape)


def convnet_by_hand() -> ByHand:
    def block(features: int) -> tuple[fp.Layer, ...]:
        conv = fp.Conv(features, (3, 3), bias=False)
        return conv, fp.BatchNorm(eps=EPS), fp.ReLU(), fp.MaxPool((2, 2))

    model = fp.Serial(*block(CHANNELS[1]), *block(CHANNELS[2]), fp.Flatten(), fp.Dense(CLASSES))

    def put(p: Any) -> Params:
        blocks = [
            (fp.layers.Kernel(b["w"], None), fp.layers.Gain(b["scale"], b["bias"]))
            for b in p["blocks"]
        ]
        return (*blocks[0], (), (), *blocks[1], (), (), (), fp.layers.Affine(p["w"], p["b"]))

    return supervised(put, model)


def convnet_jax() -> Side:
    def put(p: Any) -> tuple[Params, Any]:
        return p, [(jnp.zeros(c), jnp.ones(c)) for c in CHANNELS[1:]]

    def batch_norm(p: Any, x: Any, averages: Any) -> Any:
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean) * lax.rsqrt(variance + EPS) * p["scale"] + p["bias"]
        found = zip(averages, (mean, variance), strict=True)
        return y, tuple(KEPT * a + (1 - KEPT) * lax.stop_gradient(b) for a, b in found)

    def loss(p: Any, rest: Any, x: Any, y: Any) -> Any:
        averages = []
        for block, old in zip(p["blocks"], rest, strict=True):
            layout = ("NHWC", "HWIO", "NHWC")
            x = lax.conv_general_dilated(x, block["w"], (1, 1), "SAME", dimension_numbers=layout)
            x, new = batch_norm(block, x, old)
            x = jax.nn.relu(x)
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            averages.append(new)
        logits = x.reshape(len(x), -1) @ p["w"] + p["b"]
        return cross_entropy(logits, y).mean(), averages

    return Side(put, loss)


def convnet_nnx() -> Side:
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            def conv(i: int) -> Any:
                before, after = CHANNELS[i : i + 2]
                return nnx.Conv(before, after, (3, 3), use_bias=False, rngs=rngs)

            def norm(i: int) -> Any:
                return nnx.BatchNorm(CHANNELS[i + 1], momentum=KEPT, epsilon=EPS, rngs=rngs)

            self.conv1, self.norm1, self.conv2, self.norm2 = conv(0), norm(0), conv(1), norm(1)
            self.out = nnx.Linear(FLAT, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
                x = nnx.max_pool(nnx.relu(norm(conv(x))), (2, 2), (2, 2))
            return self.out(x.reshape(len(x), -1))

    def assign(m: Any, p: Any) -> None:
        pairs = ((m.conv1, m.norm1), (m.conv2, m.norm2))
        variables = [v for conv, norm in pairs for v in (conv.kernel, norm.scale, norm.bias)]
        values = [b[name] for b in p["blocks"] for name in ("w", "scale", "bias")]
        assigned([*variables, m.out.kernel, m.out.bias], [*values, p["w"], p["b"]])

    return nnx_side(Model, assign, lambda m, x, y: cross_entropy(m(x), y).mean())


def convnet_equinox() -> Side:
    import equinox as eqx

    class Model(eqx.Module):
        convs: list[Any]
        norms: list[Any]
        pool: Any
        out: Any

        def __init__(self, key: Any) -> None:
            keys = jax.random.split(key, 3)
            ends = list(itertools.pairwise(CHANNELS))
            self.convs = [
                eqx.nn.Conv2d(*end, 3, padding=1, use_bias=False, key=k)
                for end, k in zip(ends, keys[:2], strict=True)
            ]
            self.norms = [
                eqx.nn.BatchNorm(c, "batch", eps=EPS, momentum=KEPT, mode="batch")
                for c in CHANNELS[1:]
            ]
            self.pool = eqx.nn.MaxPool2d(2, 2)
            self.out = eqx.nn.Linear(FLAT, CLASSES, key=keys[2])

        def __call__(self, x: Any, state: Any) -> Any:
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x, state = norm(conv(x), state)
                x = self.pool(jax.nn.relu(x))
            return self.out(x.reshape(-1)), state

    def place(m: Any, p: Any) -> Any:
        pairs = zip(m.convs, m.norms, strict=True)
        leaves = [leaf for conv, norm in pairs for leaf in (conv.weight, norm.weight, norm.bias)]
        values = [
            v for b in p["blocks"] for v in (b["w"].transpose(3, 2, 0, 1), b["scale"], b["bias"])
        ]
        return [*leaves, m.out.weight, m.out.bias], [*values, channels_first(p["w"]).T, p["b"]]

    def loss(model: Any, state: Any, x: Any, y: Any) -> Any:
        x = jnp.moveaxis(x, -1, 1)  # of one channel: the same bytes
        run = jax.vmap(model, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
        logits, state = run(x, state)
        return cross_entropy(logits, y).mean(), state

    return equinox_side(Model, place, loss)


def convnet_torch() -> TorchSide:
    from torch import nn

    def make() -> Any:
        layers = []
        for before, after in itertools.pairwise(CHANNELS):
            layers += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after, eps=EPS, momentum=1 - KEPT),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(FLAT, CLASSES))

    def place(m: Any, p: Any) -> Any:
        pairs = []
        for i, b in enumerate(p["blocks"]):
            conv, norm = m[4 * i], m[4 * i + 1]
            pairs += [
                (conv.weight, b["w"].transpose(3, 2, 0, 1)),
                (norm.weight, b["scale"]),
                (norm.bias, b["bias"]),
            ]
        return [*pairs, (m[-1].weight, channels_first(p["w"]).T), (m[-1].bias, p["b"])]

    def loss(m: Any, x: Any, y: Any) -> Any:
        return nn.functional.cross_entropy(m(x.movedim(-1, 1)), y.long())

    return TorchSide(torch_put(make, place), loss)


# --- lstm: small steps, and a class read off the last state ---------------------------------------

SEQUENCES, STEPS, INPUTS, STATE = 8, 128, 64, 64


def lstm_start(rng: np.random.Generator) -> Any:
    return {
        "w_x": normal(rng, INPUTS, 4 * STATE), "w_h": normal(rng, STATE, 4 * STATE),
        "b": near(rng, 0, 4 * STATE),
        "w": normal(rng, STATE, CLASSES), "b_out": near(rng, 0, CLASSES),
    }  # fmt: skip


def lstm_batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return normal(rng, SEQUENCES, STEPS, INPUTS, scale=1.0), labels(rng, SEQUENCES)


def lstm_by_hand() -> ByHand:
    def put(p: Any) -> Params:
        weights = fp.layers.RecurrentWeights(p["w_x"], p["w_h"], p["b"])
        return ((), weights, (), fp.layers.Affine(p["w"], p["b_out"]))

    return supervised(put, lstm_classifier(CLASSES, STATE, axes=2))


def lstm_plain(p: Any, x: Any, y: Any) -> Any:
    zero = jnp.zeros((len(x), STATE))

    def step(state: Any, z: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(z + h @ p["w_h"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    z = jnp.swapaxes(x, 0, 1) @ p["w_x"] + p["b"]
    (h, _), _ = lax.scan(step, (zero, zero), z)
    return cross_entropy(h @ p["w"] + p["b_out"], y).mean()


def lstm_nnx() -> Side:
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            cell = nnx.OptimizedLSTMCell(INPUTS, STATE, rngs=rngs)
            self.rnn = nnx.RNN(cell, return_carry=True, rngs=rngs)
            self.out = nnx.Linear(STATE, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            zero = jnp.zeros((len(x), STATE))
            (_, h), _ = self.rnn(x, initial_carry=(zero, zero))
            return self.out(h)

    def assign(m: Any, p: Any) -> None:
        cell = m.rnn.cell
        variables = [cell.dense_i.kernel, cell.dense_h.kernel, cell.dense_h.bias]
        values = [p["w_x"], p["w_h"], p["b"], p["w"], p["b_out"]]
        assigned([*variables, m.out.kernel, m.out.bias], values)

    return nnx_side(Model, assign, lambda m, x, y: cross_entropy(m(x), y).mean())


def lstm_equinox() -> Side:
    import equinox as eqx

    class Model(eqx.Module):
        cell: Any
        out: Any

        def __init__(self, key: Any) -> None:
            cell_key, out_key = jax.random.split(key)
            self.cell = eqx.nn.LSTMCell(INPUTS, STATE, key=cell_key)
            self.out = eqx.nn.Linear(STATE, CLASSES, key=out_key)

        def __call__(self, x: Any) -> Any:
            zero = jnp.zeros(STATE)

            def step(state: Any, x: Any) -> Any:
                return self.cell(x, state), None

            (h, _), _ = lax.scan(step, (zero, zero), x)
            return self.out(h)

    def place(m: Any, p: Any) -> Any:
        leaves = [m.cell.weight_ih, m.cell.weight_hh, m.cell.bias, m.out.weight, m.out.bias]
        return leaves, [p["w_x"].T, p["w_h"].T, p["b"], p["w"].T, p["b_out"]]

    def loss(model: Any, state: Any, x: Any, y: Any) -> Any:
        return cross_entropy(jax.vmap(model)(x), y).mean(), state

    return equinox_side(Model, place, loss)


def lstm_torch() -> TorchSide:
    from torch import nn

    def make() -> Any:
        rnn = nn.LSTM(INPUTS, STATE, batch_first=True)
        rnn.bias_hh_l0.requires_grad_(False)  # PyTorch has two biases where the others have one
        return nn.ModuleDict({"rnn": rnn, "out": nn.Linear(STATE, CLASSES)})

    def place(m: Any, p: Any) -> Any:
        rnn, out = m["rnn"], m["out"]
        return [
            (rnn.weight_ih_l0, p["w_x"].T), (rnn.weight_hh_l0, p["w_h"].T),
            (rnn.bias_ih_l0, p["b"]), (rnn.bias_hh_l0, np.zeros_like(p["b"])),
            (out.weight, p["w"].T), (out.bias, p["b_out"]),
        ]  # fmt: skip

    def loss(m: Any, x: Any, y: Any) -> Any:
        h = m["rnn"](x)[0][:, -1]
        return nn.functional.cross_entropy(m["out"](h), y.long())

    return TorchSide(torch_put(make, place), loss)


# --- gpt: pre-norm blocks, and the embedding's table as the output projection ---------------------

TEXTS, LENGTH = 2, 1024  # GPT-2's context; --texts and --length change them
WIDTH, DEPTH, HEADS, VOCABULARY = 256, 4, 4, 16_384


def gpt_start(rng: np.random.Generator) -> Any:
    def norm() -> Any:
        return {"scale": near(rng, 1, WIDTH), "bias": near(rng, 0, WIDTH)}

    def dense(before: int, after: int) -> Any:
        return {"w": normal(rng, before, after), "b": near(rng, 0, after)}

    def block() -> Any:
        return {
            "norm1": norm(), "qkv": dense(WIDTH, 3 * WIDTH), "out": dense(WIDTH, WIDTH),
            "norm2": norm(), "up": dense(WIDTH, 4 * WIDTH), "down": dense(4 * WIDTH, WIDTH),
        }  # fmt: skip

    return {
        "table": normal(rng, VOCABULARY, WIDTH, scale=0.05),
        "positions": normal(rng, LENGTH, WIDTH, scale=0.05),
        "blocks": [block() for _ in range(DEPTH)],
        "norm": norm(),
    }


def gpt_batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    tokens = rng.integers(0, VOCABULARY, (TEXTS, LENGTH + 1)).astype(np.int32)
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


def gpt_by_hand() -> ByHand:
    objective = gpt_objective(gpt(VOCABULARY, LENGTH, WIDTH, DEPTH, HEADS))

    def gain(p: Any) -> Any:
        return fp.layers.Gain(p["scale"], p["bias"])

    def affine(p: Any) -> Any:
        return fp.layers.Affine(p["w"], p["b"])

    def put(p: Any) -> Params:
        stacked = jax.tree.map(lambda *blocks: np.stack(blocks), *p["blocks"])
        # as the model's own parameters lie: only the arrays are exchanged
        like = jax.eval_shape(objective.init, jax.random.key(0), gpt_batch(np.random.default_rng()))
        values = [
            p["table"], p["positions"],
            *jax.tree.leaves([
                gain(stacked["norm1"]), affine(stacked["qkv"]), affine(stacked["out"]),
                gain(stacked["norm2"]), affine(stacked["up"]), affine(stacked["down"]),
            ]),
            p["norm"]["scale"], p["norm"]["bias"],
        ]  # fmt: skip
        leaves, structure = jax.tree.flatten(like)
        assert [leaf.shape for leaf in leaves] == [value.shape for value in values]
        return jax.tree.unflatten(structure, values)

    return ByHand(put, fp.backprop(objective), objective, whole=True)


def gpt_plain(p: Any, tokens: Any, targets: Any) -> Any:
    def norm(p: Any, x: Any) -> Any:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(variance + EPS) * p["scale"] + p["bias"]

    def dense(p: Any, x: Any) -> Any:
        return x @ p["w"] + p["b"]

    def attention(p: Any, x: Any) -> Any:
        heads = (*x.shape[:-1], HEADS, WIDTH // HEADS)
        q, k, v = (part.reshape(heads) for part in jnp.split(dense(p["qkv"], x), 3, -1))
        scores = jnp.einsum("bqhk,bshk->bhqs", q, k) / math.sqrt(WIDTH // HEADS)
        seen = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1)
        return dense(p["out"], jnp.einsum("bhqs,bshk->bqhk", weights, v).reshape(x.shape))

    x = p["table"][tokens] + p["positions"]
    for block in p["blocks"]:
        x = x + attention(block, norm(block["norm1"], x))
        x = x + dense(block["down"], jax.nn.gelu(dense(block["up"], norm(block["norm2"], x))))
    return cross_entropy(norm(p["norm"], x) @ p["table"].T, targets).mean()


def gpt_nnx() -> Side:
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.norm1 = nnx.LayerNorm(WIDTH, epsilon=EPS, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
            self.norm2 = nnx.LayerNorm(WIDTH, epsilon=EPS, rngs=rngs)
            self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
            self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x: Any, mask: Any) -> Any:
            x = x + self.attention(self.norm1(x), mask=mask)
            return x + self.down(nnx.gelu(self.up(self.norm2(x))))

    class Model(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.embedding = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
            self.positions = nnx.Param(jnp.zeros((LENGTH, WIDTH)))
            self.blocks = nnx.List([Block(rngs) for _ in range(DEPTH)])
            self.norm = nnx.LayerNorm(WIDTH, epsilon=EPS, rngs=rngs)

        def __call__(self, tokens: Any) -> Any:
            x = self.embedding(tokens) + self.positions[...]
            mask = nnx.make_causal_mask(tokens)
            for block in self.blocks:
                x = block(x, mask)
            return self.embedding.attend(self.norm(x))

    def assign(m: Any, p: Any) -> None:
        assigned(
            [m.embedding.embedding, m.positions, m.norm.scale, m.norm.bias],
            [p["table"], p["positions"], p["norm"]["scale"], p["norm"]["bias"]],
        )
        for block, q in zip(m.blocks, p["blocks"], strict=True):
            attention, size = block.attention, (HEADS, WIDTH // HEADS)
            for part, w, b in zip(
                (attention.query, attention.key, attention.value),
                np.split(q["qkv"]["w"], 3, -1),
                np.split(q["qkv"]["b"], 3, -1),
                strict=True,
            ):
                assigned([part.kernel, part.bias], [w.reshape(WIDTH, *size), b.reshape(size)])
            w = q["out"]["w"].reshape(*size, WIDTH)
            assigned([attention.out.kernel, attention.out.bias], [w, q["out"]["b"]])
            for name in ("norm1", "norm2"):
                norm = getattr(block, name)
                assigned([norm.scale, norm.bias], [q[name]["scale"], q[name]["bias"]])
            for name in ("up", "down"):
                dense = getattr(block, name)
                assigned([dense.kernel, dense.bias], [q[name]["w"], q[name]["b"]])

    return nnx_side(Model, assign, lambda m, x, y: cross_entropy(m(x), y).mean())


def gpt_equinox() -> Side:
    import equinox as eqx

    class Block(eqx.Module):
        norm1: Any
        attention: Any
        norm2: Any
        up: Any
        down: Any

        def __init__(self, key: Any) -> None:
            keys = jax.random.split(key, 3)
            self.norm1, self.norm2 = eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH)
            self.attention = eqx.nn.MultiheadAttention(
                HEADS, WIDTH, use_query_bias=True, use_key_bias=True, use_value_bias=True,
                use_output_bias=True, key=keys[0],
            )  # fmt: skip
            self.up = eqx.nn.Linear(WIDTH, 4 * WIDTH, key=keys[1])
            self.down = eqx.nn.Linear(4 * WIDTH, WIDTH, key=keys[2])

        def __call__(self, x: Any, mask: Any) -> Any:
            a = jax.vmap(self.norm1)(x)
            x = x + self.attention(a, a, a, mask=mask)
            return x + jax.vmap(lambda a: self.down(jax.nn.gelu(self.up(self.norm2(a)))))(x)

    class Model(eqx.Module):
        table: Any
        positions: Any
        blocks: list[Any]
        norm: Any

        def __init__(self, key: Any) -> None:
            keys = jax.random.split(key, DEPTH)
            self.table = eqx.nn.Embedding(weight=jnp.zeros((VOCABULARY, WIDTH)))
            self.positions = eqx.nn.Embedding(weight=jnp.zeros((LENGTH, WIDTH)))
            self.blocks = [Block(k) for k in keys]
            self.norm = eqx.nn.LayerNorm(WIDTH)

        def __call__(self, tokens: Any) -> Any:
            x = jax.vmap(self.table)(tokens) + self.positions.weight
            mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
            for block in self.blocks:
                x = block(x, mask)
            return jax.vmap(self.norm)(x) @ self.table.weight.T

    def place(m: Any, p: Any) -> Any:
        leaves = [m.table.weight, m.positions.weight, m.norm.weight, m.norm.bias]
        values = [p["table"], p["positions"], p["norm"]["scale"], p["norm"]["bias"]]
        for block, q in zip(m.blocks, p["blocks"], strict=True):
            a = block.attention
            for part, w, b in zip(
                (a.query_proj, a.key_proj, a.value_proj),
                np.split(q["qkv"]["w"], 3, -1),
                np.split(q["qkv"]["b"], 3, -1),
                strict=True,
            ):
                leaves, values = [*leaves, part.weight, part.bias], [*values, w.T, b]
            for part, name in ((a.output_proj, "out"), (block.up, "up"), (block.down, "down")):
                leaves += [part.weight, part.bias]
                values += [q[name]["w"].T, q[name]["b"]]
            for part, name in ((block.norm1, "norm1"), (block.norm2, "norm2")):
                leaves += [part.weight, part.bias]
                values += [q[name]["scale"], q[name]["bias"]]
        return leaves, values

    def loss(model: Any, state: Any, x: Any, y: Any) -> Any:
        return cross_entropy(jax.vmap(model)(x), y).mean(), state

    return equinox_side(Model, place, loss)


def gpt_torch() -> TorchSide:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            heads = (*x.shape[:-1], HEADS, WIDTH // HEADS)
            parts = self.qkv(self.norm1(x)).chunk(3, -1)
            q, k, v = (part.reshape(heads).transpose(1, 2) for part in parts)
            a = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(x.shape))
            a = nn.functional.gelu(self.up(self.norm2(x)), approximate="tanh")
            return x + self.down(a)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(VOCABULARY, WIDTH)
            self.positions = nn.Parameter(torch.zeros(LENGTH, WIDTH))
            self.blocks = nn.Sequential(*[Block() for _ in range(DEPTH)])
            self.norm = nn.LayerNorm(WIDTH)

        def forward(self, tokens: Any) -> Any:
            x = self.blocks(self.table(tokens) + self.positions)
            return self.norm(x) @ self.table.weight.T

    def place(m: Any, p: Any) -> Any:
        pairs = [(m.table.weight, p["table"]), (m.positions, p["positions"])]
        layers = [(m.norm, p["norm"])]
        for block, q in zip(m.blocks, p["blocks"], strict=True):
            layers += [(getattr(block, name), part) for name, part in q.items()]
        for layer, q in layers:
            pairs += [(layer.weight, q["w"].T if "w" in q else q["scale"])]
            pairs += [(layer.bias, q["b"] if "b" in q else q["bias"])]
        return pairs

    def loss(m: Any, x: Any, y: Any) -> Any:
        logits = m(x.long())
        return nn.functional.cross_entropy(logits.flatten(0, 1), y.long().flatten())

    return TorchSide(torch_put(Model, place), loss)


WORKLOADS: dict[str, Workload] = {
    "mlp": Workload(
        mlp_start,
        mlp_batch,
        {
            "by hand": mlp_by_hand,
            "jax.grad": plain(mlp_plain),
            "Flax NNX": mlp_nnx,
            "Equinox": mlp_equinox,
            "PyTorch": mlp_torch,
        },
    ),
    "convnet": Workload(
        convnet_start,
        convnet_batch,
        {
            "by hand": convnet_by_hand,
            "jax.grad": convnet_jax,
            "Flax NNX": convnet_nnx,
            "Equinox": convnet_equinox,
            "PyTorch": convnet_torch,
        },
    ),
    "lstm": Workload(
        lstm_start,
        lstm_batch,
        {
            "by hand": lstm_by_hand,
            "jax.grad": plain(lstm_plain),
            "Flax NNX": lstm_nnx,
            "Equinox": lstm_equinox,
            "PyTorch": lstm_torch,
        },
    ),
    "gpt": Workload(
        gpt_start,
        gpt_batch,
        {
            "by hand": gpt_by_hand,
            "jax.grad": plain(gpt_plain),
            "Flax NNX": gpt_nnx,
            "Equinox": gpt_equinox,
            "PyTorch": gpt_torch,
        },
    ),
}


# --- steps that run -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """A side's training step. Milliseconds; bytes and flops are None where nobody counts them."""

    least: float
    median: float
    bytes: int | None
    flops: float | None


class Stepper:
    """A training step that runs again and again, from where the last one ended.

    `changed` is what the first step did to every parameter, `loss` the loss before it.
    """

    def __init__(self, step: Callable[[], Any], changed: Any, loss: float, program: Any) -> None:
        self.step, self.changed, self.loss, self.program = step, changed, loss, program
        self.milliseconds: list[float] = []

    def __call__(self) -> Any:
        begin = time.perf_counter()
        done = jax.block_until_ready(self.step())
        self.milliseconds.append(1e3 * (time.perf_counter() - begin))
        return done

    def cost(self) -> Cost:
        least, median = min(self.milliseconds), statistics.median(self.milliseconds)
        if self.program is None:
            return Cost(least, median, None, None)
        found = cost_of(self.program)
        return Cost(least, median, found.bytes, found.flops if math.isfinite(found.flops) else None)


def change(before: Any, after: Any) -> list[np.ndarray]:
    """after − before, leaf by leaf, in float64."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return [np.asarray(b, np.float64) - np.asarray(a, np.float64) for a, b in pairs]


def by_hand_step(side: ByHand, start: Any, x: Any, y: Any) -> tuple[Any, Callable[..., Any]]:
    """state, and (state, x, y) -> state, loss."""
    params = jax.tree.map(jnp.asarray, side.put(start))
    given = (x, y) if side.whole else x
    state = fp.init_state(side.model, optimizer(), jax.random.key(0), given, params)
    train = fp.train_step(side.gradient, optimizer(), momentum=KEPT)

    def step(state: Any, x: Any, y: Any) -> Any:
        state, metrics = train(state, (x, y))
        return state, metrics.loss

    return state, step


class PlainState(NamedTuple):
    """What a peer's step carries."""

    params: Params
    rest: Any
    opt_state: Any


def automatic_step(side: Side, start: Any, x: Any, y: Any) -> tuple[Any, Callable[..., Any]]:
    """state, and (state, x, y) -> state, loss."""
    params, rest = jax.tree.map(jnp.asarray, side.put(start))

    def step(state: PlainState, x: Any, y: Any) -> Any:
        gradient = jax.value_and_grad(side.loss, has_aux=True)
        (loss, rest), grads = gradient(state.params, state.rest, x, y)
        updates, opt_state = optimizer().update(grads, state.opt_state, state.params)
        return PlainState(optax.apply_updates(state.params, updates), rest, opt_state), loss

    return PlainState(params, rest, optimizer().init(params)), step


def optimizer() -> optax.GradientTransformation:
    return optax.sgd(RATE, MOMENTUM)


def jax_stepper(side: Side | ByHand, start: Any, batch: Any) -> Stepper:
    """The step of a JAX side, compiled ahead of time with its state donated."""
    x, y = map(jnp.asarray, batch)
    if isinstance(side, ByHand):
        state, step = by_hand_step(side, start, x, y)
    else:
        state, step = automatic_step(side, start, x, y)
    program = jax.jit(step, donate_argnums=0).lower(state, x, y).compile()
    before = jax.tree.map(np.array, state.params)
    # an array to which there are two references cannot be donated: each leaf becomes its own
    state, loss = program(jax.tree.map(jnp.copy, state), x, y)
    changed, holder = change(before, state.params), [state]

    def again() -> Any:
        holder[0], loss = program(holder[0], x, y)
        return loss

    return Stepper(again, changed, float(loss), program)


def torch_stepper(side: TorchSide, start: Any, batch: Any) -> Stepper:
    import torch

    model = side.put(start)
    wanted = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(wanted, RATE, MOMENTUM)
    x, y = map(torch.from_numpy, batch)

    def step() -> None:
        optimizer.zero_grad()
        side.loss(model, x, y).backward()
        optimizer.step()

    before = [p.detach().clone().numpy() for p in wanted]
    value = float(side.loss(model, x, y).detach())
    for module in model.modules():  # that forward pass observed, too
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    step()
    return Stepper(step, change(before, [p.detach().numpy() for p in wanted]), value, None)


def check(name: str, side: Any, stepper: Stepper, plain: Stepper, start: Any) -> None:
    """The side does what jax.grad of the plain model does. Raises AssertionError where not."""
    np.testing.assert_allclose(stepper.loss, plain.loss, rtol=LOSS_TOLERANCE, err_msg=name)
    # where a step ends does not depend on how a library arranges its parameters
    leaves, structure = jax.tree.flatten(start)
    after = [a + d for a, d in zip(leaves, plain.changed, strict=True)]
    ends = [jax.tree.unflatten(structure, each) for each in (leaves, after)]
    if isinstance(side, TorchSide):
        placed = [[p.detach().numpy() for p in side.put(e).parameters() if p.requires_grad]
                  for e in ends]  # fmt: skip
    else:
        placed = [side.put(e) if isinstance(side, ByHand) else side.put(e)[0] for e in ends]
    wanted = change(*placed)
    floor = 1e-5 * max(np.linalg.norm(d) for d in wanted)  # a key's bias has no gradient
    for i, (given, right) in enumerate(zip(stepper.changed, wanted, strict=True)):
        error = np.linalg.norm(given - right)
        allowed = STEP_TOLERANCE * np.linalg.norm(right) + floor
        assert error <= allowed, f"{name}, parameter {i} {right.shape}: {error:.2e} > {allowed:.2e}"


def measure(name: str, only: list[str], repeats: int, seconds: float) -> dict[str, Cost]:
    """The costs of every wanted side of a workload."""
    workload, rng = WORKLOADS[name], np.random.default_rng(0)
    start, batch = workload.start(rng), workload.batch(rng)
    sides = {side: make() for side, make in workload.sides.items() if not only or side in only} | {
        "jax.grad": workload.sides["jax.grad"]()
    }
    steppers = {
        side: torch_stepper(made, start, batch)
        if isinstance(made, TorchSide)
        else jax_stepper(made, start, batch)
        for side, made in sides.items()
    }
    for side, stepper in steppers.items():
        check(f"{name}, {side}", sides[side], stepper, steppers["jax.grad"], start)
    alone = [s for side, s in steppers.items() if isinstance(sides[side], TorchSide)]
    together = [s for s in steppers.values() if s not in alone]
    for repeat in range(repeats + 1):
        timed(together, (), seconds if repeat else 0)
        if alone:
            time.sleep(0.05)
            timed(alone, (), seconds if repeat else 0)
            time.sleep(0.05)
        if not repeat:  # the first round warms up
            for stepper in steppers.values():
                stepper.milliseconds.clear()
    return {side: stepper.cost() for side, stepper in steppers.items()}


def report(name: str, costs: dict[str, Cost]) -> str:
    """A table; ratios are by hand over the side: below 1 in favor of the hand-written pass."""
    ours = costs.get("by hand")
    lines = [f"{name:12s} {'min':>9s} {'median':>9s}  hand/it {'MB':>9s}  hand/it {'Mflop':>9s}"]
    for side, cost in costs.items():
        time_ratio = memory_ratio = memory = flops = "-"
        if ours is not None:
            time_ratio = f"{ours.least / cost.least:.2f}"
            if cost.bytes and ours.bytes:
                memory_ratio = f"{ours.bytes / cost.bytes:.2f}"
        if cost.bytes:
            memory = f"{cost.bytes / 1e6:.2f}"
        if cost.flops:
            flops = f"{cost.flops / 1e6:.1f}"
        lines.append(
            f"  {side:10s} {cost.least:9.3f} {cost.median:9.3f}  {time_ratio:>7s} {memory:>9s}"
            f"  {memory_ratio:>7s} {flops:>9s}"
        )
    return "\n".join(lines)


def main() -> None:
    global TEXTS, LENGTH
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(WORKLOADS), help="comma-separated names")
    parser.add_argument("--sides", default="", help="comma-separated names; all unless given")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each side, a repeat")
    parser.add_argument("--texts", type=int, default=TEXTS, help="gpt: texts in a batch")
    parser.add_argument("--length", type=int, default=LENGTH, help="gpt: tokens in a text")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    TEXTS, LENGTH = options.texts, options.length
    only = [name for name in options.sides.split(",") if name]

    versions = [machine()]
    for library in ("flax", "equinox", "torch"):
        versions.append(f"{library} {__import__(library).__version__}")
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(cores or 1)
    print(", ".join(versions) + "; milliseconds a step\n")
    results = {}
    for name in options.models.split(","):
        results[name] = measure(name, only, options.repeats, options.seconds)
        print(report(name, results[name]) + "\n", flush=True)
    if options.json:
        figures = {
            name: {s: asdict(c) for s, c in costs.items()} for name, costs in results.items()
        }
        options.json.write_text(json.dumps({"machine": versions, "models": figures}, indent=1))


if __name__ == "__main__":
    main()
