"""RNN, GRU and LSTM against PyTorch, and what the table of layers cannot say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.layers.steps import stretches

B, T, IN, H = 3, 7, 5, 4
NAMES = ("RNN", "GRU", "LSTM")


def arguments(layer, *, stateful=False, dtype=jnp.float32, leading=(B,), steps=T):
    """params off zero, and x with or without an initial state."""
    keys = jax.random.split(jax.random.key(0), 5)
    xs = jax.random.normal(keys[0], (*leading, steps, IN)).astype(dtype)
    params = jax.tree.map(
        lambda w: w + (0.3 * jax.random.normal(keys[1], w.shape)).astype(dtype),
        layer.init(keys[2], xs),
    )
    if not stateful:
        return params, xs
    state = tuple(
        jax.random.normal(key, (*leading, layer.features)).astype(dtype)
        for key in keys[3 : 3 + len(layer.states)]
    )
    return params, (xs, state if len(state) > 1 else state[0])


def both_ways(layer, params, x, dy, context=None):
    """y, dx and dparams in one compiled program."""

    @jax.jit
    def run(params, x, dy, context):
        y, residuals = layer.forward(params, x, context)
        return y, *layer.backward(params, residuals, dy)

    return run(params, x, dy, fp.Context() if context is None else context)


def like(y, seed=1):
    """A random cotangent of y."""
    leaves, tree = jax.tree.flatten(y)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [
        jax.random.normal(k, a.shape).astype(a.dtype) for k, a in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


# --- PyTorch --------------------------------------------------------------------------------------


def to_torch(torch, module, params, suffix=""):
    """Our parameters in a PyTorch module: the mapping that the docstrings state."""
    values = {"weight_ih": params.w_x.T, "weight_hh": params.w_h.T, "bias_ih": params.b}
    hidden = np.zeros_like(params.b)
    if hasattr(params, "b_n"):
        hidden[-params.b_n.shape[0] :] = params.b_n
    values["bias_hh"] = hidden
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, f"{name}_l0{suffix}").copy_(torch.tensor(np.asarray(value)))


def torch_gradients(module, suffix=""):
    """PyTorch's gradients as ours: w_x, w_h, b and, for the GRU, b_n."""
    w_x, w_h, b, hidden = (
        getattr(module, f"{name}_l0{suffix}").grad.numpy()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    size = w_h.shape[1]
    return [w_x.T, w_h.T, b, *([hidden[-size:]] if len(hidden) == 3 * size else [])]


def close(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(other), rtol=2e-4, atol=2e-5)


def tensors(torch, tree):
    return [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", ["RNN", "RNN relu", "GRU", "LSTM"])
def test_agrees_with_torch_from_a_given_state(name):
    torch = pytest.importorskip("torch")
    kind, *activation = name.split()
    layer = getattr(fp, kind)(H, **dict(zip(["activation"], activation, strict=False)))
    options = {"nonlinearity": activation[0]} if activation else {}
    module = getattr(torch.nn, kind)(IN, H, batch_first=True, **options)
    params, x = arguments(layer, stateful=True)
    to_torch(torch, module, params)

    xs, *state = tensors(torch, x)
    stacked = tuple(part[None] for part in state)
    ys, final = module(xs, stacked if len(stacked) > 1 else stacked[0])
    final = [part[0] for part in (final if isinstance(final, tuple) else (final,))]
    dy = like(layer.forward(params, x)[0])
    parts = [torch.tensor(np.asarray(part)) for part in jax.tree.leaves(dy)]
    torch.autograd.backward([ys, *final], parts)

    y, dx, dparams = both_ways(layer, params, x, dy)
    close(jax.tree.leaves(y), [part.detach() for part in (ys, *final)])
    close(jax.tree.leaves(dx), [part.grad for part in (xs, *state)])
    close(list(dparams), torch_gradients(module))


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_torch_on_packed_sequences_in_both_directions(name):
    torch = pytest.importorskip("torch")
    layer = fp.Bidirectional(getattr(fp, name)(H))
    module = getattr(torch.nn, name)(IN, H, batch_first=True, bidirectional=True)
    forwards, x = arguments(layer.layers[0])
    backwards = jax.tree.map(lambda w: w[::-1], forwards)
    to_torch(torch, module, forwards)
    to_torch(torch, module, backwards, "_reverse")

    lengths = [7, 2, 5]
    mask = jnp.arange(T) < jnp.array(lengths)[:, None]
    (xs,) = tensors(torch, x)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        xs, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    ys, _ = torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True)
    dy = jax.random.normal(jax.random.key(1), (B, T, 2 * H))
    ys.backward(torch.tensor(np.asarray(dy)))

    # padding may hold anything: it is never looked at
    x = jnp.where(mask[..., None], x, jnp.nan)
    params = (forwards, backwards)
    y, dx, dparams = both_ways(layer, params, x, dy, fp.Context(mask=mask))
    close([y, dx], [ys.detach(), xs.grad])
    close(list(dparams[0]), torch_gradients(module))
    close(list(dparams[1]), torch_gradients(module, "_reverse"))


# --- by hand --------------------------------------------------------------------------------------


def test_two_steps_by_hand():
    """h₁ = relu(2·1) = 2, h₂ = relu(2·3 + 0.5·2) = 7, for w_x = 2, w_h = ½, b = 0."""
    layer = fp.RNN(1, activation="relu")
    params = fp.layers.RecurrentWeights(jnp.array([[2.0]]), jnp.array([[0.5]]), jnp.array([0.0]))
    y, dx, dparams = both_ways(layer, params, jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [1.0]]))
    assert y.tolist() == [[2.0], [7.0]]
    # dz₂ = 1, dz₁ = 1 + ½ dz₂
    assert dx.tolist() == [[3.0], [2.0]]
    assert [float(dw.sum()) for dw in dparams] == [1.5 * 1 + 1 * 3, 1 * 2, 2.5]


