"""Two runs beside each other: what differs in effect, what follows from it, and what was measured."""

from __future__ import annotations

from meshwright.compare.comparison import Comparison, Pair, Side, Stage, compare

__all__ = ["Comparison", "Pair", "Side", "Stage", "compare"]
