"""What PyTorch's losses are here: class name -> function(args, kwargs) -> (loss, adapt).

`adapt(params, *inputs)` turns PyTorch's parameters, by name, and its inputs into ours, (params, x);
it is linear in the floats, so that its transpose brings gradients back. Elements become examples of
one feature: then the reductions are the same, "mean" over all elements among them.
"""

import jax.numpy as jnp
import numpy as np

import funcprop as fp
from funcprop.losses.linear_cross_entropy import Projection

from .adapt import Unsupported


def only(kwargs, *known):
    """The options of ours; a warning of theirs where others are given."""
    for name, value in kwargs.items():
        if name not in known and value is not None:
            raise Unsupported(f"{name}: {MISSING.get(name, 'no such option here')}")
    return {name: kwargs[name] for name in known if kwargs.get(name) is not None}


MISSING = {
    "weight": "multiply the values of reduction='none' by the weights, and reduce them",
    "options": "chunk=... says how many rows at a time",
}


def elements(params, *inputs):
    """Every element an example of one feature."""
    return (), tuple(value[..., None] for value in inputs)


def elementwise(make, *known):
    return lambda args, kwargs: (make(**only(kwargs, "reduction", *known)), elements)


def smooth_l1(args, kwargs):
    if kwargs.get("beta", 1.0) != 1:
        raise Unsupported("beta: SmoothL1Loss(beta=b) is Huber(b) over b")
    return fp.Huber(1.0, **only(kwargs, "reduction")), elements


def divergence(args, kwargs):
    rows = kwargs.get("reduction") == "batchmean"
    kwargs = {**kwargs, "reduction": "mean"} if rows else kwargs

    def adapt(params, log_p, y):
        if not kwargs.get("log_target") and not bool((y >= 0).all()):
            raise Unsupported("NaN or negative probabilities in the sample are an error here")
        if rows and y.ndim:
            return (), (log_p, y)
        return elements(params, log_p, y)

    return fp.KLDivergence(**only(kwargs, "reduction", "log_target")), adapt


def poisson(args, kwargs):
    options = only(kwargs, "reduction", "log_input", "full", "eps")
    if "eps" in options:
        options["epsilon"] = options.pop("eps")
    return fp.PoissonNLL(**options), elements


def classes_last(params, z, target):
    """Classes lie on axis 1, or on 0 where there is no batch."""
    axis = min(1, z.ndim - 1)
    if target.ndim == z.ndim:
        target = jnp.moveaxis(target, axis, -1)
    return (), (jnp.moveaxis(z, axis, -1), target)


def class_options(kwargs, *more):
    kwargs = {"ignore_index": -100, **kwargs}
    if kwargs["ignore_index"] is None:
        kwargs["ignore_index"] = -100
    return only(kwargs, "reduction", "ignore_index", "label_smoothing", *more)


def weighted(kwargs):
    """The weights as the tuple that a configuration holds."""
    if kwargs.get("weight") is None:
        return kwargs
    return {**kwargs, "weight": tuple(np.asarray(kwargs["weight"].tolist()).tolist())}


def check_some_count(loss, target):
    """Theirs is NaN where every class is ignored; ours an error."""
    classes = jnp.issubdtype(target.dtype, jnp.integer)
    if loss.reduction == "mean" and classes and bool((target == loss.ignore_index).all()):
        raise Unsupported("every example of the sample is ignored, whose mean is an error here")


def cross_entropy(args, kwargs):
    loss = fp.SoftmaxCrossEntropy(**class_options(weighted(kwargs), "weight"))

    def adapt(params, z, target):
        check_some_count(loss, target)
        return classes_last(params, z, target)

    return loss, adapt


def linear_cross_entropy(args, kwargs):
    kwargs = dict(kwargs)
    if kwargs.pop("out_features", None):
        raise Unsupported("out_features: write Dense and SoftmaxCrossEntropy, one w a position")
    for name in ("device", "dtype", "options"):  # chunks change no result
        kwargs.pop(name, None)
    bias = kwargs.pop("bias", False)
    options = class_options(kwargs)
    loss = fp.LinearCrossEntropy(args[1], bias=bias, chunk=4, one_pass=False, **options)

    def adapt(params, h, target):
        if jnp.issubdtype(target.dtype, jnp.floating):
            raise Unsupported("probabilities: write Dense and SoftmaxCrossEntropy")
        check_some_count(loss, target)
        weight, b = params["linear.weight"], params.get("linear.bias")
        return Projection(weight.T, b), (h, target)

    return loss, adapt


def unsupported(reason):
    def refuse(args, kwargs):
        raise Unsupported(reason)

    return refuse


LOSSES = {
    "BCELoss": unsupported("probabilities: give logits to BinaryCrossEntropy"),
    "BCEWithLogitsLoss": elementwise(fp.BinaryCrossEntropy),
    "CTCLoss": unsupported("log-probabilities, lengths: CTC takes logits and a mask"),
    "CosineEmbeddingLoss": unsupported("signs: CosineDistance is that of y = 1"),
    "CrossEntropyLoss": cross_entropy,
    "GaussianNLLLoss": unsupported("no Gaussian likelihood here"),
    "HingeEmbeddingLoss": unsupported("no such loss here"),
    "HuberLoss": elementwise(fp.Huber, "delta"),
    "KLDivLoss": divergence,
    "L1Loss": elementwise(fp.MeanAbsoluteError),
    "LinearCrossEntropyLoss": linear_cross_entropy,
    "MSELoss": elementwise(fp.MeanSquaredError),
    "MarginRankingLoss": unsupported("no such loss here"),
    "MultiLabelMarginLoss": unsupported("no such loss here"),
    "MultiLabelSoftMarginLoss": unsupported("BinaryCrossEntropy, divided by the features"),
    "MultiMarginLoss": unsupported("Hinge is the sum over classes, without p and weight"),
    "NLLLoss": unsupported("log-probabilities: give logits to SoftmaxCrossEntropy"),
    "PoissonNLLLoss": poisson,
    "SmoothL1Loss": smooth_l1,
    "SoftMarginLoss": elementwise(fp.SoftMargin),
}
