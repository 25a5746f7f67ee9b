"""How many wrong versions of a backward pass a comparison catches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from funcprop.catalogue.mutants import all_mutants, same
from funcprop.catalogue.row import Mutant
from funcprop.comparison.evidence import Evidence, observe
from funcprop.comparison.programs import Programs
from funcprop.comparison.subject.door import of_layer, subject_of
from funcprop.comparison.subject.targets import check_same_output, layer_arguments
from funcprop.comparison.verdict.rules import judge_exact, judge_slopes
from funcprop.comparison.witnesses.gradients import Grads
from funcprop.comparison.witnesses.points import cotangents
from funcprop.comparison.witnesses.slopes import inner
from funcprop.doors import door
from funcprop.layer import Array, Context, Layer, describe

# --- the score ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MutationScore:
    """How many mutants were killed.

    killed      name -> the witnesses that killed it: "jax.vjp", "finite differences", "jax.jvp"
    survivors   names of those that nothing killed
    equivalent  names of those that compute the right gradient: no mutants, not counted

    mutants     how many there were
    share       of them, those that were killed, in [0, 1]; 1 where there are none

    >>> import funcprop as fp
    >>> score = fp.catalogue.MutationScore({"dx halved": ("jax.vjp",)}, ("dx noisy",), ())
    >>> score.share
    0.5
    >>> print(score)
    1 of 2 mutants killed, 0 equal
    survived: dx noisy
    """

    killed: dict[str, tuple[str, ...]]
    survivors: tuple[str, ...]
    equivalent: tuple[str, ...]

    @property
    def mutants(self) -> int:
        return len(self.killed) + len(self.survivors)

    @property
    def share(self) -> float:
        """Of the mutants, how many were killed; 1 where there are none."""
        return len(self.killed) / self.mutants if self.mutants else 1.0

    def __str__(self) -> str:
        lines = [
            f"{len(self.killed)} of {self.mutants} mutants killed, {len(self.equivalent)} equal"
        ]
        return "\n".join([*lines, *(f"survived: {name}" for name in self.survivors)])


@door
def mutation_score(
    target: Any,
    *args: Any,
    context: Context | None = None,
    mutants: Sequence[Mutant] = (),
    probes: int = 5,
    key: Array | None = None,
    programs: Programs | None = None,
    against: Layer | None = None,
) -> MutationScore:
    """How many systematically wrong versions of a backward `compare` tells from the right one.

    target, args  a layer, params, x; or a pair (forward, backward) or a function with a derivative
                  rule in it, and its arguments: as in `compare`
    context       key and mask of a layer
    mutants       further ones of a layer: functions (layer, params, residuals, dy) -> dx, dparams
    probes        random cotangents; key draws them, as in `compare`
    programs      compiled programs to be reused, or None
    against       the layer whose derivative the backward of a layer is, as in `compare`

    Every mutant is judged in float64 by each witness alone: automatic differentiation, finite
    differences, forward-mode. One is killed where some witness objects. Returns a MutationScore.

    raises  ValueError where the backward itself is wrong: `compare` says how; TypeError for targets
            that `compare` does not take
    source  mutation testing: DeMillo, Lipton, Sayward 1978, Hints on test data selection

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> score = fp.mutation_score(fp.Tanh(), (), jnp.arange(8.0).reshape(4, 2))
    >>> score.share, score.survivors
    (1.0, ())
    >>> "dx doubled" in score.killed
    True
    """
    key = jax.random.key(0) if key is None else key
    if isinstance(target, Layer):
        given = layer_arguments(target, args, context)
        if against is not None:
            check_same_output(target, against, *given)
        subject = of_layer(target, *given, key, against)
    else:
        subject = subject_of(target, args, key=key)
    layer, (params, x, context) = subject.layer, subject.given
    run = Programs() if programs is None else programs
    evidence = observe(subject, cotangents(subject, probes), run)
    if witnesses := objections(evidence.exact[0].given, evidence):
        raise ValueError(
            f"the backward of {describe(layer)} is wrong itself, says {witnesses[0]}: "
            "see compare with the same arguments"
        )
    killed, survivors, equivalent = {}, [], []
    for name, grads in all_mutants(layer, params, x, context, evidence, mutants, run):
        if same(grads, evidence.exact[0].given, evidence.exact[0].truth):
            equivalent.append(name)
        elif witnesses := objections(grads, evidence, evidence.exact[0].given):
            killed[name] = witnesses
        else:
            survivors.append(name)
    for found in evidence.exact[1:] if survivors else ():  # `compare` looks at these points too
        there, at = replace(evidence, exact=(found,)), found.point
        usual = evidence.exact[0].truth
        for name, grads in all_mutants(layer, params, at.x, at.context, there, mutants, run):
            rows = judge_exact("", grads, found.truth, evidence.numerical, at.name, usual=usual)
            if name in survivors and not all(row.ok for row in rows):
                survivors.remove(name)
                killed[name] = (f"jax.vjp at {at.name}",)
    return MutationScore(killed, tuple(survivors), tuple(equivalent))


def objections(grads: Grads, evidence: Evidence, right: Grads | None = None) -> tuple[str, ...]:
    """The witnesses that object to these gradients.

    right   gradients that none objects to: leaves that are theirs are not measured again
    """
    truth = evidence.exact[0].truth
    if jax.tree.map(np.shape, grads) != jax.tree.map(np.shape, truth):
        return ("contract",)
    found = []
    if not all(row.ok for row in judge_exact("", grads, truth, evidence.numerical, right=right)):
        found.append("finite differences" if evidence.numerical else "jax.vjp")
    exact, size = inner(grads, evidence.moves)
    told = [
        slope._replace(by_hand=exact[d, c], size=size[d, c])
        for slope, (d, c) in zip(evidence.slopes, np.ndindex(exact.shape), strict=True)
    ]
    rows, _ = judge_slopes("", told, evidence.numerical)
    for name in ("finite differences", "jax.jvp"):
        if any(row.rule.startswith(name) for row in rows) and name not in found:
            found.append(name)
    return tuple(found)
