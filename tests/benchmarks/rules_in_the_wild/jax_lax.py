"""Primitives of jax.lax, reached through public functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rules_in_the_wild.call import Call

A = np.array([0.6, 1.3, 2.7, 4.2], np.float32)
B = np.array([1.7, 0.4, 3.1, 2.2], np.float32)
UNIT = np.array([0.1, 0.35, 0.62, 0.9], np.float32)
SIGNED = np.array([-2.1, -0.7, 0.4, 1.8], np.float32)
M = np.array([[0.3, -1.2, 0.7], [1.9, 0.5, -0.4]], np.float32)
N = np.array([[1.1, 0.2], [-0.6, 0.9], [0.8, -1.3]], np.float32)
I = np.array([2, 0, 2], np.int32)  # noqa: E741
IMAGE = np.random.default_rng(0).normal(size=(1, 5, 5, 2)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 2, 3)).astype(np.float32)


def p(name, function, *args, **options):
    return Call(f"jax.lax.{name}_p", function, args, **options)


def inside(name, function, *args, **options):
    """A function with a domain, which scaled and zero inputs would leave."""
    return p(name, function, *args, changed=False, **options)


def as_complex(function):
    """Of real and imaginary parts, and to them."""

    def of_parts(x, y):
        z = function(lax.complex(x, y))
        return (z.real, z.imag) if jnp.iscomplexobj(z) else z

    return of_parts


def newton(function, start):
    slopes = jax.grad(lambda x: function(x).sum())
    return lax.fori_loop(0, 12, lambda _, x: x - function(x) / slopes(x), start)


def cube_root(a):
    return lax.custom_root(
        lambda x: x**3 - a,
        jnp.ones_like(a),
        newton,
        lambda g, y: y / g(jnp.ones_like(y)),
    )


def solved(a, b):
    solve = lambda matvec, b: jnp.linalg.solve(jax.jacobian(matvec)(b), b)  # noqa: E731
    return lax.custom_linear_solve(lambda x: a @ x, b, solve, transpose_solve=solve)


SQUARE = np.array([[3.0, 0.4, -0.2], [0.1, 2.5, 0.6], [-0.7, 0.3, 4.0]], np.float32)
V = np.array([0.5, -1.0, 2.0], np.float32)

CALLS = [
    p("neg", lambda x: -x, SIGNED),
    p("exp", lax.exp, SIGNED),
    p("exp2", lax.exp2, SIGNED),
    p("log", lax.log, A),
    p("log1p", lax.log1p, A),
    p("expm1", lax.expm1, SIGNED),
    p("tanh", lax.tanh, SIGNED),
    p("logistic", lax.logistic, SIGNED),
    p("sin", lax.sin, SIGNED),
    p("cos", lax.cos, SIGNED),
    p("tan", lax.tan, SIGNED),
    inside("asin", lax.asin, UNIT),
    inside("acos", lax.acos, UNIT),
    p("atan", lax.atan, SIGNED),
    p("atan2", lax.atan2, SIGNED, B),
    p("sinh", lax.sinh, SIGNED),
    p("cosh", lax.cosh, SIGNED),
    p("asinh", lax.asinh, SIGNED),
    inside("acosh", lax.acosh, A + 1),
    inside("atanh", lax.atanh, UNIT),
    p("abs", lax.abs, SIGNED),
    p("abs", as_complex(lax.abs), SIGNED, B, note="of complex numbers"),
    p("sqrt", lax.sqrt, A),
    p("rsqrt", lax.rsqrt, A),
    p("cbrt", lax.cbrt, A),
    p("square", lax.square, SIGNED),
    inside("pow", lax.pow, A, B),
    p("integer_pow", lambda x: lax.integer_pow(x, 5), SIGNED),
    p("integer_pow", lambda x: lax.integer_pow(x, -3), A, note="a negative power"),
    p("add", lax.add, A, B),
    p("sub", lax.sub, A, B),
    p("mul", lax.mul, A, B),
    p("div", lax.div, A, B),
    p("rem", lax.rem, A * 3, B),
    p("max", lax.max, A, B),
    p("min", lax.min, A, B),
    p("clamp", lambda x: lax.clamp(x * 0 - 1, x, x * 0 + 1), SIGNED),
    p("select_n", lambda a, b: lax.select(a > b, a * b, b * b), A, B),
    p("real", as_complex(lambda z: lax.real(z * z)), SIGNED, B),
    p("imag", as_complex(lambda z: lax.imag(z * z)), SIGNED, B),
    p("conj", as_complex(lambda z: lax.conj(z) * z * z), SIGNED, B),
    p("log", as_complex(lax.log), A, B, note="of complex numbers"),
    p("tanh", as_complex(lax.tanh), UNIT, B, note="of complex numbers"),
    p("sqrt", as_complex(lax.sqrt), A, B, note="of complex numbers"),
    p("dot_general", lambda a, b: a @ b, M, N),
    p(
        "ragged_dot_general",
        lambda a, b: lax.ragged_dot(a, b, jnp.array([1, 2])),
        N,
        np.stack([M[:, :2], M[:, 1:]]),
    ),
    p("convert_element_type", lambda x: x * x.astype(jnp.bfloat16), SIGNED, changed=False),
    p("broadcast_in_dim", lambda x: lax.broadcast(x, (2,)), SIGNED),
    p("reshape", lambda x: lax.reshape(x, (3, 2)), M),
    p("transpose", lambda x: x.T, M),
    p("squeeze", lambda x: lax.squeeze(x, (0,)), M[:1]),
    p("rev", lambda x: lax.rev(x, (1,)), M),
    p("concatenate", lambda a, b: jnp.concatenate([a, b]), A, B),
    p("pad", lambda x: lax.pad(x, jnp.array(0, x.dtype), ((1, -1, 2),)), SIGNED),
    p("split", lambda x: lax.split(x, (1, 2), axis=1), M),
    p("tile", lambda x: lax.tile(x, (2, 3)), M),
    p("reduce_sum", lambda x: x.sum(1), M),
    p("reduce_prod", lambda x: jnp.prod(x, 1), M),
    p("reduce_prod", lambda x: jnp.prod(x * jnp.array([1, 0, 1]), 1), M, note="with a zero in it"),
    p("reduce_max", lambda x: x.max(1), M),
    p("reduce_min", lambda x: x.min(1), M),
    p(
        "reduce_precision",
        lambda x: lax.reduce_precision(x, 8, 7),
        SIGNED,
        kind="convention",
        why="rounding to fewer bits is constant between its steps; the rule hands "
        "the cotangent on (rounded), as for a conversion of dtypes",
    ),
    p("sort", lambda x: jnp.sort(x, 1), M),
    p(
        "sort",
        lambda k, v: lax.sort((k, v), num_keys=1),
        SIGNED[::-1].copy(),
        A,
        note="keys and values",
    ),
    p("top_k", lambda x: lax.top_k(x, 2)[0], M),
    p("approx_top_k", lambda x: lax.approx_max_k(x, 2)[0], M),
    p("cumsum", lambda x: jnp.cumsum(x, 1), M),
    p("cumprod", lambda x: jnp.cumprod(x, 1), M),
    p("cummax", lambda x: lax.cummax(x, 1), M),
    p("cummin", lambda x: lax.cummin(x, 1), M),
    p("cumlogsumexp", lambda x: lax.cumlogsumexp(x, 1), M),
    p("scan", lambda x: lax.scan(lambda c, a: (jnp.tanh(c * a), c), jnp.ones(3, x.dtype), x), M),
    p("cond", lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x), A),
    p("slice", lambda x: x[:, 1:3], M),
    p("dynamic_slice", lambda x, i: lax.dynamic_slice(x, i, (2, 2)), M, I[1:]),
    p("dynamic_update_slice", lambda x, u: lax.dynamic_update_slice(x, u, (1, 0)), M, M[:1, :2]),
    p("gather", lambda x, i: x[:, i], M, I),
    p("scatter_add", lambda x, u: x.at[:, I].add(u), M, M * 2, note="with one index twice"),
    p("scatter_sub", lambda x, u: x.at[:, I].subtract(u), M, M * 2, note="with one index twice"),
    p("scatter_mul", lambda x, u: x.at[:, I[:2]].multiply(u, unique_indices=True), M, N.T[:, :2]),
    p("scatter_min", lambda x, u: x.at[:, I].min(u), M, M * 2),
    p("scatter_max", lambda x, u: x.at[:, I].max(u), M, M * 2),
    p("scatter", lambda x, u: x.at[:, I[:2]].set(u), M, N.T[:, :2]),
    p("scatter", lambda x, u: x.at[:, I].set(u), M, M * 2, note="with one index twice"),
    p(
        "conv_general_dilated",
        lambda x, w: lax.conv_general_dilated(
            x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        IMAGE,
        KERNEL,
    ),
    p(
        "conv_general_dilated",
        lambda x, w: lax.conv_general_dilated(
            x,
            w,
            (1, 2),
            ((1, 0), (2, 1)),
            lhs_dilation=(2, 1),
            rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ),
        IMAGE,
        KERNEL,
        note="dilated both ways",
    ),
    p(
        "reduce_window_sum",
        lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 2), "VALID"),
        IMAGE[0, :, :, 0],
    ),
    p(
        "reduce_window_max",
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID"),
        IMAGE[0, :, :, 0],
    ),
    p(
        "reduce_window_min",
        lambda x: lax.reduce_window(x, jnp.inf, lax.min, (2, 2), (2, 2), "VALID"),
        IMAGE[0, :, :, 0],
    ),
    p("fft", lambda x, y: as_complex(jnp.fft.fft)(x, y), SIGNED, B),
    p("fft", lambda x: as_complex(lambda z: jnp.fft.rfft(z.real))(x, x), SIGNED, note="rfft"),
    p("fft", lambda x, y: jnp.fft.irfft(lax.complex(x, y), 6), SIGNED, B, note="irfft"),
    Call("jax._src.lax.control_flow.solves._custom_root", cube_root, (A,), changed=False),
    p("linear_solve", solved, SQUARE, V, changed=False, note="custom_linear_solve"),
    p(
        "linear_solve",
        lambda a, b: jax.scipy.sparse.linalg.cg(lambda x: a @ a.T @ x, b, tol=1e-14, maxiter=50)[0],
        SQUARE,
        V,
        changed=False,
        note="through conjugate gradients",
    ),
    p(
        "linear_solve",
        lambda a, b: jax.scipy.sparse.linalg.gmres(lambda x: a @ x, b, tol=1e-14, restart=3)[0],
        SQUARE,
        V,
        changed=False,
        note="through gmres",
    ),
    p(
        "linear_solve",
        lambda a, b: jax.scipy.sparse.linalg.bicgstab(lambda x: a @ x, b, tol=1e-14, maxiter=50)[0],
        SQUARE,
        V,
        changed=False,
        note="through bicgstab",
    ),
    p("remat", jax.checkpoint(lambda x: jnp.sin(jnp.exp(x))), SIGNED),
    p("optimization_barrier", lambda x: lax.optimization_barrier(x * x), SIGNED),
    Call("jax._src.lax.other.logaddexp", jnp.logaddexp, (A, B)),
    Call("jax._src.lax.other.logaddexp2", jnp.logaddexp2, (A, B)),
    Call("jax._src.numpy.ufuncs._frexp", lambda x: jnp.frexp(x)[0], (A,)),
    Call("jax._src.numpy.ufuncs._sinc_maclaurin", jnp.sinc, (SIGNED,)),
]
