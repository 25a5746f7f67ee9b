"""Placement: which part of which array lies on which device of a mesh."""

from funcprop.placement.arrays import shard as shard
from funcprop.placement.arrays import shard_batch as shard_batch
from funcprop.placement.arrays import shardings as shardings
from funcprop.placement.placed import layout as layout
from funcprop.placement.strategies import data_parallel as data_parallel
from funcprop.placement.strategies import fully_sharded as fully_sharded
from funcprop.placement.strategies import pipeline_parallel as pipeline_parallel
from funcprop.placement.strategies import sequence_parallel as sequence_parallel
from funcprop.placement.strategies import tensor_parallel as tensor_parallel
from funcprop.placement.values import Placement as Placement
