"""Gradients as tests: `assert_gradients`, `watch` and the pytest plugin."""

from typing import TYPE_CHECKING

from funcprop.lazy import on_demand

if TYPE_CHECKING:
    from funcprop.testing.assertion import assert_gradients as assert_gradients
    from funcprop.testing.rules import RuleRow as RuleRow
    from funcprop.testing.rules import RulesComparison as RulesComparison
    from funcprop.testing.watching import Watch as Watch
    from funcprop.testing.watching import watch as watch
else:
    __getattr__, __dir__, __all__ = on_demand(__name__)
