"""What only one backend refuses."""

from __future__ import annotations

from meshwright.rules._rule import Rule

__all__ = ["RULES"]

RULES: tuple[Rule, ...] = ()
