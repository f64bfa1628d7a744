"""The run's length, batches and learning rates, read back from Megatron's own schedulers.

Its ``get_optimizer_param_scheduler`` stands in training.py, which imports far more than a check can: the two functions
that matter are taken from its source as they are.
"""

from __future__ import annotations

import ast
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from meshwright.layout.length import UNSTATED_STEPS, decay_steps
from meshwright.layout.plan import Plan

__all__ = ["schedule_differences", "warm"]

TAKEN = ("update_train_iters", "get_optimizer_param_scheduler")
PARTS = 7  # of the schedule, whose ends are compared beside the steps in which something changes


@cache
def warm() -> Any:
    """The code of the functions TAKEN from megatron/training/training.py."""
    import megatron.core

    path = Path(megatron.core.__file__).parent.parent / "training" / "training.py"
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in TAKEN]
    return compile(tree, str(path), "exec")


def schedule_differences(arguments: Any, plan: Plan) -> Iterator[str]:
    """Where the steps, batches and rates that Megatron makes of its validated ``arguments`` are not the plan's.

    Megatron's calculator of micro-batches must hold those arguments.
    """
    from meshwright.train.schedule import rates

    training, batch = plan.spec.training, plan.batch
    steps = plan.steps or UNSTATED_STEPS
    scheduler = _scheduler(arguments)
    if arguments.train_iters != steps:
        yield f"{arguments.train_iters} steps, the plan says {steps}"
    schedule, ramp = {**vars(training.schedule), "lr": training.optimizer.lr}, [vars(part) for part in training.ramp]
    rate = rates(schedule, steps, batch.sequence, batch.global_batch, ramp)
    for step in _shown(plan, steps):
        yield from _batch_difference(plan, step)
        found, wanted = _rate(scheduler, plan.sequences(step)), rate(step)
        if abs(found - wanted) > 1e-9 * training.optimizer.lr:
            yield f"the learning rate of step {step} is {found:g}, the plan says {wanted:g}"


def _scheduler(arguments: Any) -> Any:
    from megatron.core import num_microbatches_calculator as calculator
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    names: dict[str, Any] = {
        "OptimizerParamScheduler": OptimizerParamScheduler,
        "get_args": lambda: arguments,
        "get_current_global_batch_size": calculator.get_current_global_batch_size,
        "print_rank_0": lambda _: None,
        "update_num_microbatches": calculator.update_num_microbatches,
    }
    exec(warm(), names)
    return names["get_optimizer_param_scheduler"](SimpleNamespace(param_groups=[{}]))


def _shown(plan: Plan, steps: int) -> list[int]:
    """Steps to compare: the corners of the schedule and of the ramp, and some between them."""
    training = plan.spec.training
    schedule, end = training.schedule, decay_steps(training, plan.batch.global_batch)
    corners = [0, schedule.warmup_steps, end - (schedule.wsd_decay_steps or 0), end, steps - 1, *_grown(plan, steps)]
    near = {step + way for step in corners for way in (-1, 0, 1)}
    between = {end * part // PARTS for part in range(PARTS)} | {schedule.warmup_steps // 2}
    return sorted(step for step in near | between if 0 <= step <= end)


def _grown(plan: Plan, steps: int) -> Iterator[int]:
    """The first step of each batch of the ramp."""
    for part in plan.spec.training.ramp:
        yield bisect_left(range(steps), part.from_tokens // plan.batch.sequence, key=plan.sequences)


def _batch_difference(plan: Plan, step: int) -> Iterator[str]:
    from megatron.core import num_microbatches_calculator as calculator

    done = plan.sequences(step)
    calculator.update_num_microbatches(done, consistency_check=True)
    found, wanted = calculator.get_current_global_batch_size(), plan.sequences(step + 1) - done
    if found != wanted:
        yield f"the batch of step {step} is {found}, the plan says {wanted}"


def _rate(scheduler: Any, samples: int) -> float:
    scheduler.num_steps = samples
    return float(scheduler.get_lr({}))
