"""The explorer: a backward pass as a page, with value, error and slope in the same place."""

from typing import TYPE_CHECKING

from funcprop.lazy import on_demand

if TYPE_CHECKING:
    from funcprop.explorer.explaining import explain as explain
    from funcprop.explorer.page import Page as Page
else:
    __getattr__, __dir__, __all__ = on_demand(__name__)
