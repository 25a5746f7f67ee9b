"""A prediction as a program in a file, which runs without the model that it was made of."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.doors import door
from funcprop.extras import require
from funcprop.layer import Layer, Params, output_shape
from funcprop.training.checkpoint import CheckpointError, replace_file

# after it comes a digest; `jax.export.deserialize` reads the file too, and does not look so far
MARK = b"\nsha256:"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Program:
    """A prediction that was read from a file: x -> y.

    stablehlo  the program as text

    raises  called, ValueError where x has another tree, shape or dtype than was exported

    >>> import jax, jax.numpy as jnp, pathlib, tempfile
    >>> import funcprop as fp
    >>> model, x = fp.Dense(3), jnp.ones((4, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.stablehlo")
    ...     fp.save_program(path, model, model.init(jax.random.key(0), x), x)
    ...     program = fp.load_program(path)
    >>> program, program(jnp.ones((7, 2))).shape
    (<Program float32[b, 2] -> float32[b, 3]>, (7, 3))
    """

    def __init__(self, exported: Any):
        self._exported = exported

    def __call__(self, x: Any) -> Any:
        """y of x. Raises ValueError where x has another tree, shape or dtype than was exported."""
        wanted, tree = self._exported.in_avals, self._exported.in_tree
        x = jax.tree.map(jnp.asarray, x)
        try:
            return self._exported.call(x)
        except (TypeError, ValueError) as error:
            found = ", ".join(_spelled(leaf) for leaf in jax.tree.leaves(x))
            if jax.tree.structure(((x,), {})) == tree and found == ", ".join(map(_spelled, wanted)):
                raise  # what is wrong is something else
            raise ValueError(
                f"x is {found}, and the program takes {', '.join(map(_spelled, wanted))}: give it "
                "such an x, or export the model for this one"
            ) from error

    @property
    def stablehlo(self) -> str:
        return self._exported.mlir_module()

    def __repr__(self) -> str:
        sides = (
            ", ".join(map(_spelled, avals))
            for avals in (self._exported.in_avals, self._exported.out_avals)
        )
        return f"<Program {' -> '.join(sides)}>"


def _spelled(aval: Any) -> str:
    return f"{aval.dtype}[{', '.join(map(str, aval.shape))}]"


@door
def save_program(
    path: str | Path, model: Layer, params: Params, x: Any, any_batch: bool = True
) -> None:
    """Write x -> y of the model with these parameters into a file, as StableHLO.

    path           the file, replaced as a whole or not at all
    model, params  those that `inference` returns
    x              an example of the input, as arrays or ShapeDtypeStructs [b, ...]
    any_batch      take any number of examples later; False: that of x, for a model whose program
                   depends on it

    The program runs on CPU, CUDA, ROCm and TPU, without this library too (`jax.export.deserialize`
    reads the file), and with releases of jax up to six months younger, as `jax.export` promises.

    raises  ModuleNotFoundError without flatbuffers, LayerError where the model does not accept x,
            ValueError where it cannot be written for any number of examples, CheckpointError where
            the file cannot be

    >>> import jax, jax.numpy as jnp, pathlib, tempfile
    >>> import funcprop as fp
    >>> model, x = fp.Serial(fp.Dense(3), fp.Tanh()), jnp.ones((4, 2))
    >>> params = model.init(jax.random.key(0), x)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.stablehlo")
    ...     fp.save_program(path, model, params, x)
    ...     y = fp.load_program(path)(x)
    >>> bool(jnp.allclose(y, model.forward(params, x)[0]))
    True
    """
    require("flatbuffers", "train")
    export = require("jax.export", "train")
    output_shape(model, params, x)  # what does not fit is told by the model
    size = export.symbolic_shape("b")[0] if any_batch else None
    specs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape if size is None else (size, *leaf.shape[1:]), leaf.dtype
        ),
        x,
    )
    predict = jax.jit(lambda x: model.forward(params, x)[0])
    try:
        data = bytes(export.export(predict, platforms=PLATFORMS)(specs).serialize())
    except Exception as error:
        if not any_batch:
            raise
        words = " ".join(str(error).split())
        raise ValueError(
            f"{model!r} cannot be written for any number of examples ({words[:100]}): "
            "write any_batch=False for the number that x has"
        ) from error
    try:
        replace_file(Path(path), data + MARK + hashlib.sha256(data).digest())
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}): give a file in a folder that is there"
        ) from error


@door
def load_program(path: str | Path) -> Program:
    """The program in a file that `save_program` wrote; nothing but the program is run.

    raises  ModuleNotFoundError without flatbuffers; CheckpointError where the file cannot be read,
            or is no such file

    >>> import funcprop as fp
    >>> try:
    ...     fp.load_program("nowhere.stablehlo")
    ... except fp.training.CheckpointError as error:
    ...     print(str(error).split(":")[0])
    nowhere.stablehlo cannot be read (No such file or directory)
    """
    require("flatbuffers", "train")
    export = require("jax.export", "train")
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): give the file that save_program wrote"
        ) from error
    data, mark, digest = data.rpartition(MARK)
    try:
        if not mark or hashlib.sha256(data).digest() != digest:
            raise ValueError("it is not what was written")
        return Program(export.deserialize(bytearray(data)))
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{path} is no complete program ({words[:80]}): save it again"
        ) from error
