"""How long a run is: where steps and tokens are both stated, they are one length, and a warm-up ends within it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshwright.errors import Repair
from meshwright.layout.length import UNSTATED_STEPS, decay_steps, steps, steps_of_tokens
from meshwright.rules._repairs import any_of, change
from meshwright.rules._rule import DEEPSPEED, EVERY, MEGATRON, Layout, Number, Rule
from meshwright.spec import Logging

__all__ = ["RULES"]

ROUNDED = 100  # ours: papers round their tokens; steps and tokens may differ by one part in as many


def _agree(r: Layout) -> Number:
    training = r.training
    if training.steps is None or training.tokens is None:
        return r.dp > 0
    return abs(steps_of_tokens(training, r.global_batch) - training.steps) * ROUNDED <= training.steps


def _both(r: Layout) -> str:
    said = f"{r.training.steps:,} steps, but {r.training.tokens:,} tokens are"
    return f"{said} {steps_of_tokens(r.training, r.global_batch):,} at this batch"


def _decay(r: Layout) -> str:
    """The length of the decay, and where it comes from."""
    training = r.training
    count = f"{decay_steps(training, r.global_batch):,}"
    if training.schedule.decay_steps is not None:
        return count
    if steps(training, r.global_batch) is None:
        return f"{UNSTATED_STEPS:,} (the run's length is not stated)"
    return f"{count} (the run's steps)"


def _shorter_warmup(r: Layout) -> Iterable[Repair]:
    """A tenth of the decay, as is usual."""
    end = decay_steps(r.training, r.global_batch)
    return ({"training.schedule.warmup_steps": end // 10},) if end >= 10 else ()


def _says_how(logging: Logging) -> bool:
    return logging.save is not None or logging.save_interval is not None


def _ramp_holds(r: Layout) -> object:
    """Each step's batch divides; steps are in order, from 0 tokens, and end at the global batch."""
    ramp = r.training.ramp
    if not ramp:
        return r.dp > 0
    starts, batches = [s.from_tokens for s in ramp], [s.global_batch for s in ramp]
    ordered = starts[0] == 0 and _grows(starts) and _grows(batches)
    return sum(b % (r.micro_batch * r.data) for b in batches) + (r.global_batch != batches[-1]) + (not ordered) == 0


def _ramp_faults(r: Layout) -> Iterator[str]:
    """What is wrong with the ramp of one layout."""
    starts, batches = [s.from_tokens for s in r.training.ramp], [s.global_batch for s in r.training.ramp]
    odd = [b for b in batches if b % (r.micro_batch * r.data)]
    if odd:
        yield f"batches {_listed(odd)} of the ramp do not divide by micro_batch·dp = {r.micro_batch}·{r.data}"
    if starts[0] != 0:
        yield f"the ramp starts at {starts[0]:,} tokens, not at 0"
    if not _grows(starts) or not _grows(batches):
        yield f"the ramp does not grow: batches {_listed(batches)} from {_listed(starts)} tokens on"
    if batches[-1] != r.global_batch:
        yield f"the ramp ends at {batches[-1]} sequences, not at training.global_batch = {r.global_batch}"


def _grows(values: list[int]) -> bool:
    return values == sorted(set(values))


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


RULES: tuple[Rule, ...] = (
    Rule(
        id="batch.ramp",
        path="training.ramp",
        backends=EVERY,
        needs=("batch.global",),
        holds=_ramp_holds,
        message=lambda r: ", and ".join(_ramp_faults(r)),
        source="core/num_microbatches_calculator.py:381 for every batch of the schedule",
        repairs=change(training__ramp=()),
    ),
    Rule(
        id="length.both",
        path="training.steps",
        backends=EVERY,
        needs=("batch.ramp",),
        holds=_agree,
        message=_both,
        source="two lengths of one run; which of them is meant only its author knows",
        repairs=any_of(change(training__tokens=None), change(training__steps=None)),
    ),
    Rule(
        id="logging.checkpoints",
        path="training.logging.checkpoints",
        backends=EVERY,
        holds=lambda r: r.training.logging.checkpoints or not _says_how(r.training.logging),
        message="false writes no checkpoint, but training.logging.save or save_interval says where or when",
        source="two answers to one question; which of them is meant only its author knows",
        repairs=any_of(
            change(training__logging__checkpoints=True),
            change(training__logging__save=None, training__logging__save_interval=None),
        ),
    ),
    Rule(
        id="logging.keep_every",
        path="training.logging.keep_every",
        backends=EVERY,
        holds=lambda r: r.training.logging.keep_every is None or r.training.logging.keep_last is not None,
        message="{training.logging.keep_every}, but without keep_last nothing is deleted",
        source="ours: it would be lost",
        repairs=any_of(change(training__logging__keep_last=2), change(training__logging__keep_every=None)),
    ),
    Rule(
        id="megatron.async_save",
        path="training.logging.async_save",
        backends=MEGATRON,
        holds=lambda r: not r.training.logging.async_save or r.backend.megatron.checkpoint_format != "torch",
        message="the format torch is not written while training goes on",
        source="training/checkpointing.py:780, :849",
        repairs=change(training__logging__async_save=False),
    ),
    Rule(
        id="deepspeed.async_save",
        path="training.logging.async_save",
        backends=DEEPSPEED,
        holds=lambda r: not r.training.logging.async_save or r.backend.deepspeed.checkpoint.writer != "torch",
        message="while torch writes, training waits; another backend.deepspeed.checkpoint.writer has a process for it",
        source="runtime/checkpoint_engine/utils.py: DecoupledCheckpointEngine",
        repairs=any_of(
            change(training__logging__async_save=False), change(backend__deepspeed__checkpoint__writer="python")
        ),
    ),
    Rule(
        id="megatron.warmup",
        path="training.schedule.warmup_steps",
        backends=MEGATRON,
        needs=("batch.ramp",),
        holds=lambda r: r.training.schedule.warmup_steps < decay_steps(r.training, r.global_batch),
        message=lambda r: (
            f"{r.training.schedule.warmup_steps:,} steps of warm-up do not end before the decay does, after "
            f"{_decay(r)}; warm up for fewer, or set training.schedule.decay_steps to the schedule's whole length"
        ),
        source="core/optimizer_param_scheduler.py: lr_warmup_steps < lr_decay_steps",
        repairs=any_of(_shorter_warmup, change(training__schedule__warmup_steps=0)),
    ),
)
