"""What a backend's own code said of the files we wrote for it."""

from __future__ import annotations

from collections.abc import Mapping

from meshwright.spec.frozen import dataclass

__all__ = ["Check", "Verdict"]


@dataclass(frozen=True)
class Check:
    """One kind of proof: what it looked at, and what stood in for what a CPU lacks."""

    name: str  # parsed, built
    passed: bool
    details: str  # what was compared when it passed, what was wrong when it did not
    substitutions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """All checks of one backend for one plan, with the versions that judged."""

    backend: str
    versions: Mapping[str, str]
    checks: tuple[Check, ...]
    needs: tuple[str, ...] = ()  # components, each with the option that needs it, on the nodes

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)
