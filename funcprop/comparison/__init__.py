"""Manual and automatic gradients, side by side."""

from typing import TYPE_CHECKING

from funcprop.lazy import on_demand

if TYPE_CHECKING:
    from funcprop.comparison.assertion import assert_gradients as assert_gradients
    from funcprop.comparison.front import compare as compare
    from funcprop.comparison.mutants import Score as Score
    from funcprop.comparison.mutants import mutation_score as mutation_score
    from funcprop.comparison.report import Comparison as Comparison
    from funcprop.comparison.report import GradientError as GradientError
    from funcprop.comparison.table import Table as Table
    from funcprop.comparison.table import compare_catalogue as compare_catalogue
else:
    __getattr__, __dir__, __all__ = on_demand(__name__)
