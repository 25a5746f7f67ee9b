"""Feedback that is not the transpose of the weights: alignment, mirroring, and shared signs.

Every rule here runs the layer's own backward with another w in the place of its own, so it works
for any layer whose parameters have a field `w`: Dense, Conv and others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from funcprop.composites import Rewired, RewiredParams
from funcprop.layer import Array, LayerError, Params, Residuals, check_choice, spell, widen
from funcprop.rewiring.randomness import key_from
from funcprop.rewiring.rewirings import Rewiring

Magnitude = Literal["uniform", "batch-wise random", "fixed random"]


@dataclass(frozen=True)
class OtherWeights(Rewired):
    """The layer's own dx with other weights; a subclass says which, in `backward_weights`."""

    def backward_weights(self, params: RewiredParams) -> Array:
        """What stands where the layer's own backward reads w."""
        raise NotImplementedError(f"{type(self).__name__} does not define backward_weights")

    def feedback(self, key: Array, params: Params, x: Any) -> Any:
        if getattr(params, "w", None) is None:
            raise LayerError(
                self,
                f"its layer has the parameters {spell(params)}: there is no w to go back by",
                "rewire layers with weights: {Dense: ..., Conv: ...}",
            )
        return ()

    def send(self, params: RewiredParams, residuals: Residuals, dy: Any) -> Any:
        others = params.params._replace(w=self.backward_weights(params))
        return self.layer.backward(others, residuals, dy)[0]


@dataclass(frozen=True)
class FeedbackAligned(OtherWeights):
    """A layer whose errors go back by fixed random weights B (Lillicrap et al., 2016).

    B has the shape and the initializer of w, and another key.

    forward   z = x w + b, the layer's
    keeps     what the layer keeps
    backward  dx = dz Bᵀ    dw, db: the layer's own    dB = 0
    """

    def feedback(self, key: Array, params: Params, x: Any) -> Array:
        super().feedback(key, params, x)
        return self.layer.init(key, x).w

    def backward_weights(self, params: RewiredParams) -> Array:
        return params.feedback


@dataclass(frozen=True)
class KolenPollack(FeedbackAligned):
    """A layer whose feedback weights B learn what w learns (Kolen and Pollack, 1994).

    B gets the gradient of w. Both take the same steps, so w − B changes by weight decay alone: with
    it B becomes w (Akrout et al., 2019), without it their difference stays what it was.

    forward   z = x w + b, the layer's
    keeps     what the layer keeps
    backward  dx = dz Bᵀ    dw, db: the layer's own    dB = dw
    """

    learns: ClassVar[bool] = True

    def dfeedback(self, params: RewiredParams, dparams: Params) -> Array:
        return dparams.w


@dataclass(frozen=True)
class SignSymmetric(OtherWeights):
    """A layer whose errors go back by weights V of the signs of w (Liao, Leibo and Poggio, 2016).

    V = s M ∘ sign(w), with s such that ‖V‖ = ‖w‖, so that errors neither grow nor vanish by it (the
    strict normalization of Moskovitz et al., 2018). `magnitude` is M:

        "uniform"            1 (uSF)
        "batch-wise random"  U(0, 1), another M after every update of w (brSF): backward has no key,
                             so M is drawn from one that is computed from the bits of w
        "fixed random"       U(0, 1), drawn once (frSF)

    forward   z = x w + b, the layer's
    keeps     what the layer keeps
    backward  dx = dz Vᵀ    dw, db: the layer's own    dM = 0
    """

    magnitude: Magnitude = "uniform"

    def __post_init__(self) -> None:
        choices = ("uniform", "batch-wise random", "fixed random")
        check_choice(self, "magnitude", self.magnitude, choices)

    def feedback(self, key: Array, params: Params, x: Any) -> Any:
        super().feedback(key, params, x)
        return uniform(key, params.w) if self.magnitude == "fixed random" else ()

    def backward_weights(self, params: RewiredParams) -> Array:
        w = params.params.w
        v = jnp.sign(w)
        if self.magnitude == "batch-wise random":
            v = v * uniform(key_from(w), w)
        if self.magnitude == "fixed random":
            v = v * params.feedback
        norms = [jnp.linalg.norm(widen(matrix).ravel()) for matrix in (w, v)]
        return v * (norms[0] / jnp.where(norms[1] == 0, 1, norms[1])).astype(w.dtype)


def uniform(key: Array, like: Array) -> Array:
    """U(0, 1) in the shape and dtype of `like`, of the same numbers in every dtype."""
    return jax.random.uniform(key, like.shape, jnp.float32).astype(like.dtype)


def feedback_alignment() -> Rewiring:
    """Errors go back by fixed random weights: dx = dz Bᵀ. For layers with weights w."""
    return FeedbackAligned


def kolen_pollack() -> Rewiring:
    """As `feedback_alignment`, with B updated like w: under weight decay it becomes w."""
    return KolenPollack


def sign_symmetry(magnitude: Magnitude = "uniform") -> Rewiring:
    """Errors go back by the signs of w: dx = dz Vᵀ with V = s M ∘ sign(w). See SignSymmetric."""
    return functools.partial(SignSymmetric, magnitude=magnitude)
