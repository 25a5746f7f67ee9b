"""gpt: a language model, the objective that trains it, and text made by it.

The objective never holds the logits: `LinearCrossEntropy` makes them chunk by chunk. It has the
model's parameters in another arrangement, and two functions lead from one to the other:

    model = gpt(vocabulary=256, length=128, width=128, depth=4, heads=4)
    objective = gpt_objective(model)
    params = objective.init(key, (tokens, targets))
    gradient = backprop(objective)                       # (params, (tokens, targets)) -> ...
    logits, _ = model.forward(from_objective(params), tokens)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from funcprop.composites import Parallel, Repeat, Serial, Tied
from funcprop.doors import door
from funcprop.initializers import Initializer, Normal
from funcprop.layer import Array, Layer, Params, describe, is_integer, spell
from funcprop.layers import (
    Affine,
    Dense,
    Dropout,
    Embedding,
    Identity,
    LayerNorm,
    LearnedPositions,
)
from funcprop.losses import LinearCrossEntropy
from funcprop.losses.linear_cross_entropy import Projection
from funcprop.models.transformer import transformer_block


@door
def gpt(
    vocabulary: int,
    length: int,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    w_init: Initializer = Normal(0.02),
    fused: bool = True,
) -> Tied:
    """A causal language model: tokens int [..., T] -> logits [..., T, vocabulary], T ≤ length.

    That of GPT-2 (Radford et al., 2019): embedding and learned positions, `depth` blocks, a last
    LayerNorm, and the embedding's own table as the output projection.

    width    features of a token; heads divides it
    depth    blocks
    dropout  rate, after the positions and in the blocks
    w_init   of all weights but the tables, which are N(0, 0.02²)
    fused    one Dense a block for queries, keys and values; False for three, whose columns may lie
             on several devices

    Raises LayerError for sizes and rates that cannot be.

    source  Radford et al., Language models are unsupervised multitask learners, 2019

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, tokens = fp.gpt(vocabulary=256, length=32), jnp.zeros((8, 20), jnp.int32)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    >>> jax.eval_shape(model.forward, params, tokens)[0].shape
    (8, 20, 256)
    """
    backbone = Serial(
        Embedding(vocabulary, width),
        LearnedPositions(length),
        *((Dropout(dropout),) if dropout else ()),
        Repeat(transformer_block(width, heads, dropout, True, w_init, fused), depth),
        LayerNorm(),
    )
    return Tied(Serial(backbone, Dense(vocabulary, bias=False)), (("[0][0].w.T", "[1].w"),))


@door
def gpt_objective(model: Layer, chunk: int = 256, *, label_smoothing: float = 0.0) -> Tied:
    """What trains a model of `gpt`: (tokens, targets), int [..., T] each -> the mean loss [].

    chunk            how many rows of logits are in memory at a time
    label_smoothing  α: targets (1 − α) y + α / vocabulary

    Raises TypeError for another model.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, tokens = fp.gpt(vocabulary=256, length=32), jnp.zeros((8, 20), jnp.int32)
    >>> objective = fp.models.gpt_objective(model)
    >>> params = jax.eval_shape(objective.init, jax.random.key(0), (tokens, tokens))
    >>> gradient = fp.backprop(objective)
    >>> value, grads = jax.eval_shape(gradient, params, (tokens, tokens))
    >>> value.shape, jax.tree.structure(grads) == jax.tree.structure(params)
    ((), True)
    """
    backbone, head = backbone_and_head(model)
    loss = LinearCrossEntropy(head.features, chunk=chunk, label_smoothing=label_smoothing)
    return Tied(Serial(Parallel(backbone, Identity()), loss), (("[0][0][0].w.T", "[1].w"),))


@door
def to_objective(params: Params) -> Params:
    """The parameters of `gpt`, or gradients of their arrangement, as `gpt_objective` has them.

    params  ((backbone, Affine(None, None)),) -> (((backbone, ()), Projection(None, None)),):
            the same arrays, whatever their shapes and dtypes; w [vocabulary, width] in backbone

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, tokens = fp.gpt(vocabulary=256, length=32, width=16), jnp.zeros(20, jnp.int32)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    >>> objective, batch = fp.models.gpt_objective(model), (tokens, tokens)
    >>> jax.eval_shape(objective.forward, fp.models.to_objective(params), batch)[0].shape
    ()
    """
    ((backbone, _),) = params
    return (((backbone, ()), Projection(None, None)),)  # type: ignore[arg-type]


@door
def from_objective(params: Params) -> Params:
    """The parameters of `gpt_objective`, or their gradients, as `gpt` has them.

    params  (((backbone, ()), Projection(None, None)),) -> ((backbone, Affine(None, None)),):
            the same arrays, whatever their shapes and dtypes; w [vocabulary, width] in backbone

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, tokens = fp.gpt(vocabulary=256, length=32, width=16), jnp.zeros(20, jnp.int32)
    >>> objective, batch = fp.models.gpt_objective(model), (tokens, tokens)
    >>> params = jax.eval_shape(objective.init, jax.random.key(0), batch)
    >>> jax.eval_shape(model.forward, fp.models.from_objective(params), tokens)[0].shape
    (20, 256)
    """
    (((backbone, _), _),) = params
    return ((backbone, Affine(None, None)),)  # type: ignore[arg-type]


@door
def generate(
    model: Layer,
    params: Params,
    prompt: Array,
    length: int,
    key: Array,
    temperature: float = 1.0,
) -> Array:
    """Tokens drawn one after the other: prompt int [T] -> what follows it, int32 [length].

    model, params  of `gpt`, after `inference` where it has dropout
    temperature    below 1 bolder, above 1 more even; 0 takes the likeliest token

    A model reads at most as many tokens as it has positions: the last ones.
    Raises TypeError for another model, ValueError for an empty prompt or impossible numbers.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, prompt = fp.gpt(vocabulary=256, length=32), jnp.array([72, 105])
    >>> params = jax.eval_shape(model.init, jax.random.key(0), prompt)
    >>> key = jax.random.key(1)
    >>> text = jax.eval_shape(lambda params: fp.generate(model, params, prompt, 50, key), params)
    >>> text.shape, text.dtype
    ((50,), dtype('int32'))
    """
    backbone_and_head(model)  # raises for another model
    try:
        positions = params[0][0][1].w.shape[0]
    except (AttributeError, IndexError, TypeError):
        raise TypeError(
            f"params is {spell(params)}, wanted those of the model: model.init(key, prompt)"
        ) from None
    prompt = jnp.asarray(prompt)
    if not is_integer(prompt) or prompt.ndim != 1 or not prompt.size:
        raise ValueError(f"the prompt is {spell(prompt)}, wanted int[T] with at least one token")
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature!r}, wanted a number of at least 0")
    seen = prompt[-positions:].astype(jnp.int32)
    tokens = jnp.zeros(positions, jnp.int32).at[: seen.size].set(seen)

    def step(state: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Array]:
        tokens, count = state
        # what stands behind the last token is not read: the model is causal
        logits = model.forward(params, tokens)[0][count - 1]
        likeliest = jnp.argmax(logits)
        drawn = jax.random.categorical(key, logits / temperature) if temperature else likeliest
        drawn = drawn.astype(jnp.int32)
        full = count == positions
        tokens = jnp.where(full, jnp.roll(tokens, -1), tokens)
        count = jnp.minimum(count + 1, positions)
        return (tokens.at[count - 1].set(drawn), count), drawn

    start = (tokens, jnp.int32(seen.size))
    return jax.lax.scan(step, start, jax.random.split(key, length))[1]


def backbone_and_head(model: Layer) -> tuple[Serial, Dense]:
    """The backbone and the output projection of a model of `gpt`."""
    inner = model.layers[0] if isinstance(model, Tied) else None
    if isinstance(inner, Serial) and len(inner.layers) == 2:
        backbone, head = inner.layers
        if isinstance(backbone, Serial) and isinstance(head, Dense):
            return backbone, head
    raise TypeError(f"{describe(model)} is no language model of gpt: write gpt(vocabulary, length)")
