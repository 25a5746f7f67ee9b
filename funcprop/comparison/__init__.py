"""Manual and automatic gradients, side by side."""

from funcprop.comparison.compare import compare as compare
from funcprop.comparison.report import Comparison as Comparison
from funcprop.comparison.report import GradientError as GradientError
from funcprop.comparison.table import Table as Table
from funcprop.comparison.table import compare_catalogue as compare_catalogue
