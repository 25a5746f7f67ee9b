"""CTC: against all paths, optax and PyTorch, and where there is nothing to spell."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.comparison.programs import quick_options

KEY = jax.random.key(5)
TARGET = jnp.array([[1, 1, 2], [3, 4, -1], [2, 2, 2], [-1, -1, -1]])
LENGTHS = np.array([9, 4, 5, 6])
STEPS = jnp.arange(9) < LENGTHS[:, None]
DY = jnp.array([1.0, -2.0, 0.5, 3.0])
UNREDUCED = fp.CTC(reduction="none")


def logits(*shape, scale=1.0):
    return scale * jax.random.normal(KEY, shape)


def eager(loss, z, target, mask=None, dy=None):
    """The loss and dz, where the values of the target are known."""
    y, residuals = loss.forward((), (z, target), fp.Context(mask=mask))
    (dz, dtarget), dparams = loss.backward((), residuals, jnp.ones_like(y) if dy is None else dy)
    assert dtarget is None and dparams == ()
    return y, dz


both = jax.jit(eager, static_argnums=0, compiler_options=quick_options())


def spelled(path, blank):
    """Runs merged, blanks dropped."""
    return tuple(c for c, _ in itertools.groupby(path) if c != blank)


def over_all_paths(z, target, blank=0):
    """−log P and p − γ of one example, path by path, in float64."""
    p = np.exp(np.float64(z) - np.max(z, -1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    steps, classes = p.shape
    total, shares = 0.0, np.zeros_like(p)
    for path in itertools.product(range(classes), repeat=steps):
        if spelled(path, blank) == tuple(target):
            probability = np.prod(p[np.arange(steps), path])
            total += probability
            shares[np.arange(steps), path] += probability
    return (-np.log(total), p - shares / total) if total else (np.inf, 0 * p)


@pytest.mark.parametrize("blank", [0, 2])
def test_the_sum_over_all_paths(blank):
    """Of 5 steps: (3, 3, 3) has one path, with a blank between every two labels."""
    z = logits(5, 4, scale=2.0)
    targets = [(), (1,), (1, 1), (1, 3), (3, 1, 3), (1, 1, 3), (3, 3, 3), (1, 3, 1, 3, 1)]
    padded = jnp.array([[*target, *[-1] * (5 - len(target))] for target in targets])
    y, dz = both(fp.CTC(blank, reduction="none"), jnp.stack([z] * len(targets)), padded)
    for i, target in enumerate(targets):
        value, slope = over_all_paths(np.asarray(z), target, blank)
        np.testing.assert_allclose(y[i], value, rtol=1e-5)
        np.testing.assert_allclose(dz[i], slope, atol=2e-6)
    alone, dz_alone = both(fp.CTC(blank), z, jnp.zeros(0, jnp.int32))
    np.testing.assert_allclose(alone, y[0], rtol=1e-6)
    np.testing.assert_allclose(dz_alone, dz[0], atol=1e-6)


@pytest.mark.parametrize("scale", [0.02, 1.0, 30.0])
def test_optax_agrees(scale):
    z = logits(4, 9, 5, scale=scale)

    def theirs(z, dy):
        padding = (~STEPS).astype(z.dtype), (TARGET < 0).astype(z.dtype)
        labels = jnp.maximum(TARGET, 0)
        y, pullback = jax.vjp(lambda z: optax.ctc_loss(z, padding[0], labels, padding[1]), z)
        return y, pullback(dy)[0]

    # optax adds float32 to what it is given
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        wide, dy = (jnp.asarray(np.asarray(v), jnp.float64) for v in (z, DY))
        wanted, exact = jax.jit(theirs)(wide, dy)
        y, dz = both(UNREDUCED, wide, TARGET, STEPS, dy)
    np.testing.assert_allclose(y, wanted, rtol=1e-10)
    np.testing.assert_allclose(dz, exact, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_pytorch_agrees(scale):
    torch = pytest.importorskip("torch")
    z = np.asarray(logits(4, 9, 5, scale=scale), np.float64)
    t = torch.tensor(z, requires_grad=True)
    number = (np.asarray(TARGET) >= 0).sum(-1)
    wanted = torch.nn.functional.ctc_loss(
        torch.log_softmax(t, -1).transpose(0, 1),
        torch.tensor(np.maximum(TARGET, 1)),
        torch.tensor(LENGTHS),
        torch.tensor(number),
        reduction="none",
    )
    wanted.backward(torch.tensor(np.asarray(DY, np.float64)))
    with jax.enable_x64(True):
        dy = jnp.asarray(np.asarray(DY), jnp.float64)
        y, dz = both(UNREDUCED, jnp.asarray(z), TARGET, STEPS, dy)
    np.testing.assert_allclose(y, wanted.detach().numpy(), rtol=1e-10)
    np.testing.assert_allclose(dz, t.grad.numpy(), atol=1e-10)


def test_a_long_sequence_keeps_its_digits():
    """Far below e⁻¹⁰⁰⁰: what is added up along time is kept near zero."""
    z, target = logits(1, 500, 300), jnp.arange(1, 41)[None]
    _, dz = both(UNREDUCED, z, target)
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(z), jnp.float64)
        value, exact = both(UNREDUCED, wide, target)
    assert np.asarray(value) > 1000
    error = np.asarray(dz, np.float64) - np.asarray(exact)
    assert np.linalg.norm(error) < 3e-5 * np.linalg.norm(exact)


@pytest.mark.parametrize("zero", [False, True])
def test_too_few_steps(zero):
    """(1, 1, 2) needs four steps, a blank among them; of the other example all is as if alone."""
    z, target = logits(2, 3, 4), jnp.array([[1, 1, 2], [1, 2, -1]])
    y, dz = both(fp.CTC(reduction="none", zero_infinity=zero), z, target)
    alone, dz_alone = both(UNREDUCED, z[1:], target[1:])
    assert y[0] == (0 if zero else jnp.inf)
    assert np.array_equal(dz[0], jnp.zeros((3, 4)))
    np.testing.assert_allclose(y[1:], alone, rtol=1e-6)
    np.testing.assert_allclose(dz[1:], dz_alone, atol=1e-6)
    y, dz = both(fp.CTC(zero_infinity=zero), z, target)
    np.testing.assert_allclose(y, alone[0] / 2 if zero else jnp.inf, rtol=1e-6)
    np.testing.assert_allclose(dz[1], dz_alone[0] / 2, atol=1e-6)
    loss = fp.as_function(fp.CTC(zero_infinity=zero))
    grads = jax.jit(jax.grad(lambda z: loss((), (z, target), fp.Context())))(z)
    assert np.isfinite(grads).all()


def test_a_class_that_cannot_be():
    """A logit of −∞ is a probability of 0, for labels, blanks and others."""
    z = logits(2, 6, 4).at[:, 2, :2].set(-jnp.inf).at[0, :, 3].set(-jnp.inf)
    y, dz = both(UNREDUCED, z, jnp.array([[2, 1], [1, 3]]))
    for i, target in enumerate([(2, 1), (1, 3)]):
        value, slope = over_all_paths(np.asarray(z[i]), target)
        np.testing.assert_allclose(y[i], value, rtol=1e-5)
        np.testing.assert_allclose(dz[i], slope, atol=2e-6)
    y, dz = both(UNREDUCED, z.at[:, 0, 1:].set(-jnp.inf).at[..., 1].set(-jnp.inf), TARGET[:2, :1])
    assert np.array_equal(y, [jnp.inf, y[1]]) and np.isfinite(dz).all()


def test_hidden_steps_are_not_there_wherever_they_are():
    mask = jnp.array([True, False, True, True, False, True, True, False, True])
    z = logits(9, 5).at[~mask].set(jnp.nan)
    y, dz = both(fp.CTC(), z, TARGET[0], mask)
    alone, dz_alone = both(fp.CTC(), z[mask], TARGET[0])
    np.testing.assert_allclose(y, alone, rtol=1e-6)
    np.testing.assert_allclose(dz[mask], dz_alone, atol=1e-6)
    assert np.array_equal(dz[~mask], jnp.zeros((3, 5)))
    y, dz = both(fp.CTC(), z, TARGET[3], jnp.zeros(9, bool))
    assert y == 0 and not dz.any()


def test_hidden_examples_count_for_nothing_whatever_they_hold():
    z = logits(3, 9, 5).at[1].set(jnp.nan)
    target = TARGET[:3].at[1].set(99)  # out of range
    mask = jnp.array([True, False, True])
    y, dz = both(fp.CTC(), z, target, mask)
    alone, dz_alone = both(fp.CTC(), z[mask], target[mask])
    np.testing.assert_allclose(y, alone, rtol=1e-6)
    np.testing.assert_allclose(dz[mask], dz_alone, atol=1e-6)
    assert np.array_equal(dz[1], jnp.zeros((9, 5)))


def test_leading_axes_and_vmap():
    z, target = logits(2, 3, 9, 5), jnp.stack([TARGET[:3], TARGET[1:]])
    y, dz = both(UNREDUCED, z, target)
    assert y.shape == (2, 3)
    mapped, dz_mapped = jax.vmap(jax.vmap(lambda z, t: both(UNREDUCED, z, t)))(z, target)
    np.testing.assert_allclose(y, mapped, rtol=1e-6)
    np.testing.assert_allclose(dz, dz_mapped, atol=1e-6)
    one, dz_one = both(UNREDUCED, z[1, 2], target[1, 2])
    np.testing.assert_allclose(y[1, 2], one, rtol=1e-6)
    np.testing.assert_allclose(dz[1, 2], dz_one, atol=1e-6)
    summed, _ = both(fp.CTC(reduction="sum"), z, target)
    mean, _ = both(fp.CTC(), z, target)
    np.testing.assert_allclose([summed, mean], [y.sum(), y.mean()], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_that_of_the_logits_alone(dtype):
    z = logits(4, 9, 5, scale=3.0).astype(dtype)
    y, dz = both(UNREDUCED, z, TARGET, STEPS)
    wanted, exact = both(UNREDUCED, z.astype(jnp.float32), TARGET, STEPS)
    assert y.dtype == dz.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(jnp.float32), wanted, rtol=eps)
    np.testing.assert_allclose(dz.astype(jnp.float32), exact, rtol=eps, atol=eps)


def test_filling_by_the_blank_and_small_integers():
    z = logits(4, 9, 5)
    wanted, dz = both(UNREDUCED, z, TARGET)
    y, dz_zero = both(fp.CTC(ignore_index=0, reduction="none"), z, jnp.maximum(TARGET, 0))
    assert np.array_equal(y, wanted) and np.array_equal(dz, dz_zero)
    assert np.array_equal(both(UNREDUCED, z, TARGET.astype(jnp.int8))[0], wanted)


@pytest.mark.parametrize(
    ("target", "message"),
    [([1, 5], r"at \(1,\) is 5"), ([0, 1], r"at \(0,\) is 0"), ([-1, 1], r"behind the last")],
)
def test_what_is_not_a_target_is_an_error_and_nan_under_jit(target, message):
    z, target = logits(9, 5), jnp.array(target)
    with pytest.raises(fp.LayerError, match=message):
        eager(fp.CTC(), z, target)
    y, dz = both(fp.CTC(), z, target)
    assert np.isnan(y) and np.isnan(dz).all()


@pytest.mark.parametrize(
    ("z", "target", "mask", "message"),
    [
        (logits(9, 5), TARGET, None, "same leading axes"),
        (logits(4, 9, 5), TARGET[:2], None, "same leading axes"),
        (logits(5), jnp.array(1), None, r"wanted logits \[..., T, V\]"),
        (logits(4, 9, 5), TARGET.astype(jnp.float32), None, "int targets"),
        (logits(4, 9, 5), TARGET, jnp.ones((4, 8), bool), r"wanted bool\[4, 9\]"),
        (logits(4, 9, 5), TARGET, jnp.ones((4, 9)), r"or bool\[4\]"),
        (logits(4, 9, 5), TARGET, jnp.zeros(4, bool), "a mean over none"),
    ],
)
def test_bad_input(z, target, mask, message):
    with pytest.raises(fp.LayerError, match=message):
        eager(fp.CTC(), z, target, mask)


def test_bad_configuration():
    with pytest.raises(fp.LayerError, match="the classes end at 4"):
        both(fp.CTC(5), logits(9, 5), TARGET[0])
    for options in ({"blank": -1}, {"ignore_index": 1.5}, {"zero_infinity": 1}):
        with pytest.raises(fp.LayerError, match=next(iter(options))):
            fp.CTC(**options)
