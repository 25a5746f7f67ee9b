"""Gated feed-forward networks (Shazeer, 2020): y = (σ(x w) · (x v)) u."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    features: int
    hidden: int
    bias: bool = False
    w_init: Initializer = GlorotUniform()

    activation: ClassVar[Layer] = Sigmoid()

    def compose(self) -> tuple[Layer, ...]:
        check_count(self, "features", self.features)
        check_count(self, "hidden", self.hidden)
        dense = Dense(self.hidden, self.bias, self.w_init)
        return (
            Branch(Serial(dense, self.activation), dense),
            Multiply(),
            Dense(self.features, self.bias, self.w_init),
        )


@dataclass(frozen=True, repr=False)
class SwiGLU(GLU):
    """GLU with z σ(z) in place of the sigmoid, as in LLaMA."""

    activation: ClassVar[Layer] = SiLU()


@dataclass(frozen=True, repr=False)
class GEGLU(GLU):
    """GLU with z Φ(z) in place of the sigmoid."""

    activation: ClassVar[Layer] = GELU()
