"""Composites: layers made of layers, the only place where the chain rule is written."""

from typing import TYPE_CHECKING

from funcprop.composites.branch import Branch as Branch
from funcprop.composites.branch import Parallel as Parallel
from funcprop.composites.cast import Cast as Cast
from funcprop.composites.composite import Composite as Composite
from funcprop.composites.fixed_point import FixedPoint as FixedPoint
from funcprop.composites.over_time import OverTime as OverTime
from funcprop.composites.remat import Remat as Remat
from funcprop.composites.repeat import Repeat as Repeat
from funcprop.composites.reversible import Reversible as Reversible
from funcprop.composites.reversible import ReversibleRepeat as ReversibleRepeat
from funcprop.composites.rewired import Rewired as Rewired
from funcprop.composites.rewired import RewiredParams as RewiredParams
from funcprop.composites.rewired import rewirings as rewirings
from funcprop.composites.serial import Serial as Serial
from funcprop.composites.sharing import EVERYTHING as EVERYTHING
from funcprop.composites.sharing import Sum as Sum
from funcprop.composites.skip import Skip as Skip
from funcprop.composites.stochastic_depth import StochasticDepth as StochasticDepth
from funcprop.composites.tied import Tied as Tied
from funcprop.composites.weight_standardized import WeightStandardized as WeightStandardized
from funcprop.composites.wrapper import Wrapper as Wrapper
from funcprop.lazy import deprecated

if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__)
