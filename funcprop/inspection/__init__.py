"""A model, and one of its passes, as tables."""

from typing import TYPE_CHECKING

from funcprop.lazy import on_demand

if TYPE_CHECKING:
    from funcprop.inspection.summarizing import Summary as Summary
    from funcprop.inspection.summarizing import SummaryRow as SummaryRow
    from funcprop.inspection.summarizing import summary as summary
    from funcprop.inspection.tabulating import TraceRow as TraceRow
    from funcprop.inspection.tabulating import TraceTable as TraceTable
    from funcprop.inspection.tabulating import trace_table as trace_table
    from funcprop.inspection.trees import TreeRow as TreeRow
    from funcprop.inspection.trees import TreeTable as TreeTable
    from funcprop.inspection.trees import tree_table as tree_table
else:
    __getattr__, __dir__, __all__ = on_demand(__name__)
