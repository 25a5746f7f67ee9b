"""Pipelines: when the halves of a backward pass run, on which device, and what waits meanwhile."""

from funcprop.pipelines.measuring import stage_times as stage_times
from funcprop.pipelines.pipeline import Pipelined as Pipelined
from funcprop.pipelines.pipeline import pipelined as pipelined
from funcprop.pipelines.schedule import StageTimes as StageTimes
from funcprop.pipelines.schedule import Timeline as Timeline
from funcprop.pipelines.schedule import simulate_pipeline as simulate_pipeline
