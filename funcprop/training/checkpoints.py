"""The states of a run in a folder: whole and unchanged, or not taken for what was saved."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.arguments import is_key
from funcprop.extras import require
from funcprop.layer import spell
from funcprop.training.agreement import TURNS, agreed, is_first, together
from funcprop.training.checkpoint import CheckpointError, check_options
from funcprop.training.damage import Damaged, brief, read_as_damaged
from funcprop.training.fingerprint import fingerprint, plain
from funcprop.training.seal import sealed, unsealed

ARRAYS, CONTENT = "arrays", "content"


class Restored(NamedTuple):
    """What a checkpoint held.

    state     the state that was saved, on the devices of the one that was asked for
    position  what was saved beside it, such as where the data stood

    >>> import funcprop as fp
    >>> fp.training.Restored(state=(), position={"epoch": 3}).position
    {'epoch': 3}
    """

    state: Any
    position: Any


class Checkpoints:
    """States of a run in a folder, of which the last few and the best stay.

    folder   where they lie, each in a folder named by the number of its steps
    every    how many turns of a loop lie between two of them, or None
    seconds  how long it takes from one to the next, or None
    keep     how many of the last stay; beside them stays the one with the smallest loss
    about    what must be the same where one is restored: the `repr` of the model, an option of the
             run; anything that JSON can hold

    Saving is atomic and goes on in the background (orbax); a checkpoint knows a number for each of
    its arrays that any changed bit would change. Loading runs no code of the file.

    raises  ModuleNotFoundError without orbax, ValueError for numbers below 1, TypeError for another
            kind of folder or `about`, CheckpointError where the folder is a file

    >>> import jax, jax.numpy as jnp, optax, tempfile
    >>> import funcprop as fp
    >>> x = jnp.ones((4, 2))
    >>> state = fp.init_state(fp.Dense(3), optax.adam(0.1), jax.random.key(0), x)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with fp.Checkpoints(folder) as checkpoints:
    ...         checkpoints.save(state, {"batch": 7})
    ...     found = fp.Checkpoints(folder).restore(state)
    >>> bool((found.state.params.w == state.params.w).all()), found.position
    (True, {'batch': 7})
    """

    def __init__(
        self,
        folder: str | Path,
        every: int | None = None,
        seconds: float | None = None,
        keep: int = 3,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        check_options(folder, every, seconds, keep, about)
        self._orbax = require("orbax.checkpoint", "train")
        self.folder = Path(folder).absolute()
        self.every, self.seconds, self.keep = every, seconds, keep
        self.about = json.loads(json.dumps(dict(about or {})))
        self._manager: Any = None
        self._turns, self._last = 0, time.monotonic()
        self._known = -1  # the step that was restored; -1: nothing was asked for
        self._saved = -1

    def __repr__(self) -> str:
        return f"Checkpoints({str(self.folder)!r}, steps={self.steps()})"

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The numbers of steps after which there are checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdecimal())

    def due(self) -> bool:
        """Whether it is time for the next: asked once in a turn of the loop."""
        self._turns += 1
        late = self.seconds is not None and time.monotonic() - self._last >= self.seconds
        if self.seconds is not None and jax.process_count() > 1:  # whose clocks differ
            late = self._turns % TURNS == 0 and bool(agreed(late))
        return late or (self.every is not None and self._turns % self.every == 0)

    def save(self, state: Any, position: Any = None, loss: float | None = None) -> None:
        """Save the state; the file is written in the background, the last one being done.

        state     a tree of arrays with a leaf `step`, such as a TrainState; keys are kept
        position  what JSON can hold
        loss      by which the best one is known

        raises  CheckpointError where it, or the one before it, cannot be written, and where the
                folder holds checkpoints that were not restored
        """
        step = int(state.step)
        if self._saved == step:
            return
        manager = self._manager or self._open()
        leaves = named(plain(state))
        numbers, copies = fingerprint(leaves, copy=True)
        content = {
            "about": self.about,
            "position": position,
            "arrays": {name: [list(a.shape), str(a.dtype)] for name, a in leaves.items()},
            "fingerprints": {name: int(n) for name, n in jax.device_get(numbers).items()},
        }
        args = self._orbax.args
        full = {name: leaf for name, leaf in copies.items() if leaf.size}  # orbax takes no others
        try:
            manager.save(
                step,
                args=args.Composite(
                    **{ARRAYS: args.StandardSave(full), CONTENT: args.JsonSave(sealed(content))}
                ),
                metrics=None if loss is None or not np.isfinite(loss) else {"loss": float(loss)},
            )
        except Exception as error:
            raise self._unwritten(error) from error
        self._saved, self._last = step, time.monotonic()

    def wait(self) -> None:
        """Until what was saved is on the disk. Raises CheckpointError where it cannot be."""
        if self._manager is not None:
            try:
                self._manager.wait_until_finished()
            except Exception as error:
                raise self._unwritten(error) from error

    def close(self) -> None:
        """Wait, and let go of the folder."""
        try:
            self.wait()
        finally:
            manager, self._manager = self._manager, None
            if manager is not None:
                try:
                    manager.close()
                except Exception as error:
                    raise self._unwritten(error) from error

    def restore(self, state: Any) -> Restored | None:
        """The newest checkpoint that is whole; None where there is none.

        state  one of the same tree, shapes and dtypes, whose numbers are not looked at; its arrays
               say on which devices those of the result shall lie

        warns   where a newer one is damaged
        raises  CheckpointError where all are damaged, or one is of another model or run
        """
        steps, problems = self.steps(), []
        for step in reversed(steps):
            try:
                found = self._read(step, state)
            except Damaged as error:
                problems.append(f"{self.folder / str(step)} is damaged ({error})")
                continue
            for problem in problems:
                warnings.warn(f"{problem}: going on from step {step}", stacklevel=3)
            self._known = self._saved = step
            return found
        if problems:
            raise CheckpointError(
                f"{'; '.join(problems)}: no whole checkpoint is left, so remove {self.folder} and "
                "start again"
            )
        return None

    def _read(self, step: int, state: Any) -> Restored:
        folder, ocp = self.folder / str(step), self._orbax
        wanted = named(plain(state))
        with read_as_damaged(), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            content = unsealed(reader.restore(folder / CONTENT))
        self._check(folder, content, wanted)
        abstract = {name: asked(leaf) for name, leaf in wanted.items() if np.size(leaf)}
        with read_as_damaged(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            found = reader.restore(folder / ARRAYS, args=ocp.args.StandardRestore(abstract))
        found |= {name: jnp.zeros(a.shape, a.dtype) for name, a in wanted.items() if not a.size}
        numbers = {name: int(n) for name, n in jax.device_get(fingerprint(found)).items()}
        changed = [name for name in wanted if numbers[name] != content["fingerprints"][name]]
        if changed:
            raise Damaged(f"the numbers of {', '.join(changed[:3])} are not those that were saved")
        likes, structure = jax.tree.flatten(state)
        leaves = [
            jax.random.wrap_key_data(found[name], impl=jax.random.key_impl(like))
            if is_key(like)
            else found[name]
            for name, like in zip(wanted, likes, strict=True)
        ]
        return Restored(jax.tree.unflatten(structure, leaves), content["position"])

    def _check(self, folder: Path, content: Any, wanted: dict[str, Any]) -> None:
        """Raises CheckpointError where the checkpoint is not of this run or model."""
        about = content["about"]
        for name in sorted({*about, *self.about}):
            if about.get(name) != self.about.get(name):
                raise CheckpointError(
                    f"{folder} is of another run: its {name} was {spelled(about.get(name))}, and "
                    f"now it is {spelled(self.about.get(name))}: give the folder of this run"
                )
        found = {name: (tuple(shape), dtype) for name, (shape, dtype) in content["arrays"].items()}
        needed = {name: (tuple(a.shape), str(a.dtype)) for name, a in wanted.items()}
        problems = [f"{name} is missing" for name in needed if name not in found]
        problems += [f"{name} is not expected" for name in found if name not in needed]
        for name, leaf in wanted.items():
            if name in found and found[name] != needed[name]:
                shape, dtype = found[name]
                problems.append(f"{name} is {dtype}{list(shape)}, wanted {spell(leaf)}")
        if problems:
            problems[8:] = [f"and {len(problems) - 8} more"] if len(problems) > 8 else []
            raise CheckpointError(
                f"{folder} does not fit the state: {'; '.join(problems)}: "
                "build model and optimizer as they were when it was saved"
            )

    def _open(self) -> Any:
        """The manager of orbax, once what it must not find is out of its way."""
        newer = [step for step in self.steps() if step > self._known]
        if newer and self._known < 0:
            raise CheckpointError(
                f"{self.folder} holds checkpoints of an earlier run (step {newer[-1]}): "
                "restore(state) first, or give another folder"
            )
        for step in newer:  # damaged, or restore would have taken it
            path = self.folder / str(step)
            if is_first():
                path.rename(path.with_name(f"{step}.damaged-{time.time_ns()}"))
        together("damaged checkpoints are out of the way")
        ocp = self._orbax
        policies = require("orbax.checkpoint.checkpoint_managers", "train")
        best = policies.BestN(
            get_metric_fn=lambda found: found["loss"],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        kept = policies.AnyPreservationPolicy([policies.LatestN(self.keep), best])
        try:
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=kept, cleanup_tmp_directories=True
                ),
            )
        except Exception as error:
            raise self._unwritten(error) from error
        return self._manager

    def _unwritten(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self.folder} cannot be written ({brief(error)}): what was saved before is as it "
            "was: make room, and go on from there"
        )


def named(tree: Any) -> dict[str, Any]:
    """The leaves by their paths, as arrays, in the order of the tree."""
    found = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
        while name in found:  # {"a": {"b": 1}, "a.b": 2}
            name += "'"
        found[name] = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    return found


def asked(leaf: Any) -> Any:
    """What tells orbax the shape, the dtype and the devices that are wanted."""
    where = getattr(leaf, "sharding", None)
    if where is None:
        where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def spelled(value: Any) -> str:
    """A value of `about` in at most 60 characters."""
    words = repr(value)
    return words if len(words) <= 60 else words[:57] + "..."