@pytest.mark.parametrize("name", NAMES)
def test_masked_steps_pass_the_state_on(name):
    layer = getattr(fp, name)(H)
    params, (xs, state) = arguments(layer, stateful=True)
    mask = jnp.array([True, False, True, True, False, False, True])
    context = fp.Context(mask=jnp.broadcast_to(mask, (B, T)))
    (ys, final), dy = layer.forward(params, (xs, state), context)[0], None
    kept = xs[:, mask]
    short, final_of_short = layer.forward(params, (kept, state))[0]
    np.testing.assert_array_equal(ys[:, ~mask], 0)
    np.testing.assert_allclose(ys[:, mask], short, atol=1e-6)
    close(jax.tree.leaves(final), jax.tree.leaves(final_of_short))
    dy = like((ys, final))
    _, (dxs, dstate), dparams = both_ways(layer, params, (xs, state), dy, context)
    _, (dkept, dstate_of_short), dparams_of_short = both_ways(
        layer, params, (kept, state), (dy[0][:, mask], dy[1])
    )
    np.testing.assert_array_equal(dxs[:, ~mask], 0)
    np.testing.assert_allclose(dxs[:, mask], dkept, atol=1e-5)
    close(jax.tree.leaves((dstate, dparams)), jax.tree.leaves((dstate_of_short, dparams_of_short)))


def test_fully_masked_sequence_gives_zeros_and_the_state_back():
    layer = fp.LSTM(H)
    params, x = arguments(layer, stateful=True)
    (ys, final), residuals = layer.forward(params, x, fp.Context(mask=jnp.zeros((B, T), bool)))
    assert not ys.any()
    close(final, x[1])
    dy = like((ys, final))
    (dxs, dstate), dparams = layer.backward(params, residuals, dy)
    assert not dxs.any() and not any(leaf.any() for leaf in jax.tree.leaves(dparams))
    close(dstate, dy[1])


def test_reverse_is_the_flipped_sequence():
    layer = fp.GRU(H)
    params, x = arguments(layer)
    ys = fp.GRU(H, reverse=True).forward(params, x)[0]
    np.testing.assert_allclose(ys, layer.forward(params, x[:, ::-1])[0][:, ::-1], atol=1e-6)


