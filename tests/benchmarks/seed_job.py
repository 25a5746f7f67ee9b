"""One epoch of MNIST, seven ways, in one process.

The job: a network [784, 30, 10] of sigmoids under the quadratic cost ½‖a − y‖² (mean over the
mini-batch), trained by stochastic gradient descent at η = 3 in mini-batches of 10, on 50,000
images that are shuffled for the epoch: 5,000 updates.

Every side starts from the same parameters. The order is drawn outside the clock, save for
`fp.epoch`, which draws its own inside it. Sides are interleaved. Before anything is timed they are
compared: after 20 updates on the same examples their parameters agree to float32.

    python tests/benchmarks/seed_job.py [--repeats 5] [--only name,name]

MNIST's four files are looked for in the folder FUNCPROP_MNIST.
"""

import argparse
import contextlib
import gzip
import io
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcprop as fp
from funcprop.layers import Affine

SIZES = (784, 30, 10)
BATCH = 10
ETA = 3.0
TRAIN = 50_000


class Digits(NamedTuple):
    """Images as they are stored, uint8 [N, 784], and labels, int32 [N]."""

    images: np.ndarray
    labels: np.ndarray


Parameters = list[tuple[np.ndarray, np.ndarray]]  # one (w [in, out], b [out]) per layer
Epoch = Callable[[np.ndarray], object]  # order [M] -> whatever `Side.result` understands


class Side(NamedTuple):
    """An epoch ready to run: everything that is done once has been done."""

    run: Epoch  # trains from the initial parameters through the examples in `order`
    result: Callable[[object], Parameters]


def mnist(split: str = "train") -> Digits:
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist"
    folder = Path(os.environ.get("FUNCPROP_MNIST", default))

    def idx(name: str, offset: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=offset)

    images = idx(f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, SIZES[0])
    labels = idx(f"{split}-labels-idx1-ubyte.gz", 8).astype(np.int32)
    return Digits(images, labels)


def initial(seed: int = 0) -> Parameters:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.standard_normal((m, n)).astype(np.float32),
            rng.standard_normal(n).astype(np.float32),
        )
        for m, n in itertools.pairwise(SIZES)
    ]


# --- NumPy: the published class, one example at a time ---------------------------------------


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def sigmoid_prime(z):
    return sigmoid(z) * (1 - sigmoid(z))


class Network:
    """The class as published (float64, a list of column vectors); `test_data` gets a default."""

    def __init__(self, sizes):
        self.num_layers = len(sizes)
        self.sizes = sizes
        self.biases = [np.random.randn(y, 1) for y in sizes[1:]]
        self.weights = [np.random.randn(y, x) for x, y in itertools.pairwise(sizes)]

    def feedforward(self, a):
        for b, w in zip(self.biases, self.weights, strict=True):
            a = sigmoid(np.dot(w, a) + b)
        return a

    def SGD(self, training_data, epochs, mini_batch_size, eta, test_data=None):
        training_data = list(training_data)
        n = len(training_data)
        if test_data:
            test_data = list(test_data)
            n_test = len(test_data)
        for j in range(epochs):
            random.shuffle(training_data)
            mini_batches = [
                training_data[k : k + mini_batch_size] for k in range(0, n, mini_batch_size)
            ]
            for mini_batch in mini_batches:
                self.update_mini_batch(mini_batch, eta)
            if test_data:
                print(f"Epoch {j} : {self.evaluate(test_data)} / {n_test}")
            else:
                print(f"Epoch {j} complete")

    def update_mini_batch(self, mini_batch, eta):
        nabla_b = [np.zeros(b.shape) for b in self.biases]
        nabla_w = [np.zeros(w.shape) for w in self.weights]
        for x, y in mini_batch:
            delta_nabla_b, delta_nabla_w = self.backprop(x, y)
            nabla_b = [nb + dnb for nb, dnb in zip(nabla_b, delta_nabla_b, strict=True)]
            nabla_w = [nw + dnw for nw, dnw in zip(nabla_w, delta_nabla_w, strict=True)]
        self.weights = [
            w - (eta / len(mini_batch)) * nw for w, nw in zip(self.weights, nabla_w, strict=True)
        ]
        self.biases = [
            b - (eta / len(mini_batch)) * nb for b, nb in zip(self.biases, nabla_b, strict=True)
        ]

    def backprop(self, x, y):
        nabla_b = [np.zeros(b.shape) for b in self.biases]
        nabla_w = [np.zeros(w.shape) for w in self.weights]
        activation = x
        activations = [x]
        zs = []
        for b, w in zip(self.biases, self.weights, strict=True):
            z = np.dot(w, activation) + b
            zs.append(z)
            activation = sigmoid(z)
            activations.append(activation)
        delta = self.cost_derivative(activations[-1], y) * sigmoid_prime(zs[-1])
        nabla_b[-1] = delta
        nabla_w[-1] = np.dot(delta, activations[-2].transpose())
        for layer in range(2, self.num_layers):
            z = zs[-layer]
            sp = sigmoid_prime(z)
            delta = np.dot(self.weights[-layer + 1].transpose(), delta) * sp
            nabla_b[-layer] = delta
            nabla_w[-layer] = np.dot(delta, activations[-layer - 1].transpose())
        return (nabla_b, nabla_w)

    def evaluate(self, test_data):
        test_results = [(np.argmax(self.feedforward(x)), y) for (x, y) in test_data]
        return sum(int(x == y) for (x, y) in test_results)

    def cost_derivative(self, output_activations, y):
        return output_activations - y


