"""What a rehearsal found."""

from __future__ import annotations

from meshwright.spec.frozen import dataclass

__all__ = ["COMPARED", "Curve", "Rehearsal"]

COMPARED = 40
"""Steps whose losses must be equal. Later ones need not be: roundings grow, and one turns a token to another expert.

Of a small mixture with routed experts, three layouts were within 7.2e-7 nats for 60 steps and 1e-2 apart after 300.
"""


@dataclass(frozen=True)
class Curve:
    """One run: how it was laid out, its loss after each step (nats a token), its wall time."""

    layout: str
    ranks: int
    losses: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Rehearsal:
    """The one-process run, the miniatures of the same model, and what they must fulfil."""

    name: str
    model: str
    backend: str
    reference: Curve
    miniatures: tuple[Curve, ...]
    tolerance: float  # largest difference of two losses, nats
    drop: float  # the loss must fall by this, nats
    substitutions: tuple[str, ...]

    @property
    def differences(self) -> tuple[float, ...]:
        """For each miniature, the largest difference of its losses from the reference's in the steps compared."""
        return tuple(_largest(curve.losses, self.reference.losses) for curve in self.miniatures)

    @property
    def fallen(self) -> float:
        """How far the reference's loss fell, in nats."""
        return self.reference.losses[0] - self.reference.losses[-1]

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it failed, one sentence each; empty where it passed."""
        found = [
            f"{curve.layout}: losses differ from one process by up to {difference:.1e}, more than {self.tolerance:.0e}"
            for curve, difference in zip(self.miniatures, self.differences, strict=True)
            if not difference <= self.tolerance
        ]
        if not self.fallen >= self.drop:
            steps = len(self.reference.losses)
            found.append(f"the loss fell by {self.fallen:.2f} nats in {steps} steps, {self.drop:.2g} expected")
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Every loss equal, and learning."""
        return not self.problems


def _largest(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    """The largest difference; infinite where a step is missing, NaN where a loss is."""
    if len(ours) != len(theirs):
        return float("inf")
    differences = [abs(a - b) for a, b in zip(ours[:COMPARED], theirs[:COMPARED], strict=True)]
    return next((d for d in differences if d != d), max(differences, default=float("inf")))
