"""Rules: what a leaf's backward puts into its second slot."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from funcprop.composites.sharing import Sum
from funcprop.layer import Context, Layer, LayerError, Params, Residuals


class Remembered(NamedTuple):
    """What a rule that remembers more than the layer keeps is given for residuals.

    residuals  the layer's own, any pytree
    extra      what `remember` returned, any pytree of arrays

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> class Outputs(fp.collectors.Rule):
    ...     def remember(self, layer, params, x, context, y, residuals):
    ...         return {"y": y}
    ...     def __call__(self, layer, params, residuals, dy):
    ...         return layer.backward(params, residuals.residuals, dy)[0], residuals.extra["y"]
    >>> layer = fp.collect(fp.Tanh(), Outputs())
    >>> y, residuals = layer.forward((), jnp.zeros((4, 2)))
    >>> layer.backward((), residuals, y)[1].value.shape
    (4, 2)
    """

    residuals: Residuals  # the layer's own
    extra: Any  # what `remember` returned


def is_empty(extra: Any) -> bool:
    """Whether a rule remembers nothing."""
    return isinstance(extra, tuple) and not extra


class RuleFunction(Protocol):
    """A rule that says nothing but what it puts into the second slot of a leaf's backward.

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> def weights_only(layer, params, residuals, dy):
    ...     dx, dparams = layer.backward(params, residuals, dy)
    ...     return dx, dparams.w
    >>> rule: fp.collectors.RuleFunction = weights_only
    >>> layer, x = fp.collect(fp.Dense(3), rule), jnp.ones((4, 2))
    >>> params = layer.init(jax.random.key(0), x)
    >>> z, residuals = layer.forward(params, x)
    >>> layer.backward(params, residuals, z)[1].value.shape
    (2, 3)
    """

    def __call__(self, layer: Any, params: Any, residuals: Any, dy: Any, /) -> tuple[Any, Any]:
        """What backward returns in the place of the layer's own.

        layer      the leaf, without its rewiring
        params     its parameters
        residuals  what its forward kept
        dy         the cotangent of its output

        -> dx, record: what is sent on, as a rule `layer.backward(params, residuals, dy)[0]`, and
        anything, as a pytree of arrays
        """
        ...


class Rule(Sum):
    """rule(layer, params, residuals, dy) -> dx, record: asked at every leaf of a model.

    dx         what is sent on: the tree, shapes and dtypes of the layer's x
    record     a pytree of arrays, of any shapes

    A plain function of that signature is a rule. A subclass may say more:

    at         another rule for a leaf, by its place in the model: see `only`
    prepare    another form of a layer that keeps what the rule needs
    hold       with `holds`, what travels beside a layer's parameters as `Held(params, held)`
    remember   what the rule needs of a forward pass beyond the layer's residuals

    Where a parameter is used several times (`Tied`, `OverTime`) no record of one use is enough.
    There a rule is asked for `use`, a tree like the parameters; `places` and `steps` make one of
    several uses, and `finish` makes the record of the result. Elsewhere the record is finish(use).

    raises  LayerError where a parameter is used several times and the rule does not define these,
            NotImplementedError where it defines neither `use` nor `__call__`

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> class Largest(fp.collectors.Rule):
    ...     def __call__(self, layer, params, residuals, dy):
    ...         return layer.backward(params, residuals, dy)[0], jnp.abs(dy).max()
    >>> gradient = fp.backprop(fp.collect(model, Largest()), fp.SoftmaxCrossEntropy())
    >>> _, found = gradient(params, (x, y))
    >>> [(record.path, record.value.shape) for record in fp.collectors.records(found)]
    [('Serial[0] Dense', ()), ('Serial[1] Tanh', ()), ('Serial[2] Dense', ())]
    """

    like_params: ClassVar[bool] = False  # records are trees like the parameters, without a path
    per_example: ClassVar[bool] = False  # records speak of single examples of a summed loss
    separate: ClassVar[bool] = False  # several uses of a parameter have a record each
    whole: ClassVar[bool] = False  # asked about rewired layers as they are, feedback included
    holds: ClassVar[bool] = False  # something travels beside the parameters: they come as `Held`
    adds: ClassVar[bool] = False  # the records of several uses add up, whoever adds them
    in_place: ClassVar[bool] = False  # records are new parameters, written over the old ones

    @property
    def name(self) -> str:
        return type(self).__name__

    def at(self, place: tuple[str, ...], layer: Layer) -> Rule:
        """The rule that is asked at a leaf: itself, if nothing depends on where it stands."""
        return self

    def prepare(self, layer: Layer) -> Layer:
        return layer

    def hold(self, layer: Layer, params: Params) -> Any:
        return None

    def check_held(self, params: Params, held: Any) -> None:
        """Raises where the parts of a whole model, in `held`, cannot be treated apart."""

    def remember(
        self, layer: Layer, params: Params, x: Any, context: Context, y: Any, residuals: Residuals
    ) -> Any:
        return ()

    def __call__(
        self, layer: Layer, params: Params, residuals: Residuals, dy: Any
    ) -> tuple[Any, Any]:
        dx, use = self.use(layer, params, residuals, dy)
        return dx, self.finish(layer, params, use)

    def use(self, layer: Layer, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        """-> dx, a tree like the parameters: one use of them."""
        if type(self).__call__ is Rule.__call__:
            raise NotImplementedError(f"{self.name} defines neither use nor __call__")
        return self._undefined(layer)

    def finish(self, layer: Layer, params: Params, use: Any) -> Any:
        """The record, once all uses are one."""
        return use

    def places(self, layer: Layer, records: tuple[Any, ...]) -> Any:
        return self._undefined(layer)

    def steps(
        self, layer: Layer, step: Callable[[Any], tuple[Any, Any]], each: Any
    ) -> tuple[Any, Any]:
        return self._undefined(layer)

    def _undefined(self, layer: Layer) -> Any:
        raise LayerError(
            layer,
            f"{self.name} is not defined for parameters that are used several times",
            "untie them, or give the rule `use`, `places`, `steps` and `finish`",
        )


@dataclass(frozen=True)
class FunctionRule(Rule):
    """A plain function as a rule."""

    function: RuleFunction

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))

    def __repr__(self) -> str:
        return f"FunctionRule({self.name})"  # without the address in memory

    def __call__(
        self, layer: Layer, params: Params, residuals: Residuals, dy: Any
    ) -> tuple[Any, Any]:
        return self.function(layer, params, residuals, dy)


@dataclass(frozen=True)
class Gradient(Rule):
    """The default rule, `gradient`: the layer's own backward.

    record   dparams, a tree like the parameters, of their shapes and dtypes, without a path

    Used several times, a parameter has the sum of its uses' gradients.

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> gradient = fp.backprop(fp.collect(model, fp.collectors.gradient), fp.SoftmaxCrossEntropy())
    >>> _, grads = gradient(params, (x, y))
    >>> jax.tree.map(jnp.shape, grads)
    (Affine(w=(2, 3), b=(3,)), (), Affine(w=(3, 2), b=(2,)))
    """

    like_params: ClassVar[bool] = True
    adds: ClassVar[bool] = True

    def use(self, layer: Layer, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        return layer.backward(params, residuals, dy)

    places = Sum.places
    steps = Sum.steps


def as_rule(rule: Any) -> Rule:
    """A Rule as it is, a function as a FunctionRule. Raises TypeError for anything else."""
    if isinstance(rule, Rule):
        return rule
    told = rule.__name__ if hasattr(rule, "__name__") else repr(rule)  # repr has an address
    if isinstance(rule, type) and issubclass(rule, Rule):
        raise TypeError(f"{told} is a class, wanted a rule: write {told}()")
    if not callable(rule) or isinstance(rule, (type, Layer)):
        raise TypeError(
            f"{told} is no rule: wanted a function (layer, params, residuals, dy) -> dx, record"
        )
    try:
        inspect.signature(rule).bind(*"four")
    except TypeError as error:
        raise TypeError(
            f"{told} cannot be called with (layer, params, residuals, dy): {error}"
        ) from error
    except ValueError:  # a builtin without a signature
        pass
    return FunctionRule(rule)  # type: ignore[arg-type]


gradient = Gradient()
