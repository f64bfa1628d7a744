"""What makes a rehearsal pass: losses equal in the steps that are compared, and learning."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.rehearse.result import COMPARED, Curve, Rehearsal
from meshwright.rehearse.run import TOLERANCE
from meshwright.report.rehearsal import show
from meshwright.report.terminal import terminal

STEPS = 60


def rehearsal(*changes: tuple[int, float]) -> Rehearsal:
    """Curves that are equal but for ``changes``: the step, counted from 1, and by how much."""
    losses = tuple(5.0 - step / 40 for step in range(STEPS))
    other = list(losses)
    for step, by in changes:
        other[step - 1] += by
    reference = Curve("one process", 1, losses, 1.0)
    return Rehearsal(
        name="run",
        model="small",
        backend="megatron",
        reference=reference,
        miniatures=(replace(reference, layout="tp2", ranks=2, losses=tuple(other)),),
        tolerance=TOLERANCE,
        drop=1.0,
        substitutions=(),
    )


@pytest.mark.parametrize(
    ("step", "by", "passes"),
    [
        (1, TOLERANCE / 2, True),
        (12, 7e-5, False),  # of a gradient that nobody sums
        (COMPARED, 2 * TOLERANCE, False),
        (COMPARED + 1, 1e-2, True),  # a token that went to another expert for a rounding
        (12, float("nan"), False),
    ],
)
def test_losses_are_equal_in_the_steps_that_are_compared(step: int, by: float, passes: bool) -> None:
    found = rehearsal((step, by))
    assert found.passed is passes
    assert bool(found.problems) is not passes


def test_a_curve_of_fewer_steps_is_not_equal() -> None:
    whole = rehearsal()
    (one,) = whole.miniatures
    short = replace(whole, miniatures=(replace(one, losses=one.losses[:-1]),))
    assert short.differences == (float("inf"),)


def test_how_many_steps_were_compared_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show(rehearsal((COMPARED + 5, 0.5)), terminal())
    assert f"tp2: 2 processes, 1 s, largest difference of the first {COMPARED} steps 0.0e+00 (at most 2e-05)" in (
        " ".join(capsys.readouterr().out.split())
    )
