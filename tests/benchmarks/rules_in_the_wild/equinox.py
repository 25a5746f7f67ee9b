"""Derivative rules of Equinox."""

from __future__ import annotations

import equinox as eqx
import equinox.internal as eqxi
import jax.numpy as jnp
import numpy as np
from equinox.internal._noinline import noinline

from rules_in_the_wild.call import Call

X = np.array([0.7, -0.4, 1.8], np.float32)


def checkpointed(x):
    def body(carry):
        step, y = carry
        return step + 1, jnp.sin(y) * y + 0.1

    return eqxi.while_loop(lambda carry: carry[0] < 5, body, (0, x), max_steps=8,
                           kind="checkpointed", checkpoints=3)[1]  # fmt: skip


def scanned(x):
    return eqxi.scan(lambda c, a: (jnp.sin(c) * a, c * a), jnp.ones((), x.dtype), x,
                     kind="checkpointed", checkpoints=2)  # fmt: skip


CALLS = [
    Call(
        "equinox.internal._nextafter.nextafter",
        lambda x: eqxi.nextafter(x) ** 2,
        (X,),
        kind="convention",
        why="the next number is a step of the dtype away: its slope is 1, and "
        "JAX has no derivative of nextafter itself",
    ),
    Call(
        "equinox.internal._nextafter.prevbefore",
        lambda x: eqxi.prevbefore(x) ** 2,
        (X,),
        kind="convention",
        why="as nextafter",
    ),
    Call(
        "equinox.internal._loop.checkpointed._checkpointed_while_loop",
        checkpointed,
        (X,),
        changed=False,
        seen_as="fn_wrapped",
    ),
    Call(
        "equinox.internal._loop.checkpointed._checkpointed_while_loop",
        scanned,
        (X,),
        changed=False,
        seen_as="fn_wrapped",
        note="through scan",
    ),
    Call(
        "equinox.internal._noinline.noinline_p",
        noinline(lambda y: jnp.sin(y) * y),
        (X,),
        changed=False,
    ),
    Call(
        "equinox.debug._backward_nan._backward_nan",
        lambda x: eqx.debug.backward_nan(x, terminate=False) ** 2,
        (X,),
        seen_as="fn_wrapped",
    ),
    Call(
        "equinox._errors._error",
        lambda x: eqx.error_if(x, x.sum() > 1e9, "too large") ** 2,
        (X,),
        changed=False,
        seen_as="fn_wrapper",
    ),
]
