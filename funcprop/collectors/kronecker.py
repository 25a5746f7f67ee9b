"""K-FAC: the Fisher as Kronecker products, a layer at a time, in the backward pass.

A weight w [in, out] that meets a row a with the cotangent δ has the gradient a δᵀ. Over all rows of
all examples the block of the Fisher that belongs to w is approximated by (Martens, Grosse, 2015)

    F = Σ_b g_b g_bᵀ ≈ A ⊗ G        A = mean a aᵀ        G = Σ δ δᵀ

so that F⁻¹ applied to a gradient is A⁻¹ g G⁻¹. A bias is one more row of w, whose a is 1. Where an
example meets w in N rows (a sequence, an image) there are two ways (Eschenhagen et al., 2023):

    expand   every row counts as an example of its own; of a convolution that is Grosse, Martens
             (2016), with the patches of x for rows
    reduce   an example has one row: a = mean_n a_n, δ = Σ_n δ_n

Which Fisher it is depends on the cotangents that the backward pass is given: see `with_factors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from funcprop.collectors.blocks import Diagonal, of_rows, of_table, of_uses, rows_in
from funcprop.collectors.closed import (
    CLOSED,
    ClosedForm,
    per_example,
    remember_axes,
    rows_of,
    summed,
)
from funcprop.collectors.examples import PerExample
from funcprop.collectors.form import Form, is_form
from funcprop.collectors.forms import Full, Outer, Rows
from funcprop.collectors.generic import Generic
from funcprop.collectors.rule import Remembered
from funcprop.layer import Array, Context, Layer, LayerError, Params, Residuals, spell
from funcprop.layers import (
    Affine,
    Conv,
    GRUWeights,
    Kernel,
    LearnedPositions,
    RecurrentWeights,
    Table,
)
from funcprop.layers.correlation import patches

# which weight a bias is one more row of: the two receive the same cotangents
BIAS_OF = {Affine: "w", Kernel: "w", RecurrentWeights: "w_x", GRUWeights: "w_x"}
ROWS: dict[type, ClosedForm] = {}


@dataclass(frozen=True)
class Kfac(PerExample):
    """Kronecker factors: a tree like the parameters, with a Kronecker at every weight.

    The rule `kfac`.

    sharing  "expand" or "reduce"; a table is always expanded, so that its A is a diagonal
    others   what becomes of a parameter without a Kronecker form: "raise" LayerError, or "skip"
             (None stands in its place, and `precondition_by_kfac` leaves its gradient alone)

    record   of a layer, in float32 at least: A = mean a aᵀ [in, in], G = Σ δ δᵀ [out, out]. A bias
             that belongs to a weight is a row of that weight's A, and None in its own place. A gain
             or bias that stands alone (LayerNorm, Scale, Bias) has a Diagonal. A table that is the
             output projection too has one block for both uses: see `blocks.sum_of`.

    raises   ValueError for another sharing or others; LayerError for a loss that takes a mean (see
             `with_factors`), where a layer mixes the examples, or a parameter has no Kronecker form
    source   Martens, Grosse 2015, arXiv:1503.05671; convolutions: Grosse, Martens 2016,
             arXiv:1602.01407; sharing: Eschenhagen et al. 2023, arXiv:2311.00636

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.kfac)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> record = gradient(params, (x, y))[1]
    >>> jax.tree.map(jnp.shape, record.value)  # the bias is the third row of A
    Affine(w=Kronecker(a=(3, 3), g=(2, 2)), b=None)
    """

    sharing: Literal["expand", "reduce"] = "expand"
    others: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        if self.sharing not in ("expand", "reduce") or self.others not in ("raise", "skip"):
            raise ValueError(f"{self!r}: sharing is 'expand' or 'reduce', others 'raise' or 'skip'")

    def remember(
        self, layer: Layer, params: Params, x: Any, context: Context, y: Any, residuals: Residuals
    ) -> Any:
        if type(layer) in ROWS:
            return ()
        try:
            return remember_axes(layer, params, x, context, y, residuals)
        except LayerError:
            if self.others == "raise":
                raise
            return ()

    def __call__(
        self, layer: Layer, params: Params, residuals: Residuals, dy: Any
    ) -> tuple[Any, Any]:
        dx, use = self.use(layer, params, residuals, dy)
        return dx, self.of_forms(layer, params, use)

    def use(self, layer: Layer, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        apart = isinstance(residuals, Remembered) or type(layer) in CLOSED
        if apart or not jax.tree.leaves(params):
            dx, forms = per_example(layer, params, residuals, dy)
            return dx, forms.parts() if isinstance(forms, Generic) else forms
        try:
            if type(layer) in ROWS:
                return ROWS[type(layer)](layer, params, residuals, dy)
        except LayerError:
            if self.others == "raise":
                raise
        # no rows, or examples that are mixed: skipped
        return layer.backward(params, residuals, dy)[0], jax.tree.map(lambda _: None, params)

    def of_forms(self, layer: Layer, params: Params, forms: Any) -> Any:
        return blocks_of(self, layer, params, forms)

    def of_rows(self, a: Array, d: Array, bias: bool) -> Any:
        """a [B, N, in] and δ [B, N, out] of a weight -> its block."""
        return of_rows(a, d, bias, self.sharing)


def blocks_of(rule: Kfac, layer: Layer, params: Params, forms: Any) -> Any:
    """The blocks of a layer, in a tree like its parameters."""
    weight = BIAS_OF.get(type(forms))
    joined = weight and is_form(forms.b) and rows_in(getattr(forms, weight)) is not None

    def block(path: Any, form: Form) -> Any:
        name = jax.tree_util.keystr(path)
        if joined and name == ".b":
            return None
        return block_of(rule, layer, name, form, bias=bool(joined) and name == f".{weight}")

    return jax.tree.map_with_path(block, forms, is_leaf=is_form)


def block_of(rule: Kfac, layer: Layer, name: str, form: Form, bias: bool) -> Any:
    """The block of one parameter."""
    if isinstance(form, Rows):
        return of_table(form)
    rows = rows_in(form)
    if rows is not None:
        return rule.of_rows(*rows, bias)
    if (block := of_uses(form, rule.sharing)) is not None:
        return block
    if form.ndim < 2:
        return Diagonal(form.squares_summed())
    if rule.others == "skip":
        return None
    raise LayerError(
        layer,
        f"{name or 'its parameter'} {list(form.shape)} has no Kronecker form",
        "write Kfac(others='skip') to leave its gradient as it is, or give it rows: "
        "@kronecker_form",
    )


# --- layers whose rows are of use here, and dearer than their own backward elsewhere --------------


def kronecker_form(*kinds: type[Layer]) -> Any:
    """Registers (layer, params, residuals, dy) -> dx, forms, as `closed_form` does: for K-FAC.

    forms   a tree like the parameters, with an Outer or Rows at every weight and a Full at a bias

    A weight of any rank is a matrix here, [the product of its other axes, out]. A layer that has a
    closed form needs none.

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> class MyDense(fp.Dense): pass
    >>> @fp.collectors.kronecker_form(MyDense)
    ... def of_my_dense(layer, params, x, dz):
    ...     w, b = fp.collectors.Outer(x[:, None], dz[:, None]), fp.collectors.Full(dz)
    ...     return layer.backward(params, x, dz)[0], params._replace(w=w, b=b)
    >>> layer, x = fp.collect(MyDense(2), fp.collectors.kfac), jnp.arange(8.0).reshape(4, 2)
    >>> params = layer.init(jax.random.key(0), x)
    >>> layer.backward(params, layer.forward(params, x)[1], x)[1].value.w.g.shape
    (2, 2)
    """

    def register(function: ClosedForm) -> ClosedForm:
        ROWS.update(dict.fromkeys(kinds, function))
        return function

    return register


@kronecker_form(Conv)
def of_conv(layer: Conv, params: Kernel, x: Array, dz: Array) -> tuple[Array, Kernel]:
    if layer.groups > 1:
        raise LayerError(layer, "has groups, and its weight no Kronecker form")
    if x.ndim < layer.axes + 2:
        raise LayerError(layer, f"was given {spell(x)}: one image, and no batch")
    dx, _ = layer.backward(params, x, dz)
    around, geometry = layer.framed(x)
    seen = patches(layer.flat(around), geometry, layer.kernel_size)
    a, d = seen.reshape(x.shape[0], -1, seen.shape[-1]), rows_of(layer, dz)
    return dx, Kernel(Outer(a, d), None if params.b is None else Full(summed(d)))  # type: ignore


@kronecker_form(LearnedPositions)
def of_positions(
    layer: LearnedPositions, params: Table, residuals: Any, dy: Array
) -> tuple[Array, Table]:
    d = rows_of(layer, dy)
    ids = jnp.arange(d.shape[1]) % dy.shape[-2]
    ids = jnp.broadcast_to(ids, d.shape[:2])
    return dy, Table(Rows(ids, d, layer.length))  # type: ignore[arg-type]


kfac = Kfac()
