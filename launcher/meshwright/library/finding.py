"""One check of an audit: what is claimed, what the arithmetic gives, and whether the two agree.

Two numbers agree when they differ by at most one unit of the claim's last printed digit, or by the tolerance that the
convention of counting needs.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.spec.frozen import dataclass

__all__ = ["Finding", "compare", "contradictions", "possible", "same_digits"]

POSSIBLE_MFU = (0.05, 0.75)  # ours: no publication we know of is outside


@dataclass(frozen=True, kw_only=True)
class Finding:
    """``check`` names what was compared; ``message`` has both numbers and the convention of the computed one."""

    check: str
    agrees: bool
    message: str
    stage: str | None = None
    claimed: float | None = None
    computed: float | None = None

    def __str__(self) -> str:
        """One line."""
        return f"{f'{self.stage}: ' if self.stage else ''}{self.check}: {self.message}"


def compare(
    check: str, claimed: float, computed: float, convention: str, tolerance: float = 0.0, stage: str | None = None
) -> Finding:
    """A claimed number against a computed one; ``tolerance`` is relative."""
    agrees = same_digits(claimed, computed) or abs(computed - claimed) <= tolerance * abs(claimed)
    verdict = "agree" if agrees else "contradict each other"
    message = f"claimed {_number(claimed)} and computed {_number(computed)} {verdict} ({convention})"
    return Finding(check=check, stage=stage, agrees=agrees, claimed=claimed, computed=computed, message=message)


def possible(check: str, claimed: float, mfu: float, what: str, stage: str | None = None) -> Finding:
    """A claim with nothing to compare it to: the MFU that it means must be a possible one."""
    low, high = POSSIBLE_MFU
    message = f"{what} mean an MFU of {mfu:.1%} (palm)"
    return Finding(check=check, stage=stage, agrees=low <= mfu <= high, claimed=claimed, message=message)


def contradictions(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings in which claim and arithmetic differ."""
    return tuple(finding for finding in findings if not finding.agrees)


def same_digits(claimed: float, computed: float) -> bool:
    """Whether ``computed`` is within one unit of the last digit of ``claimed`` (405e9 has three digits, 0.41 two)."""
    mantissa, _, exponent = f"{claimed:.12e}".partition("e")
    digits = len(mantissa.rstrip("0").replace(".", "").lstrip("-"))
    unit = 10.0 ** (int(exponent) - digits + 1)
    return abs(claimed - computed) <= unit * (1 + 1e-9)


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.3g}"
