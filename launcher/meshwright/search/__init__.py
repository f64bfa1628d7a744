"""The best layout of all there are, the reason each other one lost, and what lies between."""

from __future__ import annotations

from meshwright.search.ask import search
from meshwright.search.question import Result

__all__ = ["Result", "search"]
