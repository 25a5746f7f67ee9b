"""What constructors take: the first arguments by position, the rest by name, and nothing wrong."""

import copy
import inspect
import pickle
import re
from dataclasses import dataclass

import numpy as np
import pytest

import funcprop as fp
from funcprop.arguments import parameters_of

DENSE = fp.Dense(3)

# The smallest right call of every public layer that needs arguments.
RIGHT = {
    "AdaptiveAvgPool": ((2, 2),),
    "AdaptiveMaxPool": ((2, 2),),
    "AvgPool": ((2, 2),),
    "Bidirectional": (fp.LSTM(3),),
    "Bilinear": (3,),
    "Branch": (DENSE, DENSE),
    "Cast": (DENSE,),
    "ChannelShuffle": (2,),
    "Conv": (4, (3, 3)),
    "ConvLocal": (4, (3, 3)),
    "ConvTranspose": (4, (3, 3)),
    "CrossAttention": (8, 2),
    "Dense": (3,),
    "DenseGeneral": ((3, 2),),
    "Dropout": (0.5,),
    "Einsum": ("...i,ij->...j", (3, 4)),
    "Elementwise": (abs, abs),
    "Embedding": (5, 3),
    "FixedPoint": (DENSE, 3),
    "Fold": ((4, 5), (2, 2)),
    "FractionalMaxPool": ((2, 2), (3, 3)),
    "GEGLU": (3, 4),
    "GLU": (3, 4),
    "GRU": (3,),
    "GaussianNoise": (0.1,),
    "GroupNorm": (2,),
    "LPPool": ((2, 2), 2.0),
    "LSTM": (3,),
    "Lambda": (fp.Elementwise(abs, abs),),
    "LearnedPositions": (5,),
    "LinearCrossEntropy": (7,),
    "LoRA": (3, 2),
    "MaxPool": ((2, 2),),
    "MaxUnpool": ((2, 2),),
    "OverTime": (DENSE,),
    "Pad": (((1, 1),),),
    "Quantize": (4,),
    "RNN": (3,),
    "Remat": (DENSE,),
    "Repeat": (DENSE, 2),
    "Reshape": ((3, 2),),
    "Reversible": (DENSE, DENSE),
    "ReversibleRepeat": (DENSE, DENSE, 2),
    "SelfAttention": (8, 2),
    "Skip": (DENSE,),
    "SpatialDropout": (0.5,),
    "Split": ((1, 2),),
    "StochasticDepth": (DENSE, 0.5),
    "SwiGLU": (3, 4),
    "Threshold": (0.1, 0.0),
    "Tied": (fp.Serial(DENSE, DENSE), (("[0].w", "[1].w"),)),
    "Unfold": ((2, 2),),
    "WeightStandardized": (DENSE,),
}
LAYERS = {
    title: kind
    for title in fp.__all__
    if inspect.isclass(kind := getattr(fp, title))
    and issubclass(kind, fp.Layer)
    and kind is not fp.Layer
}
CALLS = {title: kind(*RIGHT.get(title, ())) for title, kind in LAYERS.items()}


def call(title):
    """The id of a test: a title alone would be a row of the catalogue."""
    return f"{title}()"


