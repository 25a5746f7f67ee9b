"""`compare`: a hand-written gradient against automatic differentiation, leaf by leaf."""

from __future__ import annotations

from typing import Any

from funcprop.comparison.report.comparison import Comparison
from funcprop.comparison.subject.door import of_one_call, subject_of
from funcprop.comparison.trial import compare_subject
from funcprop.comparison.verdict.rules import FLOOR
from funcprop.layer import Array, Context


def compare(
    target: Any,
    *args: Any,
    context: Context | None = None,
    probes: int = 5,
    key: Array | None = None,
    against: Any = None,
    floor: float = FLOOR,
    inputs: Any = None,
    changed: bool | None = None,
    order: int = 1,
    surrogate: Any = None,
    rtol: float = 0.0,
    ignore: Any = (),
    **kwargs: Any,
) -> Comparison:
    """A hand-written gradient against three witnesses, leaf by leaf.

    target, args
      layer, params, x             a Layer, a loss or a model: its backward against `jax.vjp` of its
                                   forward. The parameters are moved a little: fresh zeros and ones
                                   would hide mistakes. A backward that is no derivative of it on
                                   purpose is compared with that of the layer `against`, which
                                   takes the same: Binarize() with against=HardTanh()
      function, *args              a `jax.custom_vjp` function, or any other that has derivative
                                   rules in it: what `jax.vjp` makes of it, against what it makes
                                   with the rules taken out, or of the function `against`
      (forward, backward), *args   the two functions of such a rule, before they are one:
                                   forward(*args) -> y, residuals; backward(residuals, dy) -> a
                                   cotangent for each argument
      gradient, params, batch      what `backprop` makes, against `jax.value_and_grad` of its
                                   objective; any other (params, batch, context) -> value, grads
                                   against the one given as `against`
    context  key and mask of a layer or a gradient function, which may also follow x or the batch;
             layers that draw random numbers get the same key on every side
    probes   random cotangents, N(0, 1). In float64 one-hot, uneven and scaled ones are added, and
             inputs that are scaled, zero and tied
    key      draws the probes; jax.random.key(0) by default
    inputs   where arguments of a function are drawn: a function of a key that returns a tuple of
             them, or a list of such tuples, all of the same shapes; instead of args or beside them
    changed  whether the input may be changed too: scaled, zeroed, rounded, jittered. False keeps
             to what was given, for arguments that must stay positive, sorted or definite; so it is
             where `inputs` says what there is
    kwargs   further arguments of a function by name
    floor    errors below this many eps of a leaf's largest gradient count as rounding
    order    2: where the gradients are right, also the second derivatives in every mode (rows
             d²x, d²w), forward mode, and what `vmap`, `checkpoint`, `scan`, `shard_map` and
             differentiating by some arguments only make of the rule
    surrogate  the function or layer whose derivative backward is on purpose, where that of the
             target is another: a straight-through estimate. Values are not compared
    rtol     an error of this relative norm is granted everywhere, for gradients of loops that stop
             at a tolerance. It stands in the report
    ignore   names of arguments or leaves whose gradient is not judged: an argument of a function by
             its name, or a row by its own, "dx[1]" or "dw"; a note tells which

    In float64 every leaf must agree with `jax.vjp` to a relative norm of 1e-10, and with finite
    differences and `jax.jvp` along random directions; where `jax.vjp` cannot differentiate the
    forward, finite differences are the truth. In the working dtype the error against that truth
    may be twice the one automatic differentiation makes there itself. Trees, shapes, dtypes and
    purity must be those that the contract asks for. Inside composites every layer is checked at
    the values of the actual pass, so that the report names the deepest wrong one.

    raises  TypeError for targets, keys and contexts that it cannot compare, ValueError for probes,
            a floor, an order or an rtol out of range and names that `ignore` does not know, and
            whatever `forward` raises. A wrong gradient raises
            nothing: see `Comparison.ok` and `assert_gradients`

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> class Half(fp.Tanh):
    ...     def backward(self, params, a, da):
    ...         return 0.5 * da * (1 - a * a), ()
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> found = fp.compare(Half(), (), x)
    >>> found.ok, found.headline
    (False, 'Half(): wrong gradient in Half: dx (a factor of 1/2)')
    """
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise ValueError(f"probes is {probes!r}, wanted a whole number of at least 1")
    if isinstance(floor, bool) or not isinstance(floor, (int, float)) or not 0 <= floor < 1e6:
        raise ValueError(f"floor is {floor!r}, wanted a number of eps, 8 unless given")
    if isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"order is {order!r}, wanted 1, or 2 for second derivatives as well")
    subject = subject_of(
        target, args, context, key, against, kwargs, inputs, changed, surrogate, rtol, ignore
    )
    with of_one_call(subject.words):
        return compare_subject(subject, probes, floor, order=order)
