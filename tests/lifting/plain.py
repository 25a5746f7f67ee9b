"""Rows of plain functions: layers as one writes them without a library."""

import jax
import jax.numpy as jnp
from jax import lax

from .table import EXAMPLES as B
from .table import normal, row, whole


@row("a vector that is a row in one use and a column in another")
def rows_and_columns():
    def loss(p, x):
        def value(x):
            return jnp.tanh(jnp.tanh(x @ p["w"]) @ p["v"]).sum()

        return jnp.square(jax.grad(value)(x)).sum()

    return loss, {"w": normal(3, 4), "v": normal(4)}, normal(B, 6, 3)


@row("mlp")
def mlp():
    def loss(p, x):
        return jnp.square(jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]).sum()

    return loss, {"a": normal(3, 4), "b": normal(4), "c": normal(4, 2)}, normal(B, 3)


@row("einsum to heads, with a gain")
def einsum():
    def loss(p, x):
        return (jnp.einsum("td,dhe->hte", x, p["a"]) * p["g"]).sum(0).std()

    return loss, {"a": normal(3, 2, 4), "g": normal(4)}, normal(B, 5, 3)


@row("a weight for each position")
def batched():
    def loss(p, x):
        return jnp.sin(jnp.einsum("td,tde->te", x, p)).sum()

    return loss, normal(5, 3, 4), normal(B, 5, 3)


@row("weights batched in the middle, two axes contracted")
def contracted():
    def loss(p, x):
        return jnp.sin(jnp.einsum("tgab,obga->tgo", x, p)).sum()

    return loss, normal(3, 4, 2, 3), normal(B, 5, 2, 3, 4)


@row("on the left, and transposed")
def left():
    def loss(p, x):
        return jnp.sin(p["a"] @ x @ p["b"].T).sum()

    return loss, {"a": normal(4, 5), "b": normal(2, 3)}, normal(B, 5, 3)


@row("an outer product, and a number")
def outer():
    def loss(p, x):
        return jnp.sin(jnp.outer(x, p["v"]) / p["t"]).sum()

    return loss, {"v": normal(4), "t": jnp.asarray(0.7)}, normal(B, 3)


@row("bilinear")
def bilinear():
    def loss(p, x):
        return jnp.sin(jnp.einsum("i,ijk,j->k", x[:3], p, x[3:])).sum()

    return loss, normal(3, 4, 2), normal(B, 7)


@row("squeezed, sliced, turned and joined")
def views():
    def loss(p, x):
        w = jnp.concatenate([p["a"][0, 1:], jnp.flip(p["a"][0, :1], 1)]).reshape(2, 2, 4)
        return (
            jnp.sin(x @ w.transpose(1, 2, 0).reshape(2, 8)).sum()
            + jnp.sin(x @ p["a"][0, 1:3, :]).sum()
        )

    return loss, {"a": normal(1, 4, 4)}, normal(B, 3, 2)


@row("slices of one stack, one after the other")
def slices():
    def loss(p, x):
        for i in range(2):
            x = jnp.sin(x @ p[i])
        return x.sum()

    return loss, normal(2, 3, 3), normal(B, 4, 3)


# --- convolutions ---------------------------------------------------------------------------------

CONVOLUTIONS = {
    "stride": dict(strides=(2, 3), padding="VALID"),
    "groups": dict(strides=(1, 2), padding="SAME", groups=2),
    "one group a channel": dict(strides=(1, 1), padding="SAME", groups=4),
    "dilation": dict(strides=(1, 1), padding=((2, 1), (0, 3)), spread=(2, 1)),
    "transposed": dict(strides=(1, 1), padding=((2, 1), (1, 3)), apart=(2, 2)),
    "negative padding": dict(strides=(1, 1), padding=((-1, 0), (0, -2))),
    "stride beside dilation of both": dict(
        strides=(2, 1), padding=((1, 2), (2, 2)), apart=(2, 3), spread=(1, 2), groups=2
    ),
}