# What PyTorch's layer of the same purpose takes by position, and words of the answer; None where
# the same call means the same here.
PYTORCH = [
    ("Dense", (784, 30), "read from x: write Dense(30)"),
    ("Dense", (784, 30, False), "read from x: write Dense(30)"),
    ("Dense", (30, False), "write Dense(30, bias=False)"),
    ("Conv", (3, 16, 5), "read from x: write Conv(16, (5, 5))"),
    ("Conv", (3, 16, (5, 3)), "read from x: write Conv(16, (5, 3))"),
    ("Conv", (3, 16), "kernel_size=(3, 3) for images"),
    ("Conv", (3, 16, 3, 1, 1), "read from x: write Conv(16, (3, 3))"),
    ("ConvTranspose", (3, 16, 2, 2), "read from x: write ConvTranspose(16, (2, 2))"),
    ("LSTM", (10, 20), "read from x: write LSTM(20)"),
    ("LSTM", (10, 20, 2), "read from x: write LSTM(20)"),
    ("GRU", (10, 20), "read from x: write GRU(20)"),
    ("RNN", (10, 20, 1, "relu"), "read from x: write RNN(20)"),
    ("BatchNorm", (16,), "read from x: write BatchNorm()"),
    ("BatchNorm", (16, 1e-3), "read from x: write BatchNorm()"),
    ("LayerNorm", (16,), "read from x: write LayerNorm()"),
    ("LayerNorm", ((3, 16), 1e-5), "read from x: write LayerNorm()"),
    ("RMSNorm", (16,), "read from x: write RMSNorm()"),
    ("InstanceNorm", (16,), "read from x: write InstanceNorm()"),
    ("GroupNorm", (4, 16), "read from x: write GroupNorm(4)"),
    ("GroupNorm", (4,), None),
    ("Embedding", (1000, 64), None),
    ("Embedding", (1000, 64, 0), "by name w_init"),
    ("SelfAttention", (64, 4), None),
    ("SelfAttention", (64, 4, 0.1), "by name"),
    ("CrossAttention", (64, 4, 0.1), "by name"),
    ("MaxPool", (2,), "write window=(2, 2)"),
    ("MaxPool", (2, 2), "by name stride"),
    ("MaxPool", ((2, 2), (2, 2), (1, 1)), "by name"),
    ("AvgPool", (2, 2), "by name"),
    ("AvgPool", (2, 2, 1, True), "by position it takes window"),
    ("MaxUnpool", (2,), "write window=(2, 2)"),
    ("AdaptiveAvgPool", (7,), "write sizes=(7, 7) for images, (7,) for sequences"),
    ("AdaptiveMaxPool", (7, True), "write AdaptiveMaxPool(7, return_places=True)"),
    ("LPPool", (2, 3), "write window=(2, 2)"),
    ("LPPool", (2, (3, 3)), "write window=(2, 2)"),
    ("FractionalMaxPool", (2, 14), "write window=(2, 2)"),
    ("FractionalMaxPool", ((2, 2), 14), "write sizes=(14, 14), or (0.5, 0.5) of those of x"),
    ("GlobalAvgPool", (1,), "write GlobalAvgPool()"),
    ("GlobalMaxPool", ((1, 1),), "write GlobalMaxPool()"),
    ("Flatten", (1,), "write Flatten(axes=3)"),
    ("Flatten", (1, -1), "write Flatten(axes=3)"),
    ("Bilinear", (20, 30, 40), "read from x: write Bilinear(40)"),
    ("PixelShuffle", (3,), None),
    ("ChannelShuffle", (3,), None),
    ("Unfold", (3,), "write window=(3, 3)"),
    ("Unfold", ((3, 3), 1, 0, 2), "by position it takes window"),
    ("Fold", ((4, 5), 3), "window is 3, wanted a tuple"),
    ("DenseGeneral", (8,), "write features=(8,)"),
    ("ConvLocal", (3, 16, 5), "read from x: write ConvLocal(16, (5, 5))"),
    ("Dropout", (0.5,), None),
    ("Dropout", (0.5, True), "in place: write Dropout(0.5)"),
    ("SpatialDropout", (0.5, True), "by name axes"),
    ("ReLU", (True,), "in place: write ReLU()"),
    ("SiLU", (True,), "in place: write SiLU()"),
    ("SELU", (True,), "in place: write SELU()"),
    ("ELU", (1.0, True), "in place: write ELU(1.0)"),
    ("LeakyReLU", (0.2, True), "in place: write LeakyReLU(0.2)"),
    ("LeakyReLU", (0.2,), None),
    ("HardTanh", (-1.0, 1.0), "write HardTanh(low=-1.0, high=1.0)"),
    ("GELU", ("tanh",), "by name approximate"),
    ("Softplus", (1, 20), "by name beta, threshold"),
    ("Softmax", (1,), "last axis: write Softmax()"),
    ("LogSoftmax", (1,), "last axis: write LogSoftmax()"),
    ("Identity", (54, 0.1), "write Identity()"),
    ("Upsample", (2, "nearest"), "write Upsample(2, method='nearest')"),
    ("Rotary", (64,), "read from x: write Rotary()"),
    ("SinusoidalPositions", (512,), "read from x: write SinusoidalPositions()"),
    ("SoftmaxCrossEntropy", (None,), "by name"),
    ("SoftmaxCrossEntropy", ("sum",), "write SoftmaxCrossEntropy(reduction='sum')"),
    ("BinaryCrossEntropy", (None,), "by name reduction"),
    ("MeanSquaredError", ("sum",), "write MeanSquaredError(reduction='sum')"),
    ("KLDivergence", (None, None, "sum"), "by name reduction"),
    ("Huber", ("mean", 1.0), "by name reduction"),
    ("Huber", ("mean",), "delta is 'mean'"),
    ("CTC", (0, "mean"), "write CTC(0, reduction='mean')"),
    ("TripletMargin", (1.0, 2.0), "by name reduction"),
    ("CosineDistance", (0.1,), "by name reduction"),
    ("Hinge", (1.0,), None),
    ("Serial", ([fp.Dense(3), fp.Tanh()],), "give layers one by one"),
]


