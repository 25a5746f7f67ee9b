"""Rows of Equinox, whose modules are trees of parameters and of what is none, and of Haiku."""

import jax
import jax.numpy as jnp

from .table import EXAMPLES as B
from .table import drawn, normal, row, whole


def equinox(name, x=None, **options):
    """A row of a module: the decorated function gives (key) -> module."""

    def add(make):
        def made():
            import equinox as eqx

            build = make(eqx)
            shapes = eqx.filter_eval_shape(build, jax.random.key(0))
            arrays, static = eqx.partition(shapes, lambda leaf: hasattr(leaf, "dtype"))

            def loss(p, x):
                return jnp.sin(eqx.combine(p, static)(x)).sum()

            return loss, drawn(arrays), normal(B, 4, 3) if x is None else x()

        row(f"equinox: {name}", library="equinox", **options)(made)
        return make

    return add


@equinox("MLP, LayerNorm, RMSNorm, PReLU, under vmap")
def mlp(eqx):
    class Model(eqx.Module):
        mlp: eqx.nn.MLP
        norm: eqx.nn.LayerNorm
        last: eqx.nn.RMSNorm
        slope: eqx.nn.PReLU

        def __init__(self, key):
            self.mlp = eqx.nn.MLP(3, 4, 5, 2, activation=jnp.tanh, key=key)
            self.norm, self.last = eqx.nn.LayerNorm(4), eqx.nn.RMSNorm(4)
            self.slope = eqx.nn.PReLU(0.2)

        def __call__(self, x):
            return jax.vmap(lambda x: self.slope(self.last(self.norm(self.mlp(x)))))(x)

    return Model


@equinox("Conv2d, ConvTranspose2d, GroupNorm, pooling", x=lambda: normal(B, 4, 5, 4))
def convolutions(eqx):
    def build(key):
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(4, 4, 3, stride=(1, 2), padding=1, groups=2, key=key),
                eqx.nn.GroupNorm(2, 4),
                eqx.nn.Lambda(jax.nn.silu),
                eqx.nn.ConvTranspose2d(4, 2, 2, stride=2, groups=2, key=key),
                eqx.nn.Conv2d(2, 2, 2, dilation=2, use_bias=False, key=key),
                eqx.nn.AvgPool2d(2, 1),
            ]
        )

    return build


@equinox("MultiheadAttention, rotary")
def attention(eqx):
    class Model(eqx.Module):
        attention: eqx.nn.MultiheadAttention
        rotary: eqx.nn.RotaryPositionalEmbedding

        def __init__(self, key):
            self.attention = eqx.nn.MultiheadAttention(
                2, 3, qk_size=4, vo_size=2, use_query_bias=True, use_output_bias=True, key=key
            )
            self.rotary = eqx.nn.RotaryPositionalEmbedding(4, dtype=jnp.float64)

        def __call__(self, x):
            def turned(q, k, v):
                return jax.vmap(self.rotary, 1, 1)(q), jax.vmap(self.rotary, 1, 1)(k), v

            mask = jnp.tri(4, dtype=bool)
            return self.attention(x, x, x, mask=mask, process_heads=turned)

    return Model


@equinox("LSTMCell and GRUCell in scans")
def recurrences(eqx):
    class Model(eqx.Module):
        lstm: eqx.nn.LSTMCell
        gru: eqx.nn.GRUCell

        def __init__(self, key):
            self.lstm = eqx.nn.LSTMCell(3, 3, key=key)
            self.gru = eqx.nn.GRUCell(3, 2, key=key)

        def __call__(self, x):
            def first(state, x):
                state = self.lstm(x, state)
                return state, state[0]

            x = jax.lax.scan(first, (jnp.zeros(3), jnp.zeros(3)), x)[1]
            return jax.lax.scan(lambda h, x: (self.gru(x, h), None), jnp.zeros(2), x)[0]

    return Model