def convolution(strides, padding, apart=None, spread=None, groups=1):
    def loss(p, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            x[None], p["k"], strides, padding, apart, spread, numbers, groups
        )
        return jnp.sin(y + p["b"]).sum()

    return loss, {"k": normal(3, 2, 4 // groups, 8), "b": normal(8)}, normal(B, 6, 7, 4)


for name, options in CONVOLUTIONS.items():
    row(f"convolution: {name}")(lambda options=options: convolution(**options))


@row("convolution: channels first")
def channels_first():
    def loss(p, x):
        numbers = ("NCHW", "OIHW", "NCHW")
        y = lax.conv_general_dilated(x[None], p, (1, 1), "SAME", dimension_numbers=numbers)
        return jnp.sin(y).sum()

    return loss, normal(5, 2, 3, 2), normal(B, 2, 5, 4)


@row("convolution: 1-D, the parameter is the signal")
def signal():
    def loss(p, x):
        numbers = ("NWC", "WIO", "NWC")
        y = lax.conv_general_dilated(x[None], p["k"], (2,), "SAME", dimension_numbers=numbers)
        k = x[:3, :, None]
        z = lax.conv_general_dilated(p["s"], k, (1,), "SAME", dimension_numbers=numbers)
        return jnp.sin(y).sum() + jnp.sin(z).sum()

    return loss, {"k": normal(3, 2, 4), "s": normal(1, 6, 2)}, normal(B, 5, 2)


@row("convolution: 3-D, a batch of the example's own")
def volumes():
    def loss(p, x):
        numbers = ("NDHWC", "DHWIO", "NDHWC")
        y = lax.conv_general_dilated(x, p, (1, 2, 1), "SAME", dimension_numbers=numbers)
        return jnp.sin(y).sum()

    return loss, normal(2, 1, 2, 2, 3), normal(B, 2, 3, 4, 3, 2)


@row("lax.conv_transpose")
def transposed():
    def loss(p, x):
        y = lax.conv_transpose(
            x[None], p, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            transpose_kernel=True,
        )  # fmt: skip
        return jnp.sin(y).sum()

    return loss, normal(3, 2, 3, 2), normal(B, 3, 4, 2)


@row("convolution by the Fourier transform")
def fourier():
    def loss(p, x):
        return jnp.sin(jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(p, n=6), n=6)).sum()

    return loss, normal(4), normal(B, 6)


# --- normalization --------------------------------------------------------------------------------


@row("LayerNorm, RMSNorm and GroupNorm")
def norms():
    def loss(p, x):
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x = x * p["gain"] + p["bias"]
        x = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * (1 + p["scale"])
        groups = x.reshape(5, 2, 2)
        groups = (groups - groups.mean((0, 2), keepdims=True)) / (groups.std((0, 2), keepdims=True))
        return jnp.sin(groups.reshape(5, 4) * p["gain"] - p["last"]).sum()

    params = {name: normal(4, seed=i) for i, name in enumerate(("gain", "bias", "scale", "last"))}
    return loss, params, normal(B, 5, 4)


@row("weight norm")
def weight_norm():
    def loss(p, x):
        return jnp.sin(x @ (p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0))).sum()

    return loss, {"g": normal(4), "v": normal(3, 4)}, normal(B, 5, 3)


@row("spectral norm, by a step of power iteration")
def spectral_norm():
    def loss(p, x):
        v = p["w"].T @ lax.stop_gradient(p["u"])
        v = lax.stop_gradient(v / jnp.linalg.norm(v))
        return jnp.sin(x @ (p["w"] / jnp.linalg.norm(p["w"] @ v))).sum()

    return loss, {"w": normal(3, 4), "u": normal(3)}, normal(B, 5, 3)


@row("weight standardization")
def standardized():
    def loss(p, x):
        w = p["w"]
        w = (w - w.mean((0, 1, 2))) / jnp.sqrt(w.var((0, 1, 2)) + 1e-4) * p["g"]
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=numbers)
        return jnp.sin(y).sum()

    return loss, {"w": normal(2, 3, 2, 4), "g": normal(4)}, normal(B, 4, 3, 2)


# --- tables ---------------------------------------------------------------------------------------


@row("tied embeddings")
def tied():
    def loss(p, ids):
        h = jnp.tanh(p["e"][ids] @ p["w"])
        return jax.nn.logsumexp(h @ p["e"].T, -1).sum() - (h * p["e"][ids]).sum()

    return loss, {"e": normal(7, 4), "w": normal(4, 4)}, whole(7, B, 5)


@row("ids that are no rows")
def no_rows():
    def loss(p, ids):
        filled = jnp.take(p, ids, axis=0, mode="fill", fill_value=0)
        clipped = jnp.take(p, ids, axis=0, mode="clip")
        wrapped = jnp.take(p, ids, axis=0, mode="wrap")
        return (jnp.sin(filled) * clipped).sum() + jnp.sin(p[ids[:2] % 3 - 3] + wrapped[:2]).sum()

    return loss, normal(4, 3), whole(7, B, 5, low=-3)


@row("columns, and numbers at an index of the data")
def columns():
    def loss(p, ids):
        picked = jnp.take_along_axis(p["b"], ids[:, None], axis=1)
        return jnp.sin(p["a"][:, ids] * picked).sum() + jnp.sin(p["v"][ids]).sum()

    return loss, {"a": normal(3, 6), "b": normal(3, 6), "v": normal(6)}, whole(6, B, 3)


