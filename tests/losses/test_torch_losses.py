"""PyTorch's own samples of its losses: the same values and gradients here, in float64."""

import collections
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ..torch_modules import losses as table

torch = pytest.importorskip("torch")

# How many samples agree, of PyTorch 2.13: what is refused is printed
AGREE = {
    "BCEWithLogitsLoss": 4,
    "CrossEntropyLoss": 105,
    "HuberLoss": 4,
    "KLDivLoss": 3,
    "L1Loss": 5,
    "LinearCrossEntropyLoss": 232,
    "MSELoss": 8,
    "PoissonNLLLoss": 7,
    "SmoothL1Loss": 8,
    "SoftMarginLoss": 4,
}


def modules():
    try:
        with warnings.catch_warnings(action="ignore"):
            from torch.testing._internal.common_modules import module_db
    except ImportError as error:
        pytest.skip(f"PyTorch's samples: {error}")
    return {
        info.module_cls.__name__: info
        for info in module_db
        if info.module_cls.__name__.endswith("Loss")
    }


def array(value):
    return jnp.asarray(value.detach().numpy()) if isinstance(value, torch.Tensor) else value


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def replaced(tree, floats):
    """The tree with these for its floats, in order."""
    leaves, structure = jax.tree.flatten(tree)
    rest = iter(floats)
    leaves = [next(rest) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in leaves]
    return structure.unflatten(leaves)


def theirs(module, inputs):
    """-> the value, and dC of every float for one dC drawn."""
    parameters = dict(module.named_parameters())
    leaves = [parameters[name] for name in sorted(parameters)] + [
        v.requires_grad_() for v in inputs if v.is_floating_point()
    ]
    try:
        value = module(*inputs)
    except RuntimeError as error:
        if "not differentiable with respect to argument 'target'" not in str(error):
            raise
        inputs[1].requires_grad_(False)
        value = module(*inputs)
    dC = torch.from_numpy(np.asarray(np.random.default_rng(0).normal(size=value.shape)))
    asked = [leaf for leaf in leaves if leaf.requires_grad]
    found = iter(torch.autograd.grad(value, asked, dC, allow_unused=True))
    grads = [next(found) if leaf.requires_grad else None for leaf in leaves]
    grads = [None if g is None else g.numpy() for g in grads]
    return value.detach().numpy(), dC.numpy(), grads


def ours(loss, adapt, params, inputs, dC):
    given = params, inputs

    def converted(*leaves):
        return tuple(floats(adapt(*flat(replaced(given, leaves)))))

    def flat(given):
        return given[0], *given[1]

    weights, x = adapt(*flat(given))
    value, kept = loss.forward(weights, x)
    dx, dparams = loss.backward(weights, kept, jnp.asarray(dC))
    _, back = jax.vjp(converted, *floats(given))
    return value, back(tuple(floats((dparams, dx))))


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.filterwarnings("ignore:linear_cross_entropy")
def test_pytorchs_samples():
    torch.manual_seed(0)  # the samples are drawn
    counts, refused = collections.Counter(), collections.Counter()
    with jax.enable_x64(True), jax.disable_jit():
        for name, info in modules().items():
            samples = info.module_inputs_func(
                info, device="cpu", dtype=torch.float64, requires_grad=True, training=True
            )
            for sample in samples:
                args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
                module = info.module_cls(*args, **kwargs)
                params = {k: array(v) for k, v in module.named_parameters()}
                try:
                    loss, adapt = table.LOSSES[name](args, kwargs)
                    tensors = [v.detach().clone() for v in sample.forward_input.args]
                    inputs = tuple(map(array, tensors))
                    adapt(params, *inputs)
                except table.Unsupported as reason:
                    refused[f"{name}: {reason}"] += 1
                    continue
                value, dC, grads = theirs(module, tensors)
                mine, dmine = ours(loss, adapt, params, inputs, dC)
                what = f"{name}{args}{kwargs} of {[v.shape for v in inputs]}"
                np.testing.assert_allclose(mine, value, rtol=1e-9, atol=1e-9, err_msg=what)
                for here, there in zip(dmine, grads, strict=True):
                    if there is not None:
                        # Stirling's term is left out of counts that are not above 1: PyTorch's
                        # derivative by such a count is NaN where its logarithm is
                        if name == "PoissonNLLLoss" and kwargs.get("full"):
                            assert np.isfinite(here).all(), what
                            there = np.where(np.isnan(there), here, there)
                        np.testing.assert_allclose(here, there, rtol=1e-9, atol=1e-9, err_msg=what)
                counts[name] += 1
    print(dict(counts), sum(counts.values()))
    for reason, number in refused.items():
        print(number, reason)
    assert counts == AGREE
