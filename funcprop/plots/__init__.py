"""Pictures: every function draws into the matplotlib `Axes` that it is given, and returns it."""

from typing import TYPE_CHECKING

from funcprop.lazy import on_demand

if TYPE_CHECKING:
    from funcprop.plots.bars import costs as costs
    from funcprop.plots.bars import errors as errors
    from funcprop.plots.grids import confusion_matrix as confusion_matrix
    from funcprop.plots.grids import filters as filters
    from funcprop.plots.grids import images as images
    from funcprop.plots.grids import weights as weights
    from funcprop.plots.lines import alignment_angles as alignment_angles
    from funcprop.plots.lines import curves as curves
    from funcprop.plots.lines import delta_norms as delta_norms
    from funcprop.plots.planes import decision_boundary as decision_boundary
    from funcprop.plots.spreads import gradient_noise as gradient_noise
    from funcprop.plots.spreads import per_example_norms as per_example_norms
else:
    __getattr__, __dir__, __all__ = on_demand(__name__)
