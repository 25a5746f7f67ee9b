"""Operations that JAX runs one by one, by NumPy where the result is the same.

JAX compiles a program for every operation outside of `jax.jit` and every shape that it meets: half
of the programs of this suite, most of which run once. What moves or compares numbers, and
arithmetic that is rounded once, NumPy does with the same result; a sum or a product of matrices it
takes in an order of its own, as every program does. Everything else is compiled, as are the
functions of the library and of the tests that stand under `jax.jit`, and an operation that comes
again and again.
"""

import math
import weakref
from pathlib import Path

import jax
import numpy as np
from jax._src import array, config, core, pjit

calls = weakref.WeakKeyDictionary()  # how often an operation was called
OFTEN = 20  # calls, from which on compiling an operation pays
SMALL = 100_000  # numbers
WITHIN = str(Path(jax.__file__).parent)  # `jnp.add` is compiled, and so is `jnp.where`
ROUNDED = {np.dtype(np.float32), np.dtype(np.float64)}  # half precision is rounded at XLA's will


def broadcast(x, *, shape, broadcast_dimensions, **_):
    own = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
        own[axis] = size
    return np.broadcast_to(x.reshape(own), shape)


def iota(*, dtype, shape, dimension, **_):
    own = [1] * len(shape)
    own[dimension] = shape[dimension]
    return np.broadcast_to(np.arange(shape[dimension]).astype(dtype).reshape(own), shape)


def sliced(x, *, start_indices, limit_indices, strides):
    steps = strides or [1] * x.ndim
    return x[tuple(map(slice, start_indices, limit_indices, steps))]


def dynamic_slice(x, *starts, slice_sizes):
    firsts = [
        min(max(int(start), 0), size - wanted)
        for start, size, wanted in zip(starts, x.shape, slice_sizes, strict=True)
    ]
    return x[tuple(slice(i, i + size) for i, size in zip(firsts, slice_sizes, strict=True))]


def select(which, *cases):
    return np.where(which, cases[1], cases[0])


def padded(x, value, *, padding_config):
    sides = [(low, high) for low, high, _ in padding_config]
    return np.pad(x, sides, constant_values=value)


def product(a, b, *, dimension_numbers, **_):
    """Axes: those of the batch, those of `a` alone, those of `b` alone."""
    (summed_a, summed_b), (batch_a, batch_b) = dimension_numbers
    of_a, of_b = list(range(a.ndim)), list(range(a.ndim, a.ndim + b.ndim))
    for i, j in zip((*summed_a, *batch_a), (*summed_b, *batch_b), strict=True):
        of_b[j] = of_a[i]
    batch, summed = [of_a[i] for i in batch_a], {of_a[i] for i in summed_a}
    alone = [axis for axis in (*of_a, *of_b) if axis not in summed and axis not in batch]
    return np.einsum(a, of_a, b, of_b, [*batch, *alone])


MOVES = {
    "broadcast_in_dim": broadcast,
    "concatenate": lambda *xs, dimension: np.concatenate(xs, dimension),
    "convert_element_type": lambda x, *, new_dtype, **_: x.astype(new_dtype),
    "copy": lambda x: x,
    "dynamic_slice": dynamic_slice,
    "iota": iota,
    "optimization_barrier": lambda *xs: xs,
    "pad": padded,
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "rev": lambda x, *, dimensions: np.flip(x, dimensions),
    "select_n": select,
    "slice": sliced,
    "stack": lambda *xs, axis: np.stack(xs, axis),
    "squeeze": lambda x, *, dimensions: np.squeeze(x, dimensions),
    "tile": lambda x, *, reps: np.tile(x, reps),
    "transpose": lambda x, *, permutation: np.transpose(x, permutation),
    "unstack": lambda x, *, axis: tuple(np.moveaxis(x, axis, 0)),
}
COMPARES = {
    "eq": np.equal, "ge": np.greater_equal, "gt": np.greater, "is_finite": np.isfinite,
    "le": np.less_equal, "lt": np.less, "max": np.maximum, "min": np.minimum, "ne": np.not_equal,
    "sign": np.sign,
}  # fmt: skip
LOGIC = {"and": np.bitwise_and, "not": np.bitwise_not, "or": np.bitwise_or}
ARITHMETIC = {
    "abs": np.abs, "add": np.add, "div": np.divide, "integer_pow": np.square, "mul": np.multiply,
    "neg": np.negative, "sqrt": np.sqrt, "square": np.square, "sub": np.subtract,
}  # fmt: skip
REDUCTIONS = {
    "reduce_and": np.all, "reduce_max": np.max, "reduce_min": np.min, "reduce_or": np.any,
    "reduce_sum": np.sum,
}  # fmt: skip
ELEMENTWISE = COMPARES | LOGIC | ARITHMETIC
KNOWN = MOVES | ELEMENTWISE | REDUCTIONS | {"dot_general": product}
ASKED = ("accuracy", "out_dtype", "out_sharding", "precision", "sharding")  # by none of those
SUMS = {"dot_general", "reduce_sum"}


def plain(dtype):
    """Whether NumPy has numbers of this kind; none of them complex."""
    return isinstance(dtype, np.dtype) and not np.issubdtype(dtype, np.complexfloating)


def flat(jaxpr):
    """The equations, those of functions under `jax.jit` in their places."""
    for equation in jaxpr.eqns:
        yield from flat(inside(equation)) if equation.primitive.name == "jit" else [equation]


def inside(equation):
    """The jaxpr of a function under `jax.jit`; before jax 0.12 it comes with its constants."""
    jaxpr = equation.params["jaxpr"]
    return getattr(jaxpr, "jaxpr", jaxpr)


