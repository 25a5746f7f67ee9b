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
from funcprop.doors import door
from funcprop.layer import (
    Array,
    LayerError,
    Params,
    Residuals,
    check_choice,
    norm_of,
    spell,
    widen,
)
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
    """A layer whose errors go back by fixed random weights B.

    B has the shape, dtype and initializer of w, and another key.

    forward   x [..., in] -> z [..., out]: z = x w + b, the layer's
    keeps     what the layer keeps
    backward  dx = dz Bᵀ    dw, db: the layer's own    dB = 0
    dtypes    those of the layer; B and dB have that of w

    raises  LayerError, from init, where the layer's parameters have no w
    source  Lillicrap et al. 2016, arXiv:1411.0247

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.rewiring.FeedbackAligned(fp.Dense(3))
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> params = layer.init(jax.random.key(0), x)
    >>> z, residuals = layer.forward(params, x)
    >>> dx, _ = layer.backward(params, residuals, jnp.ones_like(z))
    >>> bool(jnp.allclose(dx, jnp.ones_like(z) @ params.feedback.T, rtol=1e-5))
    True
    """

    def feedback(self, key: Array, params: Params, x: Any) -> Array:
        super().feedback(key, params, x)
        return self.layer.init(key, x).w

    def backward_weights(self, params: RewiredParams) -> Array:
        return params.feedback


@dataclass(frozen=True)
class KolenPollack(FeedbackAligned):
    """A layer whose feedback weights B learn what w learns.

    B gets the gradient of w. Both take the same steps, so w − B changes by weight decay alone: with
    it B becomes w, without it their difference stays what it was.

    forward   x [..., in] -> z [..., out]: z = x w + b, the layer's
    keeps     what the layer keeps
    backward  dx = dz Bᵀ    dw, db: the layer's own    dB = dw
    dtypes    those of the layer; B and dB have that of w

    raises  LayerError, from init, where the layer's parameters have no w
    source  Kolen, Pollack 1994; in deep networks: Akrout et al. 2019, arXiv:1904.05391

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.rewiring.KolenPollack(fp.Dense(3))
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> params = layer.init(jax.random.key(0), x)
    >>> z, residuals = layer.forward(params, x)
    >>> _, dparams = layer.backward(params, residuals, jnp.ones_like(z))
    >>> bool((dparams.feedback == dparams.params.w).all())
    True
    """

    learns: ClassVar[bool] = True

    def dfeedback(self, params: RewiredParams, dparams: Params) -> Array:
        return dparams.w


@dataclass(frozen=True)
class SignSymmetric(OtherWeights):
    """A layer whose errors go back by weights V of the signs of w.

    V = s M ∘ sign(w), with s such that ‖V‖ = ‖w‖, so that errors neither grow nor vanish by it (the
    strict normalization of Moskovitz et al., 2018). `magnitude` is M:

        "uniform"            1 (uSF)
        "batch-wise random"  U(0, 1), another M after every update of w (brSF): backward has no key,
                             so M is drawn from one that is computed from the bits of w
        "fixed random"       U(0, 1), drawn once (frSF)

    forward   x [..., in] -> z [..., out]: z = x w + b, the layer's
    keeps     what the layer keeps
    backward  dx = dz Vᵀ    dw, db: the layer's own    dM = 0
    dtypes    those of the layer; V and M have that of w, and norms are taken in float32 at least

    raises  LayerError for another magnitude, and, from init, where the layer's parameters have no w
    source  Liao, Leibo, Poggio 2016, arXiv:1510.05067; s: Moskovitz et al. 2018, arXiv:1812.06488

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.rewiring.SignSymmetric(fp.Dense(1, bias=False))
    >>> own = fp.layers.Affine(jnp.array([[3.0], [-4.0]]), None)
    >>> params = fp.composites.RewiredParams(own, feedback=())
    >>> z, residuals = layer.forward(params, jnp.ones((1, 2)))
    >>> dx, _ = layer.backward(params, residuals, jnp.ones_like(z))
    >>> [round(number, 2) for number in dx[0].tolist()]  # of one size, and ‖V‖ = ‖w‖ = 5
    [3.54, -3.54]
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
        norms = norm_of(w), norm_of(v)
        return (widen(v) * (norms[0] / jnp.where(norms[1] == 0, 1, norms[1]))).astype(w.dtype)


def uniform(key: Array, like: Array) -> Array:
    """U(0, 1) in the shape and dtype of `like`, of the same numbers in every dtype."""
    return jax.random.uniform(key, like.shape, jnp.float32).astype(like.dtype)


def feedback_alignment() -> Rewiring:
    """Errors go back by fixed random weights: dx = dz Bᵀ. For layers with weights w.

    Returns a rewiring: a function from a layer to a FeedbackAligned around it.

    source  Lillicrap et al. 2016, arXiv:1411.0247

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> rewired = fp.rewire(model, {fp.Dense: fp.rewiring.feedback_alignment()})
    >>> params = rewired.init(jax.random.key(0), x)
    >>> params[2].params.w.shape, params[2].feedback.shape  # w and B
    ((3, 2), (3, 2))
    """
    return FeedbackAligned


def kolen_pollack() -> Rewiring:
    """As `feedback_alignment`, with B updated like w: under weight decay it becomes w.

    Returns a rewiring: a function from a layer to a KolenPollack around it.

    source  Kolen, Pollack 1994; in deep networks: Akrout et al. 2019, arXiv:1904.05391

    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> fp.rewire(model, {fp.Dense: fp.rewiring.kolen_pollack()})
    Serial(KolenPollack(Dense(3)), Tanh(), KolenPollack(Dense(2)))
    """
    return KolenPollack


@door
def sign_symmetry(magnitude: Magnitude = "uniform") -> Rewiring:
    """Errors go back by the signs of w: dx = dz Vᵀ with V = s M ∘ sign(w). See SignSymmetric.

    magnitude   "uniform", "batch-wise random" or "fixed random"

    Returns a rewiring: a function from a layer to a SignSymmetric around it.

    raises  LayerError, from `rewire`, for another magnitude
    source  Liao, Leibo, Poggio 2016, arXiv:1510.05067

    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh())
    >>> fp.rewire(model, {fp.Dense: fp.rewiring.sign_symmetry("fixed random")})
    Serial(SignSymmetric(Dense(3), magnitude='fixed random'), Tanh())
    """
    return functools.partial(SignSymmetric, magnitude=magnitude)
