"""K-FAC as an optimizer: gradients and factors from one forward pass, and their use with optax.

gradient = with_factors(model, loss)
factors = jax.eval_shape(gradient, params, batch, context)[2]
optimizer = optax.chain(precondition_by_kfac(factors, damping=1e-2), optax.sgd(0.1))

step = train_step(gradient, optimizer)  # hands the optimizer the factors of each step
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.collectors.blocks import Diagonal, Kronecker, is_block
from funcprop.collectors.collection import Collected, collect
from funcprop.collectors.ggn import sampling_key
from funcprop.collectors.inverses import inverses_of, precondition
from funcprop.collectors.kronecker import Kfac, kfac
from funcprop.collectors.loss_hessian import root, sum_over_columns, weights
from funcprop.collectors.record import is_record, values
from funcprop.collectors.rule import Rule, gradient
from funcprop.collectors.together import collect_all
from funcprop.composites.sharing import spell_tree
from funcprop.doors import door
from funcprop.gradient import Objective
from funcprop.layer import Array, Context, Layer, Params, spell, widen

if TYPE_CHECKING:
    import optax

Fisher = Literal["sampled", "empirical", "exact"]


@dataclass(frozen=True)
class WithFactors:
    """(params, batch, context) -> value, grads, factors."""

    collected: Collected
    loss: Layer
    fisher: Fisher
    rule: Rule = kfac

    extra: ClassVar[tuple[str, ...]] = ("factors",)  # by which optax gets the third result

    @property
    def reduction(self) -> str:
        """That of the loss; factors in bases of their own have no mean."""
        own = "" if type(self.rule) is Kfac else f" beside {self.rule.name}"
        return Objective(self.collected, self.loss).reduction + own

    @door
    def __call__(self, params: Params, batch: Any, context: Context = Context()) -> Any:
        loss, objective = self.loss, Objective(self.collected, self.loss, has_aux=True)
        (value, aux), (kept, loss_kept) = objective.forward(params, batch, context)
        (slope, _), _ = loss.backward((), loss_kept, jnp.ones_like(value))

        def backward(cotangent: Array) -> Any:
            return self.collected.backward(params, kept, cotangent)[1]

        if self.fisher == "empirical":
            return value, *self._empirical(backward, loss_kept, slope)
        # two backward passes: under jit, what is not asked of either is not computed
        grads = values(backward(slope), "gradient")
        half = root(loss, loss_kept, aux.prediction, batch[1])
        if self.fisher == "sampled":
            return value, grads, named(backward(half.sample(sampling_key(loss, context))))
        total, columns = sum_over_columns(half, aux.prediction, lambda s: named(backward(s)))

        def once(block: Any) -> Any:  # every column has seen the same inputs
            return Kronecker(block.a / columns, block.g) if isinstance(block, Kronecker) else block

        return value, grads, jax.tree.map(once, total, is_leaf=is_block)

    def _empirical(self, backward: Any, loss_kept: Any, slope: Array) -> tuple[Params, Any]:
        """One pass: it is linear, so that each example's cotangent may be given in the scale of
        the factors, and the sum be taken back to that of the gradient."""
        if getattr(self.loss, "reduction", "sum") == "sum":
            found = backward(slope)
            return values(found, "gradient"), named(found)
        share = jnp.max(weights(self.loss, loss_kept, slope))
        found = backward((widen(slope) / share).astype(slope.dtype))
        grads = jax.tree.map(lambda g: g * share.astype(g.dtype), values(found, "gradient"))
        return grads, named(found)


def named(found: Any) -> Any:
    """Of the records of both rules, the factors alone."""
    return jax.tree.map(lambda record: record.named("factors"), found, is_leaf=is_record)


@door
def with_factors(
    model: Layer, loss: Layer, fisher: Fisher = "sampled", rule: Rule = kfac
) -> WithFactors:
    """`backprop(model, loss)` that returns K-FAC's factors too: (params, batch, context) -> value,
    grads, factors.

    fisher   sampled    the Fisher: targets are drawn from the model's own distribution with
                        `context.key`, and a second backward pass begins there
             empirical  the training targets instead, in the pass of the gradient: cheaper, and
                        something else
             exact      a backward pass for every output of the model
    rule     `kfac`, a Kfac of other options, or `ekfac`

    value    [], a float
    grads    the tree, shapes and dtypes of params
    factors  a Record at every layer, of Kronecker, Diagonal or Eigen, in float32 at least

    The factors approximate the matrix of the loss as it is reduced: A ⊗ G is Σ_b of a summed
    loss, and the mean over the examples of a mean.

    raises  ValueError for another fisher, or "exact" with another rule than a Kfac; LayerError
            where a layer has no factors or mixes the examples, no root of the loss's Hessian is
            known (but for "empirical"), or "sampled" has no key
    source  Martens, Grosse 2015, arXiv:1503.05671; against "empirical": Kunstner et al. 2019,
            arXiv:1905.12558

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> gradient = fp.collectors.with_factors(model, fp.SoftmaxCrossEntropy(), fisher="empirical")
    >>> value, grads, factors = gradient(params, (x, y))
    >>> jax.tree.map(jnp.shape, factors.value)
    Affine(w=Kronecker(a=(3, 3), g=(2, 2)), b=None)
    >>> inverses = fp.collectors.inverses_of(factors, damping=0.1)
    >>> jax.tree.map(jnp.shape, fp.collectors.precondition(grads, inverses))
    Affine(w=(2, 2), b=(2,))
    """
    if fisher not in ("sampled", "empirical", "exact"):
        raise ValueError(f"fisher is {fisher!r}, wanted 'sampled', 'empirical' or 'exact'")
    if fisher == "exact" and type(rule) is not Kfac:
        raise ValueError(f"fisher='exact' adds up the factors of Kfac, and was given {rule!r}")
    return WithFactors(
        collect(model, collect_all(gradient=gradient, factors=rule)), loss, fisher, rule
    )


# --- optax ----------------------------------------------------------------------------------------


class KfacState(NamedTuple):
    """What the preconditioner keeps from step to step."""

    count: Array  # int32
    factors: Any  # running averages
    inverses: Any  # of the damped averages, of the last step at which they were computed


@door
def precondition_by_kfac(
    factors: Any,
    *,
    damping: float | Callable[[Array], Array] = 1e-3,
    decay: float = 0.95,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Gradients times (A + π√λ I)⁻¹ ⊗ (G + √λ/π I)⁻¹, a layer at a time: a transformation of optax.

    factors  of any step, or their shapes: what the state will hold
    damping  λ: the approximation of F + λ I. Or a schedule of optax, the number of steps -> λ: near
             a minimum F is small, and what is added to it may be
    decay    the share of the old value in the running averages of A and G, which begin as plain
             averages
    every    steps from one inversion to the next

    `update(grads, state, params, factors=factors)`: grads keep their tree, shapes and dtypes. Where
    there are no factors the gradient is passed on as it is. To be chained with a learning rate,
    `optax.sgd(0.1)`, and trained by `train_step(with_factors(model, loss), optimizer)`.

    raises  ValueError where damping is not positive or the factors are not those of Kfac; `update`,
            without factors
    source  Martens, Grosse 2015, arXiv:1503.05671, section 6.3

    >>> import jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> layer, x = fp.Dense(2, bias=False), jnp.arange(8.0).reshape(4, 2)
    >>> params, batch = fp.layers.Affine(jnp.eye(2), None), (x, jnp.array([0, 1, 1, 0]))
    >>> gradient = fp.collectors.with_factors(layer, fp.SoftmaxCrossEntropy(), fisher="empirical")
    >>> _, grads, factors = gradient(params, batch)
    >>> optimizer = optax.chain(fp.collectors.precondition_by_kfac(factors), optax.sgd(0.1))
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params, factors=factors)
    >>> updates.w.shape
    (2, 2)
    """
    if not callable(damping) and not damping > 0:
        raise ValueError(f"damping is {damping}, wanted a positive number, or a schedule")
    blocks = jax.tree.leaves(factors, is_leaf=is_block)
    if not all(isinstance(block, (Kronecker, Diagonal)) for block in blocks) or not blocks:
        raise ValueError(
            "precondition_by_kfac wants the factors of Kfac: give what with_factors returns"
        )

    def init(params: Params) -> KfacState:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), factors)
        return KfacState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        updates: Params, state: KfacState, params: Any = None, *, factors: Any = None, **others: Any
    ) -> tuple[Params, KfacState]:
        if factors is None:
            raise ValueError(
                "precondition_by_kfac wants the factors of this step: write "
                "train_step(with_factors(model, loss), optimizer), or "
                "optimizer.update(grads, state, params, factors=factors)"
            )

        if spell_tree(factors) != spell_tree(state.factors):
            raise ValueError(
                f"precondition_by_kfac: factors is {spell(factors)}, wanted those that it was made "
                f"for, {spell(state.factors)}: give what with_factors returns for the same model"
            )

        def average(past: Array, now: Array) -> Array:
            number = state.count.astype(now.dtype)
            share = jnp.minimum(decay, number / (number + 1))
            return share * past + (1 - share) * now

        averages = jax.tree.map(average, state.factors, factors)
        now: Any = damping(state.count) if callable(damping) else damping
        inverses = jax.lax.cond(
            state.count % every == 0,
            lambda: inverses_of(averages, now),
            lambda: state.inverses,
        )
        new = KfacState(state.count + 1, averages, inverses)
        return precondition(updates, inverses), new

    import optax

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]
