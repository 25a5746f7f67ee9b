"""Wrong derivative rules in three outer functions: which does `compare` catch, name and explain?

    python tests/benchmarks/planted_rules.py                 all, a line each, and the counts
    python tests/benchmarks/planted_rules.py --only sign     some, by a word of their name

A rule is planted in a plain function, in a scan of a jitted block, and in a module of Flax. Caught
is what is not ok; named, where the report has the rule's own name; explained, where it has words
for it. The right form of every rule is compared in the same places: none may be accused.
"""

import argparse
import itertools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import funcprop as fp

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32) / 3


def rule(name, value, forward, backward):
    def f(*x):
        return value(*x)

    f.__name__ = f.__qualname__ = name
    made = jax.custom_vjp(f)
    made.defvjp(forward, backward)
    return made


def square(a):
    return a * a


def softmax(a):
    return jax.nn.softmax(a, axis=-1)


def norm(a):
    return a / jnp.sqrt(jnp.mean(a * a, -1, keepdims=True) + 1)


def both(a):
    return jnp.sin(a), jnp.cos(a)


def mixed(a):  # one output of two
    s, c = a
    return s + 0.5 * c


def shifted(a):
    return jnp.roll(a, 1, -1) * a


def logistic(a):
    return 1 / (1 + jnp.exp(-a))


def gelu(a):
    return 0.5 * a * (1 + jax.scipy.special.erf(a / np.float32(np.sqrt(2))))


def dgelu(a):
    cdf = 0.5 * (1 + jax.scipy.special.erf(a / np.float32(np.sqrt(2))))
    return cdf + a * jnp.exp(-a * a / 2) / np.float32(np.sqrt(2 * np.pi))


def spectrum(a):
    return jnp.abs(jnp.fft.fft(a)) ** 2


def softmax_back(y, g):
    return y * (g - jnp.sum(y * g, -1, keepdims=True))


def norm_back(a, g):
    r = 1 / jnp.sqrt(jnp.mean(a * a, -1, keepdims=True) + 1)
    return r * g - a * r**3 * jnp.mean(a * g, -1, keepdims=True)


def spectrum_back(a, g):
    return jnp.real(jnp.fft.fft(2 * g * jnp.conj(jnp.fft.fft(a)))).astype(a.dtype)


def shifted_back(a, g):
    return jnp.roll(a, 1, -1) * g + jnp.roll(a * g, -1, -1)


def normal_cdf(a):
    return 0.5 * (1 + jax.scipy.special.erf(a / np.float32(np.sqrt(2))))


def narrow(a):
    """1 in float32, 0 in wider dtypes: what is wrong in one of them only."""
    return 1 if a.dtype == jnp.float32 else 0


