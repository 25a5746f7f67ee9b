"""collect: a model whose backward pass returns something else than the gradient.

Composites pass up whatever their children return in the second slot of backward, so a rule asked
at the leaves is all it takes: under `jit`, in branches, in loops over stacked parameters, in
composites written later.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax

from funcprop.collectors.collecting import Collecting, Finishing, Open, Path
from funcprop.collectors.held import Held, without_held
from funcprop.collectors.protocol import Checked, trusted
from funcprop.collectors.record import Place
from funcprop.collectors.rule import Rule, RuleFunction, as_rule
from funcprop.collectors.single_examples import check_loss, check_rewirings, check_summed
from funcprop.composites import Composite, Rewired, Wrapper
from funcprop.composites.sharing import EVERYTHING, Apart
from funcprop.doors import door
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    describe,
    inside,
    spell,
)


@dataclass(frozen=True)
class Collected(Wrapper):
    """A model whose backward returns a rule's records: `collect(model, rule)`.

    model     the model as it was given
    rule      what is asked at every leaf
    layer     the model with every leaf exchanged

    forward   x -> y, the model's, any trees
    keeps     what the layers keep, and what the rule remembers
    backward  dx, the model's; records in the place of dparams
    dtypes    those of the model; records have what the rule gives them

    `hold(params)` and `join(params, held)` put what the rule carries beside the parameters.

    raises  LayerError where the rule is not defined on a layer, or speaks of single examples and
            the loss takes a mean; `join`, ValueError where `held` is of another model or step

    >>> import funcprop as fp
    >>> collected = fp.collect(fp.Serial(fp.Dense(3), fp.Tanh()), fp.collectors.squared_norms)
    >>> collected
    collect(Serial(Dense(3), Tanh()), SquaredNorms())
    >>> collected.model
    Serial(Dense(3), Tanh())
    """

    model: Layer
    rule: Rule

    collects: ClassVar[bool] = True  # what backward returns is no gradient, and need not add up

    def __repr__(self) -> str:
        return f"collect({self.model!r}, {self.rule!r})"

    def init(self, key: Array, x: Any) -> Params:
        return self.hold(self.layer.init(key, x))

    def hold(self, params: Params) -> Params:
        """The model's parameters with what the rule carries beside them: `Held` at every layer
        that has any; the parameters themselves for a rule that carries nothing."""
        if not self.rule.holds:
            return params
        held = _hold(self.layer, params)
        self.rule.check_held(params, held)
        return held

    def join(self, params: Params, held: tuple[Any, ...]) -> Params:
        """The inverse of `apart`."""
        rest = list(held)

        def give(leaf: Layer, p: Params) -> Any:
            if not rest:
                raise ValueError(
                    "the state has less beside its parameters than the rule carries: "
                    "start from init_update_state(model, optimizer, key, x)"
                )
            return rest.pop(0)

        joined = _walk(self.layer, params, give)
        if rest:
            raise ValueError(
                f"the state holds {len(rest)} more than the model has layers, or is of another "
                "step: start from init_update_state(model, optimizer, key, x)"
            )
        return joined

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        return self.model.inference(without_held(params), statistics)

    def check_loss(self, loss: Layer) -> None:
        """Raises LayerError for a mean, where the rule speaks of single examples."""
        if self.rule.per_example:
            check_summed(loss, self.rule)

    def check_examples(
        self, loss: Layer, prediction: Any, target: Any, context: Context = Context()
    ) -> None:
        """Raises LayerError for a loss that mixes examples, where that matters to the rule."""
        if self.rule.per_example:
            check_loss(loss, prediction, target, context)


@door
def collect(model: Layer, rule: Rule | RuleFunction) -> Collected:
    """The model with `rule` in place of every leaf's gradient: nothing else changes.

    rule      (layer, params, residuals, dy) -> dx, anything; or one of `funcprop.collectors`

    forward   x -> y, the model's
    backward  dx is the model's own. In the place of dparams stands a tree like the model's, with
              a `Record` at every leaf: the value, and the path of its layer. Under `Repeat` the
              steps' values are stacked on axis 0. `records` lists them.

    raises  LayerError where a rule is not defined on a layer, naming it; TypeError where `rule` is
            none, or the model is no Layer or collects already
    source  more than the gradient from one backward pass, layer by layer: Dangel et al. 2020,
            arXiv:1912.10985

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> def errors(layer, params, residuals, dy):  # δ of every layer
    ...     return layer.backward(params, residuals, dy)[0], dy
    >>> gradient = fp.backprop(fp.collect(model, errors), fp.SoftmaxCrossEntropy())
    >>> _, found = gradient(params, (x, y))
    >>> [(record.path, record.value.shape) for record in fp.collectors.records(found)]
    [('Serial[0] Dense', (4, 3)), ('Serial[1] Tanh', (4, 3)), ('Serial[2] Dense', (4, 2))]
    """
    if not isinstance(model, Layer):
        raise TypeError(f"collect wants a layer first, and was given {spell(model)}")
    if isinstance(model, Collected):
        raise TypeError(
            f"{describe(model)} collects already: collect(model, collect_all(a=rule, b=other))"
        )
    rule = as_rule(rule)
    return Collected(_build(model, rule, (), frozenset())[0], model, rule)


def _build(
    layer: Layer, rule: Rule, place: Place, shared: frozenset[Path]
) -> tuple[Layer, list[Open]]:
    """The layer with its leaves exchanged, and the leaves with uses outside.

    shared  paths of parameters that are used elsewhere as well
    """
    if not isinstance(layer, Composite):
        if not shared:  # all uses of a parameter are asked, and the record is made where they meet
            rule = rule.at(place, layer)
        if rule.per_example:
            check_rewirings(layer, rule)
            check_summed(layer, rule)
        if isinstance(layer, Rewired) and layer.learns and rule.per_example:
            raise LayerError(
                layer,
                f"has feedback that learns, of which {rule.name} knows no single examples",
                "fixed feedback has no gradient: fp.rewiring.feedback_alignment()",
            )
        if isinstance(layer, Rewired) and isinstance(layer.layer, Composite):
            if layer.trained and not rule.like_params:
                raise LayerError(
                    layer,
                    f"{rule.name} is asked at rewired leaves, and this is a rewired composite",
                    "rewire an Identity() before it instead",
                )
        else:
            layer = prepared(layer, rule)
        leaf = Collecting(layer, rule, place, bool(shared))
        return leaf, [Open((), leaf.layer, place)] if shared else []
    if layer.owns and rule.holds:
        raise LayerError(
            layer,
            f"has parameters of its own, of which {rule.name} knows nothing",
            "train it by fp.train_step",
        )
    if rule.separate:
        return _build_apart(layer, rule, place), []
    # what a rule holds must not be rounded: in a Cast it is finished outside
    together = () in layer.reused or (layer.converts and rule.holds)
    inner = EVERYTHING if together or () in shared else shared | layer.reused
    children, opened = [], []
    for position, child in enumerate(layer.layers):
        below = inner if () in inner else {path[1:] for path in inner if path[0] == position}
        name = layer.place(position)
        with inside(layer, position):
            new, found = _build(child, rule, (*place, name), frozenset(below))
        children.append(new)
        opened += [leaf._replace(path=(position, *leaf.path)) for leaf in found]
    opened = [leaf._replace(stacked=leaf.stacked + bool(layer.stacked)) for leaf in opened]
    if layer.stacked and opened and (rule.per_example or not rule.like_params):
        raise LayerError(
            layer,
            f"{rule.name} is not defined for stacked parameters that are used several times",
            "write the repeated layers out: Serial(layer, layer, ...)",
        )
    rebuilt = _around(layer, tuple(children), rule)
    if rule.in_place and not opened and isinstance(rebuilt, Composite):
        rebuilt = rebuilt.in_place()
    if layer.reused or together:
        done = tuple(leaf for leaf in opened if not _meets(shared, leaf.path))
        opened = [leaf for leaf in opened if leaf not in done]
        rebuilt = Finishing(rebuilt, rule, done) if done else rebuilt
    return rebuilt, opened


def _around(layer: Composite, children: tuple[Layer, ...], rule: Rule) -> Layer:
    """The composite around other children, whose records the rule joins."""
    if layer.owns and not (rule.adds or trusted(layer)):
        raise LayerError(
            layer,
            f"has parameters of its own, of which {rule.name} knows nothing",
            "give them to a layer of their own, among its children",
        )
    new = layer.with_paths(_beside) if rule.holds else layer
    assert isinstance(new, Composite)
    rebuilt = new.rebuild(children)
    assert isinstance(rebuilt, Composite)
    rebuilt = rebuilt.under(rule)
    if rule.separate:
        rebuilt = rebuilt.with_shared(Apart())
    elif layer.reused:
        rebuilt = rebuilt.with_shared(rule)
    return rebuilt if rule.adds or trusted(layer) else Checked(rebuilt, layer, rule.per_example)


def prepared(layer: Layer, rule: Rule) -> Layer:
    """The form of a layer, rewired or not, that keeps what the rule needs."""
    if isinstance(layer, Rewired):
        return replace(layer, layer=rule.prepare(layer.layer))
    return rule.prepare(layer)


def _build_apart(layer: Composite, rule: Rule, place: Place) -> Layer:
    """The composite with its leaves exchanged, and a record for every use of a parameter."""
    children = []
    for position, child in enumerate(layer.layers):
        name = layer.place(position)
        with inside(layer, position):
            children.append(_build(child, rule, (*place, name), frozenset())[0])
    return _around(layer, tuple(children), rule)


def _meets(shared: frozenset[Path], path: Path) -> bool:
    return any(one[: len(path)] == path or path[: len(one)] == one for one in shared)


def _beside(layer: Layer, name: str) -> str:
    """A path into parameters -> the path to the same where layers' parameters are `Held`."""
    words = re.findall(r"\[\d+\]|\.[^\W\d]\w*", name)
    at = 0
    while isinstance(layer, Composite):
        if at == len(words):
            raise LayerError(
                layer,
                f"a rule that carries something beside the parameters cannot see {name!r} tied",
                "tie single parameters: a path to a layer's own, such as '[0].w'",
            )
        layer, at = layer.layers[int(words[at][1:-1])], at + 1
    return "".join([*words[:at], ".params", *words[at:]])


