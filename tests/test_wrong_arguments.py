"""Every public function × kinds of wrong argument: words of this project, no raw error, no number.

The arguments of one name mean the same everywhere, so one right value a name is enough.
"""

import inspect
import traceback
import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp

MODEL, LOSS = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2)), fp.SoftmaxCrossEntropy()
SUM = fp.SoftmaxCrossEntropy(reduction="sum")
X, Y, KEY = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0]), jax.random.key(0)
PARAMS = (
    fp.layers.Affine(jnp.ones((2, 3)), jnp.zeros(3)),
    (),
    fp.layers.Affine(jnp.ones((3, 2)), jnp.zeros(2)),
)
SGD, GRADIENT = optax.sgd(0.1), fp.backprop(MODEL, LOSS)
STEP = fp.train_step(GRADIENT, SGD)
STATE = fp.TrainState(PARAMS, (), (), KEY, jnp.int32(0))

RIGHT = {
    **{name: MODEL for name in ("model", "layer")},
    **{name: PARAMS for name in ("params", "v", "grads", "trained", "moment")},
    **{name: 2 for name in ("parts", "batch_size", "length", "steps", "examples", "runs")},
    **{name: 2 for name in ("classes", "width", "depth", "heads", "patch", "vocabulary", "chunk")},
    **{name: 0.5 for name in ("max_norm", "noise_multiplier", "rate", "delta", "epsilon")},
    **{name: 0.5 for name in ("damping", "stddev", "dropout")},
    **{"loss": SUM, "gradient": GRADIENT, "optimizer": SGD, "step": STEP, "state": STATE},
    **{"key": KEY, "x": X, "prompt": jnp.zeros(3, int), "batch": (X, Y), "data": (X, Y)},
    **{"context": fp.Context(KEY), "c": jnp.ones(4), "norms": jnp.ones(4), "seed": 0, "size": 9},
    **{
        "image": (8, 8),
        "layers": [4],
        "path": "nowhere.safetensors",
        "rule": len,
        "where": fp.Dense,
        "function": lambda params, x: MODEL.forward(params, x)[0],
    },
    **{"rules": {}, "collected": (), "factors": (), "inverses": (), "target": MODEL},
    **{"batches": [(X, Y)], "mesh": jax.make_mesh((1,), ("b",))},
    **{"placement": fp.placement.data_parallel()},
    **{"schedule": "1F1B", "times": [], "microbatches": 2, "where": fp.Dense, "decay": 0.5},
    **{"scale": 2.0},
}


class Odd:
    def __repr__(self):
        return "Odd()"


WRONG = {
    "Layer": (Odd(), "text", fp.Dense, (1, 2), jnp.ones(2), 3, len),
    "bool": (Odd(), "yes", 1, None, jnp.ones(2), fp.Tanh()),
    "int": (Odd(), "3", 1.5, True, float("nan"), jnp.ones(2), fp.Tanh(), (1,)),
    "float": (Odd(), "3", True, float("nan"), jnp.ones(2), fp.Tanh(), (1,), [1.0]),
    "Context": (Odd(), "text", None, 3, (1, 2), jnp.ones(2), fp.Context, KEY),
    "optax.GradientTransformation": (Odd(), "adam", None, 0.1, optax.sgd, MODEL),
    "GradientFunction": (Odd(), "text", None, 3, MODEL, fp.Dense, jnp.ones(2)),
    "Step": (Odd(), "text", None, 3, MODEL, fp.Dense),
    "TrainState": (Odd(), None, 3, PARAMS, "text"),
    "Params": (Odd(), "text", (Odd(),), fp.Dense, MODEL, (np.array("a"),)),
    "Array": (Odd(), "text", None, fp.Dense, MODEL),
    "str | Path": (Odd(), 3, None, X),
    "key": (0, "text", None, jnp.ones(2), jax.random.split(KEY, 2), Odd()),
    "arrays": (Odd(), "text", fp.Dense, (X, Odd()), MODEL, np.array(["a"])),
}

