"""Manual and automatic gradients, side by side."""

from funcprop.comparison.assertion import assert_gradients as assert_gradients
from funcprop.comparison.front import compare as compare
from funcprop.comparison.mutants import Score as Score
from funcprop.comparison.mutants import mutation_score as mutation_score
from funcprop.comparison.report import Comparison as Comparison
from funcprop.comparison.report import GradientError as GradientError
from funcprop.comparison.table import Table as Table
from funcprop.comparison.table import compare_catalogue as compare_catalogue
