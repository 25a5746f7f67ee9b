"""The whole framework in fifty lines: layers, the chain rule, a cost, descent, and NAND.

Nothing of ours is imported before the last function, which compares: what these lines compute is
what the library computes, and what jax.grad says.

    python examples/from_scratch.py
"""

import jax
import jax.numpy as jnp


class Dense:
    def __init__(self, features):
        self.features = features

    def init(self, key, inputs):
        w = jax.random.normal(key, (inputs, self.features))
        return (w, jnp.zeros(self.features)), self.features

    def forward(self, params, x):
        w, b = params
        return x @ w + b, x

    def backward(self, params, x, dz):
        w, _ = params
        return dz @ w.T, (x.T @ dz, dz.sum(0))


class Sigmoid:
    def init(self, key, inputs):
        return (), inputs

    def forward(self, params, z):
        a = 1 / (1 + jnp.exp(-z))
        return a, a

    def backward(self, params, a, da):
        return da * a * (1 - a), ()


class Serial:
    def __init__(self, *layers):
        self.layers = layers

    def init(self, key, inputs):
        params = []
        for layer, one in zip(self.layers, jax.random.split(key, len(self.layers)), strict=True):
            p, inputs = layer.init(one, inputs)
            params.append(p)
        return tuple(params), inputs

    def forward(self, params, x):
        kept = []
        for layer, p in zip(self.layers, params, strict=True):
            x, residuals = layer.forward(p, x)
            kept.append(residuals)
        return x, kept

    def backward(self, params, kept, dy):
        grads = []
        for layer, p, residuals in list(zip(self.layers, params, kept, strict=True))[::-1]:
            dy, dparams = layer.backward(p, residuals, dy)  # the chain rule: this line, in a loop
            grads.append(dparams)
        return dy, tuple(grads[::-1])


def gradient(model, params, x, y):
    a, kept = model.forward(params, x)
    cost = 0.5 * jnp.square(a - y).sum() / len(x)
    return cost, model.backward(params, kept, (a - y) / len(x))[1]


def descend(model, params, x, y, rate, steps):
    def step(_, p):
        return jax.tree.map(lambda leaf, d: leaf - rate * d, p, gradient(model, p, x, y)[1])

    return jax.lax.fori_loop(0, steps, step, params)


X = jnp.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
Y = jnp.array([[1.0], [1], [1], [0]])
MODEL = Serial(Dense(3), Sigmoid(), Dense(1), Sigmoid())


def compare(params) -> None:
    """The same network of the library, and jax.grad of these lines' own cost."""
    import funcprop as fp

    _, ours = gradient(MODEL, params, X, Y)
    automatic = jax.grad(lambda p: gradient(MODEL, p, X, Y)[0])(params)
    model = fp.Serial(fp.Dense(3), fp.Sigmoid(), fp.Dense(1), fp.Sigmoid())
    same = tuple(fp.layers.Affine(*p) if p else () for p in params)
    _, theirs = fp.backprop(model, fp.QuadraticCost())(same, (X, Y))
    for name, other in (("jax.grad", automatic), ("funcprop", theirs)):
        pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(other), strict=True)
        off = max(float(jnp.abs(a - b).max()) for a, b in pairs)
        print(f"the largest difference to {name}: {off:.0e}")


def main() -> None:
    params, _ = MODEL.init(jax.random.key(0), 2)
    compare(params)
    trained = jax.jit(lambda p: descend(MODEL, p, X, Y, 4.0, 2000))(params)
    for row, a in zip(X, MODEL.forward(trained, X)[0][:, 0], strict=True):
        print(f"{row[0]:.0f} NAND {row[1]:.0f} = {a:.3f}")


if __name__ == "__main__":
    main()
