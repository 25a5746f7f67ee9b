"""Where a run computes: on one device, or as a placement says on all devices of all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from funcprop import placement
from funcprop.cli.job.checks import RecipeError
from funcprop.layer import Layer
from funcprop.placement import Placement

SHARDINGS: dict[str, tuple[str, Callable[[Layer], Placement]]] = {
    "data-parallel": ("data", lambda model: placement.data_parallel()),
    "fully-sharded": ("data", lambda model: placement.fully_sharded()),
    "tensor-parallel": ("model", placement.tensor_parallel),
}


class Devices(NamedTuple):
    """A mesh of all devices and how a run lies on it; without a mesh all of it is on one device."""

    name: str | None = None
    mesh: Mesh | None = None
    placement: Placement = Placement()

    @property
    def processes(self) -> int:
        return jax.process_count() if self.mesh else 1

    def share(self) -> tuple[int, int]:
        """(process, processes): which part of every batch this process reads."""
        apart = self.processes > 1 and self.name != "tensor-parallel"
        return (jax.process_index(), self.processes) if apart else (0, 1)

    def state(self, state: Any) -> Any:
        """A state that every process holds, laid out. Raises RecipeError where it cannot be cut."""
        if self.mesh is None:
            return state
        try:
            return placement.shard(state, self.mesh, self.placement)
        except ValueError as error:
            raise RecipeError(f"--sharding is {self.name}, and {error}") from error

    def everywhere(self, tree: Any) -> Any:
        """Arrays that every process holds, whole on every device."""
        return tree if self.mesh is None else placement.shard(tree, self.mesh, Placement())

    def batch(self, batch: Any) -> Any:
        """This process's part of a batch, laid out as part of the whole."""
        if self.mesh is None:
            return batch
        n = len(jax.tree.leaves(batch)[0]) * self.share()[1]
        # whole: of tensor-parallel, and the smaller one at an epoch's end, in one process alone
        if self.name == "tensor-parallel" or n % self.mesh.size:
            return self.everywhere(batch)
        return placement.shard_batch(batch, self.mesh, self.placement)

    def batches(self, batches: Any) -> Any:
        """Arrays [batches, examples, ...] in a compiled program: their examples as a batch's."""
        if self.mesh is None:
            return batches
        spec = NamedSharding(self.mesh, PartitionSpec(None, *self.placement.batch))
        return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, spec), batches)

    def local(self, tree: Any) -> Any:
        """The tree whole on this process's first device. All processes ask for it together."""
        if self.mesh is None:
            return tree
        everywhere = NamedSharding(self.mesh, PartitionSpec())

        def one(leaf: Any) -> Any:
            if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(
                    one(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
                )
            if not leaf.sharding.is_fully_replicated:
                leaf = jax.sharding.reshard(leaf, everywhere)
            return jax.numpy.asarray(np.asarray(leaf.addressable_data(0)))

        return jax.tree.map(one, tree)

    def told(self, batch_size: int, state: Any) -> str:
        """`8 devices (cpu), data-parallel: batch 64 = 8 x 8; ...`."""
        if self.mesh is None:
            return ""
        n, kind = self.mesh.size, jax.devices()[0].platform
        apart = self.name != "tensor-parallel"
        batch = f"batch {batch_size} = {n} x {batch_size // n}" if apart else "each batch whole"
        where = placement.layout(state).partition("; ")[2]
        shared = f" of {self.processes} processes" if self.processes > 1 else ""
        devices = f"{n} device{'s' * (n > 1)} ({kind}){shared}"
        return f"{devices}, {self.name}: {batch}; {where}"


def all_devices(name: str | None, model: Layer, batch_size: int) -> Devices:
    """The devices for `--sharding`. Raises RecipeError where they do not divide the batch."""
    if name is None:
        return Devices()
    axis, placed = SHARDINGS[name]
    mesh = jax.make_mesh((jax.device_count(),), (axis,))
    if axis == "data" and batch_size % mesh.size:
        near = batch_size - batch_size % mesh.size or mesh.size
        raise RecipeError(
            f"--batch-size is {batch_size}, and {mesh.size} devices cannot share it evenly: "
            f"--batch-size {near}"
        )
    return Devices(name, mesh, placed(model))
