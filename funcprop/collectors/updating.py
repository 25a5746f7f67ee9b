"""update: the optimizer inside the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.collectors.held import Held, is_held
from funcprop.collectors.rule import Rule
from funcprop.composites.sharing import Sum
from funcprop.doors import door
from funcprop.layer import Array, Layer, Params, Residuals
from funcprop.sharding import summed

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True)
class Update(Rule):
    """New parameters and optimizer state in the place of the gradient: `update(optimizer)`."""

    optimizer: optax.GradientTransformation

    like_params: ClassVar[bool] = True
    holds: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def hold(self, layer: Layer, params: Params) -> Any:
        return self.optimizer.init(params)

    def check_held(self, params: Params, held: Any) -> None:
        check_by_layer(self.optimizer, params, held)

    def use(self, layer: Layer, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        own = params.params if isinstance(params, Held) else params
        return layer.backward(own, residuals, dy)

    def finish(self, layer: Layer, params: Params, use: Any) -> Any:
        if not isinstance(params, Held):  # a layer without parameters
            return use
        own, state = params
        if use is None:  # frozen
            return params
        grads = jax.tree.map(
            lambda p, g: jnp.zeros_like(p) if g is None and p is not None else g,
            own, use, is_leaf=is_none,
        )  # fmt: skip

        if not jax.tree.leaves(own):
            return params
        grads = summed(grads, own)  # before the update, which is no sum

        import optax

        def one_step(own: Params, grads: Any, state: Any) -> tuple[Params, Any]:
            with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
                changes, state = self.optimizer.update(grads, state, own)
                return optax.apply_updates(own, changes), state

        # along an axis of one, which InPlaceRepeat's slices have: no reshape, and so no copy
        given = jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), (own, grads, state))
        new, state = jax.tree.map(lambda leaf: leaf[0], jax.vmap(one_step)(*given))
        # what has no gradient is frozen, whatever the optimizer makes of zeros
        kept = jax.tree.map(lambda g, p, n: p if g is None else n, use, own, new, is_leaf=is_none)
        return Held(kept, state)

    places = Sum.places
    steps = Sum.steps


@door
def update(optimizer: optax.GradientTransformation) -> Update:
    """A rule that updates every layer as soon as its gradient is there, and forgets the gradient.

    optimizer  of optax, treating every parameter by itself: sgd, momentum, adam, adamw, adafactor,
               lion, ... Its state travels beside the parameters: `collect(model, rule).init`, or
               `.hold(params)` for parameters that exist.

    record     Held(params, state): the new ones, of the shapes and dtypes of the old ones, where
               they stand in the tree

    Under `Repeat` the stacks are updated where they lie. All gradients exist for one layer at a
    time. `update_step` makes a training step of it.

    raises  TypeError where optimizer is none of optax, ValueError for one that needs all gradients
            at once (a global norm), or that waits for several batches; and `hold`, for one that
            goes by paths into the whole model's parameters, which a layer's do not have
    source  of SGD: Lv et al. 2023, arXiv:2306.09782

    >>> import jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> x, params = jnp.ones((4, 2)), fp.layers.Affine(jnp.zeros((2, 2)), jnp.zeros(2))
    >>> collected = fp.collect(fp.Dense(2), fp.collectors.update(optax.sgd(0.5)))
    >>> held = collected.hold(params)
    >>> gradient = fp.backprop(collected, fp.QuadraticCost())  # ½ Σ (a − y)², a mean over the batch
    >>> _, new = gradient(held, (x, jnp.ones((4, 2))))
    >>> new.params.b.tolist()  # 0 − 0.5 · (−1)
    [0.5, 0.5]
    """
    import optax

    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"update wants an optimizer of optax, and was given {optimizer!r}")
    with jax.ensure_compile_time_eval():  # also where a state is made under jit
        check_separable(optimizer)
    return Update(optimizer)


def check_separable(optimizer: optax.GradientTransformation) -> None:
    """Two parameters together must be treated as each alone. Raises ValueError."""
    params = {"a": np.array([1, -2], np.float32), "b": np.array([[3, 1], [0.5, 4]], np.float32)}
    grads = {"a": np.array([100, 30], np.float32), "b": np.array([[1e3, -7], [4, 20]], np.float32)}
    params, grads = (jax.tree.map(jnp.asarray, tree) for tree in (params, grads))
    try:
        state = optimizer.init(params)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "the optimizer was made for one tree of parameters (a mask or labels as a tree?), and "
            "in a backward pass that updates it meets each layer's: give it a function of the "
            f"parameters, or write train_step(backprop(model, loss), optimizer): {error}"
        ) from error
    waits = [s for s in jax.tree.leaves(state, is_leaf=_waits) if _waits(s)]
    if waits:
        raise ValueError(
            "the optimizer accumulates gradients over several batches (optax.MultiSteps), and in "
            "a backward pass that updates there is no gradient to keep: take larger batches, or "
            "train_step(accumulate(backprop(model, loss), parts), optimizer)"
        )

    # clipping shows in Adam from the second step on, and a global norm only where it is exceeded;
    # at last one gradient is not finite, which must not keep the other parameter from its step
    scales = [(1.0, 1.0), (1e-3, 30.0), (1e6, 1e-2), (1.0, np.nan)]

    def changes(names: tuple[str, ...]) -> list[Any]:
        state, found = optimizer.init({name: params[name] for name in names}), []
        for scale in scales:
            given = {name: grads[name] * s for name, s in zip("ab", scale, strict=True)}
            given = {name: given[name] for name in names}
            with jax.numpy_dtype_promotion("standard"):
                step, state = optimizer.update(given, state, {n: params[n] for n in names})
            found.append(step)
        return found

    try:
        together, *alone = changes(("a", "b")), changes(("a",)), changes(("b",))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the optimizer wants more than gradients, which a backward pass does not have: {error}"
        ) from error
    for step, *apart in zip(together, *alone, strict=True):
        for each in apart:
            for name, change in each.items():
                if not np.allclose(step[name], change, rtol=1e-5, atol=1e-12, equal_nan=True):
                    raise ValueError(
                        "the optimizer does not treat every parameter by itself (a global norm? "
                        "noise drawn over all? a look at whether all are finite?), and in a "
                        "backward pass that updates there is one layer at a time. In the place of "
                        "clip_by_global_norm write update_step(model, loss, optimizer, "
                        "max_norm=1.0), which takes two passes; of anything else, "
                        "train_step(backprop(model, loss), optimizer)"
                    )


def check_by_layer(optimizer: optax.GradientTransformation, params: Params, held: Any) -> None:
    """Each layer's parameters alone must be treated as all together: nothing goes by their paths.

    Tried with two numbers along each axis. Raises ValueError.
    """

    def small(leaf: Any) -> np.ndarray:
        shape = (2,) * leaf.ndim
        return np.linspace(1, 2, 2**leaf.ndim, dtype=np.float32).reshape(shape)

    def change(params: Params) -> list[Array]:
        with jax.numpy_dtype_promotion("standard"):
            grads = jax.tree.map(lambda p: 1e3 * p, params)
            return jax.tree.leaves(optimizer.update(grads, optimizer.init(params), params)[0])

    @jax.jit
    def changes(params: Params, layers: list[Params]) -> tuple[list[Array], list[Array]]:
        return change(params), [leaf for layer in layers for leaf in change(layer)]

    layers = [h.params for h in jax.tree.leaves(held, is_leaf=is_held) if is_held(h)]
    given = jax.tree.map(small, (params, layers))
    together, alone = changes.lower(*given).compile()(*given)  # now, in a trace too
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    for name, a, b in zip(names, together, alone, strict=True):
        if not np.allclose(a, b, rtol=1e-5, atol=1e-12, equal_nan=True):
            raise ValueError(
                f"the optimizer treats params{name} otherwise among all parameters than in its "
                "layer: it goes by their paths, or takes a norm over several, and a backward "
                "pass that updates shows it one layer at a time: write "
                "train_step(backprop(model, loss), optimizer), or freeze layers by "
                "fp.rewiring.frozen()"
            )


def is_none(leaf: Any) -> bool:
    return leaf is None


def _waits(state: Any) -> bool:
    import optax

    return isinstance(state, optax.MultiStepsState)