@pytest.mark.parametrize(("title", "args", "words"), PYTORCH, ids=str)
def test_pytorchs_arguments_mean_the_same_or_are_answered(title, args, words):
    if words is None:
        assert LAYERS[title](*args) == LAYERS[title](*args)
        return
    with pytest.raises((TypeError, fp.LayerError)) as caught:
        LAYERS[title](*args)
    assert words in str(caught.value) and f"{title}(" in str(caught.value)


def test_a_size_given_twice_is_answered():
    with pytest.raises(TypeError, match=r"read from x: write Conv\(16, \(5, 5\)\)"):
        fp.Conv(3, 16, kernel_size=5)
    with pytest.raises(TypeError, match="no argument 'in_features', only features, bias"):
        fp.Dense(3, in_features=4)


@pytest.mark.parametrize("title", LAYERS, ids=call)
def test_only_what_a_layer_must_have_or_is_about_goes_by_position(title):
    first = [p for p in parameters_of(LAYERS[title]) if p.kind is p.POSITIONAL_OR_KEYWORD]
    optional = [p.name for p in first if p.default is not p.empty]
    assert set(optional) <= {
        *("alpha", "slope", "margin", "delta", "gamma", "temperature", "blank"),  # what it is about
        *("factor", "axes", "dtype", "features", "width"),
    }
    assert not [p.name for p in first if p.annotation in ("bool", "Initializer")]


WRONG = {
    "bool": (1, 0, None, "yes", 30, 0.5),
    "Initializer": (None, 0.1, fp.initializers.Zeros, DENSE, "normal"),
    "int": (1.5, True, "3", None, -2, (), float("nan")),
    "int | None": (1.5, True, "3", (), float("nan")),
    "float": ("0.5", True, None, float("nan"), (), -float("inf")),
    "float | None": ("0.5", True, float("nan"), (), -float("inf")),
    "tuple[int, ...]": (2.5, (2.5,), ("a",), [2], (-2,), None),
    "Layer": (None, fp.Tanh, 3, len),
}


@pytest.mark.parametrize("title", LAYERS, ids=call)
def test_every_argument_is_checked(title):
    kind, args = LAYERS[title], RIGHT.get(title, ())
    parameters = [p for p in parameters_of(kind) if p.kind is not p.VAR_POSITIONAL]
    endless = len(parameters) < len(parameters_of(kind))
    named = {} if endless else dict(zip((p.name for p in parameters), args, strict=False))
    for parameter in parameters:
        for value in WRONG.get(parameter.annotation, ()):
            if (parameter.name, value) in (
                *(("value", -float("inf")), ("ignore_index", -2), ("axis", -2)),
            ):
                continue  # these are right
            with pytest.raises((fp.LayerError, TypeError)) as caught:
                kind(*(args if endless else ()), **{**named, parameter.name: value})
            assert re.match(rf"({title}|DotProductAttention)\(", str(caught.value))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (lambda: fp.Dense(np.int64(3)), fp.Dense(3)),
        (lambda: fp.Dense(features=np.uint8(3), bias=np.bool_(False)), fp.Dense(3, bias=False)),
        (lambda: fp.Conv(np.int32(4), (np.int64(3), 3)), fp.Conv(4, (3, 3))),
        (lambda: fp.Pad(((np.int64(1), 1),)), fp.Pad(((1, 1),))),
        (lambda: fp.LayerNorm(eps=np.float32(0.5)), fp.LayerNorm(eps=0.5)),
        (lambda: fp.Repeat(DENSE, np.int64(2)), fp.Repeat(DENSE, 2)),
        (lambda: fp.SwiGLU(np.int64(3), np.int64(4)), fp.SwiGLU(3, 4)),
        (lambda: fp.initializers.Normal(np.float64(0.5)), fp.initializers.Normal(0.5)),
    ],
)
def test_numbers_of_numpy_become_pythons(given, wanted):
    found = given()
    assert found == wanted and hash(found) == hash(wanted) and repr(found) == repr(wanted)
    for wrong in (np.float64(3.5), np.bool_(True), np.int64(0), np.array(3)):
        with pytest.raises(fp.LayerError, match="features is"):
            fp.Dense(wrong)


