"""EKFAC: the Fisher's diagonal in the eigenbasis of its Kronecker factors (George et al., 2018).

With A = U_A Λ_A U_Aᵀ and G = U_G Λ_G U_Gᵀ, K-FAC says that the gradients g_b of the examples have
the second moments Λ_A ⊗ Λ_G along the axes of U_A ⊗ U_G. What they really are is a sum of squares:

    F ≈ (U_A ⊗ U_G) diag S (U_A ⊗ U_G)ᵀ        S = Σ_b (U_Aᵀ g_b U_G)²

Of all matrices that are diagonal in that basis it is the nearest to F: never further than A ⊗ G.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from funcprop.collectors.blocks import Eigen, with_one
from funcprop.collectors.forms import Outer
from funcprop.collectors.kronecker import Kfac
from funcprop.layer import Array, widen


@dataclass(frozen=True)
class Ekfac(Kfac):
    """`Kfac` with an Eigen for every weight: the basis is that of the batch's own factors.

    The rule `ekfac`.

    sharing, others   as for `Kfac`
    record            of a layer: Eigen(u_a [in, in], u_g [out, out], s [in, out]), in float32 at
                      least; with a bias, in + 1. A table keeps its Kronecker

    The price is an eigendecomposition of every A and G in every pass, and there is no average over
    passes, whose bases differ: `inverses_of` and `precondition` take it, `precondition_by_kfac`
    does not.

    raises   what `Kfac` raises
    source   George et al. 2018, arXiv:1806.03884

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.ekfac)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> record = gradient(params, (x, y))[1]
    >>> jax.tree.map(jnp.shape, record.value)
    Affine(w=Eigen(u_a=(3, 3), u_g=(2, 2), s=(3, 2)), b=None)
    """

    def of_rows(self, a: Array, d: Array, bias: bool) -> Eigen:
        block = super().of_rows(a, d, bias)
        u_a, u_g = jnp.linalg.eigh(block.a)[1], jnp.linalg.eigh(block.g)[1]
        a = with_one(widen(a)) if bias else widen(a)
        return Eigen(u_a, u_g, Outer(a @ u_a, widen(d) @ u_g).squares_summed())


ekfac = Ekfac()
