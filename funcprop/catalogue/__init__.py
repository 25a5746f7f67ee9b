"""The table of all layers, what they are tried on, and how wrong versions of them are caught."""

from typing import TYPE_CHECKING

from funcprop.lazy import on_demand

if TYPE_CHECKING:
    from funcprop.catalogue.comparisons import CatalogueComparison as CatalogueComparison
    from funcprop.catalogue.comparisons import compare_catalogue as compare_catalogue
    from funcprop.catalogue.inputs import Classes as Classes
    from funcprop.catalogue.inputs import Fixed as Fixed
    from funcprop.catalogue.inputs import Mask as Mask
    from funcprop.catalogue.inputs import Normal as Normal
    from funcprop.catalogue.inputs import Probabilities as Probabilities
    from funcprop.catalogue.inputs import Uniform as Uniform
    from funcprop.catalogue.row import Mutant as Mutant
    from funcprop.catalogue.row import Row as Row
    from funcprop.catalogue.score import MutationScore as MutationScore
    from funcprop.catalogue.score import mutation_score as mutation_score
else:
    __getattr__, __dir__, __all__ = on_demand(__name__)
