"""What a layout costs: memory, traffic and time, by pure functions on numbers or NumPy arrays of layouts.

``estimate(layout)`` takes a ``rules.Layout`` whose degrees are numbers or equally long arrays and returns an
``Estimate`` of numbers or arrays; ``cost(plan)`` is the same for one resolved plan, stage by stage, with the
pipeline simulated. NumPy is imported only where arrays are given.
"""

from __future__ import annotations

from meshwright.cost.estimate import Estimate, estimate, peak_memory
from meshwright.cost.plan_cost import Cost, cost

__all__ = ["Cost", "Estimate", "cost", "estimate", "peak_memory"]
