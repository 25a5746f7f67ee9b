"""What gradients cost: time, memory, flops and compile time."""

from typing import TYPE_CHECKING

from funcprop.lazy import on_demand

if TYPE_CHECKING:
    from funcprop.costs.cost import Cost as Cost
    from funcprop.costs.cost import Costs as Costs
    from funcprop.costs.cost import Profile as Profile
    from funcprop.costs.measuring import measure as measure
else:
    __getattr__, __dir__, __all__ = on_demand(__name__)
