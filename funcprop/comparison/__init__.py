"""Manual and automatic gradients, side by side."""

from typing import TYPE_CHECKING

from funcprop.lazy import on_demand

if TYPE_CHECKING:
    from funcprop.comparison.front import compare as compare
    from funcprop.comparison.report.comparison import Comparison as Comparison
    from funcprop.comparison.report.comparison import GradientError as GradientError
else:
    __getattr__, __dir__, __all__ = on_demand(__name__)
