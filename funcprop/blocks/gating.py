"""Gated feed-forward networks (Shazeer, 2020): y = (σ(x w) · (x v)) u."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from funcprop.blocks.block import Block
from funcprop.composites import Branch, Serial
from funcprop.initializers import GlorotUniform, Initializer
from funcprop.layer import Layer, check_count
from funcprop.layers.activations import GELU, Sigmoid, SiLU
from funcprop.layers.dense import Dense
from funcprop.layers.gate import Multiply


@dataclass(frozen=True, repr=False)
class GLU(Block):
    """y = (σ(x w) · (x v)) u with the sigmoid: one Dense gates another, a third leads back.

    features  size of the output
    hidden    size in between
    bias      of the three Dense layers

    forward   x [..., D] -> y [..., features]
    keeps     what the layers keep
    backward  theirs
    dtypes    any float, one for x and the parameters; y and all gradients have it
    raises    LayerError where features or hidden is no positive whole number; the layers' own
              errors, with their place in the model
    source    Dauphin, Fan, Auli and Grangier, 2016, arXiv:1612.08083; Shazeer, 2020,
              arXiv:2002.05202

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.GLU(16, hidden=40), jnp.zeros((8, 16))
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> jax.eval_shape(model.forward, params, x)[0].shape
    (8, 16)
    """

    features: int
    hidden: int
    _: KW_ONLY
    bias: bool = False
    w_init: Initializer = GlorotUniform()

    activation: ClassVar[Layer] = Sigmoid()

    def compose(self) -> tuple[Layer, ...]:
        check_count(self, "features", self.features)
        check_count(self, "hidden", self.hidden)
        dense = Dense(self.hidden, bias=self.bias, w_init=self.w_init)
        return (
            Branch(Serial(dense, self.activation), dense),
            Multiply(),
            Dense(self.features, bias=self.bias, w_init=self.w_init),
        )


@dataclass(frozen=True, repr=False)
class SwiGLU(GLU):
    """y = ((x w · σ(x w)) · (x v)) u: GLU with z σ(z) in place of the sigmoid, as in LLaMA.

    forward   x [..., D] -> y [..., features]
    keeps     what the layers keep
    backward  theirs
    dtypes    any float, one for x and the parameters; y and all gradients have it
    raises    LayerError where features or hidden is no positive whole number; the layers' own
              errors, with their place in the model
    source    Shazeer, 2020, arXiv:2002.05202

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.SwiGLU(16, hidden=40), jnp.zeros((8, 10, 16))
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> jax.eval_shape(model.forward, params, x)[0].shape
    (8, 10, 16)
    """

    activation: ClassVar[Layer] = SiLU()


@dataclass(frozen=True, repr=False)
class GEGLU(GLU):
    """y = ((x w · Φ(x w)) · (x v)) u: GLU with z Φ(z) in place of the sigmoid.

    forward   x [..., D] -> y [..., features]
    keeps     what the layers keep
    backward  theirs
    dtypes    any float, one for x and the parameters; y and all gradients have it
    raises    LayerError where features or hidden is no positive whole number; the layers' own
              errors, with their place in the model
    source    Shazeer, 2020, arXiv:2002.05202

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.GEGLU(16, hidden=40), jnp.zeros((8, 10, 16))
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> jax.eval_shape(model.forward, params, x)[0].shape
    (8, 10, 16)
    """

    activation: ClassVar[Layer] = GELU()
