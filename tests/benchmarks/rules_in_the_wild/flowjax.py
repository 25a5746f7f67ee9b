"""Derivative rules of FlowJAX."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optimistix as optx
from flowjax import bijections

from rules_in_the_wild.call import Call

Y = np.array([0.7, -0.4, 1.8], np.float32)
SCALE = np.array([0.5, 1.2, 0.3], np.float32)


class Sinh(bijections.AbstractBijection):
    """y = x + scale sinh x, which has no inverse in closed form."""

    scale: jnp.ndarray
    shape: tuple = (3,)
    cond_shape: None = None

    def transform_and_log_det(self, x, condition=None):
        return x + self.scale * jnp.sinh(x), jnp.log1p(self.scale * jnp.cosh(x)).sum()

    def inverse_and_log_det(self, y, condition=None):
        raise NotImplementedError


def invert(bijection, y, condition=None):
    solver = optx.Newton(rtol=1e-12, atol=1e-12)
    return optx.root_find(lambda x, _: bijection.transform(x) - y, solver, y, max_steps=99).value


def inverse(y, scale):
    return bijections.NumericalInverse(Sinh(scale), invert).inverse(y)


CALLS = [
    Call(
        "flowjax.bijections.utils.NumericalInverse._wrap_inverter_with_implicit_jvp"
        ".wrapped_inverter",
        inverse,
        (Y, SCALE),
        seen_as="fn_wrapper",
        changed=False,
    ),
]
