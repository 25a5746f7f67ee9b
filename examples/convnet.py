"""A convolutional network put together from layers: digits, batch norm, and no train flag.

What batch norm saw on the way travels in the state. `fp.inference` returns another model, which
predicts: there batch norm is an affine map of its averages and dropout is gone.

    python examples/convnet.py
"""

import jax
import jax.numpy as jnp
import optax

import funcprop as fp
from funcprop.data import load

model = fp.Serial(
    *(fp.Conv(8, (3, 3)), fp.BatchNorm(), fp.ReLU(), fp.MaxPool((2, 2))),
    *(fp.Conv(16, (3, 3)), fp.BatchNorm(), fp.ReLU(), fp.MaxPool((2, 2))),
    *(fp.Flatten(), fp.Dropout(0.2), fp.Dense(10)),
)


def main(epochs: int = 5) -> None:
    data = load("digits")
    x, y = map(jnp.asarray, data.train)
    optimizer = optax.adam(3e-3)
    gradient = fp.backprop(model, fp.SoftmaxCrossEntropy(), has_aux=True)  # with the statistics
    one_epoch = fp.epoch(fp.train_step(gradient, optimizer), batch_size=32)
    state = fp.init_state(model, optimizer, jax.random.key(0), x[:1])
    for number in range(1, epochs + 1):
        state, metrics = one_epoch(state, (x, y))
        predictor, params = fp.inference(model, state.params, state.statistics)
        right = fp.evaluate(predictor, params, data.test).accuracy
        print(f"after epoch {number}: loss {metrics.loss.mean():.3f}, {right:.1%} of the test set")
    print(predictor.layers[1], "stands where", model.layers[1], "stood")


if __name__ == "__main__":
    main()
