"""MNIST learned through other feedback than the transposed weights, in one process.

Two networks, each taught by every rule from the same starting parameters, on the same batches, with
the same optimizer: SGD with momentum 0.9 and the cross-entropy of softmax. Kolen-Pollack has weight
decay besides, which is what makes its feedback weights become the weights; backpropagation is tried
with it too.

    perceptron  784 - 100 - 100 - 10, tanh
    convnet     convolutions of 8 and 16 channels with max-pooling, then 64 - 10, rectified

    FUNCPROP_MNIST=FOLDER python tests/benchmarks/feedback.py [--epochs 1] [--seeds 3]
        [--networks perceptron convnet] [--rules backprop uSF]

Told are the test error in percent after the last epoch, mean and extremes over the seeds, and the
angle between the gradient of the first weights that learn and the true one, on 1,000 training
images then, mean over the seeds. With --rate another learning rate than 0.02.
"""

import argparse
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcprop as fp
from funcprop.costs.cost import machine
from funcprop.data import load
from funcprop.initializers import HeNormal

BATCH, MOMENTUM, DECAY = 64, 0.9, 1e-2
LOSS = fp.SoftmaxCrossEntropy()
HE = HeNormal()


def conv(features: int) -> tuple[fp.Layer, ...]:
    return fp.Conv(features, (3, 3), w_init=HE), fp.ReLU(), fp.MaxPool((2, 2))


NETWORKS = {
    "perceptron": fp.Serial(
        *(fp.Pixels(), fp.Flatten()),
        *(fp.Dense(100), fp.Tanh(), fp.Dense(100), fp.Tanh()),
        fp.Dense(10),
    ),
    "convnet": fp.Serial(
        *(fp.Pixels(), *conv(8), *conv(16)),
        *(fp.Flatten(), fp.Dense(64, w_init=HE), fp.ReLU()),
        fp.Dense(10, w_init=HE),
    ),
}
RULES = {
    "backprop": None,
    "backprop, decayed": None,
    "Kolen-Pollack": fp.rewiring.kolen_pollack(),
    "uSF": fp.rewiring.sign_symmetry(),
    "brSF": fp.rewiring.sign_symmetry("batch-wise random"),
    "frSF": fp.rewiring.sign_symmetry("fixed random"),
    "feedback alignment": fp.rewiring.feedback_alignment(),
    "direct feedback alignment": fp.rewiring.direct_feedback_alignment(),
    "last layer alone": fp.rewiring.frozen(),
}


def rewired(name: str, model: fp.Serial) -> fp.Layer:
    """The network under a rule."""
    rule = RULES[name]
    if rule is None:
        return model
    if name == "direct feedback alignment":
        return fp.rewire(model, {fp.Serial: rule})
    if name == "last layer alone":  # what random features are good for
        return fp.Serial(rule(fp.Serial(*model.layers[:-1])), model.layers[-1])
    kinds = {type(layer) for layer in model.layers} & {fp.Conv, fp.Dense}
    return fp.rewire(model, dict.fromkeys(kinds, rule))


def taught(name: str, network: str, seed: int, data, epochs: int, rate: float):
    """-> the error on the test images in percent, the angle in degrees."""
    model = rewired(name, NETWORKS[network])
    decay = DECAY if name in ("Kolen-Pollack", "backprop, decayed") else 0.0
    optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, MOMENTUM))
    train = tuple(map(jnp.asarray, data.train))
    state = fp.init_state(model, optimizer, jax.random.key(seed), train[0][:1])
    epoch = fp.epoch(fp.train_step(fp.backprop(model, LOSS), optimizer), BATCH)
    for _ in range(epochs):
        state, _ = epoch(state, train)
    some = tuple(part[:1000] for part in train)
    first = next(iter(fp.rewiring.alignment(model, LOSS)(state.params, some).values()))
    accuracy = fp.evaluate(model, state.params, data.test).accuracy
    return 100 * (1 - accuracy), float(first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    options = parser.parse_args()
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist"
    data = load("mnist", os.environ.get("FUNCPROP_MNIST", beside))

    print(f"{machine()}; {options.epochs} epochs, {options.seeds} seeds, rate {options.rate}\n")
    print("| network | rule | test error, % | lowest | highest | angle, ° |")
    print("|---|---|---|---|---|---|")
    for network in options.networks:
        for name in options.rules:
            rows = [
                taught(name, network, seed, data, options.epochs, options.rate)
                for seed in range(options.seeds)
            ]
            errors, angles = np.array(rows).T
            told = [f"{v:.2f}" for v in (errors.mean(), errors.min(), errors.max())]
            print(f"| {network} | {name} | {' | '.join(told)} | {angles.mean():.0f} |", flush=True)


if __name__ == "__main__":
    main()