def numpy_class(digits: Digits, start: Parameters) -> Side:
    images = (digits.images.astype(np.float32) / 255)[:, :, None]
    targets = np.eye(SIZES[-1])[digits.labels][:, :, None]
    examples = list(zip(images, targets, strict=True))

    def run(order):
        network = Network(SIZES)
        network.weights = [w.T.astype(np.float64) for w, _ in start]
        network.biases = [b[:, None].astype(np.float64) for _, b in start]
        # The class would shuffle again; every side must see the same order.
        data = [examples[i] for i in order]
        shuffle, random.shuffle = random.shuffle, lambda data: None
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                network.SGD(data, 1, BATCH, ETA)
        finally:
            random.shuffle = shuffle
        return network

    def result(network):
        return [(w.T, b[:, 0]) for w, b in zip(network.weights, network.biases, strict=True)]

    return Side(run, result)


# --- PyTorch and Equinox: their ordinary loops -------------------------------------------------


def torch_loop(threads: int):
    def prepare(digits: Digits, start: Parameters) -> Side:
        import torch

        images = torch.from_numpy(digits.images.astype(np.float32) / 255)
        targets = torch.from_numpy(np.eye(SIZES[-1], dtype=np.float32)[digits.labels])

        def run(order):
            torch.set_num_threads(threads)
            layers = []
            for w, b in start:
                layer = torch.nn.Linear(*w.shape)
                with torch.no_grad():
                    layer.weight.copy_(torch.from_numpy(w.T))
                    layer.bias.copy_(torch.from_numpy(b))
                layers += [layer, torch.nn.Sigmoid()]
            model = torch.nn.Sequential(*layers)
            optimizer = torch.optim.SGD(model.parameters(), lr=ETA)
            index = torch.from_numpy(order.astype(np.int64))
            x, y = images[index], targets[index]
            for k in range(0, len(order), BATCH):
                optimizer.zero_grad()
                error = model(x[k : k + BATCH]) - y[k : k + BATCH]
                (0.5 * (error * error).sum(1).mean()).backward()
                optimizer.step()
            return model

        def result(model):
            linear = [m for m in model if isinstance(m, torch.nn.Linear)]
            return [(m.weight.detach().numpy().T, m.bias.detach().numpy()) for m in linear]

        return Side(run, result)

    return prepare


def equinox_loop(digits: Digits, start: Parameters) -> Side:
    import equinox as eqx

    images = digits.images.astype(np.float32) / 255
    targets = np.eye(SIZES[-1], dtype=np.float32)[digits.labels]
    optimizer = optax.sgd(ETA)

    def cost(model, x, y):
        a = jax.vmap(model)(x)
        return 0.5 * ((a - y) ** 2).sum(1).mean()

    @eqx.filter_jit(donate="all")
    def step(model, state, x, y):
        updates, state = optimizer.update(eqx.filter_grad(cost)(model, x, y), state)
        return eqx.apply_updates(model, updates), state

    def new():
        model = eqx.nn.MLP(
            SIZES[0], SIZES[2], SIZES[1], 1, jax.nn.sigmoid, jax.nn.sigmoid, key=jax.random.key(0)
        )
        leaves = [leaf for w, b in start for leaf in (jnp.array(w.T), jnp.array(b))]
        return eqx.tree_at(
            lambda m: [leaf for layer in m.layers for leaf in (layer.weight, layer.bias)],
            model,
            leaves,
        )

    def run(order):
        model = new()
        state = optimizer.init(eqx.filter(model, eqx.is_array))
        x, y = images[order], targets[order]
        for k in range(0, len(order), BATCH):
            model, state = step(model, state, x[k : k + BATCH], y[k : k + BATCH])
        return jax.block_until_ready(model)

    def result(model):
        return [(np.asarray(layer.weight).T, np.asarray(layer.bias)) for layer in model.layers]

    return Side(run, result)


# --- JAX: the epoch is one compiled scan --------------------------------------------------------


def forward(params, x):
    (w1, b1), (w2, b2) = params
    a1 = jax.nn.sigmoid(x @ w1 + b1)
    return a1, jax.nn.sigmoid(a1 @ w2 + b2)


