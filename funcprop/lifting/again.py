"""What a loop computes again on the way back, where JAX would keep it for every step.

A loop of which the uses are asked keeps their δ beside what JAX keeps. A cell of an LSTM is two
products and a dozen elementwise functions, each of which has its own value or slope kept: with
the sums of the products alone all of them can be had again, for a few percent of their time.
"""

from __future__ import annotations

from funcprop.lifting.uses import Plan

ASKED = "funcprop: its cotangent is asked"  # the name of values that are kept
# Elementwise, or places alone.
CHEAP = {
    "add", "sub", "mul", "div", "neg", "max", "min", "abs", "sign", "square", "integer_pow", "sqrt",
    "rsqrt", "exp", "log", "log1p", "expm1", "logistic", "tanh", "sin", "cos", "erf", "select_n",
    "gt", "lt", "ge", "le", "eq", "ne", "split", "slice", "concatenate", "reshape", "squeeze",
    "transpose", "broadcast_in_dim", "convert_element_type", "copy",
}  # fmt: skip


def is_cheap(plan: Plan) -> bool:
    """Whether what stands in a loop, beside the uses that have a form, is cheap."""
    uses = {n for n, site in plan.sites.items() if site.uses and site.inner is None}
    return bool(uses) and all(
        number in uses or eqn.primitive.name in CHEAP for number, eqn in enumerate(plan.jaxpr.eqns)
    )
