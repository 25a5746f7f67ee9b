"""Options of pools, unpooling and the padding of convolutions, in float64: PyTorch agrees."""

import numpy as np
import pytest

from ..torch_modules.against import assert_same
from ..torch_modules.padding import TABLE as PADDING
from ..torch_modules.pooling import TABLE as POOLING

torch = pytest.importorskip("torch")
TABLE = POOLING | PADDING

# a class of torch.nn, its arguments, the shape of its input
CASES = [
    ("MaxPool2d", (3, 2), {"ceil_mode": True}, (2, 3, 6, 8)),
    ("MaxPool2d", ((2, 3), (3, 1), (1, 1), (2, 2)), {"ceil_mode": True}, (2, 3, 6, 7)),
    ("MaxPool2d", ((2, 3), 2, 1), {"return_indices": True, "dilation": (1, 2)}, (2, 3, 6, 7)),
    ("MaxPool1d", (3, 4, 1), {"ceil_mode": True, "return_indices": True}, (2, 3, 9)),
    ("AvgPool1d", (3, 2, 1, True), {}, (2, 3, 8)),
    ("AvgPool2d", ((3, 2), 2, 1, True), {}, (2, 3, 6, 7)),
    ("AvgPool2d", ((3, 2), 2, 1, True, False), {}, (2, 3, 6, 7)),
    ("AvgPool3d", (2, 3, 1, True, True, 5), {}, (2, 3, 4, 5, 6)),
    ("LPPool1d", (3, 3, 2, True), {}, (2, 3, 8)),
    ("LPPool2d", (2.5, (3, 2), 2, True), {}, (2, 3, 6, 7)),
    ("LPPool3d", (2, 2, 3, True), {}, (2, 3, 4, 5, 6)),
    ("AdaptiveAvgPool2d", ((7, 2),), {}, (2, 3, 5, 6)),
    ("AdaptiveMaxPool2d", ((7, 4),), {"return_indices": True}, (2, 3, 5, 6)),
    ("Conv1d", (4, 6, 3), {"padding": 2, "padding_mode": "circular", "groups": 2}, (2, 4, 7)),
    *(
        (
            "Conv2d",
            (3, 4, (3, 2)),
            {"padding": (2, 1), "stride": (1, 2), "padding_mode": mode},
            (2, 3, 5, 6),
        )
        for mode in ("reflect", "replicate", "circular")
    ),
    ("Conv2d", (3, 4, 3), {"padding": "same", "padding_mode": "reflect"}, (2, 3, 5, 6)),
    ("ConvTranspose2d", (4, 6, 3, 2, 1, 1, 2), {"dilation": 2}, (2, 4, 3, 4)),
    ("CircularPad2d", ((1, 2, 0, 3),), {}, (2, 3, 4, 5)),
]


@pytest.mark.parametrize(("title", "args", "options", "shape"), CASES, ids=str)
def test_options_agree(title, args, options, shape):
    torch.manual_seed(0)
    layer, adapt = TABLE[title](args, options)
    module = getattr(torch.nn, title)(*args, **options).double()
    x = np.random.default_rng(1).normal(size=shape)
    x = np.abs(x) + 0.1 if title.startswith("LP") else x
    assert_same(layer, adapt, module, [torch.tensor(x)])


def test_a_norm_of_nothing_has_gradient_zero_there_too():
    layer, adapt = TABLE["LPPool1d"]((2, 2), {})
    x = torch.tensor([[[0.0, 0.0, 3.0, 4.0]]], dtype=torch.float64)
    assert_same(layer, adapt, torch.nn.LPPool1d(2, 2), [x])


@pytest.mark.parametrize(("options", "size"), [((2, 2), 6), ((3, 2, 1), 7)], ids=str)
def test_unpooling_agrees(options, size):
    x = torch.tensor(np.random.default_rng(2).normal(size=(2, 3, size, size)))
    values, places = torch.nn.MaxPool2d(*options, return_indices=True)(x)
    layer, adapt = TABLE["MaxUnpool2d"](options, {})
    module = torch.nn.MaxUnpool2d(*options)
    if options == (2, 2):
        assert_same(layer, adapt, module, [values, places])
        return
    # of windows that share a place PyTorch's gradient goes to all of them: values alone
    y, _ = layer.forward((), adapt.x((values.numpy(), places.numpy())))
    np.testing.assert_allclose(y, adapt.y(module(values, places).numpy()), rtol=1e-6)
