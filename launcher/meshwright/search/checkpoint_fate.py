"""What a checkpoint becomes under another layout: resharded or not, and where data and schedule go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from meshwright.errors import ConfigError
from meshwright.jobs.transition import Chain, chain
from meshwright.layout.length import UNSTATED_STEPS, sequences, steps
from meshwright.resolver import resolve
from meshwright.spec import Spec
from meshwright.spec.frozen import dataclass

__all__ = ["Carried", "carried", "position"]

_BEYOND_DATA = ("tp", "pp", "ep", "etp")


@dataclass(frozen=True)
class Carried:
    """``lines`` say what happens to weights and optimizer state; ``problems`` why a checkpoint cannot be read."""

    lines: tuple[str, ...]
    problems: tuple[str, ...] = ()


def carried(before: Spec, after: Spec) -> Carried:
    """A checkpoint of ``before``, read under the layout of ``after``, as between two stages of a run."""
    try:
        link = chain([resolve(_stage(before, "saved")), resolve(_stage(after, "continued"))])
    except ConfigError as error:
        return Carried((), tuple(map(str, error.problems)))
    kept = ("layout:", "optimizer state:", "vocabulary:")
    lines = [line for line in link.transitions[0].lines if line.startswith(kept)]
    return Carried((*lines, *_missing(before, link)))


def position(before: Spec, after: Spec, checkpoints: Path, step: int | None) -> Iterator[str]:
    """From which checkpoint and sample the run goes on, and how many steps are left of it."""
    old, new = before.training.global_batch, after.training.global_batch
    assert old is not None
    assert new is not None
    if step is None:
        yield f"checkpoint: none yet in {checkpoints}; the run begins at its first sample"
        return
    t, first = before.training, before.after.sample if before.after else 0
    done, whole = sequences(t.ramp, t.sequence, old, step), steps(t, old)
    load = f"; training.logging.load={checkpoints} reads it" if before.backend.name == "megatron" else ""
    yield f"checkpoint: {checkpoints}, of step {step:,}{load}"
    yield f"data: goes on at sample {first + done:,}"
    batches = "" if old == new else f", of {new:,} sequences instead of {old:,}: state schedules in these"
    yield f"learning rate: goes on after {done:,} sequences{batches}"
    if whole is not None:
        left = sequences(t.ramp, t.sequence, old, whole) - done
        yield f"length: {max(0, left):,} sequences are left, {max(0, -(-left // new)):,} steps"


def _stage(spec: Spec, name: str) -> Spec:
    """A stage for ``chain``: of a length that it knows, saved where it likes, trained by our own entry."""
    training = replace(spec.training, logging=replace(spec.training.logging, save=None))
    if training.steps is None and training.tokens is None:
        training = replace(training, steps=UNSTATED_STEPS)
    return replace(spec, stage=name, training=training, launch=replace(spec.launch, entry="meshwright"))


def _missing(before: Spec, link: Chain) -> Iterator[str]:
    """Flags that a checkpoint must have been saved with; without them it fits other sizes of dp only."""
    saved, continued = link.plans
    moved = [axis for axis in _BEYOND_DATA if getattr(saved.grid, axis) != getattr(continued.grid, axis)]
    flags = [f for f in saved.spec.backend.megatron.extra if f not in before.backend.megatron.extra]
    if flags and (moved or saved.spec.parallelism.vpp != continued.spec.parallelism.vpp):
        words = " ".join(flags)
        yield f"optimizer state: this needs a checkpoint saved with {words}, which backend.megatron.extra does not have"
