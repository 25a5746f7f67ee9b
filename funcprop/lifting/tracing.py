"""lift: any JAX function as a layer, of which everything can be asked that a layer can."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.doors import door
from funcprop.layer import Context, LayerError, Params, is_float, spell
from funcprop.lifting.answering import examples_in
from funcprop.lifting.calls import Call, Functions, types
from funcprop.lifting.function import check_function, options_of
from funcprop.lifting.jaxprs import RULES, holds, source_of
from funcprop.lifting.lifted import Lifted
from funcprop.lifting.weight import Place, Weight


@door
def lift(
    function: Callable[..., Any],
    params: Params,
    x: Any,
    *,
    init: Callable[..., Params] | None = None,
) -> Lifted:
    """Any JAX function as a layer, whose backward can be asked what a layer's can.

    function   (params, x) -> y, pure: the apply function of a Flax, Equinox or Haiku model, or any
               other. It may take `key` and `mask` by name: those of the context. `x` and `y` are
               trees with the examples on axis 0 of every leaf; a function of one example is given
               as `per_example(function)`
    params     any tree of arrays, or of ShapeDtypeStructs; floats are parameters
    x          a batch of such arrays, at least of their shapes
    init       (key, x) -> params, where the layer is to make parameters too

    Returns a layer whose parameters are `params`: `collect`, `private_gradient`, `train_step`,
    `compare` and the others take it. Single examples are asked of the function with batches of
    one, mapped; that it treats examples apart is tried with the first batch.

    raises     TypeError where function is none, LayerError where params holds no float, or complex
               numbers, and what the function raises; asked for single examples, LayerError for a
               function that mixes them

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> def predict(params, x):  # your model
    ...     return jnp.tanh(x @ params["w1"]) @ params["w2"]
    >>> params = {"w1": jnp.ones((2, 3)), "w2": jnp.ones((3, 2))}
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> model = fp.collect(fp.lift(predict, params, x), fp.collectors.squared_norms)
    >>> gradient = fp.backprop(model, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> _, found = gradient(params, (x, y))
    >>> fp.collectors.total(found).shape
    (4,)
    """
    check_function("lift", function)
    empty = untraced(function, params, init)
    for path, leaf in jax.tree.leaves_with_path(params):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            raise LayerError(
                empty,
                f"params{jax.tree_util.keystr(path)} is {spell(leaf)}, wanted real numbers",
                "keep the real and the imaginary part as two parameters: lax.complex(re, im)",
            )
        if isinstance(leaf, float):
            raise LayerError(
                empty,
                f"params{jax.tree_util.keystr(path)} is the Python number {leaf}, wanted an array",
                f"write jnp.asarray({leaf}), or keep what is not trained outside of params",
            )
    if not empty.layers:
        problem = f"params is {spell(params)}: it holds no array of floats"
        raise LayerError(empty, problem, "give the parameters first: fp.lift(apply, params, x)")
    if empty.mapped:
        examples_in(empty, x)
    places = places_of(empty, params, x)
    rows = zip(empty.layers, places, strict=True)
    layers = [Weight(weight.path, own) for weight, own in rows]  # type: ignore[attr-defined]
    calls = calls_of(empty, params, x)
    return Lifted(function, empty.tree, empty.floats, tuple(layers), calls, init)


def untraced(function: Callable[..., Any], params: Params, init: Any = None) -> Lifted:
    """The layer of a function that nobody has looked into: its weights know no place where they are
    read, and the rules in it are not told apart."""
    paths, tree = jax.tree.flatten_with_path(params)
    floats = tuple(is_float(leaf) for _, leaf in paths)
    names = [
        jax.tree_util.keystr(path) for (path, _), own in zip(paths, floats, strict=True) if own
    ]
    return Lifted(function, tree, floats, tuple(map(Weight, names)), start=init)


def with_rules(function: Callable[..., Any], x: tuple[Any, ...]) -> Lifted:
    """function(*x) as a layer without parameters, opened by `compare` at the calls of custom
    derivative rules: under `jit`, `scan`, `checkpoint`, `cond` and `shard_map`."""

    def of_x(params: Params, x: tuple[Any, ...]) -> Any:
        return function(*x)

    of_x.__name__ = getattr(function, "__name__", type(function).__name__)
    empty = Lifted(of_x, jax.tree.structure(()), (), ())
    return Lifted(of_x, empty.tree, (), (), calls_of(empty, (), x))


def places_of(lifted: Lifted, params: Params, x: Any) -> list[tuple[Place, ...]]:
    """Where every parameter meets data, by tracing the whole batch."""
    given = options_of(lifted.function, Context(key=jax.random.key(0)))
    shapes = jax.tree.map(shaped, (params, x))
    plan, _ = lifted.plan(shapes[0], shapes[1], given, "uses")
    found: list[dict[Place, None]] = [{} for _ in lifted.layers]
    invars = list(plan.jaxpr.jaxpr.invars)

    def note(var: Any, name: str, eqn: Any) -> None:
        for leaf in lifted._leaves_of(plan, var):
            found[invars.index(leaf)][Place(name, *source_of(eqn))] = None

    for number, site in plan.sites.items():
        for use in site.uses:
            note(use.var, use.eqn.primitive.name, use.eqn)
        for position in site.generic:
            eqn = plan.jaxpr.eqns[number]
            note((site.atoms or eqn.invars)[position], eqn.primitive.name, eqn)
    return [tuple(places) for places in found]


def calls_of(lifted: Lifted, params: Params, x: Any) -> tuple[Call, ...]:
    """The calls of custom derivative rules, in the order in which they are made."""
    given = options_of(lifted.function, Context(key=jax.random.key(0)))
    shapes = jax.tree.map(shaped, (params, x))
    plan, _ = lifted.plan(shapes[0], shapes[1], given, "calls")
    functions = Functions()
    found = []
    for number, use in enumerate(plan.uses):
        times = math.prod(loop.length for loop in use.loops)
        defined = definition_of(use.eqn)
        source = source_of(use.eqn)[0]
        real = not any(
            jnp.issubdtype(getattr(var.aval, "dtype", bool), jnp.complexfloating)
            for var in (*use.eqn.invars, *use.eqn.outvars)
        )
        further = holds(use.eqn, RULES)
        given = types([var.aval for var in use.eqn.invars])
        found.append(
            Call(
                rule_name(use.eqn),
                source,
                number,
                functions,
                defined,
                times,
                real,
                given,
                further,
                use.devices,
            )
        )
    return tuple(found)


def definition_of(eqn: Any) -> str:
    """The file and line of the function that has a rule, as far as its jaxpr tells."""
    info = getattr(getattr(eqn.params.get("call_jaxpr"), "jaxpr", None), "debug_info", None)
    return str(getattr(info, "func_filename", None) or "") and (
        f"{info.func_filename}:{info.func_lineno}"  # type: ignore[union-attr]
    )


def rule_name(eqn: Any) -> str:
    """The name of the function that has a rule."""
    name = eqn.params.get("name")
    if name is None:
        info = getattr(getattr(eqn.params.get("call_jaxpr"), "jaxpr", None), "debug_info", None)
        name = getattr(info, "func_name", None)
    return str(name or eqn.primitive.name)


def shaped(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
