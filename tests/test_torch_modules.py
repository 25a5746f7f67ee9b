"""PyTorch's own samples of its modules: the same values and gradients here, in float64.

They ship with it (`torch.testing._internal`). What each module is here is said in
tests/torch_modules, a family a file; losses have a test of their own in tests/losses.
"""

import warnings

import pytest

from .torch_modules import activations, normalization, padding, pooling, rearranging
from .torch_modules.adapt import Unsupported
from .torch_modules.against import assert_same

torch = pytest.importorskip("torch")

# Samples of PyTorch 2.13 that say nothing here: the statistics of an empty batch
REFUSED = {f"BatchNorm{axes}d": 1 for axes in (1, 2, 3)}
TABLE: dict = {}
for family in (activations, normalization, padding, pooling, rearranging):
    TABLE |= family.TABLE


def modules():
    try:
        with warnings.catch_warnings(action="ignore"):
            from torch.testing._internal.common_modules import module_db
    except ImportError:
        return {}
    return {info.module_cls.__name__: info for info in module_db}


MODULES = modules()


@pytest.mark.parametrize("title", sorted(set(MODULES) & set(TABLE)))
def test_samples_agree(title):
    info, refused = MODULES[title], []
    samples = info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=True
    )
    for sample in samples:
        given, inputs = sample.constructor_input, sample.forward_input
        torch.manual_seed(0)
        module = info.module_cls(*given.args, **given.kwargs).double()
        try:
            layer, adapt = TABLE[title](given.args, given.kwargs)
            assert_same(layer, adapt, module, (*inputs.args, *inputs.kwargs.values()))
        except Unsupported as reason:
            refused.append(str(reason))
    assert len(refused) == REFUSED.get(title, 0), refused
