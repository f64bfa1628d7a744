"""Megatron-LM's arguments -> ``training.evaluation``, and when ``training.logging`` saves and profiles."""

from __future__ import annotations

from typing import Any

from meshwright.imports.megatron_arguments import Arguments
from meshwright.layout.length import NEVER

__all__ = ["CARRIED", "RECORDED", "UNRECORDED", "evaluation", "logging", "recorded"]

Flat = dict[str, Any]

CARRIED = {
    "training.logging.save_interval": "save_interval",
    "training.logging.async_save": "async_save async_strategy use_persistent_ckpt_worker",
    "training.evaluation.interval": "eval_interval",
    "training.evaluation.steps": "eval_iters",
}


def evaluation(a: Arguments) -> Flat:
    """None where no batch is evaluated; at the end alone where the interval is beyond all runs."""
    interval, steps = a("eval_interval"), a("eval_iters")
    if not interval or not steps:
        return {}
    when: Flat = {"interval": interval} if interval < NEVER else {"at_end": True}
    return {f"training.evaluation.{name}": value for name, value in {**when, "steps": steps}.items()}


RECORDED = ("profile", "use_pytorch_profiler", "profile_step_start")
"""Arguments that ``training.logging.profile`` carries where it is torch's profiler that records; nsys is passed on."""

UNRECORDED = (
    *("profile_step_end", "profile_ranks", "pytorch_profiler_collect_shapes", "pytorch_profiler_collect_callstack"),
    "pytorch_profiler_collect_chakra",
)
"""What it then does not carry: one step of the first rank of each stage is recorded."""


def recorded(a: Arguments) -> bool:
    """Whether torch's profiler records a step."""
    return bool(a("profile") and a("use_pytorch_profiler"))


def logging(a: Arguments) -> Flat:
    """Torch's profiler begins with the step that is named, counted from 1 (training/training.py:3680)."""
    often = a("save_interval")
    flat: Flat = {"save_interval": None if often and often >= NEVER else often, "async_save": a("async_save")}
    if recorded(a):
        flat["profile"] = max(1, a("profile_step_start"))
    return {f"training.logging.{name}": value for name, value in flat.items()}