# --- parameters with something beside them --------------------------------------------------------


def _walk(layer: Layer, params: Params, give: Callable[[Layer, Params], Any]) -> Params:
    """The parameters of a layer that `_build` made, with Held(params, give(leaf, params))."""
    if isinstance(layer, (Finishing, Checked)):
        return _walk(layer.layer, params, give)
    if isinstance(layer, Composite):
        rows = zip(layer.layers, layer.spread(params), strict=True)
        return layer.gathered(params, tuple(_walk(*row, give) for row in rows))
    # tied parameters are None here, and filled in on the way: they are held like all others
    empty = isinstance(params, tuple) and params == ()
    return params if empty else Held(params, give(layer, params))


def _hold(layer: Layer, params: Params) -> Params:
    """The same with what every leaf's rule holds at first: under a loop, for every step."""
    if isinstance(layer, (Finishing, Checked)):
        return _hold(layer.layer, params)
    if isinstance(layer, Composite):
        rows = zip(layer.layers, layer.spread(params), strict=True)
        if layer.stacked:
            return tuple(
                jax.vmap(functools.partial(_hold, child), axis_size=layer.stacked)(p)
                for child, p in rows
            )
        return layer.gathered(params, tuple(_hold(*row) for row in rows))
    return _walk(layer, params, lambda leaf, p: leaf.rule.hold(leaf.layer, p))  # type: ignore
