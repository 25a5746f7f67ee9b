"""gpt2_params: the weights of a Hugging Face GPT-2 as a model and parameters of this library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.composites import Tied
from funcprop.layer import Params
from funcprop.models.decoder import gpt

# The names in the order of our parameters. Both libraries write z = x w + b with w [in, out].
TABLES = ("wte.weight", "wpe.weight")
BLOCK = (
    "ln_1.weight",
    "ln_1.bias",
    "attn.c_attn.weight",
    "attn.c_attn.bias",
    "attn.c_proj.weight",
    "attn.c_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
)
LAST = ("ln_f.weight", "ln_f.bias")
HEAD = "lm_head.weight"  # the table once more
MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # constants that older files carry


def gpt2_params(
    state_dict: Mapping[str, Any], heads: int | None = None, dtype: Any = jnp.float32
) -> tuple[Tied, Params]:
    """A GPT-2 state dict -> (model, params): `gpt` of its sizes, and its weights in `dtype`.

    state_dict  arrays of NumPy or tensors of PyTorch under the names of Hugging Face's
                GPT2LMHeadModel or GPT2Model, with "transformer." before them or without
    heads       query heads; width / 64 by default, as in every published GPT-2

    Nothing is fetched. The configuration must be that of GPT-2: tied embedding, `gelu_new`, an MLP
    of four times the width, eps 1e-5.
    Raises ValueError, in one message, for names that are missing or unknown, shapes that do not
    fit, and an output projection that is not the embedding.

    >>> import numpy as np
    >>> import funcprop as fp
    >>> given = {"wte.weight": np.ones((5, 4)), "wpe.weight": np.ones((3, 4))}
    >>> sizes = {
    ...     "h.0.ln_1": (4,),
    ...     "h.0.attn.c_attn": (4, 12),
    ...     "h.0.attn.c_proj": (4, 4),
    ...     "h.0.ln_2": (4,),
    ...     "h.0.mlp.c_fc": (4, 16),
    ...     "h.0.mlp.c_proj": (16, 4),
    ...     "ln_f": (4,),
    ... }
    >>> for name, size in sizes.items():
    ...     given |= {f"{name}.weight": np.ones(size), f"{name}.bias": np.ones(size[-1])}
    >>> model, params = fp.models.gpt2_params(given, heads=2)
    >>> params[0][0][0].w.shape
    (5, 4)
    """
    given = {name.removeprefix("transformer."): value for name, value in state_dict.items()}
    given = {name: numpy_of(value) for name, value in given.items() if not MASKS.fullmatch(name)}
    blocks = {name.split(".")[1] for name in given if re.match(r"h\.\d+\.", name)}
    depth = len(blocks)
    names = [*TABLES, *(f"h.{i}.{name}" for i in range(depth) for name in BLOCK), *LAST]
    problems = [f"{name} is missing" for name in names if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in (*names, HEAD)]
    if not depth:
        problems.insert(0, "it has no blocks h.0, h.1, ...")
    if problems:
        raise ValueError(told(problems))
    for name in TABLES:
        if given[name].ndim != 2:
            raise ValueError(told([f"{name} is {list(given[name].shape)}, wanted two axes"]))

    (vocabulary, width), length = given["wte.weight"].shape, len(given["wpe.weight"])
    if heads is None and width % 64:
        raise ValueError(f"the width is {width}, no multiple of 64: give heads=")
    model = gpt(vocabulary, length, width, depth, width // 64 if heads is None else heads)
    like = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 1), jnp.int32)), jax.random.key(0)
    )
    wanted, tree = jax.tree.flatten(like)

    def taken(names: list[str], shape: tuple[int, ...]) -> np.ndarray:
        for name in names:
            if given[name].shape != shape:
                found = list(given[name].shape)
                problems.append(f"{name} is {found}, wanted {list(shape)}")
        return np.stack([given[name] for name in names]) if not problems else np.zeros(0)

    # a leaf inside the blocks is stacked over them
    rows = [[name] for name in TABLES]
    rows += [[f"h.{i}.{name}" for i in range(depth)] for name in BLOCK]
    rows += [[name] for name in LAST]
    first, last = len(TABLES), len(TABLES) + len(BLOCK)
    leaves = []
    for number, (row, leaf) in enumerate(zip(rows, wanted, strict=True)):
        stacked = first <= number < last
        array = taken(row, leaf.shape[1:] if stacked else leaf.shape)
        leaves.append(array if stacked or problems else array[0])
    if HEAD in given and not np.array_equal(given[HEAD], given["wte.weight"]):
        problems.append(f"{HEAD} is not wte.weight, which gpt ties it to")
    if problems:
        raise ValueError(told(problems))
    return model, jax.tree.unflatten(tree, [jnp.asarray(leaf, dtype) for leaf in leaves])


def numpy_of(value: Any) -> np.ndarray:
    """An array of NumPy, or a tensor of PyTorch, as an array of NumPy."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):  # NumPy has none
            value = value.float()
    return np.asarray(value)


def told(problems: list[str]) -> str:
    """The first problems in one line."""
    more = [f"and {len(problems) - 6} more"] if len(problems) > 6 else []
    return (
        f"this is no GPT-2 state dict: {'; '.join(problems[:6] + more)}: "
        "give GPT2LMHeadModel.state_dict()"
    )
