"""Formulas in z and a = f(z) that stand in derivatives of activations, the plainest first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

Formula = tuple[str, np.ndarray]  # words, and the value at every sample


MULTIPLES = ((2.0, "2"), (3.0, "3"), (4.0, "4"), (0.5, "½"),
             (-1.0, "−"), (-2.0, "−2"), (-3.0, "−3"), (-0.5, "−½"))  # fmt: skip


Constants = Sequence[tuple[float, str]]  # settings of a layer: (1.5, "alpha")


def formulas(z: np.ndarray, a: np.ndarray, constants: Constants) -> Iterator[Formula]:
    """Words and values, the plainest first; what is not finite at some sample is left out."""
    with np.errstate(all="ignore"):
        for words, value in itertools.chain(plain(z, a), with_constants(a, constants), named(z, a)):
            if np.isfinite(value).all():
                yield words, value


def formula(words: str, z: np.ndarray, a: np.ndarray, constants: Constants) -> np.ndarray:
    """The value of one of them; NaN where it is not finite at some sample."""
    found = (value for told, value in formulas(z, a, constants) if told == words)
    return next(found, np.full_like(z, np.nan))


def plain(z: np.ndarray, a: np.ndarray) -> Iterator[Formula]:
    """Powers, products and quotients."""
    one = np.ones_like(z)
    yield "1", one
    yield "[z > 0]", (z > 0).astype(z.dtype)
    both = (("z", z), ("a", a))
    for power, sign in ((1, ""), (2, "²"), (3, "³")):
        yield from ((f"{v}{sign}", b**power) for v, b in both)
    for v, b in both:
        yield f"1 − {v}", 1 - b
        yield f"1 + {v}", 1 + b
    for v, b in both:
        yield f"1 − {v}²", 1 - b * b
        yield f"1 + {v}²", 1 + b * b
    for (u, c), (v, b) in ((one, two) for two in both for one in both):
        yield f"{u}(1 − {v})", c * (1 - b)
        yield f"{u}(1 + {v})", c * (1 + b)
    yield "z a", z * a
    for v, b in both:
        size = np.abs(b)
        yield f"|{v}|", size
        yield f"1 − |{v}|", 1 - size
        yield f"1 + |{v}|", 1 + size
        yield f"(1 − {v})²", (1 - b) ** 2
        yield f"(1 + {v})²", (1 + b) ** 2
        yield f"(1 − |{v}|)²", (1 - size) ** 2
        yield f"(1 + |{v}|)²", (1 + size) ** 2
        yield f"(1 − {v}²)²", (1 - b * b) ** 2
    for v, b in both:
        size = np.abs(b)
        yield f"1/{v}", 1 / b
        yield f"1/{v}²", 1 / b**2
        yield f"1/(1 + {v})", 1 / (1 + b)
        yield f"1/(1 − {v})", 1 / (1 - b)
        yield f"1/(1 + {v}²)", 1 / (1 + b * b)
        yield f"1/(1 + {v}²)²", 1 / (1 + b * b) ** 2
        yield f"1/(1 − {v}²)", 1 / (1 - b * b)
        yield f"1/(1 + |{v}|)", 1 / (1 + size)
        yield f"1/(1 + |{v}|)²", 1 / (1 + size) ** 2
        yield f"1/√(1 + {v}²)", 1 / np.sqrt(1 + b * b)
        yield f"1/√(1 − {v}²)", 1 / np.sqrt(1 - b * b)
        yield f"√(1 + {v}²)", np.sqrt(1 + b * b)
    for (u, c), (v, b) in ((one, two) for two in both for one in both):
        yield f"{u}(1 − {v}²)", c * (1 - b * b)
        yield f"{u}²(1 − {v})", c * c * (1 - b)
        yield f"{u}(1 − {v})²", c * (1 - b) ** 2
        yield f"{u}²(1 − {v})²", (c * (1 - b)) ** 2


def with_constants(a: np.ndarray, constants: Constants) -> Iterator[Formula]:
    for value, name in constants:
        yield name, np.full_like(a, value)
        yield f"a + {name}", a + value
        yield f"{name} − a", value - a
        yield f"{name} · a", value * a
        yield f"{name} (1 + a)", value * (1 + a)


def named(z: np.ndarray, a: np.ndarray) -> Iterator[Formula]:
    """Functions with a name, and their derivatives."""
    for v, b in (("z", z), ("a", a)):
        yield f"e^{v}", np.exp(b)
        yield f"e^−{v}", np.exp(-b)
        yield f"1 − e^−{v}", 1 - np.exp(-b)
        yield f"1 + e^{v}", 1 + np.exp(b)
        yield f"log {v}", np.log(b)
        yield f"σ({v})", sigma(b)
        yield f"tanh {v}", np.tanh(b)
        yield f"sin {v}", np.sin(b)
        yield f"cos {v}", np.cos(b)
    s, t, gauss = sigma(z), np.tanh(z), np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    yield "1 − σ(z)", 1 - s
    yield "σ′(z)", s * (1 - s)
    yield "σ(z)²", s * s
    yield "z · σ(z)", z * s
    yield "z · σ′(z)", z * s * (1 - s)
    yield "z(1 − σ(z))", z * (1 - s)
    yield "1 − tanh z", 1 - t
    yield "tanh² z", t * t
    yield "tanh′(z)", 1 - t * t
    yield "z · tanh′(z)", z * (1 - t * t)
    yield "Φ(z)", normal(z)
    yield "φ(z)", gauss
    yield "z · Φ(z)", z * normal(z)
    yield "z · φ(z)", z * gauss
    yield "e^−z²", np.exp(-z * z)
    yield "z e^−z²", z * np.exp(-z * z)
    yield "e^(−z²/2)", np.exp(-0.5 * z * z)
    yield "sinh z", np.sinh(z)
    yield "cosh z", np.cosh(z)
    yield "tan z", np.tan(z)
    yield "tan² z", np.tan(z) ** 2
    yield "sin² z", np.sin(z) ** 2
    yield "cos² z", np.cos(z) ** 2
    yield "[z < 0]", (z < 0).astype(z.dtype)
    for v, b in (("z", z), ("a", a)):
        yield f"√{v}", np.sqrt(b)
        yield f"1/√{v}", 1 / np.sqrt(b)
    yield "z − a", z - a
    yield "a − z", a - z
    yield "the sign of z", np.sign(z)
    yield "max(z, 0)", np.maximum(z, 0)
    yield "[|z| < 1]", (np.abs(z) < 1).astype(z.dtype)
    yield "a/z", a / z
    yield "z/a", z / a


def sigma(z: np.ndarray) -> np.ndarray:
    """1 / (1 + e⁻ᶻ)."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def normal(z: np.ndarray) -> np.ndarray:
    """Φ(z), the share of a standard normal distribution below z."""
    return 0.5 * np.vectorize(math.erfc, otypes=[float])(-z / math.sqrt(2))


def multiplied(times: str, words: str) -> str:
    """`2(1 − z)`, `−a`, `3z²`."""
    if words == "1":
        return "−1" if times == "−" else times
    if words.startswith("1/") and times in ("2", "3", "4", "−2", "−3"):
        return times + words[1:]
    if " " in words and not words.startswith("("):
        return f"{times}({words})"
    return f"{times}{words}" if len(words) < 3 or times == "−" else f"{times} {words}"