@pytest.mark.parametrize("title", ["BatchNorm", "LayerNorm", "RMSNorm", "InstanceNorm"])
def test_an_epsilon_of_one_or_more_is_no_epsilon(title):
    for eps in (16, 1.0, 0.0, -1e-5):
        with pytest.raises(fp.LayerError, match=f"eps is {eps}"):
            LAYERS[title](eps=eps)


@pytest.mark.parametrize("title", CALLS, ids=call)
def test_copies_are_the_layer(title):
    layer = CALLS[title]
    assert copy.deepcopy(layer) == copy.copy(layer) == layer
    assert title in ("Tied", "Lambda") or pickle.loads(pickle.dumps(layer)) == layer


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fp.initializers.Normal(0.0, 0.02), r"the mean is 0: write Normal\(0.02\)"),
        (lambda: fp.initializers.Uniform(-1, 1), r"\[-limit, limit\]: write Uniform\(1\)"),
        (lambda: fp.initializers.Normal(-1), "stddev is -1"),
        (lambda: fp.initializers.Constant("a"), "value is 'a'"),
        (lambda: fp.initializers.VarianceScaling(1.0, "fan"), "mode is 'fan', wanted one of"),
        (lambda: fp.initializers.HeNormal(True), "scale is True"),
    ],
)
def test_initializers_are_checked_when_they_are_made(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_what_could_be_mistaken_stands_in_the_repr_by_name():
    assert repr(fp.BatchNorm(eps=0.5)) == "BatchNorm(eps=0.5)"
    assert repr(fp.Flatten(axes=2)) == "Flatten(axes=2)"
    assert repr(fp.Dense(30, bias=False)) == "Dense(30, bias=False)"
    assert repr(fp.Rotary(base=100.0)) == "Rotary(base=100.0)"


# --- layers of one's own --------------------------------------------------------------------------


def test_a_forward_without_context_is_answered_where_it_is_written():
    with pytest.raises(TypeError, match=r"def forward\(self, params, x, context=fp.Context\(\)\)"):

        class Square(fp.Layer):
            def forward(self, params, x):
                return x * x, x

    with pytest.raises(TypeError, match=r"Square.backward takes .* params, residuals, dy\)"):

        class Square(fp.Layer):
            def backward(self, residuals, dy):
                return dy, ()

    class Open(fp.Layer):
        def forward(self, *args):
            return args[1], ()

    assert Open().forward((), 3)[0] == 3


def test_a_layer_that_holds_something_is_a_frozen_dataclass():
    class Listed(fp.Layer):
        features: int = 3

    class Written(fp.Layer):
        def __init__(self, features):
            self.features = features

    @dataclass
    class Thawed(fp.Layer):
        features: int = 3

    class Added(fp.Dense):
        more: int = 3

    for kind, args in ((Listed, ()), (Written, (3,)), (Thawed, ()), (Added, (3,))):
        with pytest.raises(
            TypeError, match=r"no frozen dataclass.*@dataclass\(frozen=True\) above"
        ):
            kind(*args)

    class Other(fp.Dense):  # no fields of its own
        pass

    assert Other(3).features == 3 and repr(Other(3)) == "Other(3)"


def test_a_layer_is_no_function():
    for layer in (fp.Dense(3), fp.Serial(fp.Tanh())):
        with pytest.raises(TypeError, match=r"y, residuals = layer.forward\(params, x\)"):
            layer(3)
    with pytest.raises(TypeError, match=r"loss.forward\(\(\), \(prediction, target\)\)"):
        fp.MeanSquaredError()(1, 2)
