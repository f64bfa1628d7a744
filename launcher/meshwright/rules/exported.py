"""What no program that files are exported for is told yet, so that it would be lost."""

from __future__ import annotations

from meshwright.rules._repairs import change
from meshwright.rules._rule import EXPORTED, Rule

__all__ = ["RULES"]

PROGRAMS = tuple(EXPORTED)

RULES: tuple[Rule, ...] = (
    Rule(
        id="export.evaluation",
        path="training.evaluation",
        backends=PROGRAMS,
        holds=lambda r: not r.training.evaluation.wanted,
        message="an evaluation is not exported; its data are the other program's",
        source="ours: it would be lost",
        repairs=change(training__evaluation__interval=None, training__evaluation__at_end=False),
    ),
    Rule(
        id="export.checkpoints",
        path="training.logging",
        backends=PROGRAMS,
        holds=lambda r: (
            r.training.logging.save_at_end
            and r.training.logging.keep_last is None
            and r.training.logging.keep_every is None
            and not r.training.logging.async_save
            and r.training.logging.profile is None
        ),
        message="which checkpoints are kept, none at the end, saving meanwhile and a profile are not exported",
        source="ours: it would be lost",
        repairs=change(
            training__logging__save_at_end=True,
            training__logging__keep_last=None,
            training__logging__keep_every=None,
            training__logging__async_save=False,
            training__logging__profile=None,
        ),
    ),
)