def automatic(params, x, y):
    def cost(params):
        return 0.5 * ((forward(params, x)[1] - y) ** 2).sum(1).mean()

    return jax.grad(cost)(params)


def jax_grad_scan(digits: Digits, start: Parameters) -> Side:
    """What a JAX user would write: jax.grad, float32 images on the device, one scan."""

    def epoch(params, images, targets, order):
        def step(params, i):
            grads = automatic(params, images[i], targets[i])
            return jax.tree.map(lambda p, g: p - ETA * g, params, grads), None

        return jax.lax.scan(step, params, order.reshape(-1, BATCH))[0]

    images = jnp.asarray(digits.images, jnp.float32) / 255
    targets = jax.nn.one_hot(digits.labels, SIZES[-1], dtype=jnp.float32)
    params = tuple((jnp.asarray(w), jnp.asarray(b)) for w, b in start)
    run = jax.jit(epoch)
    return Side(
        lambda order: jax.block_until_ready(run(params, images, targets, jnp.asarray(order))),
        lambda params: [(np.asarray(w), np.asarray(b)) for w, b in params],
    )


def funcprop_epoch(gradient: Callable[..., Any]):
    """`fp.epoch` over bytes that stay on the device; it draws its own order, inside the clock."""

    def prepare(digits: Digits, start: Parameters) -> Side:
        layers: list[fp.Layer] = [fp.Pixels()]
        params: list[Any] = [()]
        for w, b in start:
            layers += [fp.Dense(w.shape[1]), fp.Sigmoid()]
            params += [Affine(jnp.asarray(w), jnp.asarray(b)), ()]
        optimizer = optax.sgd(ETA)
        step = fp.train_step(gradient(fp.Serial(*layers), fp.QuadraticCost()), optimizer)
        model = fp.Serial(*layers)
        x = jnp.asarray(digits.images)
        y = jax.nn.one_hot(digits.labels, SIZES[-1], dtype=jnp.float32)
        state = fp.init_state(model, optimizer, jax.random.key(0), x[:1], tuple(params))
        shuffled, ordered = fp.epoch(step, BATCH), fp.epoch(step, BATCH, shuffle=False)

        def run(order):
            if len(order) == TRAIN:
                return jax.block_until_ready(shuffled(state, (x, y))[0])
            return ordered(state, (x[order], y[order]))[0]

        def result(state):
            dense = [p for p in state.params if isinstance(p, Affine)]
            return [(np.asarray(w), np.asarray(b)) for w, b in dense]

        return Side(run, result)

    return prepare


def automatic_gradient(model: fp.Layer, loss: fp.Layer) -> Callable[..., Any]:
    return jax.value_and_grad(fp.objective(model, loss))


SIDES: dict[str, Callable[[Digits, Parameters], Side]] = {
    "NumPy, the published class": numpy_class,
    "PyTorch, 1 thread": torch_loop(1),
    "PyTorch, 2 threads": torch_loop(2),
    "Equinox, jitted step": equinox_loop,
    "jax.grad, scan": jax_grad_scan,
    "fp.epoch, jax.grad": funcprop_epoch(automatic_gradient),
    "fp.epoch, by hand": funcprop_epoch(fp.backprop),
}


def accuracy(params: Parameters, digits: Digits) -> float:
    a = digits.images.astype(np.float64) / 255
    for w, b in params:
        a = sigmoid(a @ w + b)
    return float((a.argmax(1) == digits.labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="comma-separated parts of names")
    options = parser.parse_args()
    wanted = [part for part in options.only.split(",") if part]

    everything, test = mnist(), mnist("t10k")
    digits = Digits(everything.images[:TRAIN], everything.labels[:TRAIN])
    start = initial()
    sides = {
        name: prepare(digits, start)
        for name, prepare in SIDES.items()
        if not wanted or any(part in name for part in wanted)
    }

    rng = np.random.default_rng(1)
    short = rng.permutation(TRAIN)[: 20 * BATCH]
    results = {name: side.result(side.run(short)) for name, side in sides.items()}
    reference = next(iter(results.values()))
    for name, params in results.items():
        for ours, theirs in zip(sum(params, ()), sum(reference, ()), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4, err_msg=name)

    seconds = {name: [] for name in sides}
    for repeat in range(options.repeats + 1):  # the first round warms up (and compiles)
        order = rng.permutation(TRAIN)
        for name, side in sides.items():
            begin = time.perf_counter()
            trained = side.run(order)
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
            else:
                results[name] = side.result(trained)

    print(f"{'one epoch, 5,000 updates':42s} median     min   µs/update   test accuracy")
    for name, times in seconds.items():
        median, least = statistics.median(times), min(times)
        print(
            f"{name:42s} {median:6.3f} s {least:6.3f} s {median / TRAIN * BATCH * 1e6:8.1f}"
            f"   {accuracy(results[name], test):.4f}"
        )


if __name__ == "__main__":
    main()