def test_a_state_carries_a_sequence_over_a_cut():
    layer = fp.LSTM(H)
    params, (xs, state) = arguments(layer, stateful=True)
    whole, final = layer.forward(params, (xs, state))[0]
    first, middle = layer.forward(params, (xs[:, :3], state))[0]
    second, last = layer.forward(params, (xs[:, 3:], middle))[0]
    np.testing.assert_allclose(whole, jnp.concatenate([first, second], 1), atol=1e-6)
    close(last, final)


@pytest.mark.parametrize("steps", [1, 2, 17, 20, 32, 97, 784])
def test_stretches_cover_all_steps(steps):
    count, size = stretches(steps)
    assert count * size == steps


@pytest.mark.parametrize("name", NAMES)
def test_low_precision_returns_the_dtype_and_stays_near(name):
    layer = getattr(fp, name)(H)
    params, x = arguments(layer, dtype=jnp.bfloat16)
    y, dx, dparams = both_ways(layer, params, x, jnp.ones((B, T, H), jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves((y, dx, dparams))} == {jnp.dtype("bfloat16")}
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, x))
    exact = both_ways(layer, *wide, jnp.ones((B, T, H)))
    for rough, fine in zip(jax.tree.leaves((y, dx, dparams)), jax.tree.leaves(exact), strict=True):
        error = jnp.linalg.norm((rough.astype(jnp.float32) - fine).ravel())
        assert error < 0.03 * jnp.linalg.norm(fine.ravel())


@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_leading_axes(leading):
    layer = fp.LSTM(H)
    params, x = arguments(layer, leading=leading)
    y = layer.forward(params, x)[0]
    assert y.shape == (*leading, T, H)
    flat = layer.forward(params, x.reshape(-1, T, IN))[0]
    np.testing.assert_allclose(y.reshape(-1, T, H), flat, atol=1e-6)


# --- errors ---------------------------------------------------------------------------------------


def test_errors_name_what_to_write():
    layer = fp.LSTM(H)
    params, (xs, state) = arguments(layer, stateful=True)
    with pytest.raises(fp.LayerError, match=r"h0 and c0 as float32\[3, 4\]"):
        layer.forward(params, (xs, state[0]))
    with pytest.raises(fp.LayerError, match=r"wanted h0 as float32\[3, 4\]"):
        fp.RNN(H).forward(fp.RNN(H).init(jax.random.key(0), xs), (xs, state))
    with pytest.raises(fp.LayerError, match=r"context.mask is bool\[3\], wanted bool\[3, 7\]"):
        layer.forward(params, xs, fp.Context(mask=jnp.ones(B, bool)))
    with pytest.raises(fp.LayerError, match="at least 2 axes"):
        layer.forward(params, xs[0, 0])
    with pytest.raises(fp.LayerError, match="6 features, the parameters 5"):
        layer.forward(params, jnp.zeros((B, T, 6)))
    with pytest.raises(fp.LayerError, match="it has no steps"):
        layer.forward(params, xs[:, :0])
    with pytest.raises(fp.LayerError, match="w_h is"):
        fp.LSTM(3).forward(params, xs)
    with pytest.raises(fp.LayerError, match="wanted GRUWeights"):
        fp.GRU(H).forward(params, xs)
    with pytest.raises(fp.LayerError, match="wanted one of 'tanh', 'relu'"):
        fp.RNN(3, activation="gelu")  # type: ignore[arg-type]
    with pytest.raises(fp.LayerError, match="reverse is 1"):
        fp.GRU(3, reverse=1)  # type: ignore[arg-type]
    _, residuals = layer.forward(params, xs)
    with pytest.raises(fp.LayerError, match="dy is float32"):
        layer.backward(params, residuals, jnp.zeros((B, H)))
    _, residuals = layer.forward(params, (xs, state))
    with pytest.raises(fp.LayerError, match=r"wanted a tuple \(dys, dstate\)"):
        layer.backward(params, residuals, jnp.zeros((B, T, H)))


def test_repr_is_the_call():
    for layer in (fp.LSTM(3, reverse=True), fp.RNN(3, activation="relu"), fp.GRU(2, bias=False)):
        assert eval(repr(layer), vars(fp.layers) | vars(fp.blocks)) == layer
