"""Published numbers: Mazur's network, Nielsen's neuron, NAND, and small graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.layers import Affine


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def descend(gradient, params, batch, eta, steps):
    """Plain gradient descent on everything; the loss before each step."""
    optimizer = optax.sgd(eta)
    step = fp.train_step(gradient, optimizer)
    state = fp.TrainState(
        params, optimizer.init(params), (), jax.random.key(0), jnp.zeros((), jnp.int32)
    )
    state, metrics = jax.lax.scan(lambda s, _: step(s, batch), state, length=steps)
    return state.params, metrics.loss


# --- Mazur ----

MAZUR = fp.Serial(fp.Dense(2), fp.Sigmoid(), fp.Dense(2), fp.Sigmoid())
SUM = fp.QuadraticCost(reduction="sum")


def mazur():
    w1 = jnp.array([[0.15, 0.20], [0.25, 0.30]]).T
    w2 = jnp.array([[0.40, 0.45], [0.50, 0.55]]).T
    params = Affine(w1, jnp.full(2, 0.35)), (), Affine(w2, jnp.full(2, 0.60)), ()
    return params, (jnp.array([[0.05, 0.10]]), jnp.array([[0.01, 0.99]]))


def test_mazur_forward_and_deltas():
    params, (x, target) = mazur()
    z1, r1 = fp.Dense(2).forward(params[0], x)
    a1, s1 = fp.Sigmoid().forward((), z1)
    z2, r2 = fp.Dense(2).forward(params[2], a1)
    a2, s2 = fp.Sigmoid().forward((), z2)
    assert np.allclose(z1, [[0.3775, 0.3925]], atol=1e-12)
    assert np.allclose(a1, [[0.593269992107, 0.596884378260]], atol=1e-12)
    assert np.allclose(z2, [[1.105905967064, 1.224921404096]], atol=1e-12)
    assert np.allclose(a2, [[0.751365069552, 0.772928465321]], atol=1e-12)

    _, kept = SUM.forward((), (a2, target))
    (da2, _), _ = SUM.backward((), kept, jnp.ones(()))
    delta2, _ = fp.Sigmoid().backward((), s2, da2)
    da1, _ = fp.Dense(2).backward(params[2], r2, delta2)
    delta1, _ = fp.Sigmoid().backward((), s1, da1)
    assert np.allclose(delta2, [[0.138498561629, -0.038098236517]], atol=1e-12)
    assert np.allclose(delta1, [[0.008771354689, 0.009954254705]], atol=1e-12)
    _, dw1 = fp.Dense(2).backward(params[0], r1, delta1)
    assert np.allclose(dw1.w.T[0], [0.0004385677344743465, 0.000877135468948693], atol=1e-14)


def test_mazur_gradients_and_first_update():
    params, batch = mazur()
    error, grads = fp.backprop(MAZUR, SUM)(params, batch)
    assert abs(error - 0.2983711087600027) < 1e-15
    want2 = [
        [0.08216704056423077, 0.08266762784753325],
        [-0.02260254047747507, -0.022740242215978222],
    ]
    want1 = [
        [0.0004385677344743465, 0.000877135468948693],
        [0.0004977127352608599, 0.0009954254705217198],
    ]
    assert np.allclose(grads[2].w.T, want2, atol=1e-14, rtol=0)
    assert np.allclose(grads[0].w.T, want1, atol=1e-14, rtol=0)
    w1 = params[0].w.T - 0.5 * grads[0].w.T
    w2 = params[2].w.T - 0.5 * grads[2].w.T
    assert np.allclose(
        w1,
        [[0.1497807161327628, 0.19956143226552567], [0.24975114363236958, 0.29950228726473915]],
        atol=1e-14,
    )
    assert np.allclose(
        w2,
        [[0.35891647971788465, 0.4086661860762334], [0.5113012702387375, 0.5613701211079891]],
        atol=1e-14,
    )


def test_mazur_ten_thousand_updates_with_fixed_biases():
    start, batch = mazur()
    full = fp.backprop(MAZUR, SUM)

    def gradient(weights, batch, context):
        """The gradient of the weights alone: the page does not train its biases."""
        params = tuple(
            p._replace(w=w) if isinstance(p, Affine) else p
            for p, w in zip(start, weights, strict=True)
        )
        value, grads = full(params, batch, context)
        return value, tuple(g.w if isinstance(g, Affine) else () for g in grads)

    weights = tuple(p.w if isinstance(p, Affine) else () for p in start)
    weights, losses = descend(gradient, weights, batch, 0.5, 10_000)
    assert abs(losses[1] - 0.29102777369359933) < 1e-14
    assert abs(losses[10] - 0.22091859205) < 1e-11
    assert abs(losses[100] - 0.02004682825) < 1e-11
    assert abs(losses[1000] - 0.00111434945) < 1e-11
    params = tuple(
        p._replace(w=w) if isinstance(p, Affine) else p for p, w in zip(start, weights, strict=True)
    )
    assert abs(full(params, batch)[0] - 3.510187782978859e-05) < 1e-15
    outputs, _ = MAZUR.forward(params, batch[0])
    assert np.allclose(outputs, [[0.015913620444, 0.984064273515]], atol=1e-12)


def test_mazur_with_biases():
    params, batch = mazur()
    gradient = fp.backprop(MAZUR, SUM)
    one, _ = descend(gradient, params, batch, 0.5, 1)
    assert np.allclose(one[0].b, [0.3456143226552565, 0.3450228726473914], atol=1e-14)
    assert np.allclose(one[2].b, [0.5307507191857215, 0.6190491182582781], atol=1e-14)
    assert abs(gradient(one, batch)[0] - 0.28047144679143016) < 1e-14
    last, _ = descend(gradient, params, batch, 0.5, 10_000)
    assert abs(gradient(last, batch)[0] - 2.4475622359e-06) < 1e-15


# --- Nielsen's single neuron ----


@pytest.mark.parametrize(
    ("w", "b", "outputs", "end"),
    [
        (0.6, 0.9, [0.8175744762, 0.3870104444, 0.2109962538, 0.1527398856, 0.1237474213],
         [0.09395569486, -1.2831324334, -0.9831324334]),
        (2.0, 2.0, [0.9820137900, 0.9759333969, 0.9641308470, 0.9334174726, 0.7887362970],
         [0.20284842427, -0.6842929110, -0.6842929110]),
    ],
)  # fmt: skip
def test_neuron_learns_slowly_from_a_bad_start(w, b, outputs, end):
    neuron = fp.Serial(fp.Dense(1), fp.Sigmoid())
    params = (Affine(jnp.array([[w]]), jnp.array([b])), ())
    batch = (jnp.ones((1, 1)), jnp.zeros((1, 1)))
    params, losses = descend(fp.backprop(neuron, fp.QuadraticCost()), params, batch, 0.15, 300)
    seen = jnp.sqrt(2 * losses[jnp.array([0, 50, 100, 150, 200])])
    assert np.allclose(seen, outputs, atol=1e-10, rtol=0)
    a, _ = neuron.forward(params, batch[0])
    assert np.allclose([a[0, 0], params[0].w[0, 0], params[0].b[0]], end, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("w", "b", "end"), [(0.6, 0.9, 0.01163820897), (2.0, 2.0, 0.01200874151)])
def test_neuron_with_cross_entropy_does_not(w, b, end):
    neuron = fp.Dense(1)
    params = Affine(jnp.array([[w]]), jnp.array([b]))
    batch = (jnp.ones((1, 1)), jnp.zeros((1, 1)))
    loss = fp.BinaryCrossEntropy()
    params, _ = descend(fp.backprop(neuron, loss), params, batch, 0.15, 300)
    assert abs(jax.nn.sigmoid(neuron.forward(params, batch[0])[0][0, 0]) - end) < 1e-10


# --- NAND ----

NAND = (
    jnp.array([[0.0, 0], [0, 1], [1, 0], [1, 1]], jnp.float32),
    jnp.array([[1.0], [1], [1], [0]], jnp.float32),
)


def nand():
    w1 = jnp.array([[0.1, -0.2, 0.3], [0.4, 0.5, -0.6]])
    w2 = jnp.array([[0.7], [-0.8], [0.9]])
    model = fp.Serial(fp.Dense(3), fp.Sigmoid(), fp.Dense(1), fp.Sigmoid())
    params = Affine(w1, jnp.array([0.05, -0.1, 0.2])), (), Affine(w2, jnp.array([0.1])), ()
    x, y = (leaf.astype(jnp.float64) for leaf in NAND)
    return model, params, (x, y)


def test_nand_gradients():
    model, params, batch = nand()
    loss, grads = fp.backprop(model, fp.QuadraticCost())(params, batch)
    assert abs(loss - 0.09956064181333822) < 1e-15
    outputs, _ = model.forward(params, batch[0])
    assert np.allclose(outputs[:, 0], [0.63958932, 0.60101077, 0.66729329, 0.62984372], atol=1e-8)
    dw1 = [[0.0027484949, -0.0036577806, 0.0043335714], [0.0019811035, -0.0026717188, 0.0030671195]]
    assert np.allclose(grads[0].w, dw1, atol=1e-10)
    assert np.allclose(grads[0].b, [-0.0048648686, 0.0050833061, -0.0054653921], atol=1e-10)
    assert np.allclose(grads[2].w[:, 0], [-0.0118953873, -0.0118600160, -0.0150753292], atol=1e-10)
    assert np.allclose(grads[2].b, [-0.0264448513], atol=1e-10)


def test_nand_descends_where_the_seed_ascended():
    model, params, batch = nand()
    gradient = fp.backprop(model, fp.QuadraticCost())
    _, grads = gradient(params, batch)
    down = jax.tree.map(lambda p, g: p - g, params, grads)
    up = jax.tree.map(lambda p, g: p + g, params, grads)
    assert abs(gradient(down, batch)[0] - 0.09828266329306014) < 1e-15
    assert abs(gradient(up, batch)[0] - 0.10098039831270114) < 1e-15


# --- small graphs ----


def test_sigmoid_neuron():
    params = (Affine(jnp.array([[2.0], [-3.0]]), jnp.array([-3.0])), ())
    neuron = fp.Serial(fp.Dense(1), fp.Sigmoid())
    x = jnp.array([-1.0, -2.0])
    a, residuals = neuron.forward(params, x)
    dx, (dense, _) = neuron.backward(params, residuals, jnp.ones(1))
    assert abs(a[0] - 0.7310585786) < 1e-10
    assert np.allclose(dx, [0.3932238665, -0.5898357997], atol=1e-10)
    assert np.allclose(dense.w[:, 0], [-0.1966119332, -0.3932238665], atol=1e-10)
    assert np.allclose(dense.b, [0.1966119332], atol=1e-10)


def test_softmax_cross_entropy_gradient_is_p_minus_y():
    z = jnp.log(jnp.array([0.2, 0.3, 0.5]))
    loss = fp.SoftmaxCrossEntropy()
    _, kept = loss.forward((), (z, jnp.array(1)))
    (dz, none), _ = loss.backward((), kept, jnp.ones(()))
    assert np.allclose(dz, [0.2, -0.7, 0.5], atol=1e-15)
    assert none is None


@pytest.mark.parametrize(("t", "w00"), [(5, -0.40094747)])
def test_optax_adam_matches_the_course_numbers(t, w00):
    """optax is what updates: its Adam, started in the middle, gives the published value."""
    shape = (4, 5)
    w, dw, v = (
        jnp.linspace(low, high, 20).reshape(shape)
        for low, high in [(-0.4, 0.6), (-0.6, 0.4), (0.7, 0.5)]
    )
    m = jnp.linspace(0.6, 0.9, 20).reshape(shape)
    state = (optax.ScaleByAdamState(jnp.int32(t), m, v), optax.EmptyState())
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optax.adam(1e-2).update(dw, state, w)
    assert abs((w + updates)[0, 0] - w00) < 1e-7


def test_optax_momentum_matches_the_course_numbers():
    """v ← 0.9 v − lr dw, w ← w + v: optax keeps −v / lr."""
    w, dw, v = (jnp.linspace(low, high, 20) for low, high in [(-0.4, 0.6), (-0.6, 0.4), (0.6, 0.9)])
    optimizer = optax.sgd(1e-3, momentum=0.9)
    state = (optax.TraceState(-v / 1e-3), *optimizer.init(w)[1:])
    updates, (trace, *_) = optimizer.update(dw, state, w)
    assert abs((w + updates)[0] - 0.1406) < 1e-12
    assert abs(-1e-3 * trace.trace[0] - 0.5406) < 1e-12