NAMES = {
    f"{room}.{name}".removeprefix("fp."): getattr(module, name)
    for room, module in {
        "fp": fp,
        **{r: getattr(fp, r) for r in ("collectors", "rewiring", "pipelines", "models")},
    }.items()
    for name in getattr(module, "__all__", dir(module))
    if not name.startswith("_") and inspect.isfunction(getattr(module, name))
}
FUNCTIONS = {
    **{n: f for n, f in NAMES.items() if hasattr(f, "__wrapped__")},
    **{
        "step": STEP,
        "epoch": fp.epoch(STEP, 2),
        "update": fp.update_step(MODEL, LOSS, SGD),
        "accumulated": fp.accumulate(GRADIENT, 2),
        "clip": fp.clip_by_norm(GRADIENT, 1.0),
        "scaled": fp.loss_scaled(GRADIENT, 2.0),
        "clipped": fp.collectors.clipped(MODEL, SUM, 1.0),
        "private": fp.private_gradient(MODEL, SUM, 1.0, 1.0, 4),
        "function": fp.as_function(MODEL),
        "gradient": GRADIENT,
        "objective_": fp.objective(MODEL, LOSS),
        "pipelined": fp.pipelines.pipelined(MODEL, LOSS, jax.make_mesh((1,), ("stage",)), 2),
        "factors": fp.collectors.with_factors(MODEL, LOSS),
    },
}
# What looks at its arguments itself, or takes any: rules, and what reads what they collected.
WITHOUT_DOOR = set(
    [
        "collect_all",
        "collectors.collect_all",
        "compare",
        "assert_gradients",
        "collectors.records",
        "collectors.total",
        "collectors.apart",
        "collectors.squared_total",
        "collectors.values",
        "collectors.closed_form",
        "collectors.hessian_root",
        "collectors.kronecker_form",
        "rewiring.direct_feedback_alignment",
        "rewiring.feedback_alignment",
        "rewiring.frozen",
        "rewiring.kolen_pollack",
        "rewiring.straight_through",
        "models.gpt2_params",
        "per_example",
        "collectors.gradients",
        "collectors.ekfac",
    ]
)


def cases():
    for name, function in FUNCTIONS.items():
        parameters = inspect.signature(function).parameters
        for parameter in parameters.values():
            kind = str(parameter.annotation).removesuffix("| None").strip()
            kind = "key" if parameter.name == "key" else kind
            arrays = ("x", "batch", "data", "prompt", "statistics", "collected", "factors")
            kind = "arrays" if kind == "Any" and parameter.name in arrays else kind
            for wrong in WRONG.get(kind, ()):
                if wrong is None and str(parameter.annotation).endswith("| None"):
                    continue
                yield name, parameter.name, wrong


CASES = list(cases())


def test_there_are_many_and_every_public_function_has_a_door():
    assert len(CASES) >= 400
    assert {name for name in NAMES if not hasattr(NAMES[name], "__wrapped__")} <= {
        *WITHOUT_DOOR,
        *(name for name in NAMES if NAMES[name].__module__ == "funcprop.lazy"),
    }


@pytest.mark.parametrize("title", FUNCTIONS)
def test_a_wrong_argument_is_answered_in_words(title):
    function = FUNCTIONS[title]
    for name, library in {"as_flax": "flax", "as_nnx": "flax", "as_equinox": "equinox"}.items():
        if title.endswith(name):
            pytest.importorskip(library)
    needed = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    parameters = inspect.signature(function).parameters
    base = {name: RIGHT[name] for name in needed}
    if "gradient" in base and parameters["gradient"].annotation == "Params":
        base["gradient"] = PARAMS
    for name, argument, wrong in CASES:
        if name != title:
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            function(**{**base, argument: wrong})
        place = traceback.extract_tb(caught.value.__traceback__)[-1].filename
        assert "/funcprop/" in place, f"{argument}={wrong!r}: {caught.value!r}"
        assert argument in str(caught.value), f"{argument}={wrong!r}: {caught.value!r}"


