"""`watch`: the derivative rules that a program calls, found by themselves and compared."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import jax
from jax.extend.source_info_util import register_exclusion

from funcprop.testing.judging import judged
from funcprop.testing.places import Place, place_of
from funcprop.testing.rules import LEFT_OUT, RuleRow, RulesComparison, merged
from funcprop.testing.seen import Seen

KINDS: tuple[Any, ...] = (jax.custom_vjp, jax.custom_jvp)


register_exclusion(__file__)  # equations name the line of the program, not the one that watches it


class Watch:
    """The rules that were called while it was open: what `watch` gives.

    rules    (module, name, file, line) of each so far

    raises  `compare`, ValueError for seconds that are not positive

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> with fp.watch() as rules:
    ...     y = jax.nn.relu(jnp.arange(-1.5, 2.0))
    >>> [rule.name for rule in rules.rules]
    ['relu']
    """

    def __init__(self) -> None:
        self._seen: dict[Place, Seen] = {}
        self._places: WeakKeyDictionary[Any, Place] = WeakKeyDictionary()
        self._lock = threading.RLock()
        self._comparing = False

    @property
    def rules(self) -> tuple[Place, ...]:
        return tuple(self._seen)

    def called(self, rule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps what a call says of a rule. Raises nothing: the program goes on as without."""
        with self._lock:
            if self._comparing:
                return
            try:
                place = self._places.get(rule)
                if place is None:
                    place = self._places[rule] = place_of(rule.fun)
            except Exception:  # an object that answers to nothing
                place = Place("", type(rule.fun).__qualname__, "", 0)
            seen = self._seen.get(place)
            if seen is None:
                seen = self._seen[place] = Seen(place)
            seen.called(rule, args, kwargs)

    def compare(
        self,
        seconds: float = 20.0,
        skip: Sequence[str] = (),
        progress: Callable[[RuleRow], None] | None = None,
    ) -> RulesComparison:
        """Every rule against automatic differentiation of what it computes, by `fp.compare`.

        seconds   for each rule: when they are over, no further of its examples is begun
        skip      patterns of rules that are listed and not compared, such as "jax.*" or
                  "*.straight_through": fnmatch of the module, a dot and the qualified name
        progress  called with each row

        Returns a RulesComparison.

        raises  ValueError for seconds that are not positive
        """
        if not seconds > 0:
            raise ValueError(f"seconds is {seconds!r}, wanted more than 0: 20 unless given")
        rows = []
        self._comparing = True
        try:
            for place, seen in list(self._seen.items()):
                name = f"{place.module}.{place.name}"
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in skip):
                    row = RuleRow(*place, seen.calls, LEFT_OUT)
                else:
                    row = judged(seen, seconds)
                rows.append(row)
                if progress is not None:
                    progress(row)
        finally:
            self._comparing = False
        return merged(rows)


_open: list[Watch] = []  # told of every call


_lock = threading.RLock()


_originals: dict[Any, tuple[Any, Any]] = {}  # by class: its __call__, and the one in its place


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
    """Watches every call of a `jax.custom_vjp` or `jax.custom_jvp` function inside of `with`.

    Kept are shapes, dtypes and trees, the values where they are known, and options as they are: the
    program and what JAX traces of it stay the same. A call that is only traced, under `jax.jit`,
    `scan` or `vmap` of it, tells no values: then they are drawn. A function that was compiled
    before is not traced again, and its rules are not seen.

    `rules.compare(seconds=20)` judges what was seen, a row a rule, those that JAX and other
    libraries define among them: a `RulesComparison`.

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> @jax.custom_vjp
    ... def scaled(x, w):
    ...     return x * w
    >>> scaled.defvjp(lambda x, w: (x * w, (x, w)), lambda kept, dy: (dy * kept[1], dy))
    >>> with fp.watch() as rules:
    ...     dx = jax.grad(lambda x: scaled(x, 2 * x).sum())(jnp.arange(3.0))
    >>> found = rules.compare()
    >>> print(found.rows[0].name, found.rows[0].verdict, found.rows[0].worst.split()[0])
    scaled WRONG dw
    """
    watching = Watch()
    start(watching)
    try:
        yield watching
    finally:
        stop(watching)


def start(watching: Watch) -> None:
    """Tells it of every call from now on."""
    with _lock:
        if not _open:
            for kind in KINDS:
                original = kind.__call__
                _originals[kind] = original, told(original)
                kind.__call__ = _originals[kind][1]
        _open.append(watching)


def stop(watching: Watch) -> None:
    """No more."""
    with _lock:
        _open.remove(watching)
        if not _open:
            for kind, (original, ours) in _originals.items():
                if kind.__call__ is ours:  # else another has wrapped it since
                    kind.__call__ = original
            _originals.clear()


def told(original: Callable[..., Any]) -> Callable[..., Any]:
    """The `__call__` of a kind of rule that tells of itself first."""

    @functools.wraps(original)
    def __call__(rule: Any, /, *args: Any, **kwargs: Any) -> Any:
        if rule.fwd if isinstance(rule, jax.custom_vjp) else rule.jvp:  # else JAX raises
            for watching in tuple(_open):
                watching.called(rule, args, kwargs)
        return original(rule, *args, **kwargs)

    return __call__
