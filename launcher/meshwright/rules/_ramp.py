"""A batch ramp: what must hold of its steps, and what does not."""

from __future__ import annotations

from collections.abc import Iterator

from meshwright.rules._rule import Layout

__all__ = ["ramp_faults", "ramp_holds"]


def ramp_holds(r: Layout) -> object:
    """Each step's batch divides; steps are in order, from 0 tokens, and end at the global batch."""
    ramp = r.training.ramp
    if not ramp:
        return r.dp > 0
    starts, batches = [s.from_tokens for s in ramp], [s.global_batch for s in ramp]
    ordered = starts[0] == 0 and _grows(starts) and _grows(batches)
    return sum(b % (r.micro_batch * r.data) for b in batches) + (r.global_batch != batches[-1]) + (not ordered) == 0


def ramp_faults(r: Layout) -> Iterator[str]:
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
