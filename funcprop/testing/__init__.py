"""Gradients as tests: `assert_gradients` and the pytest plugin."""

from typing import TYPE_CHECKING

from funcprop.lazy import on_demand

if TYPE_CHECKING:
    from funcprop.testing.assertion import assert_gradients as assert_gradients
else:
    __getattr__, __dir__, __all__ = on_demand(__name__)
