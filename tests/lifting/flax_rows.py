"""Rows of Flax: Linen modules, whose parameters are a tree of dicts, and NNX modules, split."""

import jax
import jax.numpy as jnp

from .table import EXAMPLES as B
from .table import drawn, normal, row, whole


def linen(name, tolerance=1e-9, x=None, **options):
    """A row of a Linen module: the decorated function gives the module."""

    def add(make):
        def made():
            import flax.linen as nn

            module, given = make(nn), (normal(B, 4, 3) if x is None else x())
            one = jax.tree.map(lambda leaf: leaf[0], given)
            shapes = jax.eval_shape(module.init, jax.random.key(0), one)

            def loss(p, x):
                return jnp.sin(module.apply(p, x)).sum()

            return loss, drawn(shapes), given

        row(f"linen: {name}", library="flax", tolerance=tolerance, **options)(made)
        return make

    return add


@linen("Dense, DenseGeneral and Einsum")
def dense(nn):
    return nn.Sequential(
        [
            nn.Dense(4), nn.tanh, nn.DenseGeneral((2, 3)), nn.swish,
            nn.DenseGeneral(4, axis=(-2, -1)), nn.Einsum((4, 5), "td,df->tf"), nn.PReLU(),
        ]
    )  # fmt: skip


@linen("Conv, GroupNorm, ConvTranspose, ConvLocal", x=lambda: normal(B, 5, 4, 4))
def convolutions(nn):
    return nn.Sequential(
        [
            nn.Conv(4, (3, 2), strides=(1, 2), feature_group_count=2), nn.GroupNorm(2), nn.gelu,
            nn.ConvTranspose(2, (2, 2), strides=(2, 2), transpose_kernel=True),
            nn.Conv(2, (2, 2), kernel_dilation=2, padding="CIRCULAR"),
            nn.ConvLocal(2, (2, 2), strides=(2, 2)),
            lambda y: nn.max_pool(y, (2, 2)),
        ]
    )  # fmt: skip


@linen("LayerNorm, RMSNorm, InstanceNorm, WeightNorm, no statistics kept")
def norms(nn):
    class Norms(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.RMSNorm()(nn.LayerNorm()(nn.WeightNorm(nn.Dense(4))(x)))
            return nn.WeightNorm(nn.Dense(3), feature_axes=None)(nn.InstanceNorm()(x))

    return Norms()


@linen("MultiHeadDotProductAttention, with normed queries and a mask")
def attention(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            mask = nn.make_causal_mask(x[:, 0])
            y = nn.MultiHeadDotProductAttention(2, qkv_features=4, normalize_qk=True)(x, mask=mask)
            return x + y

    return Block()


@linen("Embed, and attend as the output", x=lambda: whole(5, B, 4))
def tied(nn):
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, ids):
            table = nn.Embed(5, 3)
            positions = self.param("positions", nn.initializers.normal(), (4, 3))
            return nn.log_softmax(table.attend(nn.Dense(3)(jnp.tanh(table(ids) + positions))))[:, 0]

    return Tied()


@linen("LSTM and GRU cells under nn.RNN, both directions")
def recurrences(nn):
    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, x):
            def over_time(cell, size):
                return nn.RNN(cell(size, param_dtype=jnp.float64))

            x = over_time(nn.OptimizedLSTMCell, 3)(x)
            x = nn.Bidirectional(over_time(nn.GRUCell, 2), over_time(nn.LSTMCell, 2))(x)
            return over_time(nn.SimpleCell, 2)(x)

    return Recurrent()


@linen("nn.scan over layers with nn.remat")
def scanned(nn):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(3)(nn.tanh(nn.Dense(4)(nn.LayerNorm()(x)))), None

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
            )
            return layers()(x, None)[0]

    return Scanned()


@linen("nn.remat, nn.vmap and a module used twice")
def lifted(nn):
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            dense = nn.remat(nn.Dense)(3)
            many = nn.vmap(
                nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None,
                axis_size=2,
            )  # fmt: skip
            return many(4)(dense(jnp.tanh(dense(x)))).sum(0)

    return Twice()


