"""How parameters start: frozen values around `jax.nn.initializers`, so that layers compare equal.

Each is called as `initializer(key, shape, dtype)`. For weights `[..., in, out]`, fan-in is the
product of all sizes but the last.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, get_args

import jax
import jax.numpy as jnp
from jax.nn import initializers

from funcprop.arguments import check_constructed as _check_constructed

Mode = Literal["fan_in", "fan_out", "fan_avg"]
Distribution = Literal["normal", "truncated_normal", "uniform"]


class Initializer(Protocol):
    """(key, shape, dtype) -> array. Implementations are frozen dataclasses.

    call    key, shape, dtype -> [*shape] of that dtype

    >>> from dataclasses import dataclass
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> @dataclass(frozen=True)
    ... class Ones:
    ...     def __call__(self, key, shape, dtype):
    ...         return jnp.ones(shape, dtype)
    >>> fp.Dense(30, w_init=Ones())
    Dense(30, w_init=Ones())
    """

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array: ...


class _Checked:
    """An initializer whose fields are looked at when it is made, in one place for all.

    Raises TypeError and ValueError.
    """

    def __new__(cls, *args: Any, **options: Any) -> Self:
        _check_constructed(cls, args, options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        choices = {"mode": get_args(Mode), "distribution": get_args(Distribution)}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value, name = getattr(self, field.name), f"{type(self).__name__}: {field.name}"
            if field.name in choices:
                if value not in choices[field.name]:
                    wanted = ", ".join(map(repr, choices[field.name]))
                    raise ValueError(f"{name} is {value!r}, wanted one of {wanted}")
                continue
            low = -math.inf if field.name == "value" else 0
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} is {value!r}, wanted a number")
            if not low <= value < math.inf:
                raise ValueError(f"{name} is {value!r}, wanted a number of at least {low}")


@dataclass(frozen=True)
class Zeros(_Checked):
    """All zeros.

    call    key, shape, dtype -> [*shape]
    dtypes  any

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.initializers.Zeros()(None, (3,), jnp.float32)
    Array([0., 0., 0.], dtype=float32)
    """

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.zeros(shape, dtype)


@dataclass(frozen=True)
class Constant(_Checked):
    """All equal to `value`.

    call    key, shape, dtype -> [*shape]
    dtypes  any

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.initializers.Constant(2.0)(None, (3,), jnp.float32)
    Array([2., 2., 2.], dtype=float32)
    """

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.full(shape, self.value, dtype)


@dataclass(frozen=True)
class Normal(_Checked):
    """N(0, stddev²). Nielsen's first networks draw weights and biases from N(0, 1).

    call    key, shape, dtype -> [*shape]
    dtypes  any float
    raises  ValueError where dtype is an integer's
    source  Nielsen, Neural Networks and Deep Learning, chapter 1

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> w = fp.initializers.Normal()(jax.random.key(0), (1000,), jnp.float32)
    >>> print(f"{w.std():.1f}")
    1.0
    """

    stddev: float = 1.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return initializers.normal(self.stddev)(key, shape, dtype)


@dataclass(frozen=True)
class Uniform(_Checked):
    """U(−limit, limit).

    call    key, shape, dtype -> [*shape]
    dtypes  any float
    raises  ValueError where dtype is an integer's

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> w = fp.initializers.Uniform(0.1)(jax.random.key(0), (1000,), jnp.float32)
    >>> bool((abs(w) <= 0.1).all())
    True
    """

    limit: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -self.limit, self.limit)


@dataclass(frozen=True)
class VarianceScaling(_Checked):
    """Variance `scale` / fan. `VarianceScaling(1.0, "fan_in", "normal")` is N(0, 1/√n_in).

    call    key, shape [..., in, out], dtype -> w [..., in, out]
    dtypes  any float
    raises  ValueError where mode or distribution is unknown, shape has less than two axes, or dtype
            is an integer's
    source  He, Zhang, Ren and Sun, 2015, arXiv:1502.01852; Glorot and Bengio, 2010

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> draw = fp.initializers.VarianceScaling(1.0, "fan_in", "normal")
    >>> w = draw(jax.random.key(0), (400, 30), jnp.float32)
    >>> print(f"{w.std():.2f}")  # √(1 / 400)
    0.05
    """

    scale: float = 1.0
    mode: Mode = "fan_in"
    distribution: Distribution = "truncated_normal"

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return initializers.variance_scaling(self.scale, self.mode, self.distribution)(
            key, shape, dtype
        )


@dataclass(frozen=True)
class GlorotUniform(VarianceScaling):
    """Glorot and Bengio (2010), uniform: variance 2 / (n_in + n_out).

    call    key, shape [..., in, out], dtype -> w [..., in, out]
    dtypes  any float
    raises  ValueError where shape has less than two axes or dtype is an integer's
    source  Glorot and Bengio, Understanding the difficulty of training deep feedforward networks,
            2010

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> w = fp.initializers.GlorotUniform()(jax.random.key(0), (400, 400), jnp.float32)
    >>> print(f"{w.std():.2f}")  # √(2 / (400 + 400))
    0.05
    """

    mode: Mode = "fan_avg"
    distribution: Distribution = "uniform"


@dataclass(frozen=True)
class GlorotNormal(VarianceScaling):
    """Glorot and Bengio (2010), truncated normal: variance 2 / (n_in + n_out).

    call    key, shape [..., in, out], dtype -> w [..., in, out]
    dtypes  any float
    raises  ValueError where shape has less than two axes or dtype is an integer's
    source  Glorot and Bengio, Understanding the difficulty of training deep feedforward networks,
            2010

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> w = fp.initializers.GlorotNormal()(jax.random.key(0), (400, 400), jnp.float32)
    >>> print(f"{w.std():.2f}")  # √(2 / (400 + 400))
    0.05
    """

    mode: Mode = "fan_avg"


@dataclass(frozen=True)
class HeNormal(VarianceScaling):
    """He et al. (2015), truncated normal: variance 2 / n_in, for rectifiers.

    call    key, shape [..., in, out], dtype -> w [..., in, out]
    dtypes  any float
    raises  ValueError where shape has less than two axes or dtype is an integer's
    source  He, Zhang, Ren and Sun, 2015, arXiv:1502.01852

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> w = fp.initializers.HeNormal()(jax.random.key(0), (800, 30), jnp.float32)
    >>> print(f"{w.std():.2f}")  # √(2 / 800)
    0.05
    """

    scale: float = 2.0


@dataclass(frozen=True)
class HeUniform(VarianceScaling):
    """He et al. (2015), uniform: variance 2 / n_in, for rectifiers.

    call    key, shape [..., in, out], dtype -> w [..., in, out]
    dtypes  any float
    raises  ValueError where shape has less than two axes or dtype is an integer's
    source  He, Zhang, Ren and Sun, 2015, arXiv:1502.01852

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> w = fp.initializers.HeUniform()(jax.random.key(0), (800, 30), jnp.float32)
    >>> print(f"{w.std():.2f}")  # √(2 / 800)
    0.05
    """

    scale: float = 2.0
    distribution: Distribution = "uniform"


@dataclass(frozen=True)
class LecunNormal(VarianceScaling):
    """LeCun et al. (1998), truncated normal: variance 1 / n_in.

    call    key, shape [..., in, out], dtype -> w [..., in, out]
    dtypes  any float
    raises  ValueError where shape has less than two axes or dtype is an integer's
    source  LeCun, Bottou, Orr and Müller, Efficient BackProp, 1998

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> w = fp.initializers.LecunNormal()(jax.random.key(0), (400, 30), jnp.float32)
    >>> print(f"{w.std():.2f}")  # √(1 / 400)
    0.05
    """


@dataclass(frozen=True)
class LecunUniform(VarianceScaling):
    """LeCun et al. (1998), uniform: variance 1 / n_in.

    call    key, shape [..., in, out], dtype -> w [..., in, out]
    dtypes  any float
    raises  ValueError where shape has less than two axes or dtype is an integer's
    source  LeCun, Bottou, Orr and Müller, Efficient BackProp, 1998

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> w = fp.initializers.LecunUniform()(jax.random.key(0), (400, 30), jnp.float32)
    >>> print(f"{w.std():.2f}")  # √(1 / 400)
    0.05
    """

    distribution: Distribution = "uniform"


@dataclass(frozen=True)
class Orthogonal(_Checked):
    """A random (semi-)orthogonal matrix times `scale`: Saxe et al. (2013).

    call    key, shape [..., out], dtype -> w [..., out]; all axes but the last are the rows
    dtypes  float32 and float64
    raises  ValueError where shape has less than two axes
    source  Saxe, McClelland and Ganguli, 2013, arXiv:1312.6120

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> draw = fp.initializers.Orthogonal()
    >>> jax.eval_shape(lambda key: draw(key, (30, 30), jnp.float32), jax.random.key(0)).shape
    (30, 30)
    """

    scale: float = 1.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return initializers.orthogonal(self.scale)(key, shape, dtype)
