"""What a benchmark found, beside the roof that the cluster's file states."""

from __future__ import annotations

from meshwright.spec.frozen import dataclass

__all__ = ["LINKS", "Measurement", "Rate"]

LINKS = ("intra", "inter")


@dataclass(frozen=True)
class Rate:
    """The most a part of the machine can do in a second, by its file: FLOP (``products``) or bytes (others)."""

    part: str  # bf16, fp8, fp32, memory, intra, inter; empty: there is none
    per_second: float = 0.0


@dataclass(frozen=True)
class Measurement:
    """One thing measured. ``work`` is what it did of its roof's unit, ``moved`` the bytes it read and wrote besides."""

    kind: str  # product, attention, memory, kernel, operation, optimizer, collective
    name: str
    size: str  # for people
    seconds: float
    work: float = 0.0
    moved: float = 0.0
    roof: Rate = Rate("")
    kernels: int = 1

    @property
    def reached(self) -> float:
        """Units of its roof in a second."""
        return self.work / self.seconds

    @property
    def part(self) -> float | None:
        """Of its roof."""
        return self.reached / self.roof.per_second if self.roof.per_second else None