def statistics(name, module, tolerance=1e-9):
    """A row of a module that reads statistics: they are no parameters, the example has them not."""

    @row(f"linen: {name}", library="flax", tolerance=tolerance)
    def made():
        import flax.linen as nn

        net, x = module(nn), normal(B, 4, 3)
        variables = drawn(jax.eval_shape(net.init, jax.random.key(0), x[0]))
        state = {kind: tree for kind, tree in variables.items() if kind != "params"}
        state = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.5, state)

        def loss(p, x):
            return jnp.sin(net.apply({"params": p} | state, x)).sum()

        return loss, variables["params"], x


def spectral(nn):
    class Spectral(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.SpectralNorm(nn.Dense(4))(x, update_stats=False)

    return Spectral()


def batch_norm(nn):
    return nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=True), nn.tanh])


statistics("BatchNorm as it predicts", batch_norm)
statistics("SpectralNorm", spectral)


@row("linen: Dropout, its key in the example", library="flax")
def dropout():
    import flax.linen as nn

    net = nn.Sequential([nn.Dense(4), nn.Dropout(0.4, deterministic=False), nn.Dense(2)])
    x = (jax.random.split(jax.random.key(1), B), normal(B, 4, 3))
    shapes = jax.eval_shape(net.init, dict.fromkeys(("params", "dropout"), x[0][0]), x[1][0])

    def loss(p, x):
        key, x = x
        return jnp.sin(net.apply(p, x, rngs={"dropout": key})).sum()

    return loss, drawn(shapes), x


# --- NNX ------------------------------------------------------------------------------------------


def split(name, tolerance=1e-9, x=None, **options):
    """A row of an NNX module: the decorated function gives its class."""

    def add(make):
        def made():
            from flax import nnx

            model = nnx.eval_shape(lambda: make(nnx)(nnx.Rngs(0)))
            graph, params, rest = nnx.split(model, nnx.Param, ...)

            state = filled(rest)

            def loss(p, x):
                return jnp.sin(nnx.merge(graph, p, state)(x)).sum()

            return loss, drawn(params), normal(B, 4, 3) if x is None else x()

        row(f"nnx: {name}", library="flax.nnx", tolerance=tolerance, **options)(made)
        return make

    return add


def filled(tree):
    """Statistics as numbers, and keys as keys."""

    def one(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jnp.abs(drawn(leaf))

    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([one(leaf) for leaf in leaves])


@split("Linear, LayerNorm, Conv, GroupNorm, BatchNorm as it predicts")
def nnx_layers(nnx):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 4, rngs=rngs)
            self.norm = nnx.LayerNorm(4, rngs=rngs)
            self.conv = nnx.Conv(4, 4, (3,), feature_group_count=2, rngs=rngs)
            self.groups = nnx.GroupNorm(4, 2, rngs=rngs)
            self.batch = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)

        def __call__(self, x):
            x = nnx.gelu(self.norm(self.first(x)))
            return self.batch(self.groups(self.conv(x)))

    return Model


@split("MultiHeadAttention and a table used twice", x=lambda: whole(5, B, 4))
def nnx_attention(nnx):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.table = nnx.Embed(5, 4, param_dtype=jnp.float64, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
            self.norm = nnx.RMSNorm(4, rngs=rngs)

        def __call__(self, ids):
            x = self.table(ids)
            return self.table.attend(self.norm(x + self.attention(x)))[:, :2]

    return Model


@split("LSTM and GRU cells under nnx.RNN")
def nnx_recurrence(nnx):
    class Model(nnx.Module):
        def __init__(self, rngs):
            kinds = {"param_dtype": jnp.float64, "rngs": rngs}
            self.first = nnx.RNN(nnx.LSTMCell(3, 3, **kinds))
            self.second = nnx.RNN(nnx.GRUCell(3, 2, **kinds))

        def __call__(self, x):
            return self.second(self.first(x[None], rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))

    return Model


@split("nnx.scan over layers, with nnx.remat")
def nnx_scan(nnx):
    class Layer(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 3, rngs=rngs)
            self.gain = nnx.Param(jnp.ones(3))

        def __call__(self, x):
            return x + jnp.tanh(self.linear(x)) * self.gain[...]

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.vmap(Layer)(rngs.split(2))
            self.last = Layer(rngs)

        def __call__(self, x):
            @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            @nnx.remat
            def step(layer, x):
                return layer(x)

            return nnx.remat(lambda last, x: last(x))(self.last, step(self.layers, x))

    return Model
