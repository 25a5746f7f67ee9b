"""One module of PyTorch and its translation at one input: values and all gradients."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcprop as fp

from .adapt import Adapt


def assert_same(
    layer: fp.Layer, adapt: Adapt, module: Any, inputs: Sequence[Any], limit: float = 1e-9
) -> None:
    """In float64, under a random cotangent. `inputs` are tensors; those of floats are derived."""
    import torch  # pyright: ignore[reportMissingImports]

    given = [t.detach().requires_grad_(t.is_floating_point()) for t in inputs]
    several = module(*given)
    several = several if isinstance(several, tuple) else (several,)
    random = np.random.default_rng(0)
    dys = [
        torch.tensor(random.normal(size=tuple(out.shape))) if out.is_floating_point() else None
        for out in several
    ]
    torch.autograd.backward(
        [out for out, dy in zip(several, dys, strict=True) if dy is not None],
        [dy for dy in dys if dy is not None],
    )

    def arrays(tensors: Sequence[Any]) -> Any:
        found: tuple[Any, ...] = tuple(None if t is None else t.detach().numpy() for t in tensors)
        return found if len(found) > 1 else found[0]

    named = dict(module.named_parameters())
    weights = {name: weight.detach().numpy() for name, weight in named.items()}
    slopes = {name: weight.grad.numpy() for name, weight in named.items()}
    wanted = {
        "y": adapt.y(arrays(several)),
        "dparams": adapt.params(slopes),
        "dx": (adapt.dx or adapt.x)(tuple(t.grad.numpy() for t in given if t.grad is not None)),
    }
    x = adapt.x(tuple(t.detach().numpy() for t in given))
    dy = adapt.y(arrays([out if d is None else d for out, d in zip(several, dys, strict=True)]))
    dy = jax.tree.map(lambda d: d if np.issubdtype(d.dtype, np.floating) else None, dy)

    @jax.jit
    def run(params: Any, x: Any, dy: Any) -> dict[str, Any]:
        y, residuals = layer.forward(params, x)
        dx, dparams = layer.backward(params, residuals, dy)
        return {"y": y, "dparams": dparams, "dx": dx}

    with jax.enable_x64(True):
        params = adapt.params(weights)
        found = run(*jax.tree.map(jnp.asarray, (params, x, dy)))
    for name, right in wanted.items():
        pairs = zip(jax.tree.leaves(found[name]), jax.tree.leaves(right), strict=True)
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs, rtol=limit, atol=limit, err_msg=name)