@row("a slice of a stack at an index of the data")
def dynamic():
    def loss(p, x):
        i, x = x
        return jnp.sin(x @ lax.dynamic_index_in_dim(p, i, 0, keepdims=False)).sum()

    return loss, normal(4, 3, 2), (whole(4, B), normal(B, 5, 3))


@row("a codebook with the straight-through estimate")
def codebook():
    def loss(p, x):
        z = x @ p["w"]
        nearest = p["e"][jnp.argmin(jnp.square(z[:, None] - p["e"]).sum(-1), -1)]
        q = z + lax.stop_gradient(nearest - z)
        return jnp.sin(q).sum() + jnp.square(lax.stop_gradient(z) - nearest).sum()

    return loss, {"w": normal(3, 2), "e": normal(5, 2)}, normal(B, 4, 3)


# --- elementwise ----------------------------------------------------------------------------------


@row("maximum, clip, where, PReLU")
def kinks():
    def loss(p, x):
        y = jnp.maximum(x, p["a"]) + jnp.clip(x, p["b"] - 1, p["b"] + 1)
        y = y + jnp.where(x > 0, p["c"], jnp.sin(p["c"] * x))
        return jnp.sin(jnp.where(y > 0, y, p["d"] * y)).sum()

    return loss, {name: normal(4, seed=i) for i, name in enumerate("abcd")}, normal(B, 5, 4)


@row("powers, quotients and differences")
def arithmetic():
    def loss(p, x):
        y = jnp.square(x) + 1
        y = y ** p["a"] - (p["b"] - x) / p["c"] + p["d"] / y + lax.erf(x * p["b"][0])
        return jnp.sin(y).sum() + jnp.arctan2(x, p["d"][:, None] + 3).sum()

    params = {name: normal(4, seed=i) for i, name in enumerate("abcd")}
    return loss, params, normal(B, 4, 4)


@row("a class token and positions")
def token():
    def loss(p, x):
        x = jnp.concatenate([p["t"], x @ p["w"]]) + p["e"]
        return jnp.sin(jax.nn.softmax(x @ x.T) @ x)[0].sum()

    return loss, {"t": normal(1, 4), "w": normal(3, 4), "e": normal(6, 4)}, normal(B, 5, 3)


@row("thresholds that are sums of parameters")
def thresholds():
    def loss(p, x):
        cuts = jnp.cumsum(jnp.exp(p["cuts"]))
        return jax.nn.log_sigmoid(cuts - (x @ p["w"])[:, None]).sum()

    return loss, {"cuts": normal(4), "w": normal(3)}, normal(B, 5, 3)


@row("sums along an axis of data beside parameters")
def sums():
    def loss(p, x):
        y = jnp.cumsum(x * p["g"], 0) + jnp.pad(p["b"], (1, 1))
        return jnp.sin(jnp.sort(y, -1)).sum() + jnp.tile(p["g"], (2, 1)).prod(0) @ x[0]

    return loss, {"g": normal(4), "b": normal(2)}, normal(B, 5, 4)


@row("low-rank adapters of a frozen weight")
def adapters():
    def loss(p, x):
        w, q = lax.stop_gradient(p["w"]), p["q"]
        y = jnp.tanh(x @ (w + 0.5 * p["a"] @ p["b"]))
        return jnp.sin(y @ lax.stop_gradient(q["w"]) + y @ q["a"] @ q["b"]).sum()

    def pair(*sizes):
        first, rank, last = sizes
        return {"w": normal(first, last), "a": normal(first, rank), "b": normal(rank, last)}

    return loss, pair(4, 2, 5) | {"q": pair(5, 1, 3)}, normal(B, 3, 4)


@row("in one number beside a parameter, in the output alone, and nowhere")
def alone():
    def loss(p, x):
        return jnp.sin(x @ p["w"]).sum() + jnp.square(p["w"]).sum() + jnp.exp(p["alone"]).sum()

    return loss, {"w": normal(3, 4), "alone": normal(2), "nowhere": normal(3)}, normal(B, 5, 3)


@row("integers, keys and nothing among the parameters")
def integers():
    def loss(p, x):
        noise = jax.random.normal(p["key"], (4,), x.dtype)
        return jnp.sin((x @ p["w"] + noise)[..., p["i"]] * p["rest"][1]).sum()

    params = {"w": normal(3, 4), "i": jnp.array([1, 2]), "key": jax.random.key(3)}
    return loss, params | {"rest": (None, jnp.asarray(1.5), jnp.zeros((0, 3)))}, normal(B, 5, 3)
