"""Learning without the transpose: errors that go back by other weights than signals came by.

Backpropagation sends errors back through wᵀ. No nerve does: a synapse knows nothing of the one that
leads the other way. Lillicrap et al. (2016) found that fixed random weights B do nearly as well,
since the forward weights turn until errors by B point where errors by wᵀ would. Weights that share
the signs of w alone do better still (Liao et al., 2016).

Here a small convolutional network learns digits by each rule, from the same start. The angle is
that between the gradient that the second convolution's feedback gives the first, and the true one:
before training, and after.

    python examples/feedback_alignment.py
"""

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.data import load

RULES = {
    "backpropagation": None,
    "signs of w": fp.rewiring.sign_symmetry(),
    "random weights": fp.rewiring.feedback_alignment(),
}
LOSS = fp.SoftmaxCrossEntropy()


def network() -> fp.Serial:
    """Two convolutions with pooling, and a dense layer."""
    return fp.Serial(
        *(fp.Conv(8, (3, 3)), fp.Tanh(), fp.MaxPool((2, 2))),
        *(fp.Conv(16, (3, 3)), fp.Tanh(), fp.MaxPool((2, 2))),
        *(fp.Flatten(), fp.Dense(10)),
    )


def learn(rule: str, data, epochs: int, seed: int = 0) -> tuple[float, float, float]:
    """-> the share of test images it gets wrong, and the angle before and after, in degrees."""
    x, y = map(jnp.asarray, data.train)
    model: fp.Layer = network()
    rewiring = RULES[rule]
    if rewiring is not None:
        model = fp.rewire(model, {fp.Conv: rewiring, fp.Dense: rewiring})

    optimizer = optax.sgd(0.02, momentum=0.9)
    state = fp.init_state(model, optimizer, jax.random.key(seed), x[:1])
    one_epoch = fp.epoch(fp.train_step(fp.backprop(model, LOSS), optimizer), 32)
    angles = jax.jit(fp.rewiring.alignment(model, LOSS))

    some = x[:300], y[:300]
    before = angles(state.params, some)["[0].w"]
    for _ in range(epochs):
        state, _ = one_epoch(state, (x, y))
    after = angles(state.params, some)["[0].w"]
    return 1 - fp.evaluate(model, state.params, data.test).accuracy, float(before), float(after)


def main() -> None:
    data = load("digits")
    print("errors go back by     wrong   angle before   after")
    for rule in RULES:
        wrong, before, after = learn(rule, data, epochs=10)
        print(f"{rule:<20}  {100 * wrong:4.1f} %      {before:4.0f} °      {after:4.0f} °")


if __name__ == "__main__":
    main()