@equinox("Embedding, shared by eqx.nn.Shared", x=lambda: whole(5, B, 4))
def tied(eqx):
    class Model(eqx.Module):
        shared: eqx.nn.Shared

        def __init__(self, key):
            both = (eqx.nn.Embedding(5, 3, key=key), eqx.nn.Linear(3, 5, key=key))
            self.shared = eqx.nn.Shared(both, lambda m: m[1].weight, lambda m: m[0].weight)

        def __call__(self, ids):
            table, linear = self.shared()
            return jax.nn.log_softmax(jax.vmap(linear)(jax.vmap(table)(ids)))[:, 0]

    return Model


@equinox("eqx.filter_checkpoint, filter_jit, a stack of layers in a scan, WeightNorm")
def checkpointed(eqx):
    class Model(eqx.Module):
        stack: eqx.nn.Linear
        last: eqx.nn.WeightNorm

        def __init__(self, key):
            self.stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 3, key=key))(
                jax.random.split(key, 2)
            )
            self.last = eqx.nn.WeightNorm(eqx.nn.Linear(3, 4, key=key))

        def __call__(self, x):
            arrays, static = eqx.partition(self.stack, eqx.is_array)

            @eqx.filter_checkpoint
            def layer(x, arrays):
                return jnp.tanh(jax.vmap(eqx.combine(arrays, static))(x)), None

            x = jax.lax.scan(layer, x, arrays)[0]
            return eqx.filter_jit(jax.vmap(eqx.filter_checkpoint(self.last)))(x)

    return Model


# --- Haiku ----------------------------------------------------------------------------------------


def haiku(name, x=None, **options):
    """A row of a Haiku function: the decorated one gives (x) -> y."""

    def add(make):
        def made():
            import haiku as hk

            net = hk.without_apply_rng(hk.transform(make(hk)))
            given = normal(B, 4, 3) if x is None else x()
            shapes = jax.eval_shape(net.init, jax.random.key(0), given[0])

            def loss(p, x):
                return jnp.sin(net.apply(p, x)).sum()

            return loss, drawn(shapes), given

        row(f"haiku: {name}", library="haiku", **options)(made)
        return make

    return add


@haiku("nets.MLP, LayerNorm, RMSNorm, Bias")
def haiku_mlp(hk):
    def predict(x):
        x = hk.nets.MLP([4, 5], activation=jnp.tanh, activate_final=True)(x)
        x = hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)
        return hk.Bias()(hk.RMSNorm(-1)(x))

    return predict


@haiku("Conv2D, DepthwiseConv2D, Conv2DTranspose, GroupNorm", x=lambda: normal(B, 5, 4, 4))
def haiku_convolutions(hk):
    def predict(x):
        x = hk.Conv2D(4, 3, stride=2, feature_group_count=2)(x[None])
        x = jax.nn.gelu(hk.GroupNorm(2)(hk.DepthwiseConv2D(1, 2)(x)))
        return hk.Conv2DTranspose(2, 2, stride=2, data_format="NHWC")(x)

    return predict


@haiku("MultiHeadAttention and Embed", x=lambda: whole(5, B, 4))
def haiku_attention(hk):
    def predict(ids):
        x = hk.Embed(5, 3)(ids)
        scale = hk.initializers.VarianceScaling(1.0)
        return x + hk.MultiHeadAttention(2, 2, model_size=3, w_init=scale)(x, x, x)

    return predict


@haiku("LSTM and GRU by hk.dynamic_unroll, hk.layer_stack, hk.remat")
def haiku_recurrence(hk):
    def predict(x):
        lstm, gru = hk.LSTM(3), hk.GRU(3)
        x = hk.dynamic_unroll(lstm, x, lstm.initial_state(None))[0]
        x = hk.dynamic_unroll(gru, x, gru.initial_state(None))[0]
        x = hk.experimental.layer_stack(2)(lambda x: jnp.tanh(hk.Linear(3)(x)))(x)
        return hk.remat(lambda x: hk.Linear(2)(x))(x)

    return predict