# name: value, residuals, the right backward, and wrong ones by what is wrong with them
FAMILIES = {
    "square": (square, lambda a: a, lambda a, g: 2 * a * g, {
        "sign": lambda a, g: -2 * a * g,
        "factor": lambda a, g: a * g,
        "factor of 3": lambda a, g: 6 * a * g,
        "wrong residual": lambda a, g: 2 * jnp.tanh(a) * g,
        "g is squared": lambda a, g: 2 * a * g * g,
        "unequal cotangents": lambda a, g: 2 * a * jnp.mean(g, -1, keepdims=True) + 0 * g,
        "float32 only": lambda a, g: 2 * a * g * (1 + 1e-3 * narrow(a)),
        "zero": lambda a, g: 0 * g,
    }),
    "softmax": (softmax, softmax, softmax_back, {
        "dropped term": lambda y, g: y * g,
        "diagonal": lambda y, g: y * (1 - y) * g,
        "wrong axis": lambda y, g: y * (g - jnp.sum(y * g, 0, keepdims=True)),
        "sign": lambda y, g: -softmax_back(y, g),
        "transposed": lambda y, g: y * g - y * y * jnp.sum(g, -1, keepdims=True),
    }),
    "norm": (norm, lambda a: a, norm_back, {
        "norm held constant": lambda a, g: g / jnp.sqrt(jnp.mean(a * a, -1, keepdims=True) + 1),
        "sum for mean": lambda a, g: norm_back(a, g)
        - 5 * a / jnp.sqrt(jnp.mean(a * a, -1, keepdims=True) + 1) ** 3
        * jnp.mean(a * g, -1, keepdims=True),
        "factor": lambda a, g: 0.5 * norm_back(a, g),
        "sign": lambda a, g: -norm_back(a, g),
    }),
    "shifted": (shifted, lambda a: a, shifted_back, {
        "shifted index": lambda a, g: jnp.roll(a, 1, -1) * g + jnp.roll(a * g, 1, -1),
        "dropped term": lambda a, g: jnp.roll(a, 1, -1) * g,
        "other dropped term": lambda a, g: jnp.roll(a * g, -1, -1),
        "reversed": lambda a, g: (jnp.roll(a, 1, -1) * g + jnp.roll(a * g, -1, -1))[..., ::-1],
        "shifted by one": lambda a, g: jnp.roll(
            jnp.roll(a, 1, -1) * g + jnp.roll(a * g, -1, -1), 1, -1
        ),
    }),
    "logistic": (logistic, logistic, lambda y, g: y * (1 - y) * g, {
        "a forgotten factor": lambda y, g: y * g,
        "a forgotten square": lambda y, g: (1 - y) * g,
        "of the activation": lambda y, g: logistic(y) * (1 - logistic(y)) * g,
        "as tanh": lambda y, g: (1 - y * y) * g,
        "sign": lambda y, g: -y * (1 - y) * g,
        "the activation itself": lambda y, g: y * g,
    }),
    "gelu": (gelu, lambda a: a, lambda a, g: dgelu(a) * g, {
        "second term": lambda a, g: normal_cdf(a) * g,
        "value": lambda a, g: gelu(a) * g,
        "sign": lambda a, g: -dgelu(a) * g,
        "factor": lambda a, g: 2 * dgelu(a) * g,
    }),
    "both": (both, lambda a: a, lambda a, g: g[0] * jnp.cos(a) - g[1] * jnp.sin(a), {
        "second output": lambda a, g: g[0] * jnp.cos(a) + g[1] * jnp.sin(a),
        "second output dropped": lambda a, g: g[0] * jnp.cos(a),
        "first output dropped": lambda a, g: -g[1] * jnp.sin(a),
        "exchanged": lambda a, g: g[1] * jnp.cos(a) - g[0] * jnp.sin(a),
    }),
    "spectrum": (spectrum, lambda a: a, spectrum_back, {
        "conjugate forgotten": lambda a, g: jnp.real(
            jnp.fft.fft(2 * g * jnp.fft.fft(a))
        ).astype(a.dtype),
        "factor": lambda a, g: 0.5 * spectrum_back(a, g),
        "inverse": lambda a, g: jnp.real(
            jnp.fft.ifft(2 * g * jnp.conj(jnp.fft.fft(a)))
        ).astype(a.dtype),
        "sign": lambda a, g: -spectrum_back(a, g),
    }),
}  # fmt: skip


def planted():
    """(name, right rule, wrong rule) each."""
    for family, (value, keep, right, wrong) in FAMILIES.items():
        for what, backward in wrong.items():
            yield f"{family}, {what}", *(
                rule(f"{family}_rule", value, lambda a, v=value, k=keep: (v(a), k(a)),
                     lambda kept, g, b=back: (b(kept, g),))
                for back in (right, backward)
            )  # fmt: skip


def one(y):
    return mixed(y) if isinstance(y, tuple) else y


def plain(f):
    return lambda x: jnp.sum(jnp.tanh(one(f(x))) * jnp.cos(x)), (X,)


def in_a_scan(f):
    def outer(x, w):
        block = jax.jit(lambda c: jnp.tanh(one(f(c @ w))))
        return jnp.sum(jax.lax.scan(lambda c, _: (block(c), None), x, None, length=3)[0])

    return outer, (X, W)


def in_a_module(f):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.tanh(nn.Dense(6)(x))
            return jnp.mean(nn.Dense(2)(one(f(x))) ** 2)

    model = Model()
    return model.apply, (model.init(jax.random.key(0), X), X)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a word of their name")
    only = parser.parse_args().only
    places = {"plain": plain, "scan": in_a_scan, "flax": in_a_module}
    rules = [one for one in planted() if only in one[0]]
    caught = named = explained = accused = 0
    start, right_seen = time.perf_counter(), set()
    for (name, right, wrong), (place, outer) in itertools.product(rules, places.items()):
        found = fp.compare(*[(f := outer(wrong))[0], *f[1]], probes=3)
        own = f"{name.partition(',')[0]}_rule ("
        has_name = any(row.place.startswith(own) for row in found.wrong)
        words = next((row.words for row in found.wrong if row.place.startswith(own)), "")
        has_words = bool(words) and "no pattern" not in words
        caught, named, explained = caught + (not found.ok), named + has_name, explained + has_words
        print(f"{name:34s} {place:6s} {'caught' if not found.ok else 'MISSED'} "
              f"{'named' if has_name else 'NOT NAMED'}  {words}", flush=True)  # fmt: skip
        if (own, place) not in right_seen:
            right_seen.add((own, place))
            found = fp.compare(*[(f := outer(right))[0], *f[1]], probes=3)
            accused += not found.ok
            if not found.ok:
                print(f"  ACCUSED: {found.headline}", flush=True)
    total = len(rules) * len(places)
    print(f"{len(rules)} rules in {len(places)} places: {caught} of {total} caught, {named} named, "
          f"{explained} explained; {accused} of {len(right_seen)} right ones accused; "
          f"{time.perf_counter() - start:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