# --- what other libraries call arrays -------------------------------------------------------------


def test_arrays_of_others_become_ours():
    torch = pytest.importorskip("torch")
    value, grads = GRADIENT(PARAMS, (X, Y))
    x = np.asarray(X)
    for batch in (
        (torch.tensor(x), torch.tensor(np.asarray(Y))),
        (torch.tensor(x, requires_grad=True), np.asarray(Y, np.int64)),
        (x.astype(np.float64), Y),  # no warning from inside
        (x.tolist(), [0, 1, 1, 0]),
    ):
        again, others = GRADIENT(PARAMS, batch)
        assert again == value and jax.tree.all(jax.tree.map(jnp.array_equal, others, grads))
    dense = fp.Dense(3)
    same = [dense.init(KEY, given).w for given in (X, torch.tensor(x), x.astype(np.float64))]
    assert all(jnp.array_equal(w, same[0]) and w.dtype == jnp.float32 for w in same)
    y = dense.forward(PARAMS[0], torch.tensor(x))[0]
    assert jnp.array_equal(y, dense.forward(PARAMS[0], X)[0])


class OnlyArray:
    """What NumPy can read, with a dtype of its own, as TensorFlow's tensors have."""

    dtype = "float32"

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


class OnlyDLPack:
    """What only DLPack can read."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


@pytest.mark.parametrize("other", [OnlyArray, OnlyDLPack])
def test_any_array_will_do(other):
    value, grads = GRADIENT(PARAMS, (X, Y))
    again, others = GRADIENT(PARAMS, (other(np.array(X)), other(np.array(Y))))
    assert again == value and jax.tree.all(jax.tree.map(jnp.array_equal, others, grads))
    dense, given = fp.Dense(3), other(np.array(X))
    assert jnp.array_equal(dense.init(KEY, given).w, dense.init(KEY, X).w)
    y, kept = dense.forward(PARAMS[0], given)
    assert jnp.array_equal(y, dense.forward(PARAMS[0], X)[0])
    dx = dense.backward(PARAMS[0], kept, other(np.array(y)))[0]
    assert jnp.array_equal(dx, dense.backward(PARAMS[0], kept, y)[0])
    shown = jnp.array([True, True, True, False])
    (loss, _), (again, _) = (
        LOSS.forward((), batch, fp.Context(mask=mask))
        for batch, mask in (((y, Y), shown), ((other(np.array(y)), Y), other(np.array(shown))))
    )
    assert again == loss
    assert fp.compare(fp.Tanh(), (), given).ok


def test_words_are_no_array_and_go_through_no_dlpack():
    """TensorFlow ends the process where it is asked for words by DLPack."""

    class Words(OnlyArray):
        def __dlpack__(self, **options):
            raise SystemExit("asked")

    with pytest.raises(TypeError, match="x is an array of object, wanted one of numbers"):
        fp.Tanh().forward((), Words(np.array([b"a"], object)))


# --- what beginners write -------------------------------------------------------------------------


@dataclass(frozen=True)
class WithNumPy(fp.Layer):
    def forward(self, params, x, context=fp.Context()):
        y = np.tanh(x)
        return y, y

    def backward(self, params, y, dy):
        return dy * (1 - y * y), ()


@dataclass(frozen=True)
class WithIf(WithNumPy):
    def forward(self, params, x, context=fp.Context()):
        return (x if x.sum() > 0 else -x), x


@dataclass(frozen=True)
class WithoutBackward(fp.Layer):
    def forward(self, params, x, context=fp.Context()):
        return x * x, x


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jax.eval_shape(WithNumPy().forward, (), X), "write jnp.tanh for np.tanh"),
        (lambda: jax.eval_shape(WithIf().forward, (), X), "jnp.where"),
        (lambda: fp.compare(WithNumPy(), (), X), "write jnp.tanh for np.tanh"),
        (lambda: MODEL.init(0, X), "key is a int, wanted one key"),
        (lambda: fp.Dense(3).init(key=None, x=X), r"layer.init\(jax.random.key\(0\), x\)"),
        (lambda: STEP(STATE, X, Y), r"write step\(state, \(x, target\)\)"),
        (lambda: GRADIENT(PARAMS, X, Y), r"write gradient\(params, \(x, target\)\)"),
        (lambda: fp.backprop(LOSS, MODEL), r"exchanged: write backprop\(model, loss\)"),
        (
            lambda: fp.MeanSquaredError().forward((), (X[:, :1], X[:, 0])),
            r"write target\[\.\.\., None\]",
        ),
        (
            lambda: fp.Dense(3).forward(fp.layers.Affine(PARAMS[0].w.T, PARAMS[0].b), X),
            r"write Affine\(weight\.T, bias\)",
        ),
        (
            lambda: fp.Dense(3).forward(fp.layers.Affine(PARAMS[0].w.T, None), X),
            r"write Affine\(weight\.T, bias\)",
        ),
        (lambda: fp.mlp([4], 3).init(KEY, X), r"Flatten\(axes=1\).*mlp\(\.\.\., axes=1\)"),
        (lambda: fp.compare(fp.Dense(3), X, PARAMS[0]), "exchanged, write compare"),
        (lambda: fp.compare(fp.Dense(3), X), "one argument was given"),
        (lambda: fp.collect(MODEL, fp.collectors.Rule), r"Rule is a class.*write Rule\(\)"),
        (lambda: fp.collect(MODEL, lambda a: a), "^<lambda> cannot be called"),
        (lambda: fp.collectors.noise_for(-1, 1e-5, 0.1, 3), "epsilon is -1"),
        (lambda: fp.hessian_vector(MODEL, LOSS, PARAMS, (X, Y), PARAMS[0]), "v is .* like params"),
        (lambda: fp.inference(MODEL, PARAMS, X), "statistics is float32"),
        (lambda: fp.collectors.inverses_of((X,), 0.1), "wanted Kronecker, Diagonal or Eigen"),
    ],
)
def test_ordinary_mistakes_are_answered(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_a_missing_backward_is_no_wrong_gradient():
    found = fp.compare(fp.Serial(fp.Tanh(), WithoutBackward()), ((), ()), X)
    assert not found.ok
    assert "Serial[1] WithoutBackward does not define backward" in found.headline
    assert "wrong gradient" not in found.headline


def test_residuals_of_ones_own_have_no_statistics_until_they_say_where():
    class Named(fp.Composite):
        def forward(self, params, x, context=fp.Context()):
            (y,), kept = self.forward_each(params, (x,), context)
            return y, {"kept": kept}

    model, gain = Named(fp.BatchNorm()), fp.layers.Gain(jnp.ones(2), jnp.zeros(2))
    assert model.statistics(model.forward((gain,), X)[1]) == ()
    with pytest.raises(fp.LayerError, match=r"Named\[0\] BatchNorm\(\): its statistics"):
        fp.inference(model, (gain,), ())


def test_total_of_book_keeping_names_squared_total():
    layer = fp.collect(fp.Dense(3), fp.collectors.book_keeping)
    _, residuals = layer.forward(PARAMS[0], X)
    found = layer.backward(PARAMS[0], residuals, jnp.ones((4, 3)))[1]
    with pytest.raises(ValueError, match=r"write squared_total\(found\)"):
        fp.collectors.total(found)


def test_momentum_of_a_step_is_called_that_of_its_statistics():
    with pytest.warns(DeprecationWarning, match="write statistics_momentum") as caught:
        fp.train_step(GRADIENT, SGD, momentum=0.5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fp.train_step(GRADIENT, SGD, 0.5)
        fp.update_step(MODEL, LOSS, SGD, statistics_momentum=0.5)
