"""Rows of plain functions with calls in them: loops, checkpoints, rules, branches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from .table import EXAMPLES as B
from .table import normal, row


@row("a recurrence")
def recurrence():
    def loss(p, x):
        def step(h, x):
            h = jnp.tanh(x @ p["wx"] + h @ p["wh"] + p["b"])
            return h, h * p["g"]

        h, ys = lax.scan(step, p["h0"], x)
        return jnp.square(ys).sum() + h.sum()

    vectors = {name: normal(4, seed=i) for i, name in enumerate(("b", "g", "h0"))}
    return loss, {"wx": normal(3, 4), "wh": normal(4, 4), **vectors}, normal(B, 5, 3)


@row("a scan over layers, and one backwards")
def layers():
    def loss(p, x):
        def step(h, w):
            return jnp.tanh(h @ w["w"] + w["b"]) @ p["s"], h.sum()

        x, sums = lax.scan(step, x, p["l"])
        return x.sum() + jnp.sin(lax.scan(step, x, p["l"], reverse=True)[0]).sum() + sums.sum()

    stack = {"w": normal(2, 3, 4), "b": normal(2, 4)}
    return loss, {"l": stack, "s": normal(4, 3)}, normal(B, 4, 3)


@row("a scan over layers with checkpoints, and a scan over time inside")
def nested():
    def loss(p, xs):
        @jax.checkpoint
        def layer(xs, w):
            def step(h, x):
                h = jnp.tanh(x @ w["x"] + h @ w["h"].T)
                return h, h

            return lax.scan(step, jnp.zeros(3), xs)[1] * p["g"], None

        return lax.scan(layer, xs, p["l"])[0].sum()

    return (
        loss,
        {"l": {"x": normal(2, 3, 3), "h": normal(2, 3, 3, seed=1)}, "g": normal(3)},
        normal(B, 4, 3),
    )


@row("a checkpoint, twice, with a policy")
def checkpoint():
    def loss(p, x):
        @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
        def f(p, x):
            return jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]

        return jnp.sin(f(p, f(p, x))).sum()

    return loss, {"a": normal(3, 4), "b": normal(4), "c": normal(4, 3)}, normal(B, 4, 3)


@row("a network that makes the weights of another")
def hyper():
    def loss(p, x):
        w = (jnp.tanh(p["z"] @ p["a"]) @ p["b"]).reshape(3, 4)  # of parameters
        own = (x.mean(0) @ p["c"]).reshape(4, 2)  # of data
        return jnp.sin(jnp.tanh(x @ w) @ own).sum()

    params = {"z": normal(2), "a": normal(2, 5), "b": normal(5, 12), "c": normal(3, 8)}
    return loss, params, normal(B, 4, 3)


@row("a mixture of experts, one-hot")
def experts():
    def loss(p, x):
        gates = jax.nn.softmax(x @ p["gate"])
        top = jax.nn.one_hot(gates.argmax(-1), 3, dtype=x.dtype)
        sent = jnp.einsum("te,td->etd", top, x)
        y = jnp.tanh(jnp.einsum("etd,edf->etf", sent, p["w"]) + p["b"][:, None])
        return jnp.einsum("te,etf->tf", top * gates, y).sum()

    return loss, {"gate": normal(4, 3), "w": normal(3, 4, 2), "b": normal(3, 2)}, normal(B, 5, 4)


@row("a mixture of experts, ragged_dot", wrong="jax maps ragged_dot over no data alone")
def ragged():
    def loss(p, x):
        gates = jax.nn.softmax(x @ p["gate"])
        expert = gates.argmax(-1)
        order = jnp.argsort(expert)
        sizes = jnp.bincount(expert, length=3).astype(jnp.int32)
        y = jnp.tanh(lax.ragged_dot(x[order], p["w"], sizes))
        return jnp.sin(y * gates.max(-1)[order][:, None]).sum()

    return loss, {"gate": normal(4, 3), "w": normal(3, 4, 2)}, normal(B, 5, 4)


@row("a diagonal state space, complex")
def diagonal():
    def loss(p, x):
        rate = lax.complex(-jnp.exp(p["re"]), p["im"])
        b, c = (lax.complex(*p[name]) for name in "bc")
        u = x.astype(complex) @ b

        def join(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        h = lax.associative_scan(join, (jnp.broadcast_to(jnp.exp(rate), u.shape), u))[1]
        return jnp.sin((h @ c).real + x * p["d"]).sum()

    params = {"re": normal(4), "im": normal(4, seed=1), "d": normal(2)}
    return loss, params | {"b": normal(2, 2, 4), "c": normal(2, 4, 2)}, normal(B, 5, 2)


@row("a selective state space")
def selective():
    def loss(p, x):
        step = jax.nn.softplus(x @ p["step"] + p["bias"])  # [T, D]
        decay = jnp.exp(step[..., None] * -jnp.exp(p["a"]))  # [T, D, N]
        u = (step * x)[..., None] * (x @ p["b"])[:, None]

        def join(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        h = lax.associative_scan(join, (decay, u))[1]
        return jnp.sin(jnp.einsum("tdn,tn->td", h, x @ p["c"]) + p["d"] * x).sum()

    params = {"step": normal(3, 3), "bias": normal(3), "a": normal(3, 2), "d": normal(3, seed=1)}
    return loss, params | {"b": normal(3, 2), "c": normal(3, 2, seed=1)}, normal(B, 4, 3)


# --- derivatives inside ---------------------------------------------------------------------------


def network(p, t):
    return jnp.tanh(jnp.tanh(t @ p["a"] + p["b"]) @ p["c"]) @ p["d"]


NETWORK = {"a": (2, 4), "b": (4,), "c": (4, 3), "d": (3,)}


@row("an equation with a derivative of the network")
def derivative():
    def loss(p, t):
        slope = jax.grad(network, 1)(p, t)
        return jnp.square(slope[0] + network(p, t) * slope[1])

    return loss, {name: normal(*shape) for name, shape in NETWORK.items()}, normal(B, 2)


@row("an equation with second derivatives of the network")
def laplacian():
    def loss(p, t):
        return jnp.square(jnp.trace(jax.hessian(network, 1)(p, t)) - jnp.sin(t[0]))

    return loss, {name: normal(*shape) for name, shape in NETWORK.items()}, normal(B, 2)


# --- rules of one's own ---------------------------------------------------------------------------


@jax.custom_vjp
def scaled(w, x):
    return jnp.sin(x @ w)


scaled.defvjp(
    lambda w, x: (scaled(w, x), (w, x)),
    lambda kept, dy: (3 * kept[1].T @ dy, 2 * dy @ kept[0].T),
)


@jax.custom_jvp
def bent(w, x):
    return jnp.abs(x @ w)


@bent.defjvp
def bent_slope(primals, tangents):
    (w, x), (dw, dx) = primals, tangents
    return bent(w, x), jnp.tanh(x @ w) * (x @ dw + 2 * dx @ w)


@row("custom_vjp and custom_jvp of a parameter")
def rules():
    def loss(p, x):
        return jnp.sin(bent(p["b"], scaled(p["a"], jnp.tanh(x @ p["w"])))).sum()

    return loss, {"w": normal(3, 4), "a": normal(4, 5), "b": normal(5, 2)}, normal(B, 4, 3)


@row("custom rules of data alone, of parameters alone, and in a scan")
def placed_rules():
    def loss(p, x):
        w = scaled(p["a"], p["b"])

        def step(h, w):
            return scaled(w, jax.nn.silu(jax.nn.relu(h @ p["c"]))), None

        return lax.scan(step, x, jnp.stack([w, w.T]))[0].sum()

    return loss, {name: normal(3, 3, seed=i) for i, name in enumerate("abc")}, normal(B, 4, 3)


# --- branches and loops ---------------------------------------------------------------------------


@row("cond and switch on data")
def branches():
    def loss(p, x):
        a, b = p["a"], p["b"]
        y = lax.cond(x[0, 0] > 0, lambda: jnp.sin(x @ a), lambda: jnp.cos(x * b[0]) @ a)
        number = (jnp.abs(x[0, 1]) * 10).astype(int) % 3
        return lax.switch(number, [lambda y: y @ p["c"], jnp.sin, lambda y: y * p["b"]], y).sum()

    return loss, {"a": normal(3, 3), "b": normal(3), "c": normal(3, 3, seed=1)}, normal(B, 4, 3)


@row("cond on a parameter")
def parameter_branch():
    def loss(p, x):
        big = p["a"].sum() > 0
        y = lax.cond(big, lambda x: jnp.sin(x @ p["a"]), lambda x: jnp.cos(x @ p["b"]), x)
        return lax.cond(p["i"] > 0, lambda y: y * p["g"], lambda y: y, y).sum()

    params = {"a": normal(3, 4), "b": normal(3, 4, seed=1), "g": normal(4), "i": jnp.array(1)}
    return loss, params, normal(B, 4, 3)


@row("fori_loop, and a while_loop on data")
def loops():
    def loss(p, x):
        x = lax.while_loop(lambda x: jnp.abs(x).max() > 0.5, lambda x: x / 2, lax.stop_gradient(x))
        y = lax.fori_loop(0, 3, lambda i, y: jnp.sin(y @ p["w"] + p["b"][i]), x)
        return (y * lax.map(lambda row: jnp.tanh(row @ p["w"]), x)).sum()

    return loss, {"w": normal(3, 3), "b": normal(3, 3, seed=1)}, normal(B, 4, 3)


@row("vmap over data, over parameters and over both")
def mapped():
    def loss(p, x):
        x = jax.vmap(lambda x: jnp.sin(p["w"] @ x))(x)  # [T, 3]
        many = jax.vmap(lambda w: jnp.tanh(x @ w))(p["e"])  # [E, T, 2]
        return jnp.sin(jax.vmap(lambda g, y: y @ g)(p["g"], many)).sum()

    return loss, {"w": normal(3, 3), "e": normal(4, 3, 2), "g": normal(4, 2)}, normal(B, 5, 3)


@row("jit in jit, with a static argument")
def jitted():
    @functools.partial(jax.jit, static_argnums=2)
    def block(p, x, n):
        return x if n == 0 else block(p, jax.jit(lambda p: jnp.sin(x @ p["w"]) + p["b"])(p), n - 1)

    def loss(p, x):
        return block(p, x, 2).sum()

    return loss, {"w": normal(3, 3), "b": normal(3)}, normal(B, 4, 3)


@row("shard_map inside")
def sharded():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",))

    def loss(p, x):
        def part(w, x):
            return lax.psum(jnp.sin(x @ w), "d")

        f = jax.shard_map(part, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())
        return jnp.sin(f(p["w"], x) * p["b"]).sum()

    return loss, {"w": normal(3, 4), "b": normal(4)}, normal(B, 4, 3)


@row("half precision inside", tolerance=0.03)
def half():
    def loss(p, x):
        w, v = (p[name].astype(jnp.bfloat16) for name in "wv")
        y = jnp.tanh(x.astype(jnp.bfloat16) @ w) * p["g"]
        y = jax.nn.softmax((y @ v).astype(jnp.float32) * p["s"])
        return jnp.square(y).sum()

    half = {"g": normal(4).astype(jnp.bfloat16), "w": normal(3, 4).astype(jnp.bfloat16)}
    full = {"v": normal(4, 5).astype(jnp.float32), "s": normal(5).astype(jnp.float32)}
    return loss, half | full, normal(B, 4, 3).astype(jnp.float32)
