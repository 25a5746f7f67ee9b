"""What modules of all libraries share: where parameters stand, what a layer draws and observes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.gradient import as_function
from funcprop.layer import Array, Context, Layer, LayerError, Params, Residuals, spell

NO_PLACE = "value"  # what the only array of a tree is called


# --- trees as nested dictionaries -----------------------------------------------------------------


def path_of(path: tuple[Any, ...]) -> tuple[str, ...]:
    """(SequenceKey(0), GetAttrKey("w")) -> ("0", "w")."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path) or (NO_PLACE,)


def nested(tree: Any) -> dict[str, Any]:
    """A tree -> {"0": {"w": ..., "b": ...}}."""
    found: dict[str, Any] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        *above, name = path_of(path)
        inner = found
        for part in above:
            inner = inner.setdefault(part, {})
        inner[name] = leaf
    return found


def gathered(layer: Layer, what: str, found: Any, like: Any) -> Any:
    """The inverse: a tree like `like`, of what stands in nested dictionaries.

    Raises LayerError where one is missing.
    """

    def at(path: tuple[Any, ...], wanted: Any) -> Any:
        value = found
        for part in path_of(path):
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                place = ".".join(path_of(path))
                problem = f"{what} has no {place}, wanted {spell(wanted)}"
                remedy = "give it the variables of a module that was made of this very layer"
                raise LayerError(layer, problem, remedy) from None
        return value

    return jax.tree.map_with_path(at, like)


# --- what goes in ---------------------------------------------------------------------------------


class Given:
    """Parameters that exist, as a library keeps them in a field: it looks at no array inside."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def __repr__(self) -> str:
        return "given"


def typed(key: Any) -> Any:
    """A key of `jax.random.key`, also of the two integers of `jax.random.PRNGKey`."""
    if key is None or jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


def check_momentum(name: str, momentum: float) -> None:
    """Raises ValueError outside [0, 1)."""
    if not 0 <= momentum < 1:
        raise ValueError(f"{name}: momentum is {momentum}, wanted one in [0, 1)")


# --- what a layer draws and observes --------------------------------------------------------------


@dataclass(frozen=True)
class Observed(Layer):
    """A layer whose output is (y, statistics): what it observed comes out beside y."""

    layer: Layer

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        y, residuals = self.layer.forward(params, x, context)
        return (y, jax.lax.stop_gradient(self.layer.statistics(residuals))), residuals

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        return self.layer.backward(params, residuals, dy[0])


def observed_shapes(layer: Layer, params: Params, x: Any, mask: Any = None) -> Any:
    """ShapeDtypeStructs of what a layer observes; () or a tree without leaves, where nothing."""
    context = Context(jax.random.key(0), mask)
    return jax.eval_shape(lambda p, v: Observed(layer).forward(p, v, context)[0][1], params, x)


def draws(layer: Layer, params: Params, x: Any) -> bool:
    """Whether a layer's forward needs a key."""
    try:
        jax.eval_shape(lambda p, v: layer.forward(p, v)[0], params, x)
    except LayerError as error:
        return NO_KEY in error.problem
    return False


NO_KEY = "was given no key"


@contextlib.contextmanager
def asking_for_a_key(line: str) -> Iterator[None]:
    """The error of a layer that was given no key says the line to write in its library."""
    try:
        yield
    except LayerError as error:
        if NO_KEY in error.problem:
            error.remedy = f"write {line}"
        raise


def trained(layer: Layer, params: Params, x: Any, context: Context) -> tuple[Any, Any]:
    """-> y and what was observed, differentiated by the layer's own backward."""
    return as_function(Observed(layer))(params, x, context)


def predicted(layer: Layer, params: Params, x: Any, averages: Any, mask: Any) -> Any:
    """y of the layer for prediction, differentiated by its own backward."""
    predictor, params = layer.inference(params, averages)
    return as_function(predictor)(params, x, Context(mask=mask))


def unknown(shapes: Any) -> Any:
    """Averages before the first batch: NaN, so that predicting with them cannot pass unseen."""
    return jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)


def averaged(momentum: float, old: Array, new: Array) -> Array:
    """The running average after a batch; the first batch stands for itself."""
    return jnp.where(jnp.isnan(old), new, old + (new - old) * (1 - momentum))
