"""``backend.megatron.extra``: flags that are passed on may add to the plan, never contradict it."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.errors import Repair
from meshwright.rules._repairs import change
from meshwright.rules._rule import MEGATRON, Layout, Rule
from meshwright.rules.megatron_flags import contradictions

__all__ = ["RULES"]

_IN_PROCESS = "--inprocess-restart"


def _reinforces(word: str) -> bool:
    return word.startswith(("--perform-rl-step", "--rl-", "--grpo-", "--langrl-", "--refit-method"))


def _restarts_in_process(r: Layout) -> bool:
    """Our program does not wrap itself so, as Megatron-LM's own does."""
    return _IN_PROCESS in r.backend.megatron.extra and r.spec.launch.entry == "meshwright"


def _without_restarts(r: Layout) -> Iterable[Repair]:
    return ({"backend.megatron.extra": tuple(word for word in r.backend.megatron.extra if word != _IN_PROCESS)},)


RULES: tuple[Rule, ...] = (
    Rule(
        id="megatron.extra",
        path="backend.megatron.extra",
        backends=MEGATRON,
        holds=lambda r: not contradictions(r.backend.megatron.extra),
        message=lambda r: (
            f"{', '.join(contradictions(r.backend.megatron.extra))}, which the plan itself decides; set that key"
        ),
        source="a flag given twice wins silently over the plan",
        repairs=change(backend__megatron__extra=()),
    ),
    Rule(
        id="megatron.reinforcement",
        path="backend.megatron.extra",
        backends=MEGATRON,
        holds=lambda r: not any(map(_reinforces, r.backend.megatron.extra)),
        message="reinforcement learning samples its own data by inference, in a layout of its own, from rewards: none "
        "of it is described here, and our program's loop does not do it",
        source="training/arguments.py:448, :2567; a pre-training run has neither rollouts nor a reference model",
        repairs=lambda r: (
            {"backend.megatron.extra": tuple(word for word in r.backend.megatron.extra if not _reinforces(word))},
        ),
    ),
    Rule(
        id="megatron.resiliency",
        path="backend.megatron.extra",
        backends=MEGATRON,
        holds=lambda r: not _restarts_in_process(r),
        message="--inprocess-restart is for a program that wraps itself, as Megatron-LM's own does (launch.entry); "
        "launch.resiliency.launcher=ft_launcher restarts the ranks of ours within their job",
        source="training/inprocess_restart.py maybe_wrap_for_inprocess_restart, which the program calls",
        repairs=_without_restarts,
    ),
)