def is_rounded(equation):
    """Whether an equation rounds floats."""
    return equation.primitive.name in ARITHMETIC.keys() | SUMS and any(
        jax.numpy.issubdtype(atom.aval.dtype, np.floating) for atom in equation.invars
    )


def is_known(equation):
    """Whether NumPy does the same in an equation."""
    name, params = equation.primitive.name, equation.params
    avals = [atom.aval for atom in (*equation.invars, *equation.outvars)]
    if name not in KNOWN or equation.effects:
        return False
    if not all(isinstance(aval, core.ShapedArray) and plain(aval.dtype) for aval in avals):
        return False
    dtypes = [aval.dtype for aval in avals]
    if is_rounded(equation) and not ROUNDED.issuperset(dtypes):
        return False
    if any(params.get(each) is not None for each in ASKED):
        return False
    if name == "reshape":
        return params.get("dimensions") is None
    if name == "div":  # of whole numbers it is another operation, and raises
        # XLA multiplies by the reciprocal of a number that it knows
        known = isinstance(equation.invars[1], core.Literal)
        return ROUNDED.issuperset(dtypes) and not known
    if name in ("reduce_and", "reduce_or"):
        return np.issubdtype(dtypes[0], np.bool_)
    if name in ("reduce_max", "reduce_min"):
        return avals[0].size > 0
    if name == "pad":
        sides = params["padding_config"]
        return all(low >= 0 and high >= 0 and not between for low, high, between in sides)
    if name == "dot_general":
        return len(set(dtypes)) == 1 and math.prod((*avals[0].shape, *avals[1].shape)) <= SMALL
    if name == "integer_pow":
        return params["y"] == 2
    if name == "select_n":
        return len(avals) == 4 and np.issubdtype(dtypes[0], np.bool_)
    if name == "convert_element_type":  # a float may be too large for a whole number
        floats = [jax.numpy.issubdtype(dtype, np.floating) for dtype in dtypes]
        return floats[1] or not floats[0]
    return True


def moved(jaxpr):
    """Whether NumPy computes what is traced here to the last bit."""
    filename = getattr(jaxpr.debug_info, "func_filename", None) or ""
    equations = list(flat(jaxpr))
    return (
        filename.startswith(WITHIN)
        and not jaxpr.constvars
        and all(map(is_known, equations))
        and sum(map(is_rounded, equations)) <= 1
        and all(math.prod(var.aval.shape) <= SMALL for var in jaxpr.outvars)
    )


def tiny(values):
    """Whether some number is so small that XLA takes it for zero."""
    return any(
        jax.numpy.issubdtype(x.dtype, np.floating)
        and ((x != 0) & (np.abs(x) < jax.numpy.finfo(x.dtype).tiny)).any()
        for x in values
    )


def evaluated(jaxpr, arguments):
    """The results as NumPy arrays, or None where subnormal numbers come in, out or between."""
    env = dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        if isinstance(atom, core.Literal):
            return np.asarray(atom.val, atom.aval.dtype)
        return env[atom]

    met = list(arguments)
    with np.errstate(all="ignore"):
        for equation in jaxpr.eqns:
            name, given = equation.primitive.name, [read(atom) for atom in equation.invars]
            if name == "jit":
                found = evaluated(inside(equation), given)
            elif name in REDUCTIONS:
                found = REDUCTIONS[name](*given, axis=equation.params["axes"])
            else:
                params = {} if name in ELEMENTWISE else equation.params
                found = KNOWN[name](*given, **params)
            if found is None:
                return None
            several = equation.primitive.multiple_results
            for var, value in zip(equation.outvars, found if several else [found], strict=True):
                env[var] = np.asarray(value, var.aval.dtype)
                met.append(env[var])
    return None if tiny(met) else [read(atom) for atom in jaxpr.outvars]


def on_one_device(value):
    """Whether a value is on the first device because no other was asked for."""
    if not isinstance(value, jax.Array):
        return isinstance(value, (bool, int, float, np.ndarray, np.generic))
    return not value._committed and value.devices() == {jax.devices()[0]}


def placed(value, aval):
    """The array on the first device, of a weak type where the operation says so."""
    with jax.enable_x64(True):  # float64 stays so, outside of where it was made too
        made = jax.device_put(np.array(value), may_alias=False)
    if not aval.weak_type:
        return made
    return array.ArrayImpl(made.aval.update(weak_type=True), made.sharding, [made], committed=False)


def without_programs():
    """Puts NumPy before the compiler."""
    compiled = pjit._pjit_call_impl_python

    def run(*args, jaxpr, **options):
        own = getattr(jaxpr, "jaxpr", jaxpr)  # before jax 0.12 it comes with its constants
        if jaxpr not in calls:
            calls[jaxpr] = 0 if moved(own) and not getattr(jaxpr, "consts", ()) else OFTEN
        usual = (
            calls[jaxpr] < OFTEN
            and not any(options["donated_invars"])
            and not options["compiler_options_kvs"]
            and options["ctx_mesh"].empty
            and not any(
                isinstance(each, jax.sharding.Sharding)
                for each in (*options["in_shardings"], *options["out_shardings"])
            )
            and not config.debug_nans.value
            and not config.debug_infs.value
            and config.default_device.value is None
            and len(args) == len(own.invars)
            and all(map(on_one_device, args))
        )
        if usual:
            calls[jaxpr] += 1
            values = [
                np.asarray(arg, var.aval.dtype) for arg, var in zip(args, own.invars, strict=True)
            ]
            if (found := evaluated(own, values)) is not None:
                pairs = zip(found, own.outvars, strict=True)
                return [placed(value, atom.aval) for value, atom in pairs], None, None, []
        return compiled(*args, jaxpr=jaxpr, **options)

    pjit._pjit_call_impl_python = run
